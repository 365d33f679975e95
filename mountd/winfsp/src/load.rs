//! Finds WinFsp's DLL where its installer put it.

use std::path::PathBuf;

use windows::Win32::System::LibraryLoader::LoadLibraryW;
use windows::core::HSTRING;

/// Keys under which WinFsp's installers leave `InstallDir`: 64-bit Windows has the first.
const KEYS: [&str; 2] = ["SOFTWARE\\WOW6432Node\\WinFsp", "SOFTWARE\\WinFsp"];

/// The DLL's path, when WinFsp is installed.
#[must_use]
pub fn dll_path() -> Option<PathBuf> {
    let dir = KEYS
        .iter()
        .find_map(|key| windows_registry::LOCAL_MACHINE.open(key).and_then(|key| key.get_string("InstallDir")).ok())?;
    Some(PathBuf::from(dir).join("bin").join("winfsp-x64.dll"))
}

/// Loads the DLL and makes it ready, or says what is missing. After it every WinFsp function resolves.
///
/// # Errors
/// A sentence for the user with the next step.
pub fn load() -> Result<winfsp::FspInit, String> {
    const NEXT: &str = "install WinFsp 2.1 or newer from https://winfsp.dev and run the command again";
    let path = dll_path().ok_or_else(|| format!("WinFsp is not installed: {NEXT}"))?;
    // SAFETY: loading a library by its full path runs that library's initialisation only.
    unsafe { LoadLibraryW(&HSTRING::from(path.as_os_str())) }
        .map_err(|err| format!("cannot load {}: {err}; {NEXT}", path.display()))?;
    winfsp::winfsp_init().map_err(|err| format!("WinFsp does not start: {err:?}; {NEXT}"))
}
