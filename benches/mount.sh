#!/usr/bin/env bash
# Mounts against mounts: sequential and random reads of one disk through vcbmount and through every peer that
# is installed. Ratios of one run count, not the numbers. For the files of a volume see benches/ntfs.sh.
#
#   benches/mount.sh [VCBMOUNT] [MIB]
#
# VCBMOUNT   the binary (default target/release/vcbmount)
# MIB        size of the disk (default 1024)
# Needs root, fio, qemu-utils; peers: qemu-storage-daemon, nbdfuse, vmdkmount.
set -euo pipefail
bin=$(realpath "${1:-target/release/vcbmount}") mib=${2:-1024}
work=$(mktemp -d "${TMPDIR:-/tmp}/vcb-bench.XXXXXX")
export VCBMOUNT_STATE=$work/state
pids=() mounts=()
finish() {
  for m in "${mounts[@]:-}"; do [ -z "$m" ] || umount -l "$m" 2>/dev/null || true; done
  for p in "${pids[@]:-}"; do [ -z "$p" ] || kill "$p" 2>/dev/null || true; done
  "$bin" cleanup >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap finish EXIT
have() { command -v "$1" >/dev/null || { echo "left out: no $1" >&2; return 1; }; }
# Median of a command's seconds or rates, three runs.
median3() { { "$@"; "$@"; "$@"; } | sort -n | sed -n 2p; }
# FUSE caches of every server are dropped; the host file is read into the host's cache again.
cold() { sync; echo 3 > /proc/sys/vm/drop_caches; cat "$source" > /dev/null; }
seq_rate() { cold; dd if="$target" of=/dev/null bs=1M 2>&1 | awk '/copied/ { print $1 / 1048576 / $(NF-3) }'; }
again_rate() { dd if="$target" of=/dev/null bs=1M 2>&1 | awk '/copied/ { print $1 / 1048576 / $(NF-3) }'; }
rand_rate() {
  cold
  fio --name=r --filename="$target" --readonly --rw=randread --bs=4k --direct=1 --ioengine=psync \
    --numjobs=4 --group_reporting --time_based --runtime=2 --output-format=terse | cut -d';' -f8
}
measure() { # NAME TARGET SOURCE
  target=$2 source=$3
  printf '%-34s %8.0f %8.0f %9.0f\n' "$1" "$(median3 seq_rate)" "$(again_rate)" "$(median3 rand_rate)"
}

head -c "${mib}M" /dev/urandom > "$work/host.raw"
qemu-img convert -q -f raw -O vmdk -o subformat=monolithicSparse "$work/host.raw" "$work/sparse.vmdk"
mkdir "$work/flat" && ln "$work/host.raw" "$work/flat/flat-flat.vmdk"
printf '# Disk DescriptorFile\nversion=1\nCID=11111111\nparentCID=ffffffff\ncreateType="monolithicFlat"\nRW %d FLAT "flat-flat.vmdk" 0\nddb.adapterType = "lsilogic"\n' \
  $((mib * 2048)) > "$work/flat/flat.vmdk"

printf '%-34s %8s %8s %9s\n' '' 'seq MiB/s' 'again' '4k x4 IOPS'
measure 'host file (buffered; direct)' "$work/host.raw" "$work/host.raw"
at=$("$bin" -q mount --vm "path:$work/sparse.vmdk" --mode fullvm --at "$work/m1" || true); mounts+=("$at")
measure 'vcbmount, sparse' "$at/sparse-flat.vmdk" "$work/sparse.vmdk"
"$bin" umount "$at" > /dev/null
at=$("$bin" -q mount --vm "path:$work/flat/flat.vmdk" --mode fullvm --at "$work/m2" || true); mounts+=("$at")
measure 'vcbmount, flat' "$at/flat-flat.vmdk" "$work/host.raw"
"$bin" umount "$at" > /dev/null
if have qemu-storage-daemon; then
  touch "$work/qsd.raw"
  qemu-storage-daemon --blockdev driver=file,node-name=f,filename="$work/sparse.vmdk",read-only=on \
    --blockdev driver=vmdk,node-name=v,file=f,read-only=on \
    --export type=fuse,id=e,node-name=v,mountpoint="$work/qsd.raw",allow-other=off & pids+=($!)
  mounts+=("$work/qsd.raw"); sleep 1
  measure 'qemu-storage-daemon FUSE, sparse' "$work/qsd.raw" "$work/sparse.vmdk"
  umount -l "$work/qsd.raw"
fi
if have vmdkmount; then
  mkdir "$work/vm"; vmdkmount "$work/sparse.vmdk" "$work/vm" > /dev/null; mounts+=("$work/vm")
  measure 'vmdkmount, sparse' "$work/vm/vmdk1" "$work/sparse.vmdk"
  umount -l "$work/vm"
fi
if have nbdfuse && have qemu-nbd; then
  mkdir "$work/nbd"; nbdfuse -r "$work/nbd/disk" [ qemu-nbd -r -f vmdk -e 8 "$work/sparse.vmdk" ] & pids+=($!)
  mounts+=("$work/nbd"); sleep 1
  measure 'nbdfuse + qemu-nbd, sparse' "$work/nbd/disk" "$work/sparse.vmdk"
  umount -l "$work/nbd"
fi
