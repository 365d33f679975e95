//! Mounting: the volume's parameters and the life of a mount.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};

use vcb_block::{Error, Kind, Result};
use vcb_mountd::front::{FrontEnd, FrontOptions, Mounted, Report, Unmounter};
use vcb_mountd::view::View;
use winfsp::host::{FileSystemHost, FineGuard, VolumeParams};

use crate::adapter::Adapter;
use crate::identity::Identity;
use crate::load;
use crate::tree::Tree;

const LAYER: &str = "winfsp";
/// What Windows shows as the kind of file system.
const NAME: &str = "vcbmount";
/// How long Windows may keep attributes and entries, in milliseconds: nothing ever changes, and WinFsp takes
/// the largest value for "for ever".
const FOR_EVER: u32 = u32::MAX;
/// Sector and cluster size that is shown; reads of any size and place are answered.
const SECTOR: u16 = 512;
const SECTORS_PER_UNIT: u16 = 8;
/// Longest component of a path that is answered: NTFS's own limit. A twin of such a name cannot be opened.
const LONGEST_NAME: u16 = 255;
/// Units of `\server\share` that WinFsp takes.
const LONGEST_PREFIX: usize = 191;

/// Mounts through WinFsp on a drive letter (`X:`), a folder that does not exist yet, or `\\server\share`.
#[derive(Debug, Default)]
pub struct WinFspFrontEnd;

impl FrontEnd for WinFspFrontEnd {
    fn mount(
        &self,
        view: Arc<dyn View>,
        at: &Path,
        options: &FrontOptions,
        report: Arc<Report>,
    ) -> Result<Box<dyn Mounted>> {
        load::load().map_err(|text| Error::new(Kind::Unsupported, LAYER, text))?;
        let identity = Identity::of(view.as_ref(), &options.label);
        let (params, is_share) = params(at, identity.serial)?;
        let fail = |what: &str, err: &dyn std::fmt::Display| {
            let next = "see that the mount point is free and that 'sc query WinFsp' shows the driver running";
            Error::new(Kind::Io, LAYER, format!("{what}: {err}; {next}")).path(at)
        };
        let (stop, stopped) = channel();
        let ended = stop.clone();
        let adapter = Adapter::new(Tree::new(view, report), &identity.label).when_stopped(move || {
            // Nobody listens to a mount that is gone.
            let _ = ended.send(());
        });
        let open = adapter.open_count();
        let made = FileSystemHost::<_, FineGuard>::new(params, adapter);
        let mut host = made.map_err(|err| fail("WinFsp does not make the volume", &err))?;
        // A share is reached by its name and needs no mount point.
        if !is_share {
            host.mount(at.as_os_str()).map_err(|err| fail("WinFsp does not mount here", &err))?;
        }
        let threads = options.threads.and_then(|threads| u32::try_from(threads).ok()).unwrap_or(0);
        host.start_with_threads(threads).map_err(|err| fail("WinFsp does not start answering", &err))?;
        let busy = move || open.load(Ordering::Relaxed) > 0;
        Ok(Box::new(WinFspMounted { host, ending: Ending { stop, busy: Arc::new(busy) }, stopped }))
    }
}

/// The volume's parameters, and whether it is a share.
fn params(at: &Path, serial: u32) -> Result<(VolumeParams, bool)> {
    let mut params = VolumeParams::new();
    params
        .filesystem_name(NAME)
        .sector_size(SECTOR)
        .sectors_per_allocation_unit(SECTORS_PER_UNIT)
        .max_component_length(LONGEST_NAME)
        .file_info_timeout(FOR_EVER)
        .case_sensitive_search(false)
        .case_preserved_names(true)
        .unicode_on_disk(true)
        .persistent_acls(true)
        .reparse_points(true)
        .reparse_points_access_check(false)
        .named_streams(true)
        .read_only_volume(true)
        .volume_serial_number(serial);
    let Some(share) = at.to_str().filter(|text| text.starts_with(r"\\")) else { return Ok((params, false)) };
    if share.encode_utf16().count() > LONGEST_PREFIX {
        return Err(Error::new(Kind::Limit, LAYER, format!("the name is longer than {LONGEST_PREFIX} units")).path(at));
    }
    // WinFsp's prefix has one backslash where UNC names have two.
    params.prefix(&share[1..]);
    Ok((params, true))
}

/// What ends a mount.
#[derive(Clone)]
struct Ending {
    stop: Sender<()>,
    busy: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl Ending {
    fn end(&self, lazily: bool) -> io::Result<()> {
        if !lazily && (self.busy)() {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "files are open"));
        }
        // Nobody listens to a mount that is gone.
        let _ = self.stop.send(());
        Ok(())
    }
}

struct WinFspMounted {
    host: FileSystemHost<Adapter>,
    ending: Ending,
    stopped: Receiver<()>,
}

impl Mounted for WinFspMounted {
    fn unmounter(&self) -> Unmounter {
        let ending = self.ending.clone();
        Box::new(move |lazily| ending.end(lazily))
    }

    fn serve(mut self: Box<Self>) -> Result<()> {
        // WinFsp answers on threads of its own; this one waits until it is told to end. We hold a sender
        // ourselves, so that it is never for want of one.
        let _ = self.stopped.recv();
        self.host.unmount();
        self.host.stop();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn a_mount_with_open_files_ends_only_when_it_must() {
        let busy = Arc::new(AtomicBool::new(true));
        let (stop, stopped) = channel();
        let asked = Arc::clone(&busy);
        let ending = Ending { stop, busy: Arc::new(move || asked.load(Ordering::Relaxed)) };
        assert_eq!(ending.end(false).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        assert!(stopped.try_recv().is_err());
        ending.end(true).unwrap();
        stopped.recv().unwrap();
        busy.store(false, Ordering::Relaxed);
        ending.end(false).unwrap();
        stopped.recv().unwrap();
        drop(stopped);
        ending.end(false).unwrap();
    }

    #[test]
    fn shares_have_a_prefix_and_a_limit() {
        assert!(params(Path::new(r"\\vcb\web01"), 1).unwrap().1);
        assert!(!params(Path::new("X:"), 1).unwrap().1);
        let long = format!(r"\\vcb\{}", "x".repeat(LONGEST_PREFIX));
        assert_eq!(params(Path::new(&long), 1).err().unwrap().kind(), Kind::Limit);
    }
}
