#!/bin/sh
# Makes sure that the browser tests find a Chromium: installs Debian's package when absent and allowed to.
set -eu
for name in chromium chromium-browser google-chrome google-chrome-stable; do
    if command -v "$name" >/dev/null 2>&1; then exit 0; fi
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing Chromium for the browser tests."
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >/dev/null
    apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null
    exit 0
fi
echo "No Chromium was found, so the browser tests cannot run. Install it: 'sudo apt-get install chromium'," >&2
echo "or Google Chrome, then run this again. The other tests: pytest -m 'not browser and not slow and not gpu'" >&2
exit 1
