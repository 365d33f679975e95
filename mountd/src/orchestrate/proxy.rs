//! A backup from end to end: freeze or find, mount, unmount, release, and clean up after others.
//!
//! VMs come from the configured server, each with a lease; or, without a server and for paths, straight from
//! folders and datastores. A session and its lease have the same id, so that either leads to the other.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use vcb_vsphere::{Cancel, Client, KeepAlive};

use super::cleanup::{Cleaned, cleanup};
use super::connect::{Prompt, connect, is_dead, password_of};
use super::hooks::{Event, Hooks, Subject};
use super::journal::{Journal, Lease, Step};
use super::lease::{Options, Orchestrator, Reached};
use super::lookup as at_server;
use crate::config::{Config, Preexisting, VCenter};
use crate::failure::{Code, Failure, Outcome};
use crate::front::FrontOptions;
use crate::lookup;
use crate::plan::{Choice, MountPlan, VmIdentity};
use crate::session::{self, Health, Program, Request, Show, Started, StateDir, Unmounted};
use crate::spec::Spec;

/// How often a lease that another process releases is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How often the server is reminded of our session; it forgets sessions after 30 minutes of silence.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(600);

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
    /// Name of the snapshot; empty without one.
    pub snapshot: String,
    /// How far the guest came to rest, when a snapshot was made or read.
    pub reached: Option<Reached>,
    /// Its lease. While it is here, the mount ends with this process: `cleanup` unmounts it then.
    held: Option<Journal>,
}

impl Mount {
    /// Lets the mount outlive this process. The last thing to be done: whoever asked for it knows of it.
    ///
    /// # Errors
    /// [`Code::State`].
    pub fn keep(mut self) -> Outcome<()> {
        match self.held.take() {
            Some(mut journal) => journal.step(Step::Mounted, |_| {}),
            None => Ok(()),
        }
    }

    fn subject(&self) -> Subject {
        subject(&self.started.id, &self.vm, &self.snapshot, Some(&self.started.at))
    }
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
    pub(super) config: &'a Config,
    pub(super) state: StateDir,
    program: Program,
    prompt: Prompt<'a>,
    pub(super) cancel: Cancel,
    client: Mutex<Option<Connected>>,
    /// Whether the session of that id is being served, now.
    served: Box<dyn Fn(&str) -> bool + Send + Sync>,
}

/// A session with the server, kept alive while a backup takes its time.
struct Connected {
    client: Arc<Client>,
    _alive: KeepAlive,
}

impl<'a> Proxy<'a> {
    /// `program` serves the mounts; `prompt` asks for a password; `cancel` is raised when the user wants to
    /// stop.
    #[must_use]
    pub fn new(config: &'a Config, state: StateDir, program: Program, prompt: Prompt<'a>, cancel: Cancel) -> Self {
        let of = state.clone();
        let served = Box::new(move |id: &str| match session::list(&of) {
            Ok(sessions) => sessions
                .iter()
                .any(|session| session.record.id == id && matches!(session.health, Health::Mounted | Health::Starting)),
            Err(failure) => {
                tracing::warn!("{failure:?}");
                true
            }
        });
        Proxy { config, state, program, prompt, cancel, client: Mutex::new(None), served }
    }

