#!/usr/bin/env bash
# The main job on a sample VM, start to end: scripts/demo.sh BINARY
#
# Makes a Windows-like VM (an MBR disk with an NTFS volume, and a snapshot delta over it that holds later
# changes), mounts it as files and as images, backs the files up with tar, and compares every hash with what
# was written. With VCB_DEMO_OUT=DIR it leaves the VM and the hashes there. Only our own binary reads the VM; ntfs-3g and qemu-img write it and judge the outcome.
set -euo pipefail

bin=$(realpath "${1:-target/release/vcbmount}")
work=$(mktemp -d "${TMPDIR:-/tmp}/vcbmount-demo.XXXXXX")
export VCBMOUNT_STATE=$work/state
PATH=$PATH:/usr/sbin:/sbin

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }
finish() {
    status=$?
    "$bin" cleanup -q >/dev/null 2>&1 || true
    for at in "$work/mnt/files" "$work/mnt/images"; do "$bin" umount -q "$at" 2>/dev/null || true; done
    mountpoint -q "$work/ntfs" && umount "$work/ntfs"
    rm -rf "$work"
    [ $status -eq 0 ] || echo "demo: FAILED" >&2
    exit $status
}
trap finish EXIT

if [ "$(id -u)" != 0 ]; then
    echo "demo: ntfs-3g writes the sample volume through a mount, for which this script needs root" >&2
    exit 1
fi

vm=$work/vms/web01
mkdir -p "$vm" "$work/ntfs" "$work/written"
MiB=1048576

say "Making a Windows-like VM: NTFS in an MBR partition, then a snapshot with later changes"
start=$((2048 * 512))
truncate -s 96M "$work/disk.raw"
printf '2048,,7,*\n' | sfdisk -q "$work/disk.raw"
truncate -s $((95 * MiB)) "$work/volume"
mkntfs -q -F -f -p 2048 -H 255 -S 63 -L "Web 01" "$work/volume" >/dev/null

mount_volume() { ntfs-3g -o streams_interface=xattr "$work/volume" "$work/ntfs"; }
put_volume() { umount "$work/ntfs"; dd if="$work/volume" of="$1" bs=1M seek=1 conv=notrunc,sparse status=none; }

mount_volume
mkdir -p "$work/ntfs/Windows/System32" "$work/ntfs/Users/Ada/Documents"
head -c 9000000 /dev/urandom >"$work/ntfs/Windows/System32/ntoskrnl.exe"
for n in $(seq 1 200); do echo "note $n of Ada" >"$work/ntfs/Users/Ada/Documents/note $n.txt"; done
printf 'naïve Ω 文\n' >"$work/ntfs/Users/Ada/Documents/Ünïcode ☃.txt"
truncate -s 40M "$work/ntfs/Users/Ada/sparse.bin"
printf 'the end' | dd of="$work/ntfs/Users/Ada/sparse.bin" bs=1 seek=41943033 conv=notrunc status=none
put_volume "$work/disk.raw"
qemu-img convert -f raw -O vmdk -o subformat=monolithicSparse "$work/disk.raw" "$vm/web01.vmdk"

# What the guest does after the snapshot lands in a delta; the base is not written to any more.
mount_volume
echo "written after the snapshot" >"$work/ntfs/Users/Ada/Documents/later.txt"
rm "$work/ntfs/Users/Ada/Documents/note 7.txt"
cp -a "$work/ntfs/." "$work/written/"
put_volume "$work/disk.raw"
qemu-img create -q -f vmdk -b web01.vmdk -F vmdk "$vm/web01-000001.vmdk"
qemu-img convert -n -f raw -O vmdk "$work/disk.raw" "$vm/web01-000001.vmdk" 2>/dev/null
cat >"$vm/web01.vmx" <<'VMX'
.encoding = "UTF-8"
config.version = "8"
virtualHW.version = "13"
displayName = "web01"
guestOS = "windows2019srv-64"
uuid.bios = "56 4d 0a 1b 2c 3d 4e 5f-60 71 82 93 a4 b5 c6 d7"
scsi0.present = "TRUE"
scsi0.virtualDev = "lsilogic"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "web01-000001.vmdk"
VMX
ls -sh "$vm"

# For a machine elsewhere: the VM, and the hash of every file on it.
if [ -n "${VCB_DEMO_OUT:-}" ]; then
    mkdir -p "$VCB_DEMO_OUT"
    cp -r "$vm" "$VCB_DEMO_OUT/"
    (cd "$work/written" && find . -type f -exec sha256sum {} +) >"$VCB_DEMO_OUT/expected.sha256"
fi

say "Looking at it without mounting"
show "$bin" info "$vm"

say "Mounting its files"
files=$(show "$bin" mount --vm "path:$vm" --mode file --at "$work/mnt/files" | tail -1)
show find "$files" -maxdepth 3 -not -name '$*'
volume=$files/digits/1

say "Backing up the files with tar, restoring, comparing every hash with what was written"
time tar -C "$volume" -cf "$work/backup.tar" Windows Users
mkdir "$work/restored"
tar -C "$work/restored" -xf "$work/backup.tar"
hashes() { (cd "$1" && find Windows Users -type f -print0 | sort -z | xargs -0 sha256sum); }
diff <(hashes "$work/written") <(hashes "$work/restored")
echo "$(hashes "$work/restored" | wc -l) files, all hashes equal"

say "Mounting it as whole images"
images=$(show "$bin" mount --vm "path:$vm" --mode fullvm --at "$work/mnt/images" | tail -1)
show ls -lh "$images"
descriptor=$(find "$images" -name '*.vmdk' ! -name '*-flat.vmdk' | head -1)
show qemu-img compare -f vmdk -F raw "$descriptor" "$work/disk.raw"

say "Unmounting"
show "$bin" sessions
show "$bin" umount "$files"
show "$bin" umount "$images"
left=$("$bin" sessions)
[ -z "$left" ] && ! grep -q "$work/mnt" /proc/mounts
echo "nothing is left"
printf '\n\033[1mdemo: all is well\033[0m\n'
