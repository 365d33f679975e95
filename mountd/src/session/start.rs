//! Starting a session: the part of whoever asks for a mount.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use super::serve::COMMAND;
use super::state::StateDir;
use super::{Answer, Health, Request, list, mount_point, stop};
use crate::config::Preexisting;
use crate::failure::{Code, Failure, Outcome};
use crate::orchestrate::PASSWORD_VARIABLE;
use crate::sys;
use crate::view::Note;

/// How long a background process may take to be ready. Replaying the log of a large volume over a slow link
/// takes a minute; what takes longer than this hangs.
const READY_WITHIN: Duration = Duration::from_secs(300);
/// How long it may take to end after a signal before it is killed.
const ENDS_WITHIN: Duration = Duration::from_secs(15);
/// Lines of a dead process's log that its failure repeats.
const LAST_LINES: usize = 5;

/// The program that background processes run: this one, with arguments that say how to log.
#[derive(Debug, Clone)]
pub struct Program {
    /// Its file.
    pub path: PathBuf,
    /// Arguments before the hidden command.
    pub args: Vec<OsString>,
}

impl Program {
    /// The running program.
    ///
    /// # Errors
    /// When the system does not tell its file.
    pub fn current(args: Vec<OsString>) -> Outcome<Self> {
        let path = std::env::current_exe();
        let path = path.map_err(|err| Failure::new(Code::Failed, "cannot find this program's file").because(err))?;
        Ok(Program { path, args })
    }

    pub(super) fn with(&self, command: &str) -> Vec<OsString> {
        let mut args = self.args.clone();
        args.push(command.into());
        args
    }
}

/// A mount that answers.
#[derive(Debug, Clone)]
pub struct Started {
    /// Its session.
    pub id: String,
    /// Where it is.
    pub at: PathBuf,
    /// What the user should know about what is shown.
    pub notes: Vec<Note>,
    /// True when an earlier session serves.
    pub reused: bool,
}

/// Starts a background process for `request` and returns once its mount answers.
///
/// # Errors
/// The background process's own failure, as if it had happened here. Nothing is left then.
pub fn start(state: &StateDir, request: &Request, preexisting: Preexisting, program: &Program) -> Outcome<Started> {
    let mut request = request.clone();
    request.at = mount_point::absolute(&request.at)?;
    if let Some(started) = preexisting_at(state, &request, preexisting)? {
        return Ok(started);
    }
    let log_path = state.log_file(&request.id);
    let failed = |what: &str| Failure::new(Code::ServerDied, format!("cannot {what} the background process"));
    let log = File::create(&log_path).map_err(|err| failed("log for").because(err))?;
    let mut command = Command::new(&program.path);
    command.args(program.with(COMMAND)).env(super::STATE_VARIABLE, state.root()).env_remove(PASSWORD_VARIABLE);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
    sys::detach(&mut command);
    let mut child = command.spawn().map_err(|err| failed("start").because(err))?;
    let text = serde_json::to_vec(&request).map_err(|err| failed("instruct").because(err))?;
    if let Some(mut stdin) = child.stdin.take()
        && let Err(err) = stdin.write_all(&text)
    {
        tracing::debug!(%err, "the background process does not listen");
    }
    let answer = wait_for_answer(&mut child, &log_path);
    match answer {
        Ok(Answer::Ready { notes }) => Ok(Started { id: request.id, at: request.at, notes, reused: false }),
        Ok(Answer::Failed { code, what, cause, next }) => {
            let _ = child.wait();
            state.forget(&request.id)?;
            let code = Code::ALL.iter().find(|known| known.number() == code).copied().unwrap_or(Code::Failed);
            let mut failure = Failure::new(code, what).next_step(next);
            if let Some(cause) = cause {
                failure = failure.because(cause);
            }
            Err(failure)
        }
        Err(failure) => {
            end(&mut child);
            stop::put_right(state, &request.id)?;
            // It may have died before there was a record, and after it had taken the mount point.
            drop(state.lock(&request.at));
            Err(failure)
        }
    }
}

/// What to do about a session of ours on the same mount point: `Some` when it serves.
fn preexisting_at(state: &StateDir, request: &Request, preexisting: Preexisting) -> Outcome<Option<Started>> {
    let alive = |health| matches!(health, Health::Mounted | Health::Starting);
    let found = list(state)?
        .into_iter()
        .find(|session| sys::is_same_path(&session.record.at, &request.at) && alive(session.health));
    let Some(session) = found else { return Ok(None) };
    let record = session.record;
    match preexisting {
        Preexisting::Delete => stop::umount(state, &record.id).map(|_| None),
        Preexisting::Reuse if record.vm == request.plan.vm && record.mode == request.show.mode() => {
            Ok(Some(Started { id: record.id, at: record.at, notes: Vec::new(), reused: true }))
        }
        Preexisting::Reuse | Preexisting::Fail => {
            let text = format!("session {} ({}) is mounted on {}", record.id, record.vm.name, record.at.display());
            Err(Failure::new(Code::MountPointBusy, text))
        }
    }
}

fn wait_for_answer(child: &mut Child, log: &Path) -> Outcome<Answer> {
    let died = |what: String| Failure::new(Code::ServerDied, what).because(last_lines(log));
    let Some(stdout) = child.stdout.take() else { return Err(died("no answer can be heard".to_owned())) };
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        // Nobody listens any more after the time limit.
        let _ = sender.send(read.map(|_| line));
    });
    let line = match receiver.recv_timeout(READY_WITHIN) {
        Ok(Ok(line)) => line,
        Ok(Err(err)) => return Err(died(format!("the background process cannot be heard: {err}"))),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            let seconds = READY_WITHIN.as_secs();
            return Err(died(format!("the background process was not ready within {seconds} seconds")));
        }
    };
    serde_json::from_str(&line).map_err(|_| died("the background process ended before the mount was ready".to_owned()))
}

fn last_lines(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
    if last.is_empty() { "it said nothing".to_owned() } else { last.join(" | ") }
}

fn end(child: &mut Child) {
    sys::signal(child.id(), sys::Signal::Term);
    let ended = stop::wait_until(ENDS_WITHIN, || matches!(child.try_wait(), Ok(Some(_))));
    if !ended {
        let _ = child.kill();
        let _ = child.wait();
    }
}
