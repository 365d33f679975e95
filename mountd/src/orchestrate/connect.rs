//! The session with the configured server, and its errors as users meet them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use vcb_vsphere::{Client, Error, Fingerprint, Secret, Settings, Trust};

use crate::config::VCenter;
use crate::failure::{Code, Failure, Outcome};
use crate::sys::{self, Process};

/// The environment variable that is read for the password when there is no better place. Children never
/// get it.
pub const PASSWORD_VARIABLE: &str = "VCBMOUNT_PASSWORD";
/// Name of the systemd credential that holds the password.
const CREDENTIAL: &str = "vcbmount.password";

/// Asks a person for a password; `None` when there is nobody to ask.
pub type Prompt<'a> = &'a (dyn Fn(&str) -> Option<String> + Sync);

/// Passwords that this process has, by user and server, so that a person is asked once, and what a
/// background process was handed.
static KNOWN: Mutex<BTreeMap<String, Secret>> = Mutex::new(BTreeMap::new());

/// Logs in to the configured server.
///
/// # Errors
/// [`Code::Login`], [`Code::Untrusted`], [`Code::Unreachable`], or [`Code::Config`].
pub fn connect(server: &VCenter, prompt: Prompt<'_>) -> Outcome<Client> {
    super::fault::watch_calls();
    let password = match password_of(server) {
        Some(password) => password,
        None => password(server, prompt)?,
    };
    let mut settings = Settings::new(&server.host, &server.username, password.clone());
    settings.trust = trust(server)?;
    settings.user_agent = format!("{} ({})", settings.user_agent, mark());
    let what = || format!("cannot log in to {}", server.host);
    let client = Client::connect(&settings).map_err(|err| match err {
        err if err.is_refused() => Failure::new(Code::Login, what()).because(err),
        err => server_failure(what(), err),
    })?;
    hand_password(server, password);
    Ok(client)
}

fn account(server: &VCenter) -> String {
    format!("{}@{}", server.username, server.host)
}

/// The password that this process has logged in to `server` with, or was handed.
pub(crate) fn password_of(server: &VCenter) -> Option<Secret> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner).get(&account(server)).cloned()
}

/// Lets [`connect`] use `password` for `server`.
pub(crate) fn hand_password(server: &VCenter, password: Secret) {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner).insert(account(server), password);
}

/// Names this process in the server's list of sessions, so that a later one with its number is another.
fn mark() -> String {
    let process = Process::current();
    format!("{} process {} of {}", host_name(), process.pid, process.started)
}

/// Whether a session at the server was opened by a process of this host that is no more.
pub(super) fn is_dead(agent: &str) -> bool {
    let process = || -> Option<Process> {
        let mark = agent.strip_prefix("vcbmount/")?.split_once(" (")?.1.strip_suffix(')')?;
        let (host, process) = mark.rsplit_once(" process ")?;
        let (pid, started) = process.split_once(" of ")?;
        (host == host_name()).then_some(Process { pid: pid.parse().ok()?, started: started.parse().ok()? })
    };
    process().is_some_and(|process| !process.is_alive())
}

pub(super) fn host_name() -> String {
    sys::host_name().unwrap_or_else(|| "this proxy".to_owned())
}

fn trust(server: &VCenter) -> Outcome<Trust> {
    let wrong = |err: Error| Failure::new(Code::Config, "[vcenter] fingerprint cannot be used").because(err);
    match (&server.fingerprint, &server.ca_file) {
        (Some(fingerprint), _) => Ok(Trust::Pin(Fingerprint::parse(fingerprint).map_err(wrong)?)),
        (None, Some(file)) => match std::fs::read(file) {
            Ok(pem) => Ok(Trust::Authorities(pem)),
            Err(err) => Err(Failure::new(Code::Config, format!("cannot read {}", file.display())).because(err)),
        },
        (None, None) => Ok(Trust::System),
    }
}

/// File, systemd credential, prompt, environment: in this order.
fn password(server: &VCenter, prompt: Prompt<'_>) -> Outcome<Secret> {
    if let Some(file) = &server.password_file {
        return from_file(file);
    }
    if let Some(folder) = std::env::var_os("CREDENTIALS_DIRECTORY") {
        let file = Path::new(&folder).join(CREDENTIAL);
        if file.exists() {
            return from_file(&file);
        }
    }
    if let Some(text) = prompt(&format!("Password of {} at {}: ", server.username, server.host)) {
        return Ok(Secret::new(text));
    }
    match std::env::var(PASSWORD_VARIABLE) {
        Ok(text) => Ok(Secret::new(text)),
        Err(_) => Err(Failure::new(Code::Login, format!("there is no password for {}", server.host))
            .next_step("Set password_file in [vcenter] to a file that only you can read.")),
    }
}

fn from_file(file: &Path) -> Outcome<Secret> {
    let failed = |err| Failure::new(Code::Config, format!("cannot read {}", file.display())).because(err);
    if let Some((why, next)) = sys::others_can_read(file).map_err(failed)? {
        let what = format!("others can read the password file {}", file.display());
        return Err(Failure::new(Code::Config, what).because(why).next_step(next));
    }
    let text = std::fs::read_to_string(file).map_err(failed)?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

/// A failure of the server while doing `what`.
#[must_use]
pub fn server_failure(what: impl Into<String>, err: Error) -> Failure {
    let code = match &err {
        Error::Setting(_) => Code::Config,
        Error::Tls { .. } => Code::Untrusted,
        Error::Unreachable { .. } => Code::Unreachable,
        Error::Cancelled { .. } => Code::Interrupted,
        _ => match err.fault() {
            Some("InvalidLogin" | "NotAuthenticated" | "PasswordExpired") => Code::Login,
            Some("NoPermission" | "RestrictedByAdministrator" | "SecurityError") => Code::Privilege,
            Some(
                "ApplicationQuiesceFault"
                | "FilesystemQuiesceFault"
                | "MultipleSnapshotsNotSupported"
                | "ToolsUnavailable"
                | "QuiesceFault",
            ) => Code::Quiesce,
            Some("NoDiskSpace") => Code::Space,
            _ if err.is_busy() => Code::Busy,
            _ if err.is_not_found() => Code::VmNotFound,
            _ => Code::Server,
        },
    };
    Failure::new(code, what).because(err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Everybody;

    #[test]
    fn only_sessions_of_dead_processes_of_this_host_are_ended() {
        let host = host_name();
        assert!(is_dead(&format!("vcbmount/0.1.0 ({host} process 4294967295 of 1)")));
        let another = Process { started: 1, ..Process::current() };
        assert!(is_dead(&format!("vcbmount/0.1.0 ({host} process {} of {})", another.pid, another.started)));
        assert!(!is_dead(&format!("vcbmount/0.1.0 ({})", mark())));
        assert!(!is_dead("vcbmount/0.1.0 (elsewhere process 4294967295 of 1)"));
        assert!(!is_dead("govc/0.1"));
    }

    #[test]
    fn a_password_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pw");
        std::fs::write(&file, "pass word\n").unwrap();
        sys::let_everybody(&file, Everybody::Reads);
        let failure = from_file(&file).unwrap_err();
        assert_eq!(failure.code(), Code::Config);
        assert!(!format!("{failure:?}").contains("pass word"));
        sys::let_everybody(&file, Everybody::Nothing);
        assert_eq!(from_file(&file).unwrap().expose(), "pass word");
    }
}
