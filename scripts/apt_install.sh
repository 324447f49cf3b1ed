#!/bin/sh
# Install packages of Debian or Ubuntu, for the Makefile.
#
#     scripts/apt_install.sh cp2k libopenblas0-pthread
#
# A machine that has just booted updates itself: what it locks is waited for, up to APT_WAIT_S
# seconds. Exits 2 and says why where nothing can be installed.
set -u
wait_s=${APT_WAIT_S:-900}

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "Not installed: that takes root, and apt of Debian or Ubuntu. By hand: sudo apt-get install $*"
  exit 2
fi
export DEBIAN_FRONTEND=noninteractive SYSTEMD_OFFLINE=1 RUNLEVEL=1 # no daemon is started
echo "Installing from Debian: $*"
waited=0
while :; do
  # The lock of apt's lists is not waited for by apt itself.
  output=$(apt-get -o DPkg::Lock::Timeout="$wait_s" update -qq 2>&1 &&
    apt-get -o DPkg::Lock::Timeout="$wait_s" install -y -qq --no-install-recommends "$@" 2>&1) && exit 0
  case $output in
    *"Could not get lock"* | *"Unable to lock"*) ;;
    *) break ;;
  esac
  [ "$waited" -lt "$wait_s" ] || break
  [ "$waited" = 0 ] && echo "apt is at work for someone else; waiting for its lock, up to $wait_s s"
  sleep 5
  waited=$((waited + 5))
done
echo "$output"
echo "apt could not install: $*"
exit 2
