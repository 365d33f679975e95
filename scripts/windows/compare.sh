#!/usr/bin/env bash
# Runs the Linux and the Windows program side by side and compares what they print, byte for byte:
#
#   compare.sh LINUX-BINARY WINDOWS-EXE GALLERY-WRITER
#
# on the disks of the corpus ($VCBMOUNT_CORPUS, default ../shared/corpus beside the project) and on every
# specimen of the gallery, whose contents are known. Windows' program runs under wine, in the same folder.
# The last line counts what was compared; the exit code is 1 when anything differed.
set -euo pipefail
linux=$(realpath "$1") windows=$(realpath "$2") writer=$(realpath "$3")
here=$(dirname "$(realpath "$0")")
corpus=$(realpath -m "${VCBMOUNT_CORPUS:-$here/../../../shared/corpus}")
prefix=$(realpath -m "${VCB_WINDOWS_TOOLCHAIN:-$here/../../target/windows-toolchain}/wine")
work=$(mktemp -d)
trap 'rm -rf "$work" "$prefix"/dosdevices/physicaldrive9[0-9]' EXIT
export VCBMOUNT_STATE=$work/state HOME=$work/home XDG_CONFIG_HOME=$work/home/.config
mkdir -p "$HOME"
same=0 different=0

# What both printed is the same. Where a file is missing, the systems' own words and paths for it may differ.
agree() {
  cmp -s "$work/linux.out" "$work/windows.out" || {
    sed -i 's|File not found\.|No such file or directory|g; s|\\\\\\\\?\\\\Z:||g; s|\\\\|/|g' "$work/windows.out"
    grep -q 'os error' "$work/linux.out" && cmp -s "$work/linux.out" "$work/windows.out"
  }
}

# What each is told before the arguments.
for_linux=() for_windows=()

# On both: the same arguments in the same folder; output and exit code must agree.
both() {
  local linux_exit=0 windows_exit=0
  "$linux" "${for_linux[@]}" "$@" >"$work/linux.out" 2>"$work/linux.err" || linux_exit=$?
  "$here/cross.sh" wine "$windows" "${for_windows[@]}" "$@" >"$work/windows.out" 2>"$work/windows.err" || windows_exit=$?
  if [ $linux_exit = $windows_exit ] && agree; then
    same=$((same + 1))
    return
  fi
  different=$((different + 1))
  echo "DIFFERENT (exit $linux_exit and $windows_exit) in $PWD: $*"
  diff <(head -c 2000 "$work/linux.out") <(head -c 2000 "$work/windows.out") | head -5 || true
  head -3 "$work/windows.err"
}

# Exports a disk with both; with a third argument that is the hash both must have.
exported() {
  local disk=$1 want=${2:-} linux_exit=0 windows_exit=0 a b
  "$linux" export --quiet "$disk" --to "$work/linux.raw" 2>/dev/null || linux_exit=$?
  "$here/cross.sh" wine "$windows" export --quiet "$disk" --to "$(basename "$work")-windows.raw" 2>"$work/windows.err" || windows_exit=$?
  mv "$(basename "$work")-windows.raw" "$work/windows.raw" 2>/dev/null || true
  touch "$work/linux.raw" "$work/windows.raw"
  a=$(sha256sum <"$work/linux.raw") b=$a
  # Comparing is many times quicker than hashing, and says the same.
  cmp -s "$work/linux.raw" "$work/windows.raw" || b=$(sha256sum <"$work/windows.raw")
  rm -f "$work/linux.raw" "$work/windows.raw"
  if [ $linux_exit = $windows_exit ] && [ "$a" = "$b" ] && { [ -z "$want" ] || [ "${a%% *}" = "$want" ]; }; then
    same=$((same + 1))
    [ "$linux_exit" != 0 ] || echo "${a%% *}  $disk"
  else
    different=$((different + 1))
    echo "DIFFERENT (exit $linux_exit and $windows_exit) in $PWD: export $disk: $a and $b, wanted ${want:-nothing}"
    head -3 "$work/windows.err"
  fi
}

# Disks that are larger are exported in the long tier only.
largest=$((1 << 30))
[ "${VCB_TORTURE:-}" != 1 ] || largest=$((1 << 62))

# Everything that a disk can be asked without a mount.
disk() {
  both info --json "$1"
  both check --json "$1"
  local size
  size=$("$linux" info --json "$1" 2>/dev/null | grep -o '"size":[0-9]*' | cut -d: -f2 | sort -n | tail -1) || true
  if [ "${size:-0}" -le "$largest" ]; then exported "$1"; else echo "not exported: $1, $size bytes"; fi
  local volume
  for volume in $("$linux" info --json "$1" 2>/dev/null | grep -o '"volume":[0-9]*' | cut -d: -f2); do
    both ls -R --json "$1" "$volume:/"
    local file
    # A handful of files, spread over the list; and everything at once.
    file=$("$linux" ls -R "$1" "$volume:/" 2>/dev/null | awk 'length' | sed -n '7p') || true
    [ -z "$file" ] || both cat "$1" "$volume:/$file"
    copied "$1" "$volume"
  done
}

