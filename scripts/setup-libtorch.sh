#!/usr/bin/env bash
# Puts a project-local libtorch 2.11.0 into .libtorch/, so that plain cargo build, test and run work.
#
#   scripts/setup-libtorch.sh                  the first source below that works
#   scripts/setup-libtorch.sh --from SOURCE    that source alone: installed, wheels or archive
#   scripts/setup-libtorch.sh --python PY      look for an installed PyTorch in PY, not in python3
#   scripts/setup-libtorch.sh --check          verify what is there: version, checksums, load and link
#
#   LIBTORCH            already set: it is checked and used, and nothing is touched
#   LIBTORCH_DIR        put it elsewhere (default: .libtorch in the project)
#   LIBTORCH_WHEEL_DIR  a folder with wheels that were downloaded before (offline use)
#   LIBTORCH_ARCHIVE    path or URL of the official zip archive (default: download.pytorch.org)
#
# The sources, in this order:
#   installed  PyTorch 2.11.0 of the interpreter: symbolic links to its libraries and headers, nothing is downloaded.
#   wheels     From PyPI: 544 MB downloaded, 0.5 GB kept. PyPI has no CPU-only PyTorch for Linux x86_64; its wheel is
#              the CUDA 13 build, whose libtorch_cpu.so needs two small NVIDIA libraries and works without driver or
#              GPU. The rest of the wheel is dropped. Each file is checked against the SHA-256 below, whoever serves it.
#   archive    The official CPU archive, about 200 MB. It has no published checksum: the zip's own CRCs, its
#              build-version and the load check are what is verified. Only for when PyPI fails: where this script was
#              written the address could not be reached, so this path was tried with a local archive of that layout.
#
# tch 0.24 is written for libtorch 2.11.0 exactly and its build script refuses any other version.
# Safe to run again (it returns at once), to interrupt, and to run twice at the same time: everything is made in a
# temporary folder that is renamed into place after it was shown to link and load.
set -euo pipefail

version=2.11.0
wheels=(
  "torch==$version 0f68f4ac6d95d12e896c3b7a912b5871619542ec54d3649cf48cc1edd4dd2756"   # cp312, manylinux_2_28_x86_64
  "nvidia-cuda-runtime==13.0.96 7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548"
  "nvidia-cuda-cupti==13.0.85 4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8"
)
archive=${LIBTORCH_ARCHIVE:-https://download.pytorch.org/libtorch/cpu/libtorch-shared-with-deps-$version%2Bcpu.zip}
recipe=1                                  # raised when what this script makes changes: the next run makes it anew

scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$scripts")
dest=${LIBTORCH_DIR:-$root/.libtorch}
python=${PYTHON:-python3}
from=
check=

say() { printf 'setup-libtorch: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }
usage() { sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
parts() { "$python" "$scripts/libtorch_parts.py" "$@"; }

while [ $# -gt 0 ]; do
  case $1 in
    --from) from=${2:-}; shift 2 || die "--from needs installed, wheels or archive"
            case $from in installed|wheels|archive) ;; *) die "unknown source '$from'; known: installed, wheels, archive" ;; esac ;;
    --python) python=${2:-}; [ -n "$python" ] || die "--python needs an interpreter"; shift 2 ;;
    --check) check=1; shift ;;
    -h|--help) usage; exit 0 ;;
    *) die "unknown argument '$1'; see --help" ;;
  esac
done

# --- what a build needs besides libtorch -------------------------------------------------------------------------
cxx=${CXX:-c++}
command -v "${cxx%% *}" >/dev/null ||
  die "no C++ compiler ($cxx): install one (Debian, Ubuntu: apt-get install g++), or name one in CXX"
command -v cargo >/dev/null || say "warning: no cargo on PATH: install Rust from https://rustup.rs before building"

# Prints the version of a libtorch folder: "2.11.0+cpu".
version_of() {
  if [ -f "$1/build-version" ]; then tr -d '[:space:]' < "$1/build-version"
  elif [ -f "$1/include/torch/version.h" ]; then
    sed -n 's/^#define TORCH_VERSION "\(.*\)"$/\1/p' "$1/include/torch/version.h"
  fi
}

# Shows that a program links against folder $1 and starts with every symbol resolved; else prints why not.
# The function that it calls has the C++11 string in its name, so a libtorch with the old ABI is found out as well.
links_and_loads() {
  local work out
  work=$(mktemp -d) || return 1
  cat > "$work/probe.cpp" <<'CPP'
#include <string>
namespace at { std::string get_parallel_info(); }
int main() { return at::get_parallel_info().empty(); }
CPP
  # shellcheck disable=SC2086  # CXX may hold options
  if out=$($cxx "$work/probe.cpp" -o "$work/probe" -L"$1/lib" -ltorch -ltorch_cpu -lc10 -Wl,-rpath,"$1/lib" 2>&1) &&
     out=$(env -u LD_LIBRARY_PATH LD_BIND_NOW=1 "$work/probe" 2>&1); then
    rm -rf "$work"; return 0
  fi
  rm -rf "$work"; printf '%s\n' "${out:-the probe failed without a message}" | tail -n 3; return 1
}

