#!/usr/bin/env bash
# Builds for x86_64-pc-windows-gnu on Debian 12 and runs the result under wine. rustup's Windows targets
# are not needed: Debian's rustc-web and rust-web-src have the same version, which is what building std
# from source asks for, and they are unpacked beside the project's files instead of being installed.
#
#   cross.sh setup          fetch and unpack the toolchain, make a wine prefix and WinFsp's import library
#   cross.sh cargo ARGS…    cargo with that toolchain; `run` and `test` go through wine
#   cross.sh clippy ARGS…   clippy, as `cargo clippy` would be
#   cross.sh wine EXE ARGS… wine in that prefix
#
# std is built once, at setup, and put where rustc looks for it, so that building the project is plain cargo.
# The toolchain lives in $VCB_WINDOWS_TOOLCHAIN (default target/windows-toolchain) and is made once.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
root=$(realpath "$here/../..")
dir=$(realpath -m "${VCB_WINDOWS_TOOLCHAIN:-$root/target/windows-toolchain}")
cmd=${1:?setup, cargo, clippy or wine}; shift

ready() {
  [ -e "$dir/ready" ] || { echo "cross.sh: run '$0 setup' first" >&2; exit 1; }
}

use_toolchain() {
  export PATH=$dir/rw/usr/bin:$PATH LD_LIBRARY_PATH=$dir/rw/usr/lib/x86_64-linux-gnu
  export RUSTC=$dir/rw/usr/bin/rustc RUSTDOC=$dir/rw/usr/bin/rustdoc RUSTC_BOOTSTRAP=1
  export CARGO_BUILD_TARGET=x86_64-pc-windows-gnu
  export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER=x86_64-w64-mingw32-gcc
  export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER=wine
  export CC_x86_64_pc_windows_gnu=x86_64-w64-mingw32-gcc AR_x86_64_pc_windows_gnu=x86_64-w64-mingw32-ar
  export CARGO_TARGET_DIR=${VCB_WINDOWS_TARGET_DIR:-$root/target/windows}
  export WINEPREFIX=$dir/wine WINEDEBUG=${WINEDEBUG:--all} VCB_WINFSP_IMPLIB_DIR=$dir/winfsp
}

install_packages() {
  local missing=() package
  for package in gcc-mingw-w64-x86-64-win32 binutils-mingw-w64-x86-64 wine64 wine zip unzip xz-utils; do
    dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  echo "cross.sh: installing ${missing[*]}" >&2
  apt-get update -q >/dev/null
  apt-get install -y --no-install-recommends "${missing[@]}" >/dev/null
}

unpack_rust() {
  [ -e "$dir/rw/usr/lib/rustlib/src/rust" ] && return
  local work=$dir/debs packages="rust-web-src rustc-web rust-web-clippy libstd-rust-web-dev libstd-rust-web-1.96 libllvm22"
  rm -rf "$work" "$dir/rw" "$dir/rust-src"
  mkdir -p "$work"
  (
    cd "$work"
    apt-get download $packages >/dev/null 2>&1 ||
      { apt-get update -q >/dev/null; apt-get download $packages >/dev/null; }
    for deb in rustc-web_* rust-web-clippy_* libstd-rust-web-1.96_* libstd-rust-web-dev_* libllvm22_*; do dpkg -x "$deb" "$dir/rw"; done
    dpkg -x rust-web-src_* "$dir/rust-src"
  )
  rm -rf "$work"
  mkdir -p "$dir/rw/usr/lib/rustlib/src"
  ln -sfn "$dir"/rust-src/usr/src/rustc-1.96* "$dir/rw/usr/lib/rustlib/src/rust"
}

