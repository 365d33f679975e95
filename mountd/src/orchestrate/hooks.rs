//! Programs that run on the proxy around a backup.
//!
//! The executables of `hooks.d/EVENT/` run one after the other in the order of their names, without
//! arguments. Their environment is ours without the password, and:
//!
//! | variable | value |
//! |---|---|
//! | `VCB_EVENT` | `pre-snapshot`, `post-snapshot`, `pre-backup`, `post-backup` or `failure` |
//! | `VCB_VM_NAME`, `VCB_VM_MOREF`, `VCB_VM_UUID` | which VM; empty when not known |
//! | `VCB_SESSION` | id of the session |
//! | `VCB_SNAPSHOT` | name of the snapshot |
//! | `VCB_MOUNT` | where it is mounted; empty when it is not |
//! | `VCB_ERROR` | with `failure`: what failed, on one line |
//!
//! What they print goes to the log, line by line. One that fails or exceeds its time (it is killed then, with
//! its children) makes `pre-…` events fail, and with them the backup; after other events it is a warning.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::connect::PASSWORD_VARIABLE;
use crate::config::HooksConfig;
use crate::failure::{Code, Failure, Outcome};
use crate::sys;

/// Longest line of output that is logged whole.
const MAX_LINE: usize = 4096;

/// When hooks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Before the snapshot is made.
    PreSnapshot,
    /// After it was made.
    PostSnapshot,
    /// After it was mounted, before the backup.
    PreBackup,
    /// After the backup, before it is unmounted.
    PostBackup,
    /// After anything failed.
    Failure,
}

impl Event {
    /// Name of its folder.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Event::PreSnapshot => "pre-snapshot",
            Event::PostSnapshot => "post-snapshot",
            Event::PreBackup => "pre-backup",
            Event::PostBackup => "post-backup",
            Event::Failure => "failure",
        }
    }

    fn may_stop_us(self) -> bool {
        matches!(self, Event::PreSnapshot | Event::PreBackup)
    }
}

/// What hooks are told.
#[derive(Debug, Clone, Default)]
pub struct Subject {
    /// Display name of the VM.
    pub vm: String,
    /// Managed object id of the VM.
    pub moref: String,
    /// BIOS UUID of the VM.
    pub uuid: String,
    /// Id of the session.
    pub session: String,
    /// Name of the snapshot.
    pub snapshot: String,
    /// Where it is mounted.
    pub mount: Option<PathBuf>,
    /// What failed.
    pub error: String,
}

/// The configured hooks.
pub struct Hooks {
    dir: PathBuf,
    limit: Duration,
}

impl Hooks {
    /// As configured.
    #[must_use]
    pub fn new(config: &HooksConfig) -> Self {
        Hooks { dir: config.dir.clone(), limit: Duration::from_secs(config.timeout_seconds) }
    }

