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
pub(super) const PRIVATE: &str = "D:P(A;OICI;FA;;;OW)(A;OICI;FA;;;BA)(A;OICI;FA;;;SY)";
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
/// Rights as a descriptor's text has them: in words, or as one number.
struct Rights {
    words: &'static [&'static str],
    bits: u32,
}

/// FILE_READ_DATA (which is `CC` in words), GENERIC_READ, GENERIC_ALL.
const READING: Rights = Rights { words: &["FA", "FR", "GA", "GR", "CC"], bits: 0x1 | 0x8000_0000 | 0x1000_0000 };
/// Writing and appending, which on folders is adding files and folders (`DC`, `LC`), deleting what is in a folder
/// (`DT`), WRITE_DAC, WRITE_OWNER, GENERIC_WRITE, GENERIC_ALL.
const CHANGING: Rights = Rights {
    words: &["FA", "FW", "GA", "GW", "DC", "LC", "DT", "WD", "WO"],
    bits: 0x2 | 0x4 | 0x40 | 0x4_0000 | 0x8_0000 | 0x4000_0000 | 0x1000_0000,
};

/// Calls `use_it` with the descriptor that a text stands for.
pub(super) fn with_descriptor<T>(
    text: &str,
    use_it: impl FnOnce(PSECURITY_DESCRIPTOR) -> io::Result<T>,
) -> io::Result<T> {
    let text = wide(text);
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
    use_it(descriptor)
}

/// Calls `make` with attributes that make what it makes private.
fn privately<T>(make: impl FnOnce(&SECURITY_ATTRIBUTES) -> io::Result<T>) -> io::Result<T> {
    with_descriptor(PRIVATE, |descriptor| {
        make(&SECURITY_ATTRIBUTES {
            nLength: size_of::<SECURITY_ATTRIBUTES>() as u32,
            lpSecurityDescriptor: descriptor,
            bInheritHandle: 0,
        })
    })
}

/// Makes a folder, and those above it, that only this user, administrators and the system may look into.
///
/// # Errors
/// What the system says.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
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
    let text = access_text(path)?;
    let user = std::env::var("USERNAME").unwrap_or_else(|_| "USER".to_owned());
    let next = || format!("Run: icacls \"{}\" /inheritance:r /grant:r \"{user}:F\"", path.display());
    Ok(who_may(&text, &READING).map(|who| (format!("{who} may read it ({text})"), next())))
}

/// When others than its owner and administrators can change a file, or what is in a folder: what to do about it.
pub(super) fn others_can_change(path: &Path) -> io::Result<Option<String>> {
    let text = access_text(path)?;
    let next = || {
        let inherited = if path.is_dir() { "(OI)(CI)" } else { "" };
        // The system and administrators, whose names are others in other languages.
        let grants = ["S-1-5-18", "S-1-5-32-544"].map(|who| format!("\"*{who}:{inherited}F\"")).join(" ");
        format!("Run: icacls \"{}\" /inheritance:r /grant:r {grants}", path.display())
    };
    Ok(who_may(&text, &CHANGING).map(|_| next()))
}

/// The list of who may do what with a file or folder, as text.
fn access_text(path: &Path) -> io::Result<String> {
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
    Ok(unsafe { text_at(text) })
}

/// The first group of everybody that has any of these rights by a descriptor's text.
fn who_may(text: &str, wanted: &Rights) -> Option<String> {
    let Some(list) = text.split("D:").nth(1) else { return Some("everybody".to_owned()) };
    if list.starts_with("NO_ACCESS_CONTROL") {
        return Some("everybody".to_owned());
    }
    let entries = list.split('(').skip(1).map(|entry| entry.split(')').next().unwrap_or_default());
    for entry in entries {
        let fields: Vec<&str> = entry.split(';').collect();
        let [kind, flags, rights, _, _, who, ..] = fields.as_slice() else { continue };
        // Entries that are only for inheriting do not concern the file itself.
        if *kind != "A" || flags.as_bytes().chunks(2).any(|flag| flag == b"IO") || !EVERYBODY.contains(who) {
            continue;
        }
        let may = match rights.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16).is_ok_and(|bits| bits & wanted.bits != 0),
            None => rights.as_bytes().chunks(2).any(|right| wanted.words.iter().any(|word| word.as_bytes() == right)),
        };
        if may {
            return Some((*who).to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{Everybody, let_everybody};

    #[test]
    fn descriptors_that_let_everybody_read_are_recognised() {
        let reader = |text: &str| who_may(text, &READING);
        assert_eq!(reader("D:P(A;;FA;;;OW)(A;;FA;;;BA)"), None);
        assert_eq!(reader("D:(A;;0x1200a9;;;BU)").as_deref(), Some("BU"));
        assert_eq!(reader("D:AI(A;ID;FA;;;SY)(A;ID;FRFX;;;WD)").as_deref(), Some("WD"));
        assert_eq!(reader("D:(A;;CC;;;AU)").as_deref(), Some("AU"));
        assert_eq!(reader("D:(A;OICIIO;FA;;;WD)(D;;FR;;;WD)(A;;FW;;;WD)"), None);
        assert_eq!(reader("D:NO_ACCESS_CONTROL").as_deref(), Some("everybody"));
        assert_eq!(reader("").as_deref(), Some("everybody"));
    }

    #[test]
    fn descriptors_that_let_everybody_change_are_recognised() {
        let changer = |text: &str| who_may(text, &CHANGING);
        // What Windows gives to ProgramData, and what its folders inherit from it.
        let usual = "D:AI(A;OICIID;FA;;;SY)(A;OICIID;FA;;;BA)(A;OICIIOID;GA;;;CO)(A;OICIID;0x1200a9;;;BU)";
        assert_eq!(changer(usual), None);
        assert_eq!(changer(&format!("{usual}(A;CIID;DCLCRPCR;;;BU)")).as_deref(), Some("BU"));
        assert_eq!(changer(&format!("{usual}(A;CIIOID;DCLCRPCR;;;BU)")), None);
        assert_eq!(changer("D:(A;;0x1301bf;;;AU)").as_deref(), Some("AU"));
        assert_eq!(changer("D:(A;;FRFX;;;WD)"), None);
    }

    #[test]
    fn who_may_change_a_file_or_a_folder_is_seen_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        for path in [&file, dir.path()] {
            let_everybody(path, Everybody::Reads);
            assert_eq!(others_can_change(path).unwrap(), None, "{}", path.display());
            let_everybody(path, Everybody::Changes);
            let next = others_can_change(path).unwrap().unwrap();
            assert!(next.starts_with("Run: icacls \"") && next.contains(&*path.to_string_lossy()), "{next}");
            assert_eq!(next.contains("(OI)(CI)F"), path.is_dir());
        }
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
