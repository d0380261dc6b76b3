#!/bin/sh
# Installs the peers of the engine benchmark, pinned, each into a folder of its own under TOOLS.
#
#   bench/engine/setup.sh [TOOLS] [PEER...]      default: target/bench/tools, and all of ninja dvc snakemake
#
# Safe to run again: what is there in its version stays. A peer that can't be installed is said and left out; the
# benchmark then reports it as not installed. GNU make comes from the system. n2 is on no package registry: build it
# from its repository and put the program at TOOLS/bin/n2, or do without it.
set -u

root=$(cd "$(dirname "$0")/../.." && pwd)
tools=${1:-$root/target/bench/tools}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- ninja dvc snakemake
python=${PYTHON:-python3}
mkdir -p "$tools" && tools=$(cd "$tools" && pwd) || exit 1

version_of() {
  case $1 in
    ninja) echo 1.13.0 ;;
    dvc) echo 3.67.1 ;;
    snakemake) echo 9.27.1 ;;
  esac
}

# The stamp is written last, so a half-made folder is made anew.
install() {
  peer=$1 version=$(version_of "$1") dest=$tools/$1
  [ -n "$version" ] || { echo "setup: unknown peer $peer; known: ninja dvc snakemake" >&2; exit 2; }
  [ "$(cat "$dest/installed" 2>/dev/null)" = "$version" ] && return 0
  echo "setup: installing $peer $version into $dest" >&2
  rm -rf "$dest"
  "$python" -m venv "$dest" \
    && "$dest/bin/pip" install --quiet --disable-pip-version-check "$peer==$version" \
    && echo "$version" > "$dest/installed"
}

for peer; do
  install "$peer" || echo "setup: $peer could not be installed; the benchmark will do without it" >&2
done
