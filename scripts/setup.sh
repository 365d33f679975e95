#!/usr/bin/env bash
# Installs what building, testing and the demo need, as far as it is missing:
#   scripts/setup.sh [build|demo|test]     (default: test, which includes the others)
# It changes the system only through apt-get and pip, and only as root; otherwise it prints what to run.
set -euo pipefail

what=${1:-test}

# package=command (or file) that shows it is there
build="gcc=gcc pkg-config=pkg-config"
demo="$build ntfs-3g=mkntfs fuse3=fusermount3 qemu-utils=qemu-img fdisk=sfdisk tar=tar coreutils=sha256sum"
test="$demo attr=setfattr xxd=xxd qemu-system-common=qemu-storage-daemon qemu-block-extra=block-iscsi.so tgt=tgtd
      strace=strace libvmdk-utils=vmdkmount
      vmfs-tools=vmfs-fuse vmfs6-tools=vmfs6-fuse sleuthkit=fls libwim15=libwim.so.15 wimtools=wimlib-imagex
      libnbd-bin=nbdfuse nbdkit=nbdkit restic=restic borgbackup=borg rsync=rsync fio=fio zip=zip unzip=unzip
      xz-utils=xz gdisk=sgdisk python3-pip=pip3"
case $what in
build | demo | test) wanted=${!what} ;;
*) echo "usage: $0 [build|demo|test]" >&2; exit 2 ;;
esac

has() {
    case $1 in
    block-*.so) compgen -G "/usr/lib/*/qemu/$1" >/dev/null ;;
    *.so.*) { ldconfig -p 2>/dev/null || /sbin/ldconfig -p; } | grep -F "$1" >/dev/null ;;
    *) PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null ;;
    esac
}

as_root() { [ "$(id -u)" = 0 ]; }

missing=()
for pair in $wanted; do
    has "${pair#*=}" || missing+=("${pair%%=*}")
done

# The delta formats of ESXi are judged by qemu-img 10: older ones read some of them wrongly.
qemu_major() { qemu-img --version 2>/dev/null | sed -n 's/^qemu-img version \([0-9]*\).*/\1/p' || true; }
backports=
if [ "$what" = test ]; then
    major=$(qemu_major)
    [ "${major:-0}" -ge 10 ] || backports="qemu-utils qemu-system-common qemu-block-extra"
fi

if [ ${#missing[@]} -gt 0 ] || [ -n "$backports" ]; then
    if ! command -v apt-get >/dev/null; then
        echo "setup: missing: ${missing[*]} $backports; install them with this system's package manager" >&2
        exit 1
    fi
    if ! as_root; then
        echo "setup: missing packages; as root run: apt-get install ${missing[*]} $backports" >&2
        exit 1
    fi
    echo "setup: installing ${missing[*]} $backports"
    apt-get update -qq
    release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    [ ${#missing[@]} -eq 0 ] || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}"
    # A newer release has it already; only Debian 12 takes it from its backports.
    major=$(qemu_major)
    if [ -n "$backports" ] && [ "${major:-0}" -lt 10 ] && [ "$release" = bookworm ]; then
        if ! apt-cache policy | grep bookworm-backports >/dev/null; then
            echo "deb http://deb.debian.org/debian bookworm-backports main" >/etc/apt/sources.list.d/bookworm-backports.list
            apt-get update -qq
        fi
        # shellcheck disable=SC2086 # two package names
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -t bookworm-backports $backports
    fi
fi

if [ "$what" = test ] && ! python3 -c 'import pyfsntfs' 2>/dev/null; then
    echo "setup: installing libfsntfs-python"
    pip3 install -q --break-system-packages libfsntfs-python 2>/dev/null || pip3 install -q libfsntfs-python
fi

# The simulator of a vCenter needs a newer Go than most releases package.
if [ "$what" = test ] && ! command -v go >/dev/null; then
    echo "setup: Go is missing, and with it the tests against vcsim; see https://go.dev/dl (tests/vcsim/go.mod names the version)" >&2
fi

if [ "$what" != build ] && [ ! -e /dev/fuse ]; then
    if as_root; then
        mknod -m 666 /dev/fuse c 10 229
    else
        echo "setup: there is no /dev/fuse; as root run: modprobe fuse" >&2
        exit 1
    fi
fi

if ! command -v cargo >/dev/null; then
    echo "setup: Rust is missing; see https://rustup.rs (rust-toolchain.toml names the version)" >&2
    exit 1
fi
