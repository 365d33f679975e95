//! Links WinFsp's DLL with delayed loading when building for Windows with the GNU toolchain.
//!
//! The import library is made by `scripts/windows/cross.sh setup`, which also sets the variable.

fn main() {
    println!("cargo:rerun-if-env-changed=VCB_WINFSP_IMPLIB_DIR");
    let target = |key: &str| std::env::var(format!("CARGO_CFG_TARGET_{key}")).unwrap_or_default();
    if target("OS") != "windows" {
        return;
    }
    if let Ok(dir) = std::env::var("VCB_WINFSP_IMPLIB_DIR") {
        println!("cargo:rustc-link-search={dir}");
    }
    println!("cargo:rustc-link-lib=dylib=winfsp-x64");
    // In this package's own tests the library above comes before the crate that needs it.
    println!("cargo:rustc-link-arg=-lwinfsp-x64");
}
