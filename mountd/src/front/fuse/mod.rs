//! The FUSE front end for Linux.

mod ahead;
mod attr;
mod errno;
mod handler;
mod open_files;
mod seek;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuser::{Config, MountOption, Session, SessionACL};
use vcb_block::{Error, Result};

use self::ahead::Ahead;
use self::attr::Owner;
use self::handler::Handler;
use super::{FrontEnd, FrontOptions, Mounted, Report, Unmounter};
use crate::sys;
use crate::view::View;

const LAYER: &str = "fuse";
/// Bounds of the number of threads. They block in reads of the storage, so more than processors are of use.
const THREADS: std::ops::RangeInclusive<usize> = 4..=16;
/// What the kernel reads ahead, in KiB: as many requests of 1 MiB, which is their longest, as storage that answers slowly
/// is asked for at once. The default is 128.
const READ_AHEAD_KIB: u32 = 4096;
/// Subtype in the list of mounts, for mounts through fusermount3.
const SUBTYPE: &str = "vcbmount";

/// Mounts views with FUSE.
#[derive(Debug, Default)]
pub struct FuseFrontEnd;

struct FuseMounted {
    session: Session<Handler>,
    at: PathBuf,
    source: String,
    ahead: Option<Arc<Ahead>>,
}

impl FrontEnd for FuseFrontEnd {
    fn mount(
        &self,
        view: Arc<dyn View>,
        at: &Path,
        options: &FrontOptions,
        report: Arc<Report>,
    ) -> Result<Box<dyn Mounted>> {
        let user = sys::user();
        let owner = Owner {
            uid: options.uid.unwrap_or(user.uid),
            gid: options.gid.unwrap_or(user.gid),
            file_mode: options.file_mode,
            dir_mode: options.dir_mode,
        };
        let handler = Handler::new(view, report, owner, options.passthrough && user.is_root());
        let ahead = handler.ahead();
        let session = Session::new(handler, at, &config(options)).map_err(|err| explain(err).path(at))?;
        if let Err(err) = sys::raise_read_ahead(at, READ_AHEAD_KIB) {
            tracing::debug!(%err, "the kernel's readahead stays as it is");
        }
        Ok(Box::new(FuseMounted { session, at: at.to_owned(), source: options.source.clone(), ahead }))
    }
}

impl Mounted for FuseMounted {
    fn unmounter(&self) -> Unmounter {
        let (at, source) = (self.at.clone(), self.source.clone());
        Box::new(move |lazily| {
            // Somebody else may have unmounted it, and mounted something else there.
            let topmost = sys::mounts()?.into_iter().rev().find(|entry| entry.at == at);
            let ours = topmost.is_some_and(|entry| entry.source == source);
            if ours { sys::unmount(&at, lazily) } else { Ok(()) }
        })
    }

    fn serve(self: Box<Self>) -> Result<()> {
        let notifier = self.session.notifier();
        let workers = self.ahead.map(|ahead| ahead.start(&notifier));
        let ended = self.session.run();
        if let Some(workers) = workers {
            workers.stop();
        }
        ended.map_err(|err| Error::io(LAYER, err))
    }
}

fn config(options: &FrontOptions) -> Config {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = options.threads.unwrap_or(2 * cores).clamp(*THREADS.start(), *THREADS.end());
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(options.source.clone()),
        MountOption::Subtype(SUBTYPE.to_owned()),
        MountOption::RO,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
    ];
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(threads);
    config.clone_fd = true;
    config
}

/// Says what to do about the ways in which mounting usually fails.
fn explain(err: std::io::Error) -> Error {
    let text = err.to_string();
    let hint = if text.contains("user_allow_other") {
        "to let other users look, root must put 'user_allow_other' into /etc/fuse.conf"
    } else if !Path::new("/dev/fuse").exists() {
        "there is no /dev/fuse: load the module with 'modprobe fuse'"
    } else if err.kind() == std::io::ErrorKind::PermissionDenied {
        "this user may not use /dev/fuse"
    } else if err.kind() == std::io::ErrorKind::NotFound {
        "fusermount3 was not found: install the package fuse3"
    } else {
        return Error::io(LAYER, err);
    };
    let kind = Error::io(LAYER, std::io::Error::from(err.kind())).kind();
    Error::new(kind, LAYER, format!("{}: {hint}", text.trim()))
}
