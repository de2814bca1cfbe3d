"""Download one file: received under a temporary name, verified by SHA-256, then renamed. Standard library only.

If the publisher states no SHA-256, that of the first download is recorded beside the file (`NAME.sha256`, in the
format of sha256sum) and used from then on.
"""

import contextlib
import glob
import hashlib
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

from upscaling.common.errors import UpscaleError
from upscaling.common.files import replace_file, replacing

CHUNK = 1 << 20  # bytes
TIMEOUT = 30  # seconds without data
STALE = 24 * 3600  # seconds after which the temporary file of a killed download is removed


class DownloadError(UpscaleError):
    """The download failed or is not the expected file; nothing of it is kept. The message is one line."""


def recorded_sum(path: Path) -> str | None:
    """The SHA-256 recorded beside `path`; None if there is no record."""
    try:
        return _record(path).read_text(encoding="ascii").split()[0]
    except (OSError, ValueError, IndexError):
        return None


def fetch(url: str, target: Path, expected: str | None, report: Callable[[int, int | None], None] | None = None) -> str:
    """Download `url` to `target` and return its SHA-256 in hexadecimal; several processes may do so at once.

    `expected` is the SHA-256 of the file, or None to record that of the download. `report(done, total)` is called
    after each chunk, in bytes; `total` is None if the server does not state it. Raises DownloadError.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target)
        with replacing(target, sync=True) as file:
            digest = _receive(url, file, report)
            if expected is not None and digest != expected:
                raise DownloadError(f"{url} is not the official file (its SHA-256 is {digest}, not {expected})")
            if expected is None:
                replace_file(_record(target), f"{digest}  {target.name}\n")
    except OSError as error:
        raise DownloadError(f"cannot write {target}: {error.strerror or error}") from error
    return digest


def bar(label: str) -> Callable[[int, int | None], None] | None:
    """A `report` for `fetch` that draws a bar on stderr; None if stderr is not a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        return None
    from tqdm import tqdm  # most runs download nothing

    line = tqdm(desc=label, unit="B", unit_scale=True, unit_divisor=1024)

    def report(done: int, total: int | None) -> None:
        line.total = total
        line.update(done - line.n)
        if total is not None and done >= total:
            line.close()

    return report


def _receive(url: str, file: BinaryIO, report: Callable[[int, int | None], None] | None) -> str:
    """Copy the response to `url` into `file`; its SHA-256. DownloadError for every error of the network."""
    digest, done = hashlib.sha256(), 0
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "upscale"})
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
            while True:
                chunk = response.read(CHUNK)
                if not chunk:
                    break
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                if report:
                    report(done, total)
    except urllib.error.HTTPError as error:
        error.close()
        raise DownloadError(f"cannot download {url}: HTTP status {error.code} {error.reason}") from error
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError, ValueError) as error:
        raise DownloadError(f"cannot reach {url}: {getattr(error, 'reason', None) or error}") from error
    if total is not None and done != total:
        raise DownloadError(f"the download of {url} ended after {done} of {total} bytes; try again")
    return digest.hexdigest()


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _remove_stale(target: Path) -> None:
    """Remove temporary files that killed downloads of the same file left a day or more ago."""
    for old in target.parent.glob(f"{glob.escape(target.name)}.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > STALE:
                old.unlink()