# Copies a volume with both. Names that Windows refuses are compared by content alone.
copied() {
  rm -rf "$work/linux.d" windows.d
  local linux_exit=0 windows_exit=0 a b
  "$linux" cp -r --quiet "$1" "$2:/" "$work/linux.d" 2>/dev/null || linux_exit=$?
  "$here/cross.sh" wine "$windows" cp -r --quiet "$1" "$2:/" windows.d 2>"$work/windows.err" || windows_exit=$?
  mkdir -p "$work/linux.d" windows.d
  a=$(find "$work/linux.d" -type f -exec sha256sum {} + | cut -d' ' -f1 | sort | sha256sum)
  b=$(find windows.d -type f -exec sha256sum {} + | cut -d' ' -f1 | sort | sha256sum)
  if [ $linux_exit = $windows_exit ] && [ "$a" = "$b" ]; then
    same=$((same + 1))
  else
    different=$((different + 1))
    echo "DIFFERENT (exit $linux_exit and $windows_exit) in $PWD: cp -r $1 $2:/"
    head -3 "$work/windows.err"
  fi
  rm -rf "$work/linux.d" windows.d
}

# A raw volume under a descriptor of one flat extent.
flat() {
  local sectors=$((($(stat -c %s "$1") + 511) / 512))
  truncate -s $((sectors * 512)) "$1"
  printf '# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="monolithicFlat"\n\nRW %s FLAT "%s" 0\n' \
    "$sectors" "$1" >"${1%.*}.vmdk"
}

gallery() {
  "$writer" "$work/gallery"
  local folder sum leaf
  for folder in "$work"/gallery/*/; do
    cd "$folder"
    read -r sum leaf <expected.sha256
    exported "$leaf" "$sum"
    both check --json "$leaf"
  done
}

disks() {
  cp -r "$corpus/vmdk" "$corpus/malformed" "$work/"
  find "$work/vmdk" "$work/malformed" -name '*.xz' -exec xz -dq {} +
  find "$work/vmdk" -name '*.gz' -exec gzip -dq {} +
  local file
  while IFS= read -r -d '' file; do
    # Extents are read through their descriptors.
    case $file in *-flat.vmdk | *-s0??.vmdk | *-f0??.vmdk) continue ;; esac
    cd "$(dirname "$file")"
    disk "$(basename "$file")"
  done < <(find "$work/vmdk" "$work/malformed" \( -name '*.vmdk' -o -name '*.ova' -o -name '*.vmx' \) -print0 | sort -z)
}

volumes() {
  mkdir -p "$work/ntfs"
  cd "$work/ntfs"
  local file
  for file in "$corpus"/ntfs/*.gz; do case $file in *.tar.gz) ;; *) gzip -dc "$file" >"$(basename "${file%.gz}")" ;; esac; done
  for file in "$corpus"/ntfs/*.xz; do xz -dkc "$file" >"$(basename "${file%.xz}")"; done
  for file in "$corpus"/ntfs/*.zip; do unzip -oqj "$file" -d . 2>/dev/null || true; done
  if command -v qemu-img >/dev/null; then
    for file in "$corpus"/ntfs/*.qcow2; do qemu-img convert -O raw "$file" "$(basename "${file%.qcow2}").raw"; done
  fi
  for file in *.raw *.bin *.dd; do
    [ -e "$file" ] || continue
    case $file in mft.bin | sds*.bin | boot*.bin) continue ;; esac
    flat "$file"
    disk "${file%.*}.vmdk"
  done
}

# A datastore folder, and VMFS volumes on LUNs, by configuration files that differ in their paths alone: wine shows
# the root of this host as Z:, and a link among its devices as a disk.
datastores() {
  cd "$work/vmdk"
  printf '[[datastore]]\nname = "ds"\npath = "%s"\n' "$work/vmdk" >"$work/linux.toml"
  printf '[[datastore]]\nname = "ds"\npath = "Z:%s"\n' "$work/vmdk" >"$work/windows.toml"
  local image name number=90
  for image in "$corpus"/vmfs/*.xz "$corpus"/vmfs/*.gz; do
    name=$(basename "$image"); name=${name%%.*}
    case $image in *.xz) xz -dkc "$image" ;; *) gzip -dc "$image" ;; esac >"$work/$name.img"
    ln -sfn "$work/$name.img" "$prefix/dosdevices/physicaldrive$number"
    printf '[[datastore]]\nname = "%s"\nlun = ["%s"]\n' "$name" "$work/$name.img" >>"$work/linux.toml"
    printf '[[datastore]]\nname = "%s"\nlun = ["\\\\\\\\.\\\\PhysicalDrive%s"]\n' "$name" $number >>"$work/windows.toml"
    number=$((number + 1))
  done
  local for_linux=(--config "$work/linux.toml") for_windows=(--config "$work/windows.toml")
  both list
  both list --json
  both list any:
  both ls -R --json '[ds] '
  for image in "$work"/*.img; do
    both ls -R --json "[$(basename "${image%.img}")] "
    lun_files "$(basename "${image%.img}")"
  done
}

# The files on a LUN, read through the device.
lun_files() {
  local file
  "$linux" "${for_linux[@]}" ls -R "[$1] " 2>/dev/null | sed -n '1p;5p;9p' >"$work/files" || true
  while IFS= read -r file; do both cat "[$1] $file"; done <"$work/files"
}

gallery
if [ -d "$corpus" ]; then
  disks
  volumes
  datastores
else
  echo "skipped: no corpus at $corpus (set VCBMOUNT_CORPUS)"
  [ "${VCB_REQUIRE_PEERS:-}" != 1 ] || exit 1
fi
echo "compare: $same the same, $different different"
[ $different = 0 ]
