//! Who may read a file: security descriptors in their text form (MS-DTYP 2.5.1).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::FromRawHandle;
use std::path::Path;
use std::ptr::null_mut;

use windows_sys::Win32::Foundation::{GENERIC_WRITE, INVALID_HANDLE_VALUE};
use windows_sys::Win32::Security::Authorization::{
    ConvertSecurityDescriptorToStringSecurityDescriptorW, ConvertStringSecurityDescriptorToSecurityDescriptorW,
    GetNamedSecurityInfoW, SDDL_REVISION_1, SE_FILE_OBJECT,
};
use windows_sys::Win32::Security::{DACL_SECURITY_INFORMATION, PSECURITY_DESCRIPTOR, SECURITY_ATTRIBUTES};
use windows_sys::Win32::Storage::FileSystem::{CREATE_NEW, CreateDirectoryW, CreateFileW, FILE_ATTRIBUTE_NORMAL};

use super::{Local, check, text_at, wide};

/// Its owner, administrators and the system; nothing is inherited from above.
const PRIVATE: &str = "D:P(A;OICI;FA;;;OW)(A;OICI;FA;;;BA)(A;OICI;FA;;;SY)";
/// Groups that are everybody or nearly so: Everyone, Authenticated Users, Users, Guests, Anonymous,
/// Interactive, Network.
const EVERYBODY: [&str; 14] = [
    "WD",
    "AU",
    "BU",
    "BG",
    "AN",
    "IU",
    "NU",
    "S-1-1-0",
    "S-1-5-11",
    "S-1-5-32-545",
    "S-1-5-32-546",
    "S-1-5-7",
    "S-1-5-4",
    "S-1-5-2",
];
/// Rights in words that let read, and their bits: FILE_READ_DATA, GENERIC_READ, GENERIC_ALL.
const READING: [&str; 4] = ["FA", "FR", "GA", "GR"];
const READING_BITS: u32 = 0x1 | 0x8000_0000 | 0x1000_0000;

/// Calls `make` with attributes that make what it makes private.
fn privately<T>(make: impl FnOnce(&SECURITY_ATTRIBUTES) -> io::Result<T>) -> io::Result<T> {
    let text = wide(PRIVATE);
    let mut descriptor: PSECURITY_DESCRIPTOR = null_mut();
    // SAFETY: the text ends with a zero, and the pointer is written only.
    check(unsafe {
        ConvertStringSecurityDescriptorToSecurityDescriptorW(
            text.as_ptr(),
            SDDL_REVISION_1,
            &raw mut descriptor,
            null_mut(),
        )
    })?;
    let _freed = Local(descriptor);
    let attributes = SECURITY_ATTRIBUTES {
        nLength: size_of::<SECURITY_ATTRIBUTES>() as u32,
        lpSecurityDescriptor: descriptor,
        bInheritHandle: 0,
    };
    make(&attributes)
}

/// Makes a folder, and those above it, that only this user, administrators and the system may look into.
pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|path| !path.is_dir()).collect();
    for folder in missing.into_iter().rev().filter(|folder| !folder.as_os_str().is_empty()) {
        let name = wide(folder);
        // SAFETY: the name ends with a zero, and the attributes live as long as the call.
        let made = privately(|attributes| check(unsafe { CreateDirectoryW(name.as_ptr(), &raw const *attributes) }));
        match made {
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
    }
    Ok(())
}

