//! What WinFsp calls: each method asks [`Tree`] and puts the answer into WinFsp's structures. A panic
//! below is caught here and answered as an error, so that the mount lives on.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use vcb_mountd::view::View;
use winfsp::filesystem::{
    DirBuffer, DirInfo, DirMarker, FileInfo, FileSecurity, FileSystemContext, OpenFileInfo, StreamInfo, VolumeInfo,
    WideNameInfo,
};
use winfsp::{FspError, U16CStr};

use crate::names::to_windows;
use crate::status::Status;
use crate::tree::{Handle, Info, Tree};

/// Everybody may read, nobody may write: for what has no descriptor of its own (`O:BAG:BAD:(A;;FR;;;WD)` and
/// execute for folders), in self-relative form.
const READABLE_BY_ALL: [u8; 48] = [
    1, 0, 0x04, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0, // header: DACL at 20
    2, 0, 28, 0, 1, 0, 0, 0, // ACL: one entry
    0, 0, 20, 0, 0xA9, 0x00, 0x12, 0x00, // allow FILE_GENERIC_READ | FILE_GENERIC_EXECUTE
    1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, // to S-1-1-0
];

/// Longest name WinFsp carries in a folder entry, in UTF-16 units: NTFS's own limit.
const NAME_UNITS: usize = 255;

/// A view as a WinFsp file system.
pub struct Adapter {
    tree: Tree,
    label: Vec<u16>,
}

/// An open file of WinFsp's: ours, and the folder listing that it pages through.
pub struct Opened {
    handle: Handle,
    listing: DirBuffer,
}

impl Adapter {
    /// Serves `view` under the volume label `label` (32 units at most are shown).
    #[must_use]
    pub fn new(view: Arc<dyn View>, label: &str) -> Self {
        Adapter { tree: Tree::new(view), label: to_windows(label.as_bytes()) }
    }

    /// The rules behind the callbacks.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    fn fill_listing(&self, opened: &Opened) -> Result<(), FspError> {
        let lock = opened.listing.acquire(true, None)?;
        let mut refused = None;
        guarded(|| {
            self.tree.entries(&opened.handle, &mut |entry| {
                let mut item = DirInfo::<NAME_UNITS>::new();
                fill(item.file_info_mut(), &entry.info);
                // A name longer than NTFS allows cannot come from a view; it would be refused here.
                let written = item.set_name_raw(entry.name.as_slice()).and_then(|()| lock.write(&mut item));
                written.map_err(|err| {
                    refused = Some(err);
                    Status::INTERNAL_ERROR
                })
            })
        })
        .map_err(|err| refused.take().unwrap_or(err))
    }
}

impl FileSystemContext for Adapter {
    type FileContext = Opened;

    fn get_security_by_name(
        &self,
        file_name: &U16CStr,
        security_descriptor: Option<&mut [c_void]>,
        reparse_point_resolver: impl FnOnce(&U16CStr) -> Option<FileSecurity>,
    ) -> winfsp::Result<FileSecurity> {
        if let Some(found) = reparse_point_resolver(file_name) {
            return Ok(found);
        }
        let (info, descriptor) = guarded(|| {
            let (node, info) = self.tree.stat(file_name.as_slice())?;
            Ok((info, self.tree.security(node)?))
        })?;
        let descriptor = descriptor.as_deref().unwrap_or(&READABLE_BY_ALL);
        if let Some(out) = security_descriptor {
            copy_out(descriptor, out)?;
        }
        Ok(FileSecurity {
            reparse: false,
            sz_security_descriptor: descriptor.len() as u64,
            attributes: info.attributes,
        })
    }

    fn open(
        &self,
        file_name: &U16CStr,
        _create_options: u32,
        _granted_access: u32,
        file_info: &mut OpenFileInfo,
    ) -> winfsp::Result<Opened> {
        let handle = guarded(|| self.tree.open(file_name.as_slice()))?;
        fill(file_info.as_mut(), &handle.info);
        Ok(Opened { handle, listing: DirBuffer::new() })
    }

    fn close(&self, _context: Opened) {}

    fn get_file_info(&self, context: &Opened, file_info: &mut FileInfo) -> winfsp::Result<()> {
        fill(file_info, &context.handle.info);
        Ok(())
    }

