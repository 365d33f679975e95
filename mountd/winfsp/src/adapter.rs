//! What WinFsp calls: each method asks [`Tree`] and puts the answer into WinFsp's structures. A panic
//! below is caught here and answered as an error, so that the mount lives on.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use vcb_fs::Name;
use winfsp::filesystem::{
    DirBuffer, DirInfo, DirMarker, FileInfo, FileSecurity, FileSystemContext, ModificationDescriptor, OpenFileInfo,
    StreamInfo, VolumeInfo, WideNameInfo,
};
use winfsp::{FspError, U16CStr};

use crate::names::to_windows;
use crate::security::READABLE_BY_ALL;
use crate::status::Status;
use crate::tree::{Handle, Info, Tree};

/// Longest name that is shown: NTFS's 255 units, and the number that a twin gets.
const NAME_UNITS: usize = 272;
/// `FILE_DIRECTORY_FILE` and `FILE_NON_DIRECTORY_FILE` of a request to open (MS-FSA 2.1.5.1).
const WANTS_FOLDER: u32 = 0x0001;
const WANTS_FILE: u32 = 0x0040;
const DIRECTORY: u32 = 0x10;
/// What [`Opened::broken`] holds while the listing is whole.
const WHOLE: u32 = 0;

/// A view as a WinFsp file system.
pub struct Adapter {
    tree: Tree,
    label: Vec<u16>,
    open: Arc<AtomicUsize>,
    stopped: Box<dyn Fn() + Send + Sync>,
}

/// An open file of WinFsp's: ours, and the folder listing that it pages through.
pub struct Opened {
    handle: Handle,
    listing: DirBuffer,
    /// The status with which the listing ended too early, which no later page may hide.
    broken: AtomicU32,
}

impl Adapter {
    /// Serves `tree` under the volume label `label`, of which 32 units are shown.
    #[must_use]
    pub fn new(tree: Tree, label: &Name) -> Self {
        Adapter { tree, label: to_windows(label), open: Arc::default(), stopped: Box::new(|| {}) }
    }

    /// Calls `tell` when nobody asks any more, for one when WinFsp's driver is taken away under the mount.
    #[must_use]
    pub fn when_stopped(mut self, tell: impl Fn() + Send + Sync + 'static) -> Self {
        self.stopped = Box::new(tell);
        self
    }

