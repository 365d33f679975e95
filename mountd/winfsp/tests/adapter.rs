//! WinFsp's callbacks, called as its DLL calls them, every one and every error. The DLL's own helpers (buffers
//! of entries) are the real ones, so that the test needs the DLL but no driver.

#![cfg(windows)]
#![allow(clippy::unwrap_used)]

mod small;
mod world;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use small::{BROKEN, CLOUD, FILE, LINK, Small};
use vcb_mountd::view::VolumeName;
use vcb_winfsp::security::READABLE_BY_ALL;
use vcb_winfsp::status::{Status, status_of};
use winfsp::U16CStr;
use winfsp::filesystem::{DirInfo, FileInfo, FileSecurity, FileSystemContext, ModificationDescriptor, VolumeInfo};
use world::{World, marker, nothing, status, wide, world, world_of};

const FILE_PATH: &str = r"\dir\READ me.txt";

#[test]
fn files_open_by_name_and_kind() {
    let Some(world) = world() else { return };
    let count = world.adapter.open_count();
    let (opened, info) = world.try_open(FILE_PATH, 0).unwrap();
    assert_eq!(count.load(Ordering::Relaxed), 1);
    assert_eq!((info.file_size, info.allocation_size, info.index_number), (5, 4096, FILE.0));
    assert_eq!((info.creation_time, info.last_write_time, info.change_time, info.last_access_time), (1, 2, 3, 4));
    assert_eq!((info.file_attributes, info.reparse_tag, info.hard_links, info.ea_size), (0x20, 0, 0, 0));
    let mut again = FileInfo::default();
    world.adapter.get_file_info(&opened, &mut again).unwrap();
    assert_eq!(format!("{again:?}"), format!("{info:?}"));
    world.adapter.close(opened);
    assert_eq!(count.load(Ordering::Relaxed), 0);

    assert_eq!(status(world.try_open(r"\Dir\none", 0)), Status::NAME_NOT_FOUND);
    assert_eq!(status(world.try_open(r"\none\file", 0)), Status::PATH_NOT_FOUND);
    assert_eq!(status(world.try_open(r"\Dir\Read Me.txt:none", 0)), Status::NAME_NOT_FOUND);
    assert_eq!(status(world.try_open(r"\Dir\Read Me.txt:s1:$INDEX_ALLOCATION", 0)), Status::NAME_NOT_FOUND);
    assert_eq!(status(world.try_open(FILE_PATH, 0x1)), Status::NOT_A_DIRECTORY);
    assert_eq!(status(world.try_open(r"\Dir", 0x40)), Status::FILE_IS_A_DIRECTORY);
    assert_eq!(count.load(Ordering::Relaxed), 0, "what failed to open is not open");
    world.adapter.close(world.try_open(r"\Dir", 0x1).unwrap().0);
    world.adapter.close(world.try_open(FILE_PATH, 0x40).unwrap().0);
}

#[test]
fn reads_give_bytes_the_end_or_the_error() {
    let Some(world) = world() else { return };
    let file = world.open(FILE_PATH);
    let mut buf = [0; 8];
    assert_eq!(world.adapter.read(&file, &mut buf, 1).unwrap(), 4);
    assert_eq!(&buf[..4], b"ello");
    assert_eq!(status(world.adapter.read(&file, &mut buf, 5)), Status::END_OF_FILE);
    assert_eq!(status(world.adapter.read(&file, &mut buf, u64::MAX)), Status::END_OF_FILE);
    let stream = world.open(r"\Dir\Read Me.txt:S1");
    assert_eq!(world.adapter.read(&stream, &mut buf, 0).unwrap(), 3);
    let broken = world.open("\\Dir\\broken\u{F02E}");
    assert_eq!(status(world.adapter.read(&broken, &mut buf, 0)), status_of(vcb_block::Kind::Io));
    let cloud = world.open(r"\Dir\cloud");
    assert_eq!(status(world.adapter.read(&cloud, &mut buf, 0)), status_of(vcb_block::Kind::Unsupported));
    let dir = world.open(r"\Dir");
    assert_eq!(status(world.adapter.read(&dir, &mut buf, 0)), Status::FILE_IS_A_DIRECTORY);
    let panics = world.open(r"\Dir\panics");
    assert_eq!(status(world.adapter.read(&panics, &mut buf, 0)), Status::INTERNAL_ERROR);
    assert_eq!(world.adapter.read(&file, &mut buf, 0).unwrap(), 5, "the others are served on");
    let unreadable = world.unreadable.lock().unwrap();
    assert_eq!(*unreadable, [format!("{BROKEN:?}"), format!("{CLOUD:?}")]);
}

