//! Mounting: the volume's parameters and the life of a mount.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use vcb_block::{Error, Kind, Result};
use vcb_mountd::front::{FrontEnd, FrontOptions, Mounted, Report};
use vcb_mountd::view::View;
use winfsp::host::{FileSystemHost, VolumeParams};

use crate::adapter::Adapter;
use crate::load;

const LAYER: &str = "winfsp";
/// How long Windows may keep attributes and entries, in milliseconds: nothing ever changes, and WinFsp takes
/// the largest value for "for ever".
const FOR_EVER: u32 = u32::MAX;
/// Sector and cluster size that is shown; reads of any size and place are answered.
const SECTOR: u16 = 512;
const SECTORS_PER_UNIT: u16 = 8;

/// Mounts through WinFsp on a drive letter (`X:`), a folder that does not exist yet, or `\\server\share`.
pub struct WinFspFrontEnd;

impl FrontEnd for WinFspFrontEnd {
    fn mount(
        &self,
        view: Arc<dyn View>,
        at: &Path,
        options: &FrontOptions,
        _report: Arc<Report>,
    ) -> Result<Box<dyn Mounted>> {
        load::load().map_err(|text| Error::new(Kind::Unsupported, LAYER, text))?;
        let mut params = VolumeParams::new();
        params
            .filesystem_name("vcbmount")
            .sector_size(SECTOR)
            .sectors_per_allocation_unit(SECTORS_PER_UNIT)
            .max_component_length(255)
            .file_info_timeout(FOR_EVER)
            .case_sensitive_search(false)
            .case_preserved_names(true)
            .unicode_on_disk(true)
            .persistent_acls(true)
            .reparse_points(true)
            .reparse_points_access_check(false)
            .named_streams(true)
            .read_only_volume(true)
            .volume_serial_number(serial(&options.source));
        let unc = at.to_str().filter(|text| text.starts_with(r"\\"));
        if let Some(unc) = unc {
            // WinFsp's prefix has one backslash where UNC names have two.
            params.prefix(&unc[1..]);
        }
        let fail = |what: &str, err: &dyn std::fmt::Debug| {
            let next = "see that WinFsp's service runs ('sc query WinFsp.Launcher') and the mount point is free";
            Error::new(Kind::Io, LAYER, format!("{what}: {err:?}; {next}")).path(at)
        };
        let mut host = FileSystemHost::new(params, Adapter::new(view, &options.source))
            .map_err(|err| fail("WinFsp does not make the volume", &err))?;
        if unc.is_none() {
            host.mount(at.as_os_str()).map_err(|err| fail("WinFsp does not mount here", &err))?;
        }
        host.start().map_err(|err| fail("WinFsp does not start answering", &err))?;
        let (stop, stopped) = channel();
        Ok(Box::new(WinFspMount { host, stop, stopped }))
    }
}

/// A volume number made of the mount's name, so that it is the same at every mount of the same VM.
fn serial(source: &str) -> u32 {
    // FNV-1a: any spread will do.
    source.bytes().fold(0x811C_9DC5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

struct WinFspMount {
    host: FileSystemHost<Adapter>,
    stop: Sender<()>,
    stopped: Receiver<()>,
}

impl Mounted for WinFspMount {
    fn serve(mut self: Box<Self>) -> Result<()> {
        // WinFsp answers on threads of its own; this one waits until it is told to end.
        let _ = self.stopped.recv();
        drop(self.stop);
        self.host.unmount();
        self.host.stop();
        Ok(())
    }
}