    /// How many files and folders are open.
    #[must_use]
    pub fn open_count(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.open)
    }

    /// Lists a folder into `opened`, unless that was done and `again` is not asked for.
    fn fill_listing(&self, opened: &Opened, again: bool) -> Result<(), FspError> {
        let lock = match opened.listing.acquire(again, None) {
            Ok(lock) => lock,
            // It is there already.
            Err(FspError::NTSTATUS(0)) => return status_or(opened.broken.load(Ordering::Acquire)),
            Err(err) => return Err(err),
        };
        let filled = guarded(|| {
            self.tree.entries(&opened.handle, &mut |entry| {
                let mut item = DirInfo::<NAME_UNITS>::new();
                fill(item.file_info_mut(), &entry.info);
                let written = item.set_name_raw(entry.name.as_slice()).and_then(|()| lock.write(&mut item));
                written.map_err(|err| Status(err.to_ntstatus().cast_unsigned()))
            })
        });
        let broken = filled.as_ref().err().map_or(WHOLE, |err| err.to_ntstatus().cast_unsigned());
        opened.broken.store(broken, Ordering::Release);
        filled
    }

    fn descriptor(&self, node: vcb_mountd::view::NodeId, out: Option<&mut [c_void]>) -> winfsp::Result<u64> {
        let descriptor = guarded(|| self.tree.security(node))?;
        let descriptor = descriptor.as_deref().unwrap_or(&READABLE_BY_ALL);
        if let Some(out) = out {
            copy_out(descriptor, out)?;
        }
        Ok(descriptor.len() as u64)
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
        let (node, info) = match guarded(|| self.tree.stat(file_name.as_slice())) {
            Ok(found) => found,
            Err(err) => {
                // Only a link on the way makes a path lead on where no folder is.
                let leads_on = err.to_ntstatus() == fsp(Status::PATH_NOT_FOUND).to_ntstatus();
                return leads_on.then(|| reparse_point_resolver(file_name)).flatten().ok_or(err);
            }
        };
        let len = self.descriptor(node, security_descriptor)?;
        Ok(FileSecurity { reparse: false, sz_security_descriptor: len, attributes: info.attributes })
    }

    fn open(
        &self,
        file_name: &U16CStr,
        create_options: u32,
        _granted_access: u32,
        file_info: &mut OpenFileInfo,
    ) -> winfsp::Result<Opened> {
        let handle = guarded(|| self.tree.open(file_name.as_slice()))?;
        let is_folder = handle.info.attributes & DIRECTORY != 0;
        if is_folder && create_options & WANTS_FILE != 0 {
            return Err(fsp(Status::FILE_IS_A_DIRECTORY));
        }
        if !is_folder && create_options & WANTS_FOLDER != 0 {
            return Err(fsp(Status::NOT_A_DIRECTORY));
        }
        fill(file_info.as_mut(), &handle.info);
        self.open.fetch_add(1, Ordering::Relaxed);
        Ok(Opened { handle, listing: DirBuffer::new(), broken: AtomicU32::new(WHOLE) })
    }

    fn close(&self, _context: Opened) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    fn get_file_info(&self, context: &Opened, file_info: &mut FileInfo) -> winfsp::Result<()> {
        fill(file_info, &context.handle.info);
        Ok(())
    }

    fn get_security(&self, context: &Opened, security_descriptor: Option<&mut [c_void]>) -> winfsp::Result<u64> {
        self.descriptor(context.handle.node, security_descriptor)
    }

    fn read(&self, context: &Opened, buffer: &mut [u8], offset: u64) -> winfsp::Result<u32> {
        // A request's length is 32 bits.
        let most = buffer.len().min(u32::MAX as usize);
        let got = guarded(|| self.tree.read(&context.handle, &mut buffer[..most], offset))?;
        Ok(got as u32)
    }

    fn read_directory(
        &self,
        context: &Opened,
        _pattern: Option<&U16CStr>,
        marker: DirMarker<'_>,
        buffer: &mut [u8],
    ) -> winfsp::Result<u32> {
        self.fill_listing(context, marker.is_none())?;
        Ok(context.listing.read(marker, buffer))
    }

    fn get_volume_info(&self, out: &mut VolumeInfo) -> winfsp::Result<()> {
        (out.total_size, out.free_size) = guarded(|| self.tree.totals())?;
        let label: std::ffi::OsString = std::os::windows::ffi::OsStringExt::from_wide(&self.label);
        out.set_volume_label(label);
        Ok(())
    }

    fn get_stream_info(&self, context: &Opened, buffer: &mut [u8]) -> winfsp::Result<u32> {
        let streams = guarded(|| self.tree.streams(&context.handle))?;
        let mut cursor = 0;
        for stream in streams {
            let mut item = StreamInfo::<NAME_UNITS>::new();
            item.stream_size = stream.size;
            item.stream_alloc_size = stream.allocated;
            item.set_name_raw(stream.name.as_slice())?;
            if !item.append_to_buffer(buffer, &mut cursor) {
                // WinFsp asks for all at once, so that a list that does not fit would be cut short.
                return Err(fsp(Status::BUFFER_OVERFLOW));
            }
        }
        if !StreamInfo::<NAME_UNITS>::finalize_buffer(buffer, &mut cursor) {
            return Err(fsp(Status::BUFFER_OVERFLOW));
        }
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

    fn flush(&self, context: Option<&Opened>, file_info: &mut FileInfo) -> winfsp::Result<()> {
        // Nothing was written, so that all of it is on disk.
        if let Some(opened) = context {
            fill(file_info, &opened.handle.info);
        }
        Ok(())
    }

    fn dispatcher_stopped(&self, normally: bool) {
        if !normally {
            tracing::error!("WinFsp has ended this mount");
        }
        (self.stopped)();
    }

    // Everything that would change something is refused. The driver does so itself on a volume marked as
    // read-only; these answer should it ever ask.

    fn create(
        &self,
        _file_name: &U16CStr,
        _create_options: u32,
        _granted_access: u32,
        _file_attributes: u32,
        _security_descriptor: Option<&[c_void]>,
        _allocation_size: u64,
        _extra_buffer: Option<&[u8]>,
        _extra_buffer_is_reparse_point: bool,
        _file_info: &mut OpenFileInfo,
    ) -> winfsp::Result<Opened> {
        Err(fsp(Status::WRITE_PROTECTED))
    }

    fn set_security(&self, _: &Opened, _: u32, _: ModificationDescriptor) -> winfsp::Result<()> {
        Err(fsp(Status::WRITE_PROTECTED))
    }

    fn overwrite(
        &self,
        _context: &Opened,
        _file_attributes: u32,
        _replace_file_attributes: bool,
        _allocation_size: u64,
        _extra_buffer: Option<&[u8]>,
        _file_info: &mut FileInfo,
    ) -> winfsp::Result<()> {
        Err(fsp(Status::WRITE_PROTECTED))
    }

    fn rename(&self, _: &Opened, _: &U16CStr, _: &U16CStr, _: bool) -> winfsp::Result<()> {
        Err(fsp(Status::WRITE_PROTECTED))
    }

    fn set_basic_info(
        &self,
        _context: &Opened,
        _file_attributes: u32,
        _creation_time: u64,
        _last_access_time: u64,
        _last_write_time: u64,
        _last_change_time: u64,
        _file_info: &mut FileInfo,
    ) -> winfsp::Result<()> {
        Err(fsp(Status::WRITE_PROTECTED))
    }

    fn set_delete(&self, _: &Opened, _: &U16CStr, _: bool) -> winfsp::Result<()> {
        Err(fsp(Status::WRITE_PROTECTED))
    }

    fn set_file_size(&self, _: &Opened, _: u64, _: bool, _: &mut FileInfo) -> winfsp::Result<()> {
        Err(fsp(Status::WRITE_PROTECTED))
    }

    fn write(&self, _: &Opened, _: &[u8], _: u64, _: bool, _: bool, _: &mut FileInfo) -> winfsp::Result<u32> {
        Err(fsp(Status::WRITE_PROTECTED))
    }

    fn set_volume_label(&self, _: &U16CStr, _: &mut VolumeInfo) -> winfsp::Result<()> {
        Err(fsp(Status::WRITE_PROTECTED))
    }

    fn set_reparse_point(&self, _: &Opened, _: &U16CStr, _: &[u8]) -> winfsp::Result<()> {
        Err(fsp(Status::WRITE_PROTECTED))
    }

    fn delete_reparse_point(&self, _: &Opened, _: &U16CStr, _: &[u8]) -> winfsp::Result<()> {
        Err(fsp(Status::WRITE_PROTECTED))
    }

    fn set_extended_attributes(&self, _: &Opened, _: &[u8], _: &mut FileInfo) -> winfsp::Result<()> {
        Err(fsp(Status::WRITE_PROTECTED))
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

fn status_or(status: u32) -> Result<(), FspError> {
    if status == WHOLE { Ok(()) } else { Err(fsp(Status(status))) }
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
        // WinFsp has no hard links and wants 0.
        hard_links: 0,
        ea_size: 0,
    };
}