#[test]
fn folders_are_listed_whole_in_pages_of_any_size() {
    let Some(world) = world() else { return };
    let dir = world.open(r"\DIR");
    let whole = world.list(&dir, 1 << 16).unwrap();
    let mut names: Vec<&str> = whole.iter().map(|(name, ..)| name.as_str()).collect();
    names.sort_unstable();
    let mut expected = [".", "..", "Read Me.txt", "READ ME.TXT\u{F07E}2", "link", "cloud", "broken\u{F02E}", "panics"];
    expected.sort_unstable();
    assert_eq!(names, expected);
    let attributes = |wanted: &str| whole.iter().find(|(name, ..)| name == wanted).unwrap().1;
    assert_eq!(attributes("link") & 0x400, 0x400);
    assert_eq!(attributes(".") & 0x10, 0x10);
    assert_eq!(whole.iter().find(|(name, ..)| name == "Read Me.txt").unwrap().2, FILE.0);
    assert_eq!(world.list(&dir, 200).unwrap(), whole, "page by page, and once more from the start");
    let fresh = world.open(r"\Dir");
    let mut page = vec![0; 1 << 16];
    let from = wide("cloud");
    let used = world.adapter.read_directory(&fresh, None, marker(Some(&from)), &mut page).unwrap();
    assert!(used > 104, "a handle that starts in the middle has a listing too");
    let file = world.open(FILE_PATH);
    assert_eq!(status(world.list(&file, 4096)), Status::NOT_A_DIRECTORY);
}

#[test]
fn a_listing_that_failed_never_looks_complete() {
    let Some(world) = world() else { return };
    let dir = world.open(r"\Torn");
    let first = status(world.list(&dir, 4096));
    assert_eq!(first, status_of(vcb_block::Kind::Corrupt));
    let mut page = vec![0; 4096];
    let from = wide("a");
    assert_eq!(status(world.adapter.read_directory(&dir, None, marker(Some(&from)), &mut page)), first);
}

#[test]
fn descriptors_are_the_guests_or_readable_by_all() {
    let Some(world) = world() else { return };
    let (found, bytes) = world.security(FILE_PATH, 4096).unwrap();
    assert_eq!((found.reparse, found.attributes), (false, 0x20));
    assert_eq!(bytes, READABLE_BY_ALL);
    let (found, bytes) = world.security(r"\Dir\cloud", 4096).unwrap();
    assert_eq!(found.attributes, 0x420);
    assert_eq!((bytes.len(), bytes[40]), (80, 1), "the guest's own");
    assert_eq!(world.security(r"\Dir:s1", 4096).unwrap().0.attributes & 0x10, 0, "a stream is no folder");
    assert_eq!(status(world.security(FILE_PATH, 79)), Status::BUFFER_OVERFLOW);
    assert_eq!(status(world.security(r"\Dir\none", 4096)), Status::NAME_NOT_FOUND);
    assert_eq!(status(world.security("\\Dir\\broken\u{F02E}", 4096)), status_of(vcb_block::Kind::Corrupt));
    let asked = world.adapter.get_security_by_name(&wide(FILE_PATH), None, |_| None).unwrap();
    assert_eq!(asked.sz_security_descriptor, 80);

    let file = world.open(FILE_PATH);
    assert_eq!(world.adapter.get_security(&file, None).unwrap(), 80);
    // A link on the way is WinFsp's to follow; a file on the way is not.
    let beyond = wide(r"\Dir\link\below");
    let followed = |_: &U16CStr| Some(FileSecurity { reparse: true, sz_security_descriptor: 0, attributes: 5 });
    assert!(world.adapter.get_security_by_name(&beyond, None, followed).unwrap().reparse);
    assert_eq!(status(world.adapter.get_security_by_name(&beyond, None, |_| None)), Status::PATH_NOT_FOUND);
}

