#!/usr/bin/env bash
# The Windows tier: everything but the kernel driver, under wine. Prints what it ran, counts and times.
#
#   test.sh            all of it
#   test.sh STEP…      lint, unit, adapter, cli, service, compare
set -euo pipefail
here=$(dirname "$(realpath "$0")")
root=$(realpath "$here/../..")
cross=$here/cross.sh
export VCBMOUNT_CORPUS=${VCBMOUNT_CORPUS:-$(realpath -m "$root/../shared/corpus")}
linux_target=${CARGO_TARGET_DIR:-$root/target}
windows_target=${VCB_WINDOWS_TARGET_DIR:-$root/target/windows}
exe=$windows_target/x86_64-pc-windows-gnu/debug/vcbmount.exe
readers=(-p vcb-block -p vcb-vmdk -p vcb-fs -p vcb-vsphere)
key='HKLM\SOFTWARE\WOW6432Node\WinFsp'
work=$(mktemp -d)
trap 'forget_winfsp; rm -rf "$work"' EXIT

passed=0 failed=0 skipped=0 failures=()

know_winfsp() { "$cross" wine reg add "$key" /v InstallDir /d 'C:\winfsp\' /f >/dev/null 2>&1; }
forget_winfsp() { "$cross" wine reg delete "$key" /f >/dev/null 2>&1 || true; }

# cargo test, with its counts added up.
tests() {
  local code=0
  # Tests say on stdout what they pass over, which is caught and dropped otherwise.
  RUST_TEST_NOCAPTURE=1 "$cross" cargo test -q --no-fail-fast "$@" >"$work/log" 2>&1 || code=$?
  local p f
  p=$(grep -ao 'test result: .* [0-9]* passed' "$work/log" | awk '{n += $(NF-1)} END {print n+0}')
  f=$(grep -ao '; [0-9]* failed' "$work/log" | awk '{n += $2} END {print n+0}')
  grep -ao 'skipped: .*' "$work/log" >"$work/skips" || true
  skipped=$((skipped + $(wc -l <"$work/skips")))
  passed=$((passed + p)) failed=$((failed + f))
  echo "  $p passed, $f failed"
  sort "$work/skips" | uniq -c | sed 's/^ *\([0-9]*\) /  \1 x /'
  if [ $code != 0 ]; then
    failures+=("cargo test $*")
    [ "$f" != 0 ] || failed=$((failed + 1))
    grep -E '^(error|test .* FAILED|---- |thread .* panicked)' -A3 "$work/log" | head -60 || tail -40 "$work/log"
  fi
}

# One check of the program: what it is, and a command that must succeed.
expect() {
  local what=$1; shift
  if "$@" >"$work/log" 2>&1; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1)) failures+=("$what")
    echo "  FAILED: $what"
    tail -5 "$work/log" | sed 's/^/    /'
  fi
}

run() { timeout 120 "$cross" wine "$exe" "$@"; }

# Runs the program, which must exit with $1 and say $2.
exits() {
  local want=$1 text=$2 code=0; shift 2
  run "$@" >"$work/said" 2>&1 || code=$?
  cat "$work/said"
  echo "exit $code, wanted $want and '$text'"
  [ $code = "$want" ] && { [ -z "$text" ] || grep -qF -- "$text" "$work/said"; }
}

# All targets but those packages that judge by tools of Linux. For this target clippy takes thread locals that are
# const for such that could be.
lint() {
  "$cross" clippy -q --workspace --exclude vcb-benches --exclude vcb-tests --all-targets -- \
    -D warnings -A clippy::missing_const_for_thread_local
}

step_lint() { expect "clippy for Windows" lint; }
step_unit() {
  tests "${readers[@]}" --lib --tests
  tests -p vcb-mountd
}

step_adapter() {
  know_winfsp
  VCB_REQUIRE_PEERS=1 tests -p vcb-winfsp
  forget_winfsp
}

step_cli() {
  tests -p vcbmount
  "$cross" cargo build -q -p vcbmount
  make_vm
  cd "$work"
  export VCBMOUNT_STATE='C:\vcbtest'
  expect "--version names WinFsp" exits 0 'WinFsp - Windows File System Proxy, Copyright (C) Bill Zissimopoulos' --version
  expect "--help names WinFsp" exits 0 'https://github.com/winfsp/winfsp' --help
  expect "PowerShell completions" exits 0 'Register-ArgumentCompleter' completions powershell
  expect "info" exits 0 'ntfs' info vms/web01
  expect "list" exits 0 'name:Web 01' --config vms/windows.toml list
  expect "VCB's command by its name" vcb_name vcbVmName.exe -s Any:
  expect "and in any case" vcb_name VCBVMNAME.EXE -s 'name:Web 01'
  expect "mount without WinFsp says what to do" exits 1 'install WinFsp 2.1 or newer from https://winfsp.dev' mount --vm vms/web01 --at X:
  expect "and has an error code" exits 1 'vcbmount: E302: ' mount --vm vms/web01 --at 'C:\mnt\web01'
  expect "and leaves nothing" nothing_left
  expect "a log file" exits 1 'E302' --log-file vms/log.jsonl --log-format json mount --vm vms/web01 --at X:
  expect "has the background process's events" grep -q '"level":"ERROR"' vms/log.jsonl
  expect "run without WinFsp does not run the command" exits 1 'E302' run --vm vms/web01 -- cmd /c 'echo ran>vms\ran'
  expect "which made no file" test ! -e vms/ran
  expect "doctor says it too" exits 1 'WinFsp is not installed' doctor
  know_winfsp
  expect "doctor finds an installed WinFsp" exits 0 'WinFsp is installed: C:\winfsp\bin\winfsp-x64.dll' doctor
  expect "mount without the driver fails cleanly" exits 1 'vcbmount: E302: ' mount --vm vms/web01 --at X:
  expect "in a folder too" exits 1 'vcbmount: E302: ' mount --vm vms/web01 --at 'C:\mnt\web01'
  expect "and as a share" exits 1 'vcbmount: E302: ' mount --vm vms/web01 --at '\\vcb\web01'
  expect "and leaves nothing" nothing_left
  forget_winfsp
  expect "a used drive letter is refused" exits 1 'E300' mount --vm vms/web01 --at C:
  expect "and an existing folder" exits 1 'E300' mount --vm vms/web01 --at 'C:\windows'
  expect "umount of what is not mounted is no failure" exits 0 '' umount X:
  expect "umount of no session is one" exits 10 'E304' umount 0000000000
  expect "sessions" exits 0 '' sessions
  expect "cleanup" exits 0 '' cleanup
  expect "its output ends although a process was started" output_ends
  unset VCBMOUNT_STATE
}

