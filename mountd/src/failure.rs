//! Failures as a user meets them: what was being done, the cause with its place, what to do next, and a
//! stable code. The reading layers keep [`vcb_block::Error`]; everything above returns [`Failure`].

use std::fmt;

use vcb_block::{BoxError, Error, Kind};
use vcb_fs::ntfs::Unreplayed;

/// Result of everything above the reading layers.
pub type Outcome<T> = std::result::Result<T, Failure>;

/// What the process tells its caller. Scripts rely on these numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Exit {
    /// Everything was done.
    Done = 0,
    /// It failed, and none of the more precise codes fits.
    Failed = 1,
    /// The command line or the configuration is wrong; nothing was tried.
    Usage = 2,
    /// Some volume or file was unreadable, each named on stderr; the rest was done.
    Partial = 3,
    /// The input is damaged, or of a kind that is not supported.
    Input = 4,
    /// A VM, snapshot or datastore was not found, or more than one matched.
    NotFound = 10,
    /// Somebody else is using it.
    InUse = 11,
    /// Credentials or privileges were refused.
    Refused = 12,
    /// Interrupted by a signal, after cleaning up.
    Interrupted = 130,
}

impl Exit {
    /// All of them, in order of their numbers.
    pub const ALL: [Exit; 9] = [
        Exit::Done,
        Exit::Failed,
        Exit::Usage,
        Exit::Partial,
        Exit::Input,
        Exit::NotFound,
        Exit::InUse,
        Exit::Refused,
        Exit::Interrupted,
    ];

    /// The number.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// One line for `--help`, the manual and the guide.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Exit::Done => "done",
            Exit::Failed => "failed",
            Exit::Usage => "wrong usage or configuration; nothing was tried",
            Exit::Partial => "partly done: some volume or file was unreadable, each named on stderr",
            Exit::Input => "corrupt or unsupported input",
            Exit::NotFound => "VM, snapshot or datastore not found, or ambiguous",
            Exit::InUse => "in use by another",
            Exit::Refused => "credentials or privileges refused",
            Exit::Interrupted => "interrupted, after cleaning up",
        }
    }
}

/// Declares the codes: name, number, exit, title, and what to do next.
macro_rules! codes {
    ($($name:ident = $number:literal, $exit:ident, $title:literal, $next:literal;)*) => {
        /// A stable code. Its number never changes meaning; the texts may improve.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = $title] $name,)*
        }

        impl Code {
            /// All of them, in order of their numbers.
            pub const ALL: &[Code] = &[$(Code::$name),*];

            /// The number behind the `E`.
            #[must_use]
            pub fn number(self) -> u16 {
                match self { $(Code::$name => $number,)* }
            }

            /// What the process exits with.
            #[must_use]
            pub fn exit(self) -> Exit {
                match self { $(Code::$name => Exit::$exit,)* }
            }

            /// What it means, in a few words.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Code::$name => $title,)* }
            }

            /// What a user should do next, unless the failure itself knows better.
            #[must_use]
            pub fn next(self) -> &'static str {
                match self { $(Code::$name => $next,)* }
            }
        }
    };
}