#[test]
fn windows_itself_understands_the_usual_descriptor() {
    use windows::Win32::Security::{
        GetSecurityDescriptorLength, GetSecurityDescriptorOwner, IsValidSecurityDescriptor, IsValidSid,
        PSECURITY_DESCRIPTOR, PSID,
    };
    let descriptor = PSECURITY_DESCRIPTOR(READABLE_BY_ALL.as_ptr().cast_mut().cast());
    let (mut owner, mut defaulted) = (PSID::default(), windows::core::BOOL::default());
    // SAFETY: the descriptor is a constant that is only read.
    unsafe {
        assert!(IsValidSecurityDescriptor(descriptor).as_bool());
        assert_eq!(GetSecurityDescriptorLength(descriptor) as usize, READABLE_BY_ALL.len());
        GetSecurityDescriptorOwner(descriptor, &raw mut owner, &raw mut defaulted).unwrap();
        assert!(IsValidSid(owner).as_bool());
    }
}

#[test]
fn streams_are_listed_or_said_not_to_fit() {
    let Some(world) = world() else { return };
    let file = world.open(FILE_PATH);
    let mut page = vec![0; 4096];
    let used = world.adapter.get_stream_info(&file, &mut page).unwrap() as usize;
    let (mut at, mut found) = (0, Vec::new());
    while at + 2 <= used {
        let size = usize::from(u16::from_le_bytes([page[at], page[at + 1]]));
        if size == 0 {
            break;
        }
        let number = |from: usize| u64::from_le_bytes(page[at + from..at + from + 8].try_into().unwrap());
        let name: Vec<u16> =
            page[at + 24..at + size].chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        found.push((String::from_utf16(&name).unwrap(), number(8), number(16)));
        at += size.next_multiple_of(8);
    }
    assert_eq!(found, [(String::new(), 5, 4096), ("s1".to_owned(), 3, 4096)]);
    assert_eq!(status(world.adapter.get_stream_info(&file, &mut page[..40])), Status::BUFFER_OVERFLOW);
}

#[test]
fn reparse_points_are_given_by_name_and_by_handle() {
    let Some(world) = world() else { return };
    let mut buf = vec![0; 4096];
    let len = world.adapter.get_reparse_point_by_name(&wide(r"\Dir\link"), false, &mut buf).unwrap() as usize;
    assert_eq!(buf[..4], 0xA000_000C_u32.to_le_bytes());
    let (link, info) = world.try_open(r"\Dir\link", 0).unwrap();
    assert_eq!((info.index_number, info.reparse_tag), (LINK.0, 0xA000_000C));
    assert_eq!(world.adapter.get_reparse_point(&link, &wide(r"\Dir\link"), &mut []).unwrap() as usize, len);
    assert_eq!(
        status(world.adapter.get_reparse_point(&link, &wide(r"\Dir\link"), &mut buf[..len - 1])),
        Status::BUFFER_TOO_SMALL
    );
    let file = world.open(FILE_PATH);
    assert_eq!(status(world.adapter.get_reparse_point(&file, &wide(FILE_PATH), &mut buf)), Status::NOT_A_REPARSE_POINT);
    let none = world.adapter.get_reparse_point_by_name(&wide(r"\Dir\none"), false, &mut buf);
    assert_eq!(status(none), Status::NAME_NOT_FOUND);
}

