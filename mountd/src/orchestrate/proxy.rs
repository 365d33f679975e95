//! A backup from end to end: freeze or find, mount, run a command, unmount, release.
//!
//! VMs come from the configured server, each with a lease; or, without a server and for paths, straight from
//! folders and datastores. A session and its lease have the same id, so that either leads to the other.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use vcb_vsphere::{Cancel, ChangedAreas, Client, Disk, Moref, Quiesce as Ask, Snapshot, SnapshotSpec, Wait};

use super::cleanup::{Cleaned, cleanup};
use super::connect::{PASSWORD_VARIABLE, Prompt, connect, server_failure};
use super::hooks::{Event, Hooks, Subject};
use super::journal::{Journal, Lease};
use super::lease::{Options, Orchestrator, Reached};
use super::lookup as at_server;
use crate::config::{Config, Preexisting, VCenter};
use crate::failure::{Code, Failure, Outcome};
use crate::front::FrontOptions;
use crate::lookup::{self, FoundVm, Search};
use crate::plan::{Choice, MountPlan, VmIdentity};
use crate::session::{self, Health, Program, Request, Show, Started, StateDir, Unmounted};
use crate::spec::{Place, Spec};

/// How often a running command is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// What is to be mounted, and how.
#[derive(Clone)]
pub struct Wanted {
    /// The VM.
    pub spec: Spec,
    /// Which state of it.
    pub choice: Choice,
    /// What is shown of it.
    pub show: Show,
    /// Where; without it in a folder of its own.
    pub at: Option<PathBuf>,
    /// How.
    pub front: FrontOptions,
    /// What to do about a mount of ours that is there already.
    pub preexisting: Preexisting,
}

/// A mount that was made.
#[derive(Debug)]
pub struct Mount {
    /// The session.
    pub started: Started,
    /// Which VM it is.
    pub vm: VmIdentity,
    /// How far the guest came to rest, when a snapshot was made or read.
    pub reached: Option<Reached>,
}

/// A command that was run on a mount.
#[derive(Debug)]
pub struct Ran {
    /// The mount it was run on.
    pub mount: Mount,
    /// How it ended.
    pub status: ExitStatus,
    /// What was met while it was mounted.
    pub unmounted: Unmounted,
}

/// What a cleanup found.
#[derive(Debug)]
pub struct Tidied {
    /// Mounts and session records.
    pub mounts: Vec<session::Cleaned>,
    /// Leases, and what was done about each.
    pub leases: Vec<(Lease, Cleaned)>,
}

/// Everything a backup needs from this host.
pub struct Proxy<'a> {
    config: &'a Config,
    state: StateDir,
    program: Program,
    prompt: Prompt<'a>,
    cancel: Cancel,
    client: Mutex<Option<Arc<Client>>>,
}

impl<'a> Proxy<'a> {
    /// `program` serves the mounts; `prompt` asks for a password; `cancel` is raised when the user wants to
    /// stop.
    #[must_use]
    pub fn new(config: &'a Config, state: StateDir, program: Program, prompt: Prompt<'a>, cancel: Cancel) -> Self {
        Proxy { config, state, program, prompt, cancel, client: Mutex::new(None) }
    }