    /// The configured server, when it is to be asked for `spec`.
    pub(super) fn server_for(&self, spec: &Spec) -> Option<&'a VCenter> {
        self.config.vcenter.as_ref().filter(|_| !matches!(spec, Spec::Path(_)))
    }

    /// The session with the server; one for the life of this value.
    pub(super) fn client(&self, server: &VCenter) -> Outcome<Arc<Client>> {
        // Held while logging in: whoever else wants the session waits for the same one.
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connected) = &*client {
            return Ok(connected.client.clone());
        }
        let made = Arc::new(connect(server, self.prompt)?);
        *client = Some(Connected { client: made.clone(), _alive: KeepAlive::start(made.clone(), KEEP_ALIVE) });
        Ok(made)
    }

    pub(super) fn server(&self) -> Outcome<&'a VCenter> {
        let missing = || Failure::new(Code::Config, "no server is configured").next_step("Configure [vcenter].");
        self.config.vcenter.as_ref().ok_or_else(missing)
    }

    fn orchestrator<'b>(&'b self, client: &'b Client, server: &'b VCenter) -> Orchestrator<'b> {
        let mut made = Orchestrator::new(client, self.config, server, self.state.root(), self.cancel.clone());
        made.served = &*self.served;
        made
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
            let mut mount = Mount { started, vm, snapshot: String::new(), reached: None, held: None };
            self.ready(&mut mount)?;
            return Ok(mount);
        };
        let client = self.client(server)?;
        let orchestrator = self.orchestrator(&client, server);
        self.tidy(&client, &wanted.spec);
        let options = Options {
            existing: wanted.choice.snapshot.clone(),
            nodes: wanted.choice.nodes.clone(),
            read: wanted.choice.options.clone(),
        };
        let held = orchestrator.acquire(&wanted.spec, &options)?;
        let (mut journal, plan) = (held.journal, held.plan);
        let lease = journal.lease.clone();
        let at = self.place(wanted, &lease.vm.name, &lease.id);
        if let Err(failure) = orchestrator.mounting(&mut journal, &at) {
            return Err(orchestrator.undo(journal, failure));
        }
        let started = match self.start(lease.id.clone(), plan, wanted) {
            Ok(started) => started,
            Err(failure) => {
                let of = subject(&lease.id, &lease.vm, &lease.snapshot_name, None);
                self.failed(Subject { error: format!("{failure:?}"), ..of });
                return Err(orchestrator.undo(journal, failure));
            }
        };
        let (snapshot, reached) = (lease.snapshot_name, Some(held.reached));
        if started.reused {
            // The earlier session has a lease of its own.
            orchestrator.release(journal)?;
            return Ok(Mount { started, vm: lease.vm, snapshot, reached, held: None });
        }
        let mut mount = Mount { started, vm: lease.vm, snapshot, reached, held: Some(journal) };
        self.ready(&mut mount)?;
        Ok(mount)
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
        let password = plan.server().and_then(password_of);
        let request = Request { id, plan, show: wanted.show.clone(), at, front: wanted.front.clone(), password };
        session::start(&self.state, &request, wanted.preexisting, &self.program)
    }

    /// Runs the hooks that come before a backup.
    fn ready(&self, mount: &mut Mount) -> Outcome<()> {
        self.hooks().run(Event::PreBackup, &mount.subject()).map_err(|failure| self.unmount_after(failure, mount))
    }

    /// Unmounts because of `failure`, and adds what is left.
    fn unmount_after(&self, failure: Failure, mount: &mut Mount) -> Failure {
        self.tell_failure(mount, &format!("{failure:?}"));
        let id = &mount.started.id;
        match self.end(id, mount.held.take()) {
            Ok(_) => failure,
            Err(left) => Failure::new(Code::LeftBehind, format!("{} (session {id} remains)", failure.what()))
                .because(format!("{failure:?}; and then {left:?}")),
        }
    }

    fn hooks(&self) -> Hooks {
        Hooks::new(&self.config.hooks)
    }

    /// Runs the hooks for a backup that failed because of `why`.
    pub(super) fn tell_failure(&self, mount: &Mount, why: &str) {
        self.failed(Subject { error: why.to_owned(), ..mount.subject() });
    }

    fn failed(&self, subject: Subject) {
        if let Err(hook) = self.hooks().run(Event::Failure, &subject) {
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
        let subject = known.filter(|session| session.health == Health::Mounted).map(|session| {
            let record = &session.record;
            subject(&record.id, &record.vm, "", Some(&record.at))
        });
        self.end_with_hooks(target, subject, None)
    }

    /// As [`Proxy::umount`], for what this process has mounted and not kept.
    pub(super) fn give_back(&self, mount: &mut Mount) -> Outcome<Unmounted> {
        if mount.started.reused {
            return Ok(Unmounted::default());
        }
        self.end_with_hooks(&mount.started.id, Some(mount.subject()), mount.held.take())
    }

    fn end_with_hooks(&self, target: &str, subject: Option<Subject>, held: Option<Journal>) -> Outcome<Unmounted> {
        if let Some(subject) = &subject
            && let Err(hook) = self.hooks().run(Event::PostBackup, subject)
        {
            tracing::warn!("{hook:?}");
        }
        self.end(target, held).inspect_err(|failure| {
            if let Some(subject) = subject {
                self.failed(Subject { error: format!("{failure:?}"), ..subject });
            }
        })
    }

    /// Unmounts and releases, without hooks. `held` is the session's lease when this process works on it.
    fn end(&self, target: &str, held: Option<Journal>) -> Outcome<Unmounted> {
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
        let journal = match (held, unmounted.id.clone().or(of_lease)) {
            (Some(journal), _) => Some(journal),
            (None, Some(id)) => self.take(&id)?,
            (None, None) => None,
        };
        if let Some(journal) = journal {
            self.release(journal)?;
        }
        Ok(unmounted)
    }

    /// Takes the lease `id`, when there is one and no other process will release it.
    fn take(&self, id: &str) -> Outcome<Option<Journal>> {
        let started = Instant::now();
        loop {
            if let Some(journal) = Journal::take(self.state.root(), id)? {
                return Ok(Some(journal));
            }
            match Journal::all(self.state.root())?.iter().find(|lease| lease.id == id) {
                None => return Ok(None),
                Some(lease) if lease.step != Step::Releasing => {
                    tracing::info!(lease = id, "the process that has mounted it releases it");
                    return Ok(None);
                }
                // Another process saw the mount gone and is cleaning up after it.
                Some(_) if started.elapsed() > self.wait().limit => {
                    return Err(Failure::new(Code::Busy, format!("another process is releasing the lease {id}")));
                }
                Some(_) => std::thread::sleep(LOOK),
            }
        }
    }

    fn release(&self, journal: Journal) -> Outcome<()> {
        let server = self.server()?;
        if journal.lease.server != server.host {
            let what = format!("the lease {} belongs to the server {}", journal.lease.id, journal.lease.server);
            return Err(Failure::new(Code::LeftBehind, what)
                .next_step("Run the command with the configuration of that server."));
        }
        let client = self.client(server)?;
        self.orchestrator(&client, server).release(journal)
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
        let client = self.client(server)?;
        let leases = self.clean(&client, server, dry_run, None)?;
        Ok(Tidied { mounts, leases })
    }

    /// Unmounts and releases what nobody works on and nobody keeps, but for the leases on the VM `spared`, and
    /// ends the sessions of dead processes.
    fn clean(
        &self,
        client: &Client,
        server: &VCenter,
        dry_run: bool,
        spared: Option<&str>,
    ) -> Outcome<Vec<(Lease, Cleaned)>> {
        let orchestrator = self.orchestrator(client, server);
        let kept = |lease: &Lease| {
            (lease.step == Step::Mounted && (self.served)(&lease.id))
                || (spared.is_some() && lease.snapshot.is_some() && lease.vm.moref.as_deref() == spared)
        };
        let unmount = |lease: &Lease| match session::umount(&self.state, &lease.id) {
            Err(failure) if failure.code() != Code::SessionNotFound => Err(failure),
            _ => Ok(()),
        };
        let cleaned = cleanup(&orchestrator, &kept, &unmount, dry_run)?;
        if !dry_run && let Err(err) = client.end_sessions(is_dead) {
            tracing::info!(%err, "sessions of killed processes were left to expire");
        }
        Ok(cleaned)
    }

    /// Cleans up before a new lease is taken; whatever fails is left for `cleanup`. Where an older snapshot is
    /// to be used again, those of the VM that `spec` means are left to the new lease.
    fn tidy(&self, client: &Client, spec: &Spec) {
        let work = || -> Outcome<Vec<(Lease, Cleaned)>> {
            if Journal::all(self.state.root())?.is_empty() {
                return Ok(Vec::new());
            }
            session::cleanup(&self.state, false)?;
            Journal::sweep(self.state.root())?;
            let reuse = self.config.snapshot.preexisting == Preexisting::Reuse;
            let vm = if reuse { Some(at_server::find_one(client, spec)?.moref.value) } else { None };
            self.clean(client, self.server()?, false, vm.as_deref())
        };
        match work() {
            Ok(leases) => {
                for (lease, cleaned) in leases {
                    if let Cleaned::Failed(why) = cleaned {
                        tracing::warn!(lease = lease.id, "not cleaned up: {why}");
                    }
                }
            }
            Err(failure) => tracing::warn!("{failure:?}"),
        }
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
