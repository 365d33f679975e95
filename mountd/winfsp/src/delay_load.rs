//! The helper that delay-load import libraries call at the first use of a function.
//!
//! `dlltool -y` makes libraries that call `__delayLoadHelper2`; mingw-w64 10 ships an empty
//! `libdelayimp.a`, so the helper is here. It finds the DLL that [`crate::load`] has loaded before any
//! WinFsp function is called; a missing DLL ends the process, because a caller cannot be told.

use core::ffi::{c_char, c_void};

use windows::Win32::System::LibraryLoader::{GetProcAddress, LoadLibraryA};
use windows::core::PCSTR;

/// Exit code of a process that reached WinFsp without its DLL: the usual "cannot execute".
const NO_DLL: i32 = 126;

/// `ImgDelayDescr` of the PE format (Microsoft, "PE Format", delay-load directory table): all fields but
/// the first are offsets from the image base.
#[repr(C)]
struct DelayDescriptor {
    attributes: u32,
    dll_name: u32,
    module_handle: u32,
    import_address_table: u32,
    import_name_table: u32,
    bound_import_address_table: u32,
    unload_information_table: u32,
    time_stamp: u32,
}

unsafe extern "C" {
    static __ImageBase: u8;
}

/// Resolves the function whose slot in the import address table is `slot`, and fills the slot.
///
/// # Safety
/// Called by the thunks of the import library only, with the image's own descriptor and one of its slots.
#[unsafe(no_mangle)]
unsafe extern "system" fn __delayLoadHelper2(
    descriptor: *const DelayDescriptor,
    slot: *mut *mut c_void,
) -> *mut c_void {
    // SAFETY: the linker lays out descriptor, tables and names within the image, at the offsets given.
    unsafe {
        let base = &raw const __ImageBase as usize;
        let descriptor = &*descriptor;
        let index = (slot as usize - (base + descriptor.import_address_table as usize)) / size_of::<usize>();
        let entry = *((base + descriptor.import_name_table as usize) as *const usize).add(index);
        // The top bit marks an import by ordinal; else the entry points to a hint (u16) and a name.
        let name = if entry >> 63 == 1 { entry & 0xFFFF } else { base + entry + 2 };
        let dll = PCSTR((base + descriptor.dll_name as usize) as *const u8);
        let address = LoadLibraryA(dll).ok().and_then(|module| GetProcAddress(module, PCSTR(name as *const u8)));
        let Some(address) = address else {
            let name = core::ffi::CStr::from_ptr(dll.0 as *const c_char).to_string_lossy().into_owned();
            eprintln!("vcbmount: {name} is missing or too old; install WinFsp from https://winfsp.dev");
            std::process::exit(NO_DLL);
        };
        *slot = address as *mut c_void;
        address as *mut c_void
    }
}