    /// The configured server, when it is to be asked for `spec`.
    fn server_for(&self, spec: &Spec) -> Option<&'a VCenter> {
        self.config.vcenter.as_ref().filter(|_| !matches!(spec, Spec::Path(_)))
    }

    /// The session with the server; one for the life of this value.
    fn client(&self, server: &VCenter) -> Outcome<Arc<Client>> {
        // Held while logging in: whoever else wants the session waits for the same one.
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let made = Arc::new(connect(server, &mark(), self.prompt)?);
        *client = Some(made.clone());
        Ok(made)
    }

    fn orchestrator<'b>(&'b self, client: &'b Client, server: &'b VCenter) -> Orchestrator<'b> {
        Orchestrator::new(client, self.config, server, self.state.root(), self.cancel.clone())
    }

    /// The VMs that `spec` describes.
    ///
    /// # Errors
    /// As [`lookup::find`], and what the server says.
    pub fn list(&self, spec: &Spec) -> Outcome<Search> {
        let Some(server) = self.server_for(spec) else { return lookup::find(spec, self.config) };
        let vms = at_server::find(&*self.client(server)?, spec)?;
        let found = |vm: &vcb_vsphere::VirtualMachine| {
            let identity = at_server::identity(vm);
            let place = vm.vmx_path.as_deref().and_then(|path| path.parse().ok());
            FoundVm {
                name: identity.name,
                uuid: identity.uuid,
                moref: Some(identity.moref),
                ipaddr: identity.ipaddr,
                place: place.map_or_else(|| Place::Host(PathBuf::new()), Place::Datastore),
            }
        };
        Ok(Search { vms: vms.iter().map(found).collect(), failures: Vec::new() })
    }

    /// Logs in and out again.
    ///
    /// # Errors
    /// As [`connect`]; [`Code::Config`] when no server is configured.
    pub fn ping(&self) -> Outcome<String> {
        let server = self.server()?;
        Ok(self.client(server)?.about().to_owned())
    }

    fn server(&self) -> Outcome<&'a VCenter> {
        let missing = || Failure::new(Code::Config, "no server is configured").next_step("Configure [vcenter].");
        self.config.vcenter.as_ref().ok_or_else(missing)
    }

    /// The snapshots of a VM, parents before children.
    ///
    /// # Errors
    /// What the server says.
    pub fn snapshots(&self, spec: &Spec) -> Outcome<Vec<Snapshot>> {
        Ok(at_server::find_one(&*self.client(self.server()?)?, spec)?.snapshots)
    }

    /// Makes a snapshot that the caller keeps and removes, and gives its managed object id.
    ///
    /// # Errors
    /// What the server says.
    pub fn make_snapshot(&self, spec: &Spec, name: &str, description: &str) -> Outcome<String> {
        let client = self.client(self.server()?)?;
        let vm = at_server::find_one(&client, spec)?;
        let wanted = SnapshotSpec {
            name: name.to_owned(),
            description: description.to_owned(),
            quiesce: if vm.guest.tools_running { Ask::Filesystems } else { Ask::No },
        };
        let made = client.create_snapshot(&vm.moref, &wanted, &self.wait());
        made.map(|snapshot| snapshot.value)
            .map_err(|err| server_failure(format!("cannot make a snapshot of {}", vm.name), err))
    }

    /// Removes the one snapshot `id` of a VM, because the caller says so.
    ///
    /// # Errors
    /// [`Code::SnapshotNotFound`]; what the server says.
    pub fn remove_snapshot(&self, spec: &Spec, id: &str) -> Outcome<()> {
        let client = self.client(self.server()?)?;
        let vm = at_server::find_one(&client, spec)?;
        let found = vm
            .snapshots
            .iter()
            .find(|snapshot| snapshot.moref.value == id)
            .ok_or_else(|| Failure::new(Code::SnapshotNotFound, format!("{} has no snapshot {id}", vm.name)))?;
        client
            .remove_snapshot(&found.moref, &self.wait())
            .map_err(|err| server_failure(format!("cannot remove the snapshot {}", found.name), err))
    }

    fn wait(&self) -> Wait {
        let minutes = u64::from(self.config.snapshot.task_minutes);
        Wait { limit: Duration::from_secs(60 * minutes), cancel: self.cancel.clone() }
    }

    /// Freezes and mounts one VM. Whatever fails, nothing is left; where that fails too, the failure says so.
    ///
    /// # Errors
    /// See [`Code`].
    pub fn mount(&self, wanted: &Wanted) -> Outcome<Mount> {
        let Some(server) = self.server_for(&wanted.spec) else {
            let plan = lookup::plan_one(&wanted.spec, &wanted.choice, self.config)?;
            let vm = plan.vm.clone();
            let started = self.start(session::new_id(), plan, wanted)?;
            self.ready(&started.id, &vm, "", &started.at)?;
            return Ok(Mount { started, vm, reached: None });
        };
        self.tidy();
        let client = self.client(server)?;
        let orchestrator = self.orchestrator(&client, server);
        let options = Options { existing: wanted.choice.snapshot.clone(), read: wanted.choice.options.clone() };
        let held = orchestrator.acquire(&wanted.spec, &options)?;
        let (mut journal, mut plan) = (held.journal, held.plan);
        if !wanted.choice.nodes.is_empty() {
            plan.disks.retain(|disk| wanted.choice.nodes.contains(&disk.node));
            if plan.disks.is_empty() {
                let what = format!("{} has no disk at {}", plan.vm.name, wanted.choice.nodes.join(", "));
                return Err(orchestrator.undo(journal, Failure::new(Code::Usage, what)));
            }
        }
        let lease = journal.lease.clone();
        let at = self.place(wanted, &lease.vm.name, &lease.id);
        if let Err(failure) = orchestrator.mounting(&mut journal, &at) {
            return Err(orchestrator.undo(journal, failure));
        }
        let started = match self.start(lease.id.clone(), plan, wanted) {
            Ok(started) => started,
            Err(failure) => {
                self.hook_failure(&lease, &failure);
                return Err(orchestrator.undo(journal, failure));
            }
        };
        if started.reused {
            // The earlier session has a lease of its own.
            orchestrator.release(journal)?;
        } else if let Err(failure) = orchestrator.mounted(&mut journal) {
            return Err(self.unmount_after(failure, &started.id));
        } else {
            drop(journal);
            self.ready(&started.id, &lease.vm, &lease.snapshot_name, &started.at)?;
        }
        Ok(Mount { started, vm: lease.vm, reached: Some(held.reached) })
    }

    /// Where to mount: without a wish, in a folder below the configured root, called after the VM. The
    /// session's id keeps two mounts of one VM apart.
    fn place(&self, wanted: &Wanted, vm: &str, id: &str) -> PathBuf {
        if let Some(at) = &wanted.at {
            return at.clone();
        }
        let root = self.config.mount.root.clone().unwrap_or_else(|| self.state.root().join("mnt"));
        let plain = |c: char| if c.is_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
        let name: String = vm.chars().map(plain).take(64).collect();
        root.join(format!("{}-{id}", name.trim_start_matches('.')))
    }

    fn start(&self, id: String, plan: MountPlan, wanted: &Wanted) -> Outcome<Started> {
        let at = self.place(wanted, &plan.vm.name, &id);
        let request = Request { id, plan, show: wanted.show.clone(), at, front: wanted.front.clone() };
        session::start(&self.state, &request, wanted.preexisting, &self.program)
    }

    /// Runs the hooks that come before a backup.
    fn ready(&self, id: &str, vm: &VmIdentity, snapshot: &str, at: &Path) -> Outcome<()> {
        let hooks = Hooks::new(&self.config.hooks);
        hooks
            .run(Event::PreBackup, &subject(id, vm, snapshot, Some(at)))
            .map_err(|failure| self.unmount_after(failure, id))
    }

    fn unmount_after(&self, failure: Failure, id: &str) -> Failure {
        match self.end(id) {
            Ok(_) => failure,
            Err(left) => Failure::new(Code::LeftBehind, format!("{} (session {id} remains)", failure.what()))
                .because(format!("{failure:?}; and then {left:?}")),
        }
    }

    fn hook_failure(&self, lease: &Lease, failure: &Failure) {
        let mut subject = subject(&lease.id, &lease.vm, &lease.snapshot_name, None);
        subject.error = format!("{failure:?}");
        if let Err(hook) = Hooks::new(&self.config.hooks).run(Event::Failure, &subject) {
            tracing::warn!("{hook:?}");
        }
    }

    /// Unmounts the session `target` (its id or mount point) and releases its lease. Where there is nothing
    /// of it any more, nothing is done.
    ///
    /// # Errors
    /// [`Code::SessionNotFound`]; what unmounting or the server says. It may be repeated.
    pub fn umount(&self, target: &str) -> Outcome<Unmounted> {
        let absolute = std::path::absolute(target).unwrap_or_else(|_| PathBuf::from(target));
        let sessions = session::list(&self.state)?;
        let known = sessions.iter().find(|session| {
            session.record.id == target || session.record.at == absolute || session.record.at == Path::new(target)
        });
        if let Some(session) = known.filter(|session| session.health == Health::Mounted) {
            let record = &session.record;
            let subject = subject(&record.id, &record.vm, "", Some(&record.at));
            if let Err(hook) = Hooks::new(&self.config.hooks).run(Event::PostBackup, &subject) {
                tracing::warn!("{hook:?}");
            }
        }
        self.end(target)
    }

    /// Unmounts and releases, without hooks.
    fn end(&self, target: &str) -> Outcome<Unmounted> {
        let leases = Journal::all(self.state.root())?;
        let absolute = std::path::absolute(target).unwrap_or_else(|_| PathBuf::from(target));
        let of_lease = leases
            .iter()
            .find(|lease| lease.id == target || lease.mount_point.as_deref() == Some(&absolute))
            .map(|lease| lease.id.clone());
        let unmounted = match session::umount(&self.state, target) {
            // The mount has gone in an earlier attempt, and the lease has not.
            Err(failure) if failure.code() == Code::SessionNotFound && of_lease.is_some() => Unmounted::default(),
            other => other?,
        };
        if let Some(id) = unmounted.id.clone().or(of_lease) {
            self.release(&id)?;
        }
        Ok(unmounted)
    }

    fn release(&self, id: &str) -> Outcome<()> {
        let started = Instant::now();
        let journal = loop {
            if let Some(journal) = Journal::take(self.state.root(), id)? {
                break journal;
            }
            if !Journal::all(self.state.root())?.iter().any(|lease| lease.id == id) {
                return Ok(());
            }
            // Another process saw the mount gone and is cleaning up after it.
            if started.elapsed() > self.wait().limit {
                return Err(Failure::new(Code::Busy, format!("another process is releasing the lease {id}")));
            }
            std::thread::sleep(LOOK);
        };
        let server = self.server()?;
        if journal.lease.server != server.host {
            let what = format!("the lease {id} belongs to the server {}", journal.lease.server);
            return Err(Failure::new(Code::LeftBehind, what)
                .next_step("Run the command with the configuration of that server."));
        }
        let client = self.client(server)?;
        self.orchestrator(&client, server).release(journal)
    }

    /// Mounts one VM, runs a command on it, and unmounts it whatever happens. `{}` in the command stands for
    /// the mount point, as does `$VCB_MOUNT` in its environment.
    ///
    /// # Errors
    /// What mounting and unmounting meet, and a command that cannot be started; how the command ended is
    /// the result.
    pub fn run(&self, wanted: &Wanted, command: &[OsString]) -> Outcome<Ran> {
        let mount = self.mount(wanted)?;
        let result = self.run_command(command, &mount);
        let ended = if mount.started.reused { Ok(Unmounted::default()) } else { self.umount(&mount.started.id) };
        match (result, ended) {
            (Ok(_), Ok(_)) if self.cancel.is_raised() => {
                Err(Failure::new(Code::Interrupted, "the command was interrupted"))
            }
            (Ok(status), Ok(unmounted)) => Ok(Ran { mount, status, unmounted }),
            (Err(failure), Ok(_)) | (Ok(_), Err(failure)) => Err(failure),
            (Err(failure), Err(left)) => {
                Err(Failure::new(Code::LeftBehind, failure.what()).because(format!("{failure:?}; and then {left:?}")))
            }
        }
    }

    fn run_command(&self, command: &[OsString], mount: &Mount) -> Outcome<ExitStatus> {
        let at = &mount.started.at;
        let mut words = command.iter().map(|word| with_place(word, at));
        let program = words.next().ok_or_else(|| Failure::new(Code::Usage, "no command is given"))?;
        let failed = |err| Failure::new(Code::Failed, format!("cannot run {}", program.display())).because(err);
        let mut child = Command::new(&program)
            .args(words)
            .env_remove(PASSWORD_VARIABLE)
            .env("VCB_MOUNT", at)
            .env("VCB_SESSION", &mount.started.id)
            .env("VCB_VM_NAME", &mount.vm.name)
            .env("VCB_VM_MOREF", mount.vm.moref.as_deref().unwrap_or_default())
            .env("VCB_VM_UUID", mount.vm.uuid.as_deref().unwrap_or_default())
            .spawn()
            .map_err(failed)?;
        let mut told = false;
        loop {
            if let Some(status) = child.try_wait().map_err(failed)? {
                return Ok(status);
            }
            if self.cancel.is_raised() && !told {
                // Asked, not killed: a backup that is told to stop ends its own affairs first.
                crate::sys::signal(child.id(), crate::sys::Signal::Term);
                told = true;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Mounts and runs for several VMs, `jobs` at a time, each as [`Proxy::run`]. `wanted` makes the wish for
    /// a VM, `done` is told of each as it ends. A stop asked for ends what runs and starts no more.
    ///
    /// # Errors
    /// What looking the VMs up meets.
    pub fn run_all(
        &self,
        spec: &Spec,
        jobs: usize,
        wanted: &(dyn Fn(Spec) -> Wanted + Sync),
        command: &[OsString],
        done: &(dyn Fn(&FoundVm, &Outcome<Ran>) + Sync),
    ) -> Outcome<usize> {
        let vms = self.list(spec)?.vms;
        let queue = Mutex::new(vms.iter());
        std::thread::scope(|scope| {
            for _ in 0..jobs.clamp(1, vms.len().max(1)) {
                scope.spawn(|| {
                    loop {
                        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                        let Some(vm) = next.filter(|_| !self.cancel.is_raised()) else { return };
                        let of = vm.moref.clone().map_or_else(|| Spec::Path(vm.place.clone()), Spec::Moref);
                        done(vm, &self.run(&wanted(of), command));
                    }
                });
            }
        });
        if self.cancel.is_raised() {
            return Err(Failure::new(Code::Interrupted, "interrupted"));
        }
        Ok(vms.len())
    }

    /// Puts right what crashed and killed processes left: mounts, leases, sessions at the server.
    ///
    /// # Errors
    /// What can be done is done; the first failure is told.
    pub fn cleanup(&self, dry_run: bool) -> Outcome<Tidied> {
        let mounts = session::cleanup(&self.state, dry_run)?;
        if !dry_run {
            Journal::sweep(self.state.root())?;
        }
        let Some(server) = self.config.vcenter.as_ref() else { return Ok(Tidied { mounts, leases: Vec::new() }) };
        let alive: Vec<String> = session::list(&self.state)?
            .into_iter()
            .filter(|session| matches!(session.health, Health::Mounted | Health::Starting))
            .map(|session| session.record.id)
            .collect();
        let client = self.client(server)?;
        let orchestrator = self.orchestrator(&client, server);
        let is_mounted = |lease: &Lease| alive.contains(&lease.id);
        let cleaned = cleanup(self.state.root(), &server.host, is_mounted, dry_run, &mut || Ok(&orchestrator))?;
        if !dry_run && let Err(err) = client.end_sessions(is_dead) {
            tracing::info!(%err, "sessions of killed processes were left to expire");
        }
        Ok(Tidied { mounts, leases: cleaned })
    }

    /// Cleans up before a new lease is taken; whatever fails is left for `cleanup`.
    fn tidy(&self) {
        match Journal::all(self.state.root()) {
            Ok(leases) if leases.is_empty() => {}
            Ok(_) => match self.cleanup(false) {
                Ok(tidied) => {
                    for (lease, cleaned) in tidied.leases {
                        if let Cleaned::Failed(why) = cleaned {
                            tracing::warn!(lease = lease.id, "not cleaned up: {why}");
                        }
                    }
                }
                Err(failure) => tracing::warn!("{failure:?}"),
            },
            Err(failure) => tracing::warn!("{failure:?}"),
        }
    }

    /// What has changed since `since` on the disks of a mounted session (on the one at `node`, when given).
    ///
    /// # Errors
    /// [`Code::SessionNotFound`]; what the server says, in particular when changes were not tracked.
    pub fn changed(&self, session: &str, node: Option<&str>, since: &str) -> Outcome<Vec<(Disk, ChangedAreas)>> {
        let missing = || Failure::new(Code::SessionNotFound, format!("no session '{session}' holds a snapshot"));
        let absolute = std::path::absolute(session).unwrap_or_else(|_| PathBuf::from(session));
        let leases = Journal::all(self.state.root())?;
        let lease = leases
            .iter()
            .find(|lease| lease.id == session || lease.mount_point.as_deref() == Some(&absolute))
            .ok_or_else(missing)?;
        let snapshot = Moref::new("VirtualMachineSnapshot", lease.snapshot.clone().ok_or_else(missing)?);
        let client = self.client(self.server()?)?;
        let failed = |err| server_failure(format!("cannot tell what changed on {}", lease.vm.name), err);
        let disks = client.snapshot_disks(&snapshot).map_err(failed)?;
        let mut changed = Vec::new();
        for disk in disks.into_iter().filter(|disk| node.is_none_or(|node| disk.node == node)) {
            let areas =
                client.changed_areas(&lease.vm_moref(), &snapshot, disk.key, since, disk.capacity).map_err(failed)?;
            changed.push((disk, areas));
        }
        if changed.is_empty() {
            return Err(Failure::new(Code::Usage, format!("{} has no such disk", lease.vm.name)));
        }
        Ok(changed)
    }
}

fn subject(id: &str, vm: &VmIdentity, snapshot: &str, mount: Option<&Path>) -> Subject {
    Subject {
        vm: vm.name.clone(),
        moref: vm.moref.clone().unwrap_or_default(),
        uuid: vm.uuid.clone().unwrap_or_default(),
        session: id.to_owned(),
        snapshot: snapshot.to_owned(),
        mount: mount.map(Path::to_owned),
        error: String::new(),
    }
}

/// `word` with every `{}` replaced by the mount point.
fn with_place(word: &OsStr, at: &Path) -> OsString {
    let mut out = OsString::new();
    let bytes = word.as_encoded_bytes();
    if !bytes.windows(2).any(|pair| pair == b"{}") {
        return word.to_owned();
    }
    let Some(text) = word.to_str() else { return word.to_owned() };
    for (index, part) in text.split("{}").enumerate() {
        if index > 0 {
            out.push(at);
        }
        out.push(part);
    }
    out
}

/// Names this process in the server's list of sessions.
fn mark() -> String {
    format!("{} pid {}", super::lease::host_name(), std::process::id())
}

/// Whether a session at the server was opened by a process of this host that is no more.
fn is_dead(agent: &str) -> bool {
    let Some(rest) = agent.strip_prefix("vcbmount/").and_then(|rest| rest.split_once(" (")) else { return false };
    let Some((host, pid)) = rest.1.strip_suffix(')').and_then(|mark| mark.rsplit_once(" pid ")) else { return false };
    host == super::lease::host_name()
        && pid.parse::<u32>().is_ok_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
        && Path::new("/proc/self").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_point_is_put_where_braces_are() {
        let word = |text: &str| with_place(OsStr::new(text), Path::new("/m 1")).into_string().unwrap();
        assert_eq!(
            (word("a"), word("{}"), word("--root={}/x{}")),
            ("a".into(), "/m 1".into(), "--root=/m 1/x/m 1".into())
        );
    }

    #[test]
    fn only_sessions_of_dead_processes_of_this_host_are_ended() {
        let host = super::super::lease::host_name();
        assert!(is_dead(&format!("vcbmount/0.1.0 ({host} pid 4294967295)")));
        assert!(!is_dead(&format!("vcbmount/0.1.0 ({})", mark())));
        assert!(!is_dead("vcbmount/0.1.0 (elsewhere pid 4294967295)"));
        assert!(!is_dead("govc/0.1"));
    }
}
