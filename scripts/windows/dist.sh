#!/usr/bin/env bash
# The zip for Windows: the program, how to install it, and what the licences of its parts ask for.
# Needs the release build of `make windows`; writes dist/vcbmount-VERSION-windows-x64.zip.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
root=$(realpath "$here/../..")
target=${VCB_WINDOWS_TARGET_DIR:-$root/target/windows}
triple=x86_64-pc-windows-gnu
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$root/Cargo.toml" | head -1)
name=vcbmount-$version-windows-x64
commit=$(git -C "$root" rev-parse HEAD)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
out=$work/$name
mkdir -p "$out/docs" "$root/dist"

cp "$target/$triple/release/vcbmount.exe" "$out/"
x86_64-w64-mingw32-strip "$out/vcbmount.exe"
"$here/cross.sh" wine "$out/vcbmount.exe" completions powershell >"$out/vcbmount-completion.ps1"
cp "$here/install.ps1" "$out/"
for file in README.md LICENSE-MIT LICENSE-APACHE CHANGELOG.md; do cp "$root/$file" "$out/"; done
cp "$root/mountd/winfsp/LICENSE-GPL-3.0" "$out/"
cp "$root"/docs/*.md "$out/docs/"

cat >"$out/NOTICE.txt" <<EOF
vcbmount $version for Windows

vcbmount.exe contains the crate winfsp, which is under the GNU General Public License, version 3. This program as a
whole is therefore under that licence (LICENSE-GPL-3.0). vcbmount's own sources, but for the package vcb-winfsp, may
also be used under LICENSE-MIT or LICENSE-APACHE. The complete source of this build is commit
$commit of vcbmount, with the crates below at the versions that its Cargo.lock names.

WinFsp - Windows File System Proxy, Copyright (C) Bill Zissimopoulos
https://github.com/winfsp/winfsp
WinFsp itself is not part of this archive: install it from https://winfsp.dev.

The GNU runtime that is linked (libgcc, mingw-w64) is under the GPL with the GCC Runtime Library Exception, and in
the public domain or under permissive licences; Rust's standard library is under MIT OR Apache-2.0.

Parts, with their licences:

$(cd "$root" && cargo tree -q --locked -p vcbmount --target $triple -e normal --prefix none --no-dedupe -f '{p}  {l}  {r}' |
  sed 's/ (\/[^)]*)//; s/ (proc-macro)//' | sort -u)
EOF

# The texts of those licences, from the crates themselves.
(cd "$root" && cargo tree -q --locked -p vcbmount --target $triple -e normal --prefix none --no-dedupe -f '{p}' |
  sed 's/ (.*//; s/ v/-/' | sort -u) | while read -r crate; do
  for dir in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"$crate"; do
    [ -d "$dir" ] || continue
    for text in "$dir"/LICEN[CS]E* "$dir"/COPYING* "$dir"/NOTICE* "$dir"/UNLICENSE*; do
      [ -f "$text" ] || continue
      printf '\n======== %s: %s ========\n\n' "$crate" "$(basename "$text")"
      cat "$text"
    done
  done
done >"$out/THIRD-PARTY-LICENSES.txt"

rm -f "$root/dist/$name.zip"
(cd "$work" && zip -qr -X "$root/dist/$name.zip" "$name")
echo "dist/$name.zip"
unzip -l "$root/dist/$name.zip" | awk 'NR>3'