    fn get_security(&self, context: &Opened, security_descriptor: Option<&mut [c_void]>) -> winfsp::Result<u64> {
        let descriptor = guarded(|| self.tree.security(context.handle.node))?;
        let descriptor = descriptor.as_deref().unwrap_or(&READABLE_BY_ALL);
        if let Some(out) = security_descriptor {
            copy_out(descriptor, out)?;
        }
        Ok(descriptor.len() as u64)
    }

    fn read(&self, context: &Opened, buffer: &mut [u8], offset: u64) -> winfsp::Result<u32> {
        let got = guarded(|| self.tree.read(&context.handle, buffer, offset))?;
        Ok(u32::try_from(got).unwrap_or(u32::MAX))
    }

    fn read_directory(
        &self,
        context: &Opened,
        _pattern: Option<&U16CStr>,
        marker: DirMarker<'_>,
        buffer: &mut [u8],
    ) -> winfsp::Result<u32> {
        if marker.is_none() {
            self.fill_listing(context)?;
        }
        Ok(context.listing.read(marker, buffer))
    }

    fn get_volume_info(&self, out: &mut VolumeInfo) -> winfsp::Result<()> {
        let stats = guarded(|| self.tree.totals())?;
        (out.total_size, out.free_size) = stats;
        let label = std::os::windows::ffi::OsStringExt::from_wide(&self.label);
        let label: std::ffi::OsString = label;
        out.set_volume_label(label);
        Ok(())
    }

    fn get_stream_info(&self, context: &Opened, buffer: &mut [u8]) -> winfsp::Result<u32> {
        let streams = guarded(|| self.tree.streams(&context.handle))?;
        let mut cursor = 0;
        for stream in streams {
            let mut item = StreamInfo::<NAME_UNITS>::new();
            item.stream_size = stream.size;
            item.stream_alloc_size = stream.size;
            item.set_name_raw(stream.name.as_slice())?;
            if !item.append_to_buffer(buffer, &mut cursor) {
                return Ok(cursor);
            }
        }
        StreamInfo::<NAME_UNITS>::finalize_buffer(buffer, &mut cursor);
        Ok(cursor)
    }

    fn get_reparse_point_by_name(
        &self,
        file_name: &U16CStr,
        _is_directory: bool,
        buffer: &mut [u8],
    ) -> winfsp::Result<u64> {
        let data = guarded(|| self.tree.stat(file_name.as_slice()).and_then(|(node, _)| self.tree.reparse(node)))?;
        put(&data, buffer)
    }

    fn get_reparse_point(&self, context: &Opened, _file_name: &U16CStr, buffer: &mut [u8]) -> winfsp::Result<u64> {
        let data = guarded(|| self.tree.reparse(context.handle.node))?;
        put(&data, buffer)
    }
}

/// Runs `work`; a panic in it is a defect of ours, answered as an error of this one request.
fn guarded<T>(work: impl FnOnce() -> Result<T, Status>) -> Result<T, FspError> {
    let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        tracing::error!("a request failed by a defect of vcbmount; the mount goes on");
        Err(Status::INTERNAL_ERROR)
    });
    result.map_err(fsp)
}

fn fsp(status: Status) -> FspError {
    FspError::NTSTATUS(status.0.cast_signed())
}

/// A reparse buffer is taken whole or not at all; with no buffer its length is what was asked for.
fn put(data: &[u8], buffer: &mut [u8]) -> winfsp::Result<u64> {
    if !buffer.is_empty() {
        buffer.get_mut(..data.len()).ok_or(fsp(Status::BUFFER_TOO_SMALL))?.copy_from_slice(data);
    }
    Ok(data.len() as u64)
}

/// Copies a descriptor into memory that WinFsp gives as untyped bytes.
fn copy_out(descriptor: &[u8], out: &mut [c_void]) -> winfsp::Result<()> {
    if out.len() < descriptor.len() {
        return Err(fsp(Status::BUFFER_OVERFLOW));
    }
    // SAFETY: `out` is writable for its whole length, which was just compared, and the two do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(descriptor.as_ptr(), out.as_mut_ptr().cast::<u8>(), descriptor.len()) };
    Ok(())
}

fn fill(out: &mut FileInfo, info: &Info) {
    *out = FileInfo {
        file_attributes: info.attributes,
        reparse_tag: info.reparse_tag,
        allocation_size: info.allocated,
        file_size: info.size,
        creation_time: info.created,
        last_access_time: info.accessed,
        last_write_time: info.written,
        change_time: info.changed,
        index_number: info.index,
        hard_links: info.links,
        ea_size: 0,
    };
}
