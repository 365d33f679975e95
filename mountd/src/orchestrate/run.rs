//! Running a command on a mount, for one VM or for many.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::connect::PASSWORD_VARIABLE;
use super::proxy::{Mount, Proxy, Wanted};
use crate::failure::{Code, Failure, Outcome};
use crate::lookup::FoundVm;
use crate::session::Unmounted;
use crate::spec::Spec;

/// How often a running command is looked at.
const LOOK: Duration = Duration::from_millis(20);

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

impl Proxy<'_> {
    /// Mounts one VM, runs a command on it, and unmounts it whatever happens. `{}` in the command stands for
    /// the mount point, as does `$VCB_MOUNT` in its environment.
    ///
    /// # Errors
    /// What mounting and unmounting meet, and a command that cannot be started; how the command ended is
    /// the result.
    pub fn run(&self, wanted: &Wanted, command: &[OsString]) -> Outcome<Ran> {
        let mut mount = self.mount(wanted)?;
        let result = self.run_command(command, &mount);
        match &result {
            Ok(status) if status.success() => {}
            Ok(status) => self.tell_failure(&mount, &format!("the command failed: {status}")),
            Err(failure) => self.tell_failure(&mount, &format!("{failure:?}")),
        }
        let ended = self.give_back(&mut mount);
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
}
