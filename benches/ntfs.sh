#!/usr/bin/env bash
# The files of an NTFS volume through vcbmount and through ntfs-3g: the same volume, turn by turn, each time
# freshly mounted (a cold FUSE cache) with the image in the host's cache. Prints medians as a table.
#
#   benches/ntfs.sh [VCBMOUNT] [IMAGE]             walk, tar, one large file, LZNT1
#   benches/ntfs.sh --million [VCBMOUNT] [IMAGE]   memory of a server that a million files are asked of
#
# VCBMOUNT  the binary (default target/release/vcbmount)
# IMAGE     kept from one run for the next, and made (minutes) when it is not there; without it one is made
#           and removed: 1 GiB on disk, 1.2 GiB for a million files
# ROUNDS    how often (default 5)
# SLOW_US   makes both servers wait for the image as for storage behind a network: so many microseconds for each read,
#           and as long as its bytes take at 2 GB/s
# Needs root, ntfs-3g, attr, xxd and python3. On a machine that does other work: chrt -r 10 benches/ntfs.sh
set -euo pipefail

million=
[ "${1:-}" != --million ] || { million=1; shift; }
here=$(dirname "$(realpath "$0")")
bin=$(realpath "${1:-target/release/vcbmount}") rounds=${ROUNDS:-5}
for tool in ntfs-3g mkfs.ntfs setfattr xxd python3; do
  PATH=$PATH:/sbin:/usr/sbin command -v $tool > /dev/null || { echo "left out: no $tool" >&2; exit 0; }
done
[ "$(id -u)" = 0 ] || { echo "left out: mounting ntfs-3g takes root" >&2; exit 0; }

work=$(mktemp -d "${TMPDIR:-/tmp}/vcb-bench.XXXXXX")
image=${2:-$work/volume.img}
export VCBMOUNT_STATE=$work/state
at=$work/mount
finish() {
  umount -l "$at" 2> /dev/null || true
  "$bin" cleanup > /dev/null 2>&1 || true
  rm -rf "$work"
}
trap finish EXIT

make_tree() {
  bash "$here/../fixtures/ntfs/mkntfs.sh" "$1" "$at" > /dev/null
  # Compressed files long enough to be timed: text, and programs of this machine.
  ntfs-3g -o compression,big_writes "$1" "$at"
  python3 - "$at/comp" << 'PY'
import glob, os, random, sys
random.seed(3)
words = [bytes(random.choices(b'abcdefghijklmnop', k=random.randrange(2, 9))) for _ in range(500)]
with open(sys.argv[1] + '/text128m', 'wb') as out:
    for _ in range(16):
        out.write(b' '.join(random.choices(words, k=1700000))[:8 << 20])
with open(sys.argv[1] + '/programs128m', 'wb') as out:
    for path in sorted(glob.glob('/usr/lib/*/lib*.so*') + glob.glob('/usr/bin/*')):
        if os.path.isfile(path) and not os.path.islink(path) and out.tell() < 128 << 20:
            with open(path, 'rb') as program:
                out.write(program.read()[:(128 << 20) - out.tell()])
PY
  umount "$at"
}
make_million() {
  truncate -s 4G "$1"
  mkfs.ntfs -F -Q -c 4096 -L MILLION "$1" > /dev/null 2>&1
  ntfs-3g -o big_writes,noatime "$1" "$at"
  python3 - "$at" << 'PY'
import os, sys
for number in range(1000):
    path = f'{sys.argv[1]}/d{number:03}'
    os.mkdir(path)
    folder = os.open(path, os.O_RDONLY)
    for file in range(1000):
        os.mknod(f'file-{file:06}.dat', 0o644, dir_fd=folder)
    os.close(folder)
PY
  umount "$at"
}
mkdir "$at"
export PATH=$PATH:/sbin:/usr/sbin
if [ ! -e "$image" ]; then
  echo "making $image" >&2
  if [ -n "$million" ]; then make_million "$image"; else make_tree "$image"; fi
fi
image=$(realpath "$image")
rmdir "$at"

mkdir "$work/vm"
if ! ln "$image" "$work/vm/disk-flat.vmdk" 2> /dev/null; then
  cp --reflink=auto --sparse=always "$image" "$work/vm/disk-flat.vmdk"