#[test]
fn the_volume_tells_its_size_and_label() {
    let told = |world: &World| {
        // SAFETY: WinFsp hands it over zeroed too.
        let mut info: VolumeInfo = unsafe { std::mem::zeroed() };
        world.adapter.get_volume_info(&mut info).unwrap();
        let sizes = (info.total_size, info.free_size);
        // SAFETY: it is plain data, of the size that WinFsp's header says.
        let raw: [u8; 88] = unsafe { std::mem::transmute(info) };
        let len = usize::from(u16::from_le_bytes([raw[16], raw[17]]));
        let label: Vec<u16> = raw[18..18 + len].chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        (sizes, String::from_utf16(&label).unwrap())
    };
    let Some(vm) = world() else { return };
    assert_eq!(told(&vm), ((40960, 16384), "a VM\u{F03A} web".to_owned()));
    let name = |label: &str| Some(VolumeName { label: label.into(), serial: "0123456789ABCDEF".to_owned() });
    let Some(volume) = world_of(Arc::new(Small { volume: name("Daten grün") })) else { return };
    assert_eq!(told(&volume).1, "Daten grün");
    // A VM's name may be longer than what NTFS and Windows take, which is 32 units.
    let Some(long) = world_of(Arc::new(Small { volume: name(&"x".repeat(40)) })) else { return };
    assert_eq!(told(&long).1, "x".repeat(32));
}

#[test]
fn nothing_can_be_changed() {
    let Some(world) = world() else { return };
    let (adapter, file) = (&world.adapter, world.open(FILE_PATH));
    let path = wide(FILE_PATH);
    let info = &mut FileInfo::default();
    // SAFETY: WinFsp hands it over zeroed too.
    let volume: &mut VolumeInfo = &mut unsafe { std::mem::zeroed() };
    // SAFETY: it is a pointer in a wrapper, which nobody follows here.
    let descriptor: ModificationDescriptor = unsafe { std::mem::zeroed() };
    let refused = [
        status(adapter.set_security(&file, 0, descriptor)),
        status(adapter.create(&path, 0, 0, 0, None, 0, None, false, &mut nothing())),
        status(adapter.overwrite(&file, 0, false, 0, None, info)),
        status(adapter.rename(&file, &path, &path, false)),
        status(adapter.set_basic_info(&file, 0, 0, 0, 0, 0, info)),
        status(adapter.set_delete(&file, &path, true)),
        status(adapter.set_file_size(&file, 0, false, info)),
        status(adapter.write(&file, b"x", 0, false, false, info)),
        status(adapter.set_volume_label(&path, volume)),
        status(adapter.set_reparse_point(&file, &path, b"x")),
        status(adapter.delete_reparse_point(&file, &path, b"x")),
        status(adapter.set_extended_attributes(&file, b"x", info)),
    ];
    assert_eq!(refused, [Status::WRITE_PROTECTED; 12]);
    assert_eq!(status(adapter.get_extended_attributes(&file, &mut [0; 64])), Status::INVALID_DEVICE_REQUEST);
    // The driver is told to find names by listing, so that it never asks for one; extended attributes are said to
    // be none.
    assert_eq!(status(adapter.get_dir_info_by_name(&file, &path, &mut DirInfo::new())), Status::INVALID_DEVICE_REQUEST);
    assert_eq!(status(adapter.control(&file, 0, &[], &mut [])), Status::INVALID_DEVICE_REQUEST);
    adapter.flush(Some(&file), info).unwrap();
    assert_eq!(info.file_size, 5);
    adapter.flush(None, info).unwrap();
    adapter.cleanup(&file, Some(&path), 1);
    assert_eq!(adapter.read(&file, &mut [0; 8], 0).unwrap(), 5);
}

#[test]
fn a_dispatcher_that_stops_ends_the_mount() {
    let Some(world) = world() else { return };
    let (tell, told) = std::sync::mpsc::channel();
    let adapter = world.adapter.when_stopped(move || tell.send(()).unwrap());
    adapter.dispatcher_stopped(false);
    told.try_recv().unwrap();
    adapter.dispatcher_stopped(true);
    told.try_recv().unwrap();
}
