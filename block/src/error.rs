//! The one error type of the reading layers: a small stable kind, a context, and the cause.

use std::fmt;
use std::path::{Path, PathBuf};

/// An error that can be sent between threads and boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Result of the reading layers.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure it is. Front ends translate kinds, exhaustively, into errno or NTSTATUS values
/// and the command line into exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The storage or the operating system failed.
    Io,
    /// On-disk structures contradict themselves or each other.
    Corrupt,
    /// Understood well enough to know that we cannot read it rightly.
    Unsupported,
    /// A range lies past the end.
    OutOfRange,
    /// A named thing does not exist.
    NotFound,
    /// A name was asked for where none may be given: outside a datastore, through a foreign symlink.
    Forbidden,
    /// The operating system refused access.
    Denied,
    /// Somebody else holds it exclusively.
    Busy,
    /// It changed while it was being read, so that what was read cannot be trusted.
    Changed,
    /// A named limit that protects us from hostile input was met.
    Limit,
    /// Not a folder, or a folder where a file was asked for.
    WrongType,
}

impl Kind {
    /// The stable word used in messages and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Io => "i/o error",
            Kind::Corrupt => "corrupt",
            Kind::Unsupported => "unsupported",
            Kind::OutOfRange => "out of range",
            Kind::NotFound => "not found",
            Kind::Forbidden => "forbidden name",
            Kind::Denied => "access denied",
            Kind::Busy => "in use",
            Kind::Changed => "changed while in use",
            Kind::Limit => "limit exceeded",
            Kind::WrongType => "wrong type",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Kind, context and cause of a failure. `Display` gives kind and context; the cause is the
/// [`source`](std::error::Error::source) and is not repeated. [`Error::report`] prints the chain.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    layer: &'static str,
    path: Option<PathBuf>,
    offset: Option<u64>,
    cause: BoxError,
}

impl Error {
    /// A failure of `layer` (a fixed lower-case name such as `vmdk-sparse`) with a text or a typed cause.
    pub fn new(kind: Kind, layer: &'static str, cause: impl Into<BoxError>) -> Self {
        Error(Box::new(Inner { kind, layer, path: None, offset: None, cause: cause.into() }))
    }

    /// Shorthand for [`Kind::Corrupt`].
    pub fn corrupt(layer: &'static str, cause: impl Into<BoxError>) -> Self {
        Self::new(Kind::Corrupt, layer, cause)
    }

    /// Shorthand for [`Kind::Unsupported`].
    pub fn unsupported(layer: &'static str, cause: impl Into<BoxError>) -> Self {
        Self::new(Kind::Unsupported, layer, cause)
    }

    /// An operating system error; its [`std::io::ErrorKind`] chooses between `Io`, `NotFound` and `Denied`.
    #[must_use]
    pub fn io(layer: &'static str, err: std::io::Error) -> Self {
        let kind = match err.kind() {
            std::io::ErrorKind::NotFound => Kind::NotFound,
            std::io::ErrorKind::PermissionDenied => Kind::Denied,
            std::io::ErrorKind::NotADirectory | std::io::ErrorKind::IsADirectory => Kind::WrongType,
            _ => Kind::Io,
        };
        Self::new(kind, layer, err)
    }

    /// Adds the byte offset, unless a deeper layer has already named one.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.0.offset.get_or_insert(offset);
        self
    }

    /// Adds the file, unless a deeper layer has already named one.
    #[must_use]
    pub fn path(mut self, path: impl AsRef<Path>) -> Self {
        if self.0.path.is_none() {
            self.0.path = Some(path.as_ref().to_owned());
        }
        self
    }

    /// What sort of failure it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The layer that failed.
    #[must_use]
    pub fn layer(&self) -> &'static str {
        self.0.layer
    }

    /// The file concerned, when known.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The byte offset in that file (or block), when known.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// The typed cause, when it is a `T`.
    #[must_use]
    pub fn cause<T: std::error::Error + 'static>(&self) -> Option<&T> {
        self.0.cause.downcast_ref()
    }

    /// The whole chain on one line: `corrupt (layer=…, path=…, offset=…): cause: cause of the cause`.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(err) = next {
            text.push_str(": ");
            text.push_str(&err.to_string());
            next = err.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (layer={}", self.0.kind, self.0.layer)?;
        if let Some(path) = &self.0.path {
            write!(f, ", path={}", path.display())?;
        }
        if let Some(offset) = self.0.offset {
            write!(f, ", offset={offset:#x}")?;
        }
        f.write_str(")")
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.report())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0.cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_does_not_repeat_its_source() {
        let err = Error::corrupt("vmdk-sparse", "entry 7 points past the end").path("a.vmdk").at(0x5400);
        assert_eq!(err.to_string(), "corrupt (layer=vmdk-sparse, path=a.vmdk, offset=0x5400)");
        assert_eq!(
            err.report(),
            "corrupt (layer=vmdk-sparse, path=a.vmdk, offset=0x5400): entry 7 points past the end"
        );
    }

    #[test]
    fn context_of_the_deepest_layer_wins() {
        let err = Error::corrupt("x", "y").at(1).path("deep").at(2).path("shallow");
        assert_eq!((err.offset(), err.file()), (Some(1), Some(Path::new("deep"))));
    }

    #[test]
    fn missing_files_are_not_found_rather_than_io() {
        let err = Error::io("file", std::io::Error::from(std::io::ErrorKind::NotFound));
        assert_eq!(err.kind(), Kind::NotFound);
    }
}