# A VM with the corpus's disk that Windows has made, in a datastore that a configuration file names.
make_vm() {
  local disks=$VCBMOUNT_CORPUS/vmdk/vmdk-rs
  mkdir -p "$work/vms/web01"
  sed 's/monolithicFlat-flat/web01-flat/' "$disks/monolithicFlat.vmdk" >"$work/vms/web01/web01.vmdk"
  xz -dkc "$disks/monolithicFlat-flat.vmdk.xz" >"$work/vms/web01/web01-flat.vmdk"
  printf '.encoding = "UTF-8"\ndisplayName = "Web 01"\nscsi0.present = "TRUE"\nscsi0:0.present = "TRUE"\nscsi0:0.fileName = "web01.vmdk"\n' \
    >"$work/vms/web01/web01.vmx"
  printf '[[datastore]]\nname = "ds"\npath = "Z:%s"\n' "$work/vms" >"$work/vms/windows.toml"
}

# The program under one of VCB's names, which read the host's configuration alone.
vcb_name() {
  local name=$1 usual; shift
  usual=$(prefix)/drive_c/ProgramData/vcbmount
  mkdir -p "$usual"
  cp "$work/vms/windows.toml" "$usual/config.toml"
  cp "$exe" "$work/vms/$name"
  (cd "$work/vms" && timeout 120 "$cross" wine "$name" "$@") >"$work/said" 2>&1 || true
  cat "$work/said"
  rm -f "$work/vms/$name" "$usual/config.toml"
  grep -qF 'name:Web 01' "$work/said"
}

nothing_left() {
  run sessions >"$work/left" && [ ! -s "$work/left" ] && ! ls "$(prefix)/drive_c/mnt" 2>/dev/null
}

# Whoever reads our output through a pipe must see its end.
output_ends() {
  local said
  said=$(timeout 60 "$cross" wine "$exe" mount --vm vms/web01 --at X: 2>&1 || true)
  echo "$said"
  [ -n "$said" ]
}

prefix() { realpath "${VCB_WINDOWS_TOOLCHAIN:-$root/target/windows-toolchain}/wine"; }

# wine ends its services with the last program, so that one command starts and stops this one.
step_service() {
  "$cross" cargo build -q -p vcbmount
  # wine's services see another ProgramData than its programs.
  local logs=("$(prefix)/drive_c/ProgramData/vcbmount/service.log" "$(prefix)/drive_c/users/Public/vcbmount/service.log")
  expect "the program refuses to be a service by itself" exits 2 'service manager alone' __service
  rm -f "${logs[@]}"
  "$cross" wine sc create vcbmounttest binPath= "Z:$(echo "$exe" | tr / '\\') __service" >/dev/null 2>&1 || true
  expect "the service starts and stops" "$cross" wine cmd /c 'net start vcbmounttest && ping -n 5 127.0.0.1 >nul & net stop vcbmounttest'
  expect "it says in its log that it has started" grep -qhF 'the service has started' "${logs[@]}"
  expect "that it has cleaned up" grep -qhF 'cleaned up' "${logs[@]}"
  expect "and that it has ended in order" grep -qhF 'the service has ended' "${logs[@]}"
  "$cross" wine sc delete vcbmounttest >/dev/null 2>&1 || true
}

step_compare() {
  (cd "$root" && cargo build -q -p vcbmount && cargo build -q -p vcb-fixtures --example write_gallery)
  "$cross" cargo build -q -p vcbmount
  local code=0
  "$here/compare.sh" "$linux_target/debug/vcbmount" "$exe" "$linux_target/debug/examples/write_gallery" >"$work/compare" || code=$?
  grep -v '^[0-9a-f]\{64\} ' "$work/compare" || true
  passed=$((passed + $(tail -1 "$work/compare" | sed -n 's/^compare: \([0-9]*\) the same.*/\1/p')))
  if [ $code != 0 ]; then
    failed=$((failed + 1)) failures+=("compare.sh")
  fi
}

forget_winfsp
started=$SECONDS
for step in "${@:-lint unit adapter cli service compare}"; do
  for one in $step; do
    began=$SECONDS
    echo "$one:"
    "step_$one"
    echo "  $((SECONDS - began)) s"
  done
done
echo "windows tier: $passed passed, $failed failed, $skipped tests skipped, in $((SECONDS - started)) s"
if [ $failed != 0 ]; then
  printf 'failed: %s\n' "${failures[@]}"
  exit 1
fi