# With the libraries that tests need. Built once: an empty package, whose dependencies are what is wanted. Beside
# its code each has what the release build's optimisation across crates works on.
build_std() {
  local lib=$dir/rw/usr/lib/rustlib/x86_64-pc-windows-gnu/lib work=$dir/std
  [ -e "$lib/has-bitcode" ] && return
  rm -rf "$work" "$lib"
  mkdir -p "$work/src" "$lib"
  printf '[package]\nname = "empty"\nversion = "0.0.0"\nedition = "2021"\n[workspace]\n' > "$work/Cargo.toml"
  : > "$work/src/lib.rs"
  (
    use_toolchain
    export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUSTFLAGS=-Cembed-bitcode=yes
    export CARGO_TARGET_DIR=$work/target CARGO_UNSTABLE_BUILD_STD=std,panic_unwind,panic_abort,proc_macro,test
    cd "$work"
    cargo build -q --release
  )
  cp "$work"/target/x86_64-pc-windows-gnu/release/deps/*.rlib "$lib"
  rm -f "$lib"/libempty-*
  touch "$lib/has-bitcode"
  # What was built with another std cannot be linked with this one, and cargo does not see the difference.
  rm -rf "${VCB_WINDOWS_TARGET_DIR:-$root/target/windows}"
  rm -rf "$work"
}

# wine 8 lacks bcryptprimitives.dll, from which std takes its random numbers.
make_wine_prefix() {
  export WINEPREFIX=$dir/wine WINEDEBUG=-all
  [ -e "$WINEPREFIX/drive_c/windows/system32/bcryptprimitives.dll" ] && return
  WINEDLLOVERRIDES=mscoree,mshtml= wineboot -i >/dev/null 2>&1 || true
  x86_64-w64-mingw32-gcc -shared -o "$WINEPREFIX/drive_c/windows/system32/bcryptprimitives.dll" \
    "$here/bcryptprimitives.c" -ladvapi32
}

# An import library with delayed loading, from the names that WinFsp's DLL exports. The DLL comes with the
# crate winfsp-sys and is never shipped; tests load it from where WinFsp's installer would put it, which they tell
# the registry (the key is not set here, because a host without WinFsp is tested too).
make_winfsp_library() {
  [ -e "$dir/winfsp/libwinfsp-x64.a" ] && [ -e "$dir/wine/drive_c/winfsp/bin/winfsp-x64.dll" ] && return
  (cd "$root" && cargo fetch -q)
  local dll
  dll=$(find "${CARGO_HOME:-$HOME/.cargo}/registry/src" -path '*/winfsp-sys-0.12*/winfsp/bin/winfsp-x64.dll' | sort | tail -1)
  [ -n "$dll" ] || { echo "cross.sh: crate winfsp-sys is not fetched" >&2; exit 1; }
  mkdir -p "$dir/winfsp" "$dir/wine/drive_c/winfsp/bin"
  cp "$dll" "$dir/wine/drive_c/winfsp/bin/"
  {
    echo "LIBRARY winfsp-x64.dll"; echo EXPORTS
    x86_64-w64-mingw32-objdump -p "$dll" | awk '/\[Ordinal\/Name Pointer\] Table/{t=1;next} t&&/\[ *[0-9]+\]/{print $NF} t&&/^$/{t=0}'
  } > "$dir/winfsp/winfsp-x64.def"
  x86_64-w64-mingw32-dlltool -d "$dir/winfsp/winfsp-x64.def" -D winfsp-x64.dll -y "$dir/winfsp/libwinfsp-x64.a"
}

case $cmd in
  setup)
    install_packages
    mkdir -p "$dir"
    unpack_rust
    build_std
    make_wine_prefix
    make_winfsp_library
    touch "$dir/ready"
    echo "cross.sh: toolchain ready in $dir"
    ;;
  cargo) ready; use_toolchain; cd "$root"; exec cargo "$@" ;;
  # By its own name: rustup's cargo would take rustup's clippy, which is of another version.
  clippy) ready; use_toolchain; cd "$root"; exec cargo-clippy clippy "$@" ;;
  wine) ready; use_toolchain; exec wine "$@" ;;
  *) echo "usage: cross.sh setup | cargo ARGS… | clippy ARGS… | wine EXE ARGS…" >&2; exit 2 ;;
esac