codes! {
    Failed = 100, Failed, "it failed",
        "Run it again with -vv to see the steps before.";
    Config = 101, Usage, "the configuration is wrong",
        "Correct the line named above; docs/configuration.md lists every key.";
    Spec = 102, Usage, "that is no VM specification",
        "Write name:NAME, uuid:UUID, moref:ID, ipaddr:ADDRESS, any:, powerstate:on|off or path:PATH.";
    Usage = 103, Usage, "these arguments do not go together",
        "See 'vcbmount help' for the command.";
    VmNotFound = 110, NotFound, "no such VM",
        "'vcbmount list' prints every VM that can be found.";
    Ambiguous = 111, NotFound, "more than one matches",
        "Choose one of those listed.";
    DatastoreNotFound = 112, NotFound, "no such datastore",
        "Add it to the configuration as [[datastore]], or correct its name.";
    SnapshotNotFound = 113, NotFound, "no such snapshot",
        "'vcbmount info' on the VM's folder lists its snapshots.";
    PathNotFound = 114, Failed, "no such file",
        "Check the path; 'vcbmount ls' lists a folder.";
    NotFreezable = 115, Input, "the VM cannot be frozen",
        "The reasons above name what a snapshot would leave out; exclude those disks or change them.";
    Running = 120, InUse, "the VM is running and its disks change while they are read",
        "Read a snapshot with --read-existing NAME, or accept inconsistent data with --live.";
    Busy = 121, InUse, "in use by another",
        "Wait until the other user is done; 'vcbmount sessions' shows our own.";
    Denied = 130, Refused, "access denied",
        "Run as a user who may read it, or grant that user read access.";
    Login = 131, Refused, "the server refused the login",
        "Check user and password file in [vcenter]; 'vcbmount doctor' tries them.";
    Privilege = 132, Refused, "the account lacks a privilege",
        "Grant the privilege named above; 'vcbmount doctor' lists all that are needed.";
    Untrusted = 133, Refused, "the server's certificate is not trusted",
        "Compare its fingerprint with the one on the server's own console, then run 'vcbmount trust HOST'.";
    Server = 140, Failed, "the server did not do it",
        "See the server's list of tasks for the VM, then try again.";
    Unreachable = 141, Failed, "the server cannot be reached",
        "Check the name in [vcenter] and the network between; 'vcbmount doctor' tries it.";
    Quiesce = 142, Failed, "the guest did not come to rest",
        "See the guest's log of VMware Tools, or set quiesce = \"try\" in [snapshot].";
    Space = 143, Failed, "too little free space on the datastore",
        "Free some space, or lower min_free_percent in [snapshot].";
    SnapshotExists = 144, InUse, "the VM has a snapshot of ours already",
        "Unmount the session that uses it; 'vcbmount cleanup' removes one that nobody uses.";
    Hook = 145, Failed, "a hook failed",
        "See the hook's output in the log.";
    LeftBehind = 146, Failed, "something could not be cleaned up",
        "Run 'vcbmount cleanup' when the server answers again.";
    Io = 200, Failed, "the storage failed",
        "Check the device or share and the system log, then try again.";
    Corrupt = 201, Input, "the input is damaged or still being written",
        "Run 'vcbmount check' on the disk; if the VM is running, read a snapshot instead.";
    Unsupported = 202, Input, "the input is of a kind that cannot be read rightly",
        "'vcbmount info' shows what the disk consists of.";
    Changed = 203, Failed, "the input changed while it was being read",
        "Make sure that the VM is off or that a snapshot is read, then try again.";
    Limit = 204, Input, "the input exceeds a limit that protects against hostile data",
        "If the disk is genuine, report it together with the output of 'vcbmount info'.";
    Missing = 205, Input, "a file that belongs to the disk is missing",
        "Put the file beside the others, or configure the datastore that holds it.";
    Forbidden = 206, Input, "the disk names a file outside the folder it may use",
        "If the file is rightly elsewhere, configure that place as [[datastore]].";
    Partial = 210, Partial, "some of it could not be read",
        "See the lines above; everything else was done.";
    MountPoint = 300, Failed, "that mount point cannot be used",
        "Name an empty folder of your own, or one that does not exist yet.";
    MountPointBusy = 301, InUse, "the mount point is taken by another session",
        "Unmount it with 'vcbmount umount', or choose another folder.";
    Fuse = 302, Failed, "FUSE or WinFsp cannot be used",
        "Run 'vcbmount doctor'.";
    ServerDied = 303, Failed, "the process that serves the mount ended",
        "See the session's log; 'vcbmount umount' clears what is left.";
    SessionNotFound = 304, NotFound, "no such session",
        "'vcbmount sessions' lists them.";
    State = 305, Failed, "the state folder cannot be used",
        "Check that it exists and that you may write to it.";
    Interrupted = 900, Interrupted, "interrupted",
        "Nothing is left behind; 'vcbmount sessions' proves it.";
}