fi
printf '# Disk DescriptorFile\nversion=1\nCID=11111111\nparentCID=ffffffff\ncreateType="monolithicFlat"\nRW %d FLAT "disk-flat.vmdk" 0\nddb.adapterType = "lsilogic"\n' \
  $(($(stat -c %s "$image") / 512)) > "$work/vm/disk.vmdk"
image=$work/vm/disk-flat.vmdk

slow=
if [ -n "${SLOW_US:-}" ]; then
  slow=$work/slow.so
  gcc -O2 -shared -fPIC -o "$slow" "$here/slow.c" -ldl
fi

up_vcbmount() {
  LD_PRELOAD=$slow "$bin" -q mount --vm "path:$work/vm/disk.vmdk" --mode file --at "$at" > /dev/null
  tree=$at/digits/1
  pid=$(sed -n 's/.*"pid": \([0-9]*\).*/\1/p' "$VCBMOUNT_STATE"/sessions/*.json | head -1)
}
down_vcbmount() { "$bin" umount "$at" > /dev/null; }
up_ntfs3g() {
  mkdir -p "$at"
  LD_PRELOAD=$slow ntfs-3g -o ro,no_detach "$image" "$at" > /dev/null 2>&1 &
  pid=$!
  until mountpoint -q "$at"; do sleep 0.02; done
  tree=$at
}
down_ntfs3g() { umount "$at"; wait "$pid"; rmdir "$at"; }

walk() { find "$tree" -printf '%s %T@\n' | wc -l > "$work/count"; }
# Into /dev/null tar would not read at all. The sparse file of 10 GiB is left out: ntfs-3g does not tell holes.
tarred() { tar -cf - --exclude=s10g -C "$tree" . 2> /dev/null | wc -c > "$work/count"; }
large() { cat "$tree/big.bin" > /dev/null; }
text() { cat "$tree/comp/text128m" > /dev/null; }
programs() { cat "$tree/comp/programs128m" > /dev/null; }

cpu() { awk '{ print ($14 + $15) / 100 }' "/proc/$pid/stat"; }
one() { # SIDE WHAT: appends seconds and the server's CPU seconds
  "up_$1"
  local before start end
  before=$(cpu) start=$(date +%s.%N)
  "$2"
  end=$(date +%s.%N)
  echo "$start $end $before $(cpu)" | awk '{ print $2 - $1, $4 - $3 }' >> "$work/$1.$2"
  cp "$work/count" "$work/$1.$2.count" 2> /dev/null || true
  "down_$1"
}
median() { awk -v c="$2" '{ print $c }' "$work/$1" | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

cat "$image" > /dev/null
if [ -n "$million" ]; then
  up_vcbmount
  walk
  walk
  awk -v files="$(cat "$work/count")" '/VmHWM/ { printf "%d files, walked twice: the server took %.0f MiB at most\n", files, $2 / 1024 }' \
    "/proc/$pid/status"
  down_vcbmount
  exit
fi

for _ in $(seq "$rounds"); do
  for what in walk tarred large text programs; do
    for side in vcbmount ntfs3g; do one $side $what; done
  done
done
for what in walk tarred; do
  # The root of the mount is a folder more or less; names in archives are alike.
  echo "$what: $(cat "$work/vcbmount.$what.count") and $(cat "$work/ntfs3g.$what.count")" >&2
done
row() { # NAME WHAT
  local a b ca cb
  a=$(median "vcbmount.$2" 1) b=$(median "ntfs3g.$2" 1) ca=$(median "vcbmount.$2" 2) cb=$(median "ntfs3g.$2" 2)
  awk -v n="$1" -v a="$a" -v b="$b" -v ca="$ca" -v cb="$cb" \
    'BEGIN { printf "| %s | %.2f s | %.2f s | %.1f | %.2f s | %.2f s |\n", n, a, b, b / a, ca, cb }'
}
echo '| what | vcbmount | ntfs-3g | ratio | CPU of vcbmount | CPU of ntfs-3g |'
echo '|---|---:|---:|---:|---:|---:|'
row 'walk and `stat` (`find -printf`)' walk
row '`tar` to a pipe that counts' tarred
row 'one file of 500 MiB' large
row 'LZNT1, 128 MiB of text' text
row 'LZNT1, 128 MiB of programs' programs