# Says what is wrong with folder $1 as a libtorch of our version, or nothing.
fault_of() {
  local v
  [ -d "$1" ] || { echo "$1 is not a folder"; return; }
  v=$(version_of "$1")
  [ -n "$v" ] || { echo "$1 has no build-version and no include/torch/version.h: is it a libtorch?"; return; }
  if [ "${v%%+*}" != "$version" ] && ! { [ -n "${LIBTORCH_BYPASS_VERSION_CHECK:-}" ] && [[ $v == "${version%.*}".* ]]; }; then
    echo "$1 is libtorch $v; $version is needed"; return
  fi
  local f
  for f in lib/libtorch_cpu.so lib/libc10.so include/torch/csrc/api/include/torch/torch.h; do
    [ -e "$1/$f" ] || { echo "$1/$f is missing"; return; }
  done
}

# --- a LIBTORCH that is already set ------------------------------------------------------------------------------
if [ -n "${LIBTORCH:-}" ] && [ "$(realpath -m "$LIBTORCH")" != "$(realpath -m "$dest")" ]; then
  fault=$(fault_of "$LIBTORCH")
  [ -z "$fault" ] || die "LIBTORCH is set, and cargo would use it, but $fault; correct it, or unset LIBTORCH"
  if [ -n "$check" ]; then
    reason=$(links_and_loads "$LIBTORCH") || die "LIBTORCH=$LIBTORCH does not link and load: $reason"
  fi
  say "LIBTORCH is set: using $LIBTORCH ($(version_of "$LIBTORCH")); $dest is not touched"
  exit 0
fi

if [ -n "$check" ]; then
  fault=$(fault_of "$dest")
  [ -z "$fault" ] || die "$fault; run $0"
  if [ -f "$dest/SHA256SUMS" ]; then
    (cd "$dest" && sha256sum --quiet -c SHA256SUMS >&2) || die "files in $dest are damaged; rm -r $dest and run $0"
  fi
  reason=$(links_and_loads "$dest") || die "$dest does not link and load: $reason; rm -r $dest and run $0"
  say "$dest is in order: $(cat "$dest/.stamp" 2>/dev/null || version_of "$dest")"
  exit 0
fi

# The stamp's first words say what is there; the parts that matter must still be there too, because links can dangle.
up_to_date() {
  local stamp
  stamp=$(cat "$dest/.stamp" 2>/dev/null) || return 1
  [[ $stamp == "torch-$version-"*" recipe-$recipe" ]] && [ -z "$(fault_of "$dest")" ]
}
if [ -z "$from" ] && up_to_date; then
  say "$dest is up to date ($(cat "$dest/.stamp"))"
  exit 0
fi

# --- one set-up at a time, and nothing left of those that were interrupted ---------------------------------------
command -v "$python" >/dev/null || die "$python is needed to fetch libtorch (Debian, Ubuntu: apt-get install python3 python3-pip)"
parent=$(dirname "$dest")
mkdir -p "$parent"
if command -v flock >/dev/null; then
  exec 9<"$parent"
  flock -n 9 || { say "another set-up is at work here; waiting for it"; flock 9; }
  if [ -z "$from" ] && up_to_date; then say "$dest is up to date ($(cat "$dest/.stamp"))"; exit 0; fi
  for old in "$parent"/.libtorch-tmp.*; do
    [ -e "$old" ] || continue
    say "removing $old, left by an interrupted set-up"
    rm -rf "$old"
  done
fi
tmp=$(mktemp -d "$parent/.libtorch-tmp.XXXXXX")
ticker=
trap '[ -z "$ticker" ] || kill "$ticker" 2>/dev/null; rm -rf "$tmp"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
out=$tmp/out
reasons=()