    /// Runs the hooks of `event`.
    ///
    /// # Errors
    /// [`Code::Hook`], for `pre-…` events only.
    pub fn run(&self, event: Event, subject: &Subject) -> Outcome<()> {
        for program in programs(&self.dir.join(event.name()))? {
            let result = self.run_one(&program, event, subject);
            match result {
                Err(failure) if event.may_stop_us() => return Err(failure),
                Err(failure) => tracing::warn!("{failure:?}"),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn run_one(&self, program: &Path, event: Event, subject: &Subject) -> Outcome<()> {
        let failed = |why: String| {
            Failure::new(Code::Hook, format!("the {} hook {} failed", event.name(), program.display())).because(why)
        };
        tracing::info!(hook = %program.display(), "running");
        let mut command = Command::new(program);
        command
            .env_remove(PASSWORD_VARIABLE)
            .env("VCB_EVENT", event.name())
            .env("VCB_VM_NAME", &subject.vm)
            .env("VCB_VM_MOREF", &subject.moref)
            .env("VCB_VM_UUID", &subject.uuid)
            .env("VCB_SESSION", &subject.session)
            .env("VCB_SNAPSHOT", &subject.snapshot)
            .env("VCB_MOUNT", subject.mount.as_deref().unwrap_or(Path::new("")))
            .env("VCB_ERROR", subject.error.replace('\n', " "))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        sys::own_group(&mut command);
        let mut child = command.spawn().map_err(|err| failed(err.to_string()))?;
        let outputs: [Option<Box<dyn Read + Send>>; 2] =
            [child.stdout.take().map(|pipe| Box::new(pipe) as _), child.stderr.take().map(|pipe| Box::new(pipe) as _)];
        for output in outputs.into_iter().flatten() {
            let name = program.display().to_string();
            // Not joined: a hook may leave a daemon behind that keeps its output open.
            std::thread::spawn(move || log_lines(output, &name));
        }
        match wait(&mut child, self.limit).map_err(|err| failed(err.to_string()))? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(failed(status.to_string())),
            None => Err(failed(format!("it had not ended after {} s", self.limit.as_secs()))),
        }
    }
}

/// The executables of a folder, sorted; none when the folder is missing.
fn programs(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let failed = |err| Failure::new(Code::Hook, format!("cannot list the hooks in {}", folder.display())).because(err);
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(failed(err)),
    };
    let mut programs = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.is_file() && is_executable(&path)? {
            programs.push(path);
        }
    }
    programs.sort();
    Ok(programs)
}

fn is_executable(path: &Path) -> Outcome<bool> {
    let failed = |err| Failure::new(Code::Hook, format!("cannot look at the hook {}", path.display())).because(err);
    sys::is_executable(path).map_err(failed)?.map_err(|next| {
        // Whoever may write it would run as us.
        Failure::new(Code::Hook, format!("anybody may change the hook {}", path.display())).next_step(next)
    })
}

fn log_lines(output: impl Read, name: &str) {
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(MAX_LINE as u64).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => tracing::info!(hook = name, "{}", String::from_utf8_lossy(&line).trim_end()),
        }
    }
}

/// Waits for a child no longer than `limit`; kills it and its process group then.
fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if started.elapsed() >= limit {
            sys::kill_group(child)?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{Does, Everybody};

    #[test]
    fn hooks_run_in_order_with_their_environment_and_within_their_time() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let hook = |event: Event, name, does| {
            let folder = dir.path().join(event.name());
            std::fs::create_dir_all(&folder).unwrap();
            sys::write_program(&folder, name, does)
        };
        hook(Event::PreSnapshot, "20-b", Does::Tell(&out));
        hook(Event::PreSnapshot, "10-a", Does::Tell(&out));
        hook(Event::PreSnapshot, "30-no", Does::NotExecutable);
        hook(Event::PreBackup, "fails", Does::Fail);
        hook(Event::PostBackup, "fails", Does::Fail);
        hook(Event::Failure, "hangs", Does::Hang);
        let open = hook(Event::PostSnapshot, "open", Does::Tell(&out));
        sys::let_everybody(&open, Everybody::Changes);
        let hooks = Hooks { dir: dir.path().to_owned(), limit: Duration::from_secs(20) };
        let subject = Subject { vm: "web 01".into(), ..Subject::default() };
        hooks.run(Event::PreSnapshot, &subject).unwrap();
        let text = std::fs::read_to_string(&out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines, ["10-a pre-snapshot web 01 []", "20-b pre-snapshot web 01 []"]);
        assert_eq!(hooks.run(Event::PreBackup, &subject).unwrap_err().code(), Code::Hook);
        hooks.run(Event::PostBackup, &subject).unwrap();
        let started = Instant::now();
        Hooks { limit: Duration::from_millis(500), ..hooks }.run(Event::Failure, &subject).unwrap();
        assert!(started.elapsed() < Duration::from_secs(10));
        let hooks = Hooks { dir: dir.path().to_owned(), limit: Duration::from_secs(20) };
        let open = hooks.run(Event::PostSnapshot, &subject).unwrap_err();
        assert!(open.to_string().contains("anybody may change"), "{open}");
        assert_eq!(std::fs::read_to_string(&out).unwrap(), text, "it was not run");
    }
}