impl Code {
    /// The code for a failure of the reading layers.
    #[must_use]
    pub fn of(kind: Kind) -> Code {
        match kind {
            Kind::Io => Code::Io,
            Kind::Corrupt | Kind::OutOfRange => Code::Corrupt,
            Kind::Unsupported => Code::Unsupported,
            Kind::NotFound => Code::Missing,
            Kind::Forbidden => Code::Forbidden,
            Kind::Denied => Code::Denied,
            Kind::Busy => Code::Busy,
            Kind::Changed => Code::Changed,
            Kind::Limit => Code::Limit,
            Kind::WrongType => Code::Unsupported,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "E{}", self.number())
    }
}

/// A failure with everything a user needs. `Display` is code and what was being done; the cause is the
/// [`source`](std::error::Error::source).
pub struct Failure(Box<Inner>);

struct Inner {
    code: Code,
    what: String,
    cause: Option<BoxError>,
    next: Option<String>,
}

impl Failure {
    /// `what` says in a few words what could not be done, with the names the user knows.
    pub fn new(code: Code, what: impl Into<String>) -> Self {
        Failure(Box::new(Inner { code, what: what.into(), cause: None, next: None }))
    }

    /// A failure of the reading layers while doing `what`; its kind chooses the code.
    pub fn reading(what: impl Into<String>, err: Error) -> Self {
        let declined = err.cause::<Unreplayed>().is_some_and(|why| why.declined);
        let failure = Failure::new(Code::of(err.kind()), what).because(err);
        match declined {
            true => failure.next_step("Leave --no-replay away: the changes in the log may make the two agree."),
            false => failure,
        }
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, cause: impl Into<BoxError>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// Replaces the code's general advice by a better one.
    #[must_use]
    pub fn next_step(mut self, next: impl Into<String>) -> Self {
        self.0.next = Some(next.into());
        self
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// What could not be done.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.0.what
    }

    /// What to do next.
    #[must_use]
    pub fn next(&self) -> &str {
        self.0.next.as_deref().unwrap_or(self.0.code.next())
    }

    /// Layer, file and offset of the first cause that knows them, and the chain of causes below it.
    #[must_use]
    pub fn place_and_reason(&self) -> (Option<String>, Option<String>) {
        let mut place = None;
        let mut reasons: Vec<String> = Vec::new();
        let mut cause: Option<&(dyn std::error::Error + 'static)> = self.0.cause.as_deref().map(|cause| cause as _);
        while let Some(err) = cause {
            match err.downcast_ref::<Error>() {
                Some(ours) if place.is_none() => place = Some(describe_place(ours)),
                _ => reasons.push(err.to_string()),
            }
            cause = err.source();
        }
        (place, (!reasons.is_empty()).then(|| reasons.join(": ")))
    }
}

fn describe_place(err: &Error) -> String {
    let mut text = format!("layer {}", err.layer());
    if let Some(file) = err.file() {
        text.push_str(&format!(", file {}", file.display()));
    }
    if let Some(offset) = err.offset() {
        text.push_str(&format!(", offset {offset:#x}"));
    }
    text
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code, self.0.what)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (place, reason) = self.place_and_reason();
        write!(f, "{self}")?;
        for part in [place, reason].into_iter().flatten() {
            write!(f, ": {part}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_codes_are_unique_and_ascending() {
        assert!(Code::ALL.windows(2).all(|pair| pair[0].number() < pair[1].number()));
    }

    #[test]
    fn the_place_is_told_apart_from_the_reason() {
        let err = Error::corrupt("vmdk-sparse", "entry 7 points past the end").path("a.vmdk").at(0x5400);
        let failure = Failure::reading("cannot open the disk scsi0:0", err);
        assert_eq!(failure.to_string(), "E201: cannot open the disk scsi0:0");
        let (place, reason) = failure.place_and_reason();
        assert_eq!(place.unwrap(), "layer vmdk-sparse, file a.vmdk, offset 0x5400");
        assert_eq!(reason.unwrap(), "entry 7 points past the end");
    }
}
