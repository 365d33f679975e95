//! An adapter over a view, with WinFsp's own DLL and without its driver.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::ffi::c_void;
use std::sync::{Arc, Mutex};

use vcb_mountd::front::Report;
use vcb_mountd::view::View;
use vcb_winfsp::adapter::{Adapter, Opened};
use vcb_winfsp::identity::Identity;
use vcb_winfsp::load;
use vcb_winfsp::status::Status;
use vcb_winfsp::tree::Tree;
use winfsp::filesystem::{DirMarker, FileInfo, FileSecurity, FileSystemContext, OpenFileInfo};
use winfsp::{FspError, U16CStr, U16CString};

use crate::small::Small;

/// An adapter over the small view, and what was reported as unreadable.
pub struct World {
    pub adapter: Adapter,
    pub unreadable: Arc<Mutex<Vec<String>>>,
}

/// A world over the small view.
pub fn world() -> Option<World> {
    world_of(Arc::new(Small::default()))
}

/// `None`, with the reason, where WinFsp's DLL is not installed.
pub fn world_of(view: Arc<dyn View>) -> Option<World> {
    if let Err(why) = load::load() {
        vcb_fixtures::skip(&why);
        return None;
    }
    let unreadable = Arc::new(Mutex::new(Vec::new()));
    let entries = Arc::clone(&unreadable);
    let report = Report::with_listener(move |entry| entries.lock().unwrap().push(entry.path.clone()));
    let identity = Identity::of(view.as_ref(), "a VM: web");
    Some(World { adapter: Adapter::new(Tree::new(view, Arc::new(report)), &identity.label), unreadable })
}

pub fn wide(text: &str) -> U16CString {
    U16CString::from_str(text).unwrap()
}

pub fn status<T>(result: Result<T, FspError>) -> Status {
    Status(result.err().expect("it fails").to_ntstatus().cast_unsigned())
}

pub fn nothing() -> OpenFileInfo {
    // SAFETY: WinFsp hands it over zeroed too, but for a buffer that is not used without its pointer.
    unsafe { std::mem::zeroed() }
}

impl World {
    pub fn try_open(&self, path: &str, options: u32) -> Result<(Opened, FileInfo), FspError> {
        let mut info = nothing();
        let opened = self.adapter.open(&wide(path), options, 0, &mut info)?;
        let info: &FileInfo = info.as_ref();
        Ok((opened, info.clone()))
    }

    pub fn open(&self, path: &str) -> Opened {
        self.try_open(path, 0).unwrap_or_else(|err| panic!("{path}: {:#x}", err.to_ntstatus())).0
    }

    pub fn security(&self, path: &str, room: usize) -> Result<(FileSecurity, Vec<u8>), FspError> {
        let mut bytes = vec![0_u8; room];
        // SAFETY: the slice covers the vector, and untyped bytes are what WinFsp gives.
        let out = unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast::<c_void>(), room) };
        let found = self.adapter.get_security_by_name(&wide(path), Some(out), |_| None)?;
        bytes.truncate(found.sz_security_descriptor as usize);
        Ok((found, bytes))
    }

    /// Lists a folder in pages of `room` bytes: names and attributes.
    pub fn list(&self, dir: &Opened, room: usize) -> Result<Vec<(String, u32, u64)>, FspError> {
        let mut entries: Vec<(String, u32, u64)> = Vec::new();
        loop {
            let last = entries.last().map(|(name, ..)| wide(name));
            let mut page = vec![0; room];
            let used = self.adapter.read_directory(dir, None, marker(last.as_deref()), &mut page)?;
            let before = entries.len();
            let mut rest = &page[..used as usize];
            let ended = loop {
                let Some(head) = rest.get(..2) else { break false };
                let size = usize::from(u16::from_le_bytes(head.try_into().unwrap()));
                if size == 0 {
                    break true;
                }
                let number = |at: usize| u64::from_le_bytes(rest[at..at + 8].try_into().unwrap());
                let name: Vec<u16> =
                    rest[104..size].chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
                entries.push((String::from_utf16(&name).unwrap(), number(8) as u32, number(8 + 56)));
                rest = rest.get(size.next_multiple_of(8)..).unwrap_or_default();
            };
            if ended {
                return Ok(entries);
            }
            assert!(entries.len() > before, "a page without an entry and without an end");
        }
    }
}

/// WinFsp's crate makes markers for itself only.
pub fn marker(name: Option<&U16CStr>) -> DirMarker<'_> {
    const { assert!(size_of::<DirMarker<'_>>() == size_of::<Option<&U16CStr>>()) };
    // SAFETY: the one field of a marker is this option.
    unsafe { std::mem::transmute(name) }
}
