#!/bin/sh
# Installs what the benchmark of `volvelle serve` needs from Debian's packages: wrk makes the load, nginx is the peer.
#
#   bench/serve/setup.sh
#
# Safe to run again. Without root it only says what is missing; without nginx the benchmark does without a peer.
set -u

missing=
command -v wrk > /dev/null || missing="$missing wrk"
command -v nginx > /dev/null || [ -x /usr/sbin/nginx ] || missing="$missing nginx-light"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
  echo "setup: please install$missing" >&2
  exit 0
fi
echo "setup: installing$missing" >&2
# The package would start a server of its own otherwise.
[ -e /usr/sbin/policy-rc.d ] || { printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d; made=1; }
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing > /dev/null \
  || echo "setup: $missing could not be installed" >&2
[ -z "${made:-}" ] || rm -f /usr/sbin/policy-rc.d
exit 0
