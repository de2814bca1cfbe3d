#!/usr/bin/env bash
# Runs the README's set-up lines on a machine that has nothing but python3-venv: a minimal Debian in a folder.
#
#     sudo tests/fresh.sh bookworm      # Debian 12: Python 3.11, pip 23.0
#     sudo tests/fresh.sh trixie        # Debian 13: Python 3.13
#
# Needs root, debootstrap, git, about 8 GB of disk and a package index; takes some 10 minutes. It works on the
# committed state of this checkout. The machine is made in FRESH_DIR (a new temporary folder) and removed again.
# The pip settings, certificates and mirror of this machine are passed on: they say where packages come from.
set -euo pipefail
release=${1:?usage: tests/fresh.sh bookworm|trixie}
checkout=$(cd "$(dirname "$0")/.." && pwd)
machine=$(mktemp -d "${FRESH_DIR:-${TMPDIR:-/tmp}}/fresh-$release-XXXXXX")

cleanup() {
    umount "$machine/proc" "$machine/dev/shm" 2>/dev/null || true
    rm -rf --one-file-system "$machine"
}
trap cleanup EXIT

inside() { # a command in the machine, with an empty environment
    chroot "$machine" /usr/bin/env -i HOME=/root PATH=/usr/bin:/bin:/usr/sbin:/sbin "${settings[@]}" /bin/sh -ec "$1"
}

check() { # a command that must work there
    echo "--- $1"
    inside "cd /srv/upscale && . .venv/bin/activate && $1"
}

settings=()
while IFS= read -r line; do settings+=("$line"); done < <(env | grep -E '^(PIP_|SSL_CERT_|REQUESTS_CA|https?_proxy|no_proxy)' || true)

debootstrap --variant=minbase --include=python3-venv,ca-certificates "$release" "$machine" ${DEBIAN_MIRROR:-} >/dev/null
mount -t proc proc "$machine/proc"
mount -t tmpfs tmpfs "$machine/dev/shm"
for file in /etc/resolv.conf /etc/hosts /etc/ssl/certs/ca-certificates.crt /etc/xdg/pip/* /etc/pip.conf; do
    [ ! -f "$file" ] || install -D -m 644 "$(readlink -f "$file")" "$machine$file"
done
mkdir -p "$machine/srv/upscale"
git -C "$checkout" archive HEAD | tar -x -C "$machine/srv/upscale"
inside "cat /etc/debian_version; python3 --version; dpkg -l | grep -c '^ii'"

# The README's set-up is its first indented block: one command a line.
awk '/^    /{print substr($0, 5) " || exit 1"; found = 1; next} found {exit}' "$checkout/README.md" >"$machine/srv/readme.sh"
sed 's/^/--- /' "$machine/srv/readme.sh"
inside "cd /srv/upscale && . /srv/readme.sh; test -s out.mp4; pip --version"

check "pip list 2>/dev/null | grep -iE '^(realesrgan|spandrel|torch|ncnn|opencv-python) '; ! pip show --quiet basicsr 2>/dev/null"
check "python -c 'import cv2' 2>&1 | tail -n 1"  # what OpenCV's wheel lacks on a slim machine
check "python upscale.py elk.mp4 bigger.mp4 1.5 --frames 1:8 -q"
check "python upscale.py --list-devices && python upscale.py elk.mp4 second.mp4 2 --engine ncnn --frames 1:8 -q"
check "python upscale.py elk.mp4 sized.mkv 300x200 --frames 1:8 -q --compare compare.png && test -s compare.png"
check "python upscale.py elk.mp4 'frames_%03d.png' 2 --frames 1:3 -q && python upscale.py frames_001.png one.jpg 2 -q"
check "mkdir -p in done && mv frames_*.png elk.mp4 in && python upscale.py in done 2 -q --settle 0 && ls done"
check "python manifest.py --help >/dev/null && python worker.py --help >/dev/null"

echo "--- pip install . into an environment of its own, then from /"
packages='PYTHONPATH=$(echo /srv/upscale/.venv/lib/python3*/site-packages)'  # 5 GB need not be installed twice
inside "python3 -m venv /srv/other && cd / && $packages /srv/other/bin/pip install --quiet /srv/upscale"
inside "ls /srv/other/lib/python3*/site-packages | grep -i upscal"
inside "cd / && $packages /srv/other/bin/upscale /srv/upscale/in/elk.mp4 o.mp4 2 -q && ls -l o.mp4"
echo "fresh $release: all of it works"