/// Creates a file that must not exist yet and that only this user, administrators and the system can read,
/// from the moment it exists.
///
/// # Errors
/// What the system says.
pub fn create_private_file(path: &Path) -> io::Result<File> {
    let name = wide(path);
    privately(|attributes| {
        // SAFETY: the name ends with a zero, the attributes live as long as the call, and there is no template.
        let handle = unsafe {
            CreateFileW(
                name.as_ptr(),
                GENERIC_WRITE,
                0,
                &raw const *attributes,
                CREATE_NEW,
                FILE_ATTRIBUTE_NORMAL,
                null_mut(),
            )
        };
        if handle == INVALID_HANDLE_VALUE {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the handle was just opened and is nobody else's.
        Ok(unsafe { File::from_raw_handle(handle.cast()) })
    })
}

/// When others than its owner and administrators can read a file: what says so, and how to change it.
pub(crate) fn others_can_read(path: &Path) -> io::Result<Option<(String, String)>> {
    // Whether it exists and can be opened is the clearer error.
    drop(OpenOptions::new().read(true).share_mode(7).open(path)?);
    let name = wide(path);
    let mut descriptor: PSECURITY_DESCRIPTOR = null_mut();
    // SAFETY: the name ends with a zero; of the parts only the whole is asked for.
    let code = unsafe {
        GetNamedSecurityInfoW(
            name.as_ptr(),
            SE_FILE_OBJECT,
            DACL_SECURITY_INFORMATION,
            null_mut(),
            null_mut(),
            null_mut(),
            null_mut(),
            &raw mut descriptor,
        )
    };
    if code != 0 {
        return Err(io::Error::from_raw_os_error(code.cast_signed()));
    }
    let _freed = Local(descriptor);
    let mut text = null_mut();
    // SAFETY: the descriptor is valid until `_freed` goes, and the text's pointer is written only.
    check(unsafe {
        ConvertSecurityDescriptorToStringSecurityDescriptorW(
            descriptor,
            SDDL_REVISION_1,
            DACL_SECURITY_INFORMATION,
            &raw mut text,
            null_mut(),
        )
    })?;
    let _text_freed = Local(text.cast());
    // SAFETY: the function has put a text with a zero at its end there.
    let text = unsafe { text_at(text) };
    let next = || format!("Run: icacls \"{}\" /inheritance:r /grant:r \"%USERNAME%\":F", path.display());
    Ok(reader(&text).map(|who| (format!("{who} may read it ({text})"), next())))
}

/// The first group of everybody that a descriptor's text lets read.
fn reader(text: &str) -> Option<String> {
    let Some(list) = text.split("D:").nth(1) else { return Some("everybody".to_owned()) };
    if list.starts_with("NO_ACCESS_CONTROL") {
        return Some("everybody".to_owned());
    }
    let entries = list.split('(').skip(1).map(|entry| entry.split(')').next().unwrap_or_default());
    for entry in entries {
        let fields: Vec<&str> = entry.split(';').collect();
        let [kind, flags, rights, _, _, who, ..] = fields.as_slice() else { continue };
        // Entries that are only for inheriting do not concern the file itself.
        if *kind != "A" || flags.contains("IO") || !EVERYBODY.contains(who) {
            continue;
        }
        let reads = match rights.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16).is_ok_and(|bits| bits & READING_BITS != 0),
            None => rights.as_bytes().chunks(2).any(|right| READING.iter().any(|known| known.as_bytes() == right)),
        };
        if reads {
            return Some((*who).to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_that_let_everybody_read_are_recognised() {
        assert_eq!(reader("D:P(A;;FA;;;OW)(A;;FA;;;BA)"), None);
        assert_eq!(reader("D:(A;;0x1200a9;;;BU)").as_deref(), Some("BU"));
        assert_eq!(reader("D:AI(A;ID;FA;;;SY)(A;ID;FRFX;;;WD)").as_deref(), Some("WD"));
        assert_eq!(reader("D:(A;OICIIO;FA;;;WD)(D;;FR;;;WD)(A;;FW;;;WD)"), None);
        assert_eq!(reader("D:NO_ACCESS_CONTROL").as_deref(), Some("everybody"));
        assert_eq!(reader("").as_deref(), Some("everybody"));
    }

    #[test]
    fn private_files_and_folders_are_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a").join("b");
        create_private_dir(&folder).unwrap();
        create_private_dir(&folder).unwrap();
        let file = folder.join("secret");
        drop(create_private_file(&file).unwrap());
        assert_eq!(others_can_read(&file).unwrap(), None);
        assert_eq!(create_private_file(&file).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(others_can_read(&folder.join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
