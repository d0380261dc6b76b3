#!/bin/sh
# Installs the peers of the model benchmark, pinned, into one virtual environment.
#
#   bench/lm/setup.sh [VENV]      default: target/bench/tools/lm
#
# Some 3 GB are downloaded: PyPI's PyTorch for Linux brings its CUDA libraries. Safe to run again.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
venv=${1:-$root/target/bench/tools/lm}
packages="torch==2.11.0 transformers==5.23.0 peft==0.21.2 trl==1.16.0"

[ "$(cat "$venv/installed" 2>/dev/null)" = "$packages" ] && exit 0
echo "setup: installing $packages into $venv" >&2
rm -rf "$venv"
"${PYTHON:-python3}" -m venv "$venv"
# shellcheck disable=SC2086  # a list of packages
"$venv/bin/pip" install --quiet --disable-pip-version-check $packages
echo "$packages" > "$venv/installed"