# Puts the finished $out in place under stamp words $1, or says why it can't be used.
install_out() {
  local reason fault
  printf '/* GNU ld script: the C++ library without CUDA stands in for libtorch.so */\nINPUT(libtorch_cpu.so)\n' > "$out/lib/libtorch.so"
  fault=$(fault_of "$out")
  [ -z "$fault" ] || { fail "${fault//$out\//}"; return 1; }
  reason=$(links_and_loads "$out") || { fail "it does not link and load here: $reason"; return 1; }
  printf 'torch-%s-%s recipe-%s\n' "$version" "$1" "$recipe" > "$out/.stamp"
  rm -rf "$dest"
  mv "$out" "$dest"
  say "done: $dest is libtorch $(version_of "$dest"), $1 ($(du -sh "$dest" | cut -f1))"
  [ "$dest" = "$root/.libtorch" ] || say "cargo looks in $root/.libtorch: build with LIBTORCH=$dest"
  exit 0
}
fail() { reasons+=("$source_name: $*"); say "$source_name: $*"; rm -rf "$out"; }

try_installed() {
  local found dir found_version
  found=$(parts find-installed) || { fail "$(command -v "$python") has no PyTorch"; return; }
  found_version=${found%%$'\t'*}; dir=${found#*$'\t'}
  [ "${found_version%%+*}" = "$version" ] ||
    { fail "$(command -v "$python") has PyTorch $found_version, but $version is needed"; return; }
  say "linking to PyTorch $found_version in $dir"
  parts link "$dir" "$out" || { fail "could not be linked to"; return; }
  printf '%s\n' "$found_version" > "$out/build-version"
  install_out "linked"
}

try_wheels() {
  local entry spec hash name path bar=off
  local -a have=() lines=()
  [ "$(uname -sm)" = "Linux x86_64" ] || { fail "PyPI's wheels are used on Linux x86_64 only, this is $(uname -sm)"; return; }
  for entry in "${wheels[@]}"; do
    spec=${entry% *}; hash=${entry#* }; name=${spec%%==*}; name=${name//-/_}
    path=
    if [ -n "${LIBTORCH_WHEEL_DIR:-}" ]; then
      path=$(parts pick-wheel "$LIBTORCH_WHEEL_DIR" "$name" "${spec#*==}" "$hash") || path=
    fi
    if [ -n "$path" ]; then have+=("$path"); else lines+=("$spec --hash=sha256:$hash"); fi
  done
  mkdir -p "$tmp/wheels" "$tmp/pip"
  if [ ${#lines[@]} -gt 0 ]; then
    "$python" -m pip --version >/dev/null 2>&1 ||
      { fail "$python has no pip (Debian, Ubuntu: apt-get install python3-pip)"; return; }
    printf '%s\n' "${lines[@]}" > "$tmp/requirements.txt"
    say "downloading from PyPI: $(printf '%s, ' "${lines[@]%% *}" | sed 's/, $//') (544 MB in all)"
    if [ -t 2 ]; then bar=on; else tick 9<&- & ticker=$!; fi   # without the lock's descriptor
    # No cache: pip must not keep a second copy of a 531 MB wheel in the home folder.
    if ! TMPDIR=$tmp/pip "$python" -m pip download --disable-pip-version-check --no-cache-dir --no-deps \
        --require-hashes --progress-bar "$bar" --only-binary=:all: --implementation cp --python-version 3.12 \
        --abi cp312 --abi none --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
        -r "$tmp/requirements.txt" -d "$tmp/wheels" >&2; then
      fail "pip could not download the wheels, or they did not have the expected checksums (see above)"; return
    fi
    [ -z "$ticker" ] || { kill "$ticker" 2>/dev/null || true; ticker=; }
    have+=("$tmp"/wheels/*.whl)
  fi
  say "unpacking"
  parts unpack-wheels "$out" "${have[@]}" || { fail "the wheels could not be unpacked"; return; }
  rm -rf "$tmp/wheels"
  printf '%s+cpu\n' "$version" > "$out/build-version"
  install_out "cpu-from-cu130"
}

# Prints how much has arrived, every 15 seconds: pip has no progress for a pipe.
tick() { while sleep 15; do say "  $(du -sm "$tmp" | cut -f1) MB so far"; done; }

try_archive() {
  [ "$(uname -sm)" = "Linux x86_64" ] || { fail "the official archive is for Linux x86_64, this is $(uname -sm)"; return; }
  say "fetching the official archive $archive (about 200 MB)"
  parts fetch "$archive" "$tmp/libtorch.zip" || { fail "the archive could not be fetched (see above)"; return; }
  say "unpacking"
  parts unpack-archive "$out" "$tmp/libtorch.zip" || { fail "the archive could not be unpacked (see above)"; return; }
  rm -f "$tmp/libtorch.zip"
  install_out "cpu-archive"
}

for source_name in ${from:-installed wheels archive}; do
  "try_$source_name" || true
done
say "error: no libtorch $version could be obtained:"
for reason in "${reasons[@]}"; do printf '  - %s\n' "$reason" >&2; done
say "get one by hand (https://pytorch.org/get-started/locally, LibTorch $version) and set LIBTORCH to its folder"
exit 1
