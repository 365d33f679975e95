//! What can go wrong between us and a server.

use std::fmt;
use std::time::Duration;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A typed fault as the server reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The vim25 type: `InvalidLogin`, `NoPermission`, `FileLocked`, …
    pub kind: String,
    /// The server's words.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() { f.write_str(&self.kind) } else { write!(f, "{}: {}", self.kind, self.message) }
    }
}

/// A failure of a call. No variant holds credentials, cookies or message bodies.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting cannot be used: a malformed host, an unreadable certificate.
    #[error("{0}")]
    Setting(String),
    /// The server's certificate is not trusted, or TLS could not be agreed on.
    #[error("TLS with {host} failed: {reason}")]
    Tls {
        /// Host and port.
        host: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No connection, or it broke, or the answer did not come in time.
    #[error("{method} on {host} got no answer")]
    Unreachable {
        /// Host and port.
        host: String,
        /// The call.
        method: &'static str,
        /// The cause.
        source: Box<ureq::Error>,
    },
    /// The server is there but answered with an HTTP status instead of a result.
    #[error("{method} was answered with HTTP status {status}")]
    Http {
        /// The call.
        method: &'static str,
        /// The status.
        status: u16,
    },
    /// The server refused the call.
    #[error("{method} failed: {fault}")]
    Fault {
        /// The call.
        method: &'static str,
        /// Why.
        fault: Fault,
    },
    /// A task was accepted and then failed.
    #[error("task {task} failed: {fault}")]
    Task {
        /// The task's managed object id.
        task: String,
        /// Why.
        fault: Fault,
    },
    /// A task did not end within the time given to it. It may still end later.
    #[error("task {task} has not ended after {} s", waited.as_secs())]
    TaskTimeout {
        /// The task's managed object id.
        task: String,
        /// The limit.
        waited: Duration,
    },
    /// The caller's [`Cancel`](crate::Cancel) was raised while waiting for a task. It may still end later.
    #[error("interrupted while waiting for task {task}")]
    Cancelled {
        /// The task's managed object id.
        task: String,
    },
    /// The answer is not what the protocol says, or passes a limit.
    #[error("{method}: {what}")]
    Protocol {
        /// The call.
        method: &'static str,
        /// What is wrong.
        what: String,
    },
    /// The named object does not exist.
    #[error("{0} does not exist")]
    NotFound(String),
}

impl Error {
    pub(crate) fn protocol(method: &'static str, what: impl Into<String>) -> Self {
        Error::Protocol { method, what: what.into() }
    }

    /// The fault's vim25 type, when the server gave one.
    #[must_use]
    pub fn fault(&self) -> Option<&str> {
        match self {
            Error::Fault { fault, .. } | Error::Task { fault, .. } => Some(&fault.kind),
            _ => None,
        }
    }

    /// The user name or password is wrong, or the account may not do this.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self, Error::Http { status: 401 | 403, .. })
            || matches!(
                self.fault(),
                Some(
                    "InvalidLogin"
                        | "NoPermission"
                        | "NotAuthenticated"
                        | "RestrictedByAdministrator"
                        | "SecurityError"
                        | "PasswordExpired"
                )
            )
    }

    /// The object is not there (any more).
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::NotFound(_) | Error::Http { status: 404, .. })
            || matches!(self.fault(), Some("ManagedObjectNotFound" | "NotFound" | "FileNotFound"))
    }

    /// Somebody else is busy with the object: worth another try later.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(
            self.fault(),
            Some("TaskInProgress" | "FileLocked" | "ResourceInUse" | "ConcurrentAccess" | "MethodAlreadyDisabledFault")
        )
    }

    /// The same call may work when made again: no answer, or the server was overloaded.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Unreachable { .. } => true,
            Error::Http { status, .. } => matches!(status, 429 | 500 | 502 | 503 | 504),
            _ => self.fault() == Some("HostCommunication"),
        }
    }

    /// Whether the server may have carried the call out although it failed for us. Whoever changes
    /// something looks before repeating it.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Error::Unreachable { .. }
            | Error::TaskTimeout { .. }
            | Error::Cancelled { .. }
            | Error::Protocol { .. } => true,
            Error::Http { status, .. } => *status >= 500,
            Error::Setting(_) | Error::Tls { .. } | Error::NotFound(_) => false,
            // A fault is an answer; but these say that the answer was lost behind the server.
            Error::Fault { fault, .. } | Error::Task { fault, .. } => {
                matches!(
                    fault.kind.as_str(),
                    "HostCommunication" | "HostNotConnected" | "Timedout" | "NotAuthenticated"
                )
            }
        }
    }
}
