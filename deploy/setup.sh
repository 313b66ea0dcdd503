#!/usr/bin/env bash
# Makes .venv with the project and the given extras ("worker", "worker,dev"); does nothing where that is done.
# With "dev" it also installs the Debian packages of the real peers that tests talk to.
set -euo pipefail
cd "$(dirname "$0")/.."

extras=${1:?extras, e.g. worker,dev}
python=${PYTHON:-python3}
peers=(chromium dcmtk dicom3tools fonts-dejavu-core libpixelmed-java orthanc orthanc-dicomweb pixelmed-apps poppler-utils postgresql redis-server strace)

have_peers() {
    command -v Orthanc storescu dciodvfy redis-server chromium strace pdftotext >/dev/null &&
        ls /usr/lib/postgresql/*/bin/initdb /usr/share/java/pixelmed.jar /usr/share/orthanc/plugins/libOrthancDicomWeb.so >/dev/null 2>&1
}

install_peers() {
    local missing="apt-get install -y --no-install-recommends ${peers[*]}"
    if [ "$(id -u)" != 0 ]; then
        echo "The tests that talk to real peers are skipped; to run them: sudo $missing" >&2
        return
    fi
    # Tests start their own servers on free ports; the packages' services must not take the usual ones.
    local policy=/usr/sbin/policy-rc.d made=
    if [ ! -e $policy ]; then printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && made=yes; fi
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive $missing
    if [ -n "$made" ]; then rm -f $policy; fi
}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed; name it: make PYTHON=/path/to/python3.11 ..." >&2
    exit 1
}
[[ $extras != *dev* ]] || have_peers || install_peers

stamp=.venv/.installed-${extras//,/-}
wanted=$(cat pyproject.toml constraints.txt deploy/setup.sh | sha256sum)
[ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || exit 0

if ! [ -x .venv/bin/pip ]; then
    "$python" -m venv .venv || {
        echo "venv is missing: apt-get install -y python3-venv" >&2
        exit 1
    }
fi
.venv/bin/pip install --quiet --upgrade pip
torch=$(grep '^torch==' constraints.txt)
.venv/bin/python -c 'import torch' 2>/dev/null || .venv/bin/pip install --quiet "$torch"
.venv/bin/pip install --quiet --constraint constraints.txt --editable ".[$extras]"
echo "$wanted" >"$stamp"
