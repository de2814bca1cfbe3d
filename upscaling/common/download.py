"""One file from the web: under a temporary name, checked by SHA-256, then moved into place. Standard library only.

A SHA-256 that its publisher does not state is recorded beside the file at its first download
(`NAME.sha256`, as sha256sum writes it) and holds from then on.
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

from upscaling.common.errors import UpscaleError
from upscaling.common.files import replacing

CHUNK = 1 << 20  # bytes
TIMEOUT = 30  # seconds without a byte
STALE = 24 * 3600  # seconds after which a killed download's temporary file is removed


class DownloadError(UpscaleError):
    """The file could not be fetched or is not what it should be; nothing is left of it. One line."""


def recorded_sum(path: Path) -> str | None:
    """The SHA-256 recorded beside `path`, or None."""
    try:
        return _record(path).read_text(encoding="ascii").split()[0]
    except (OSError, ValueError, IndexError):
        return None


def fetch(url: str, target: Path, expected: str | None, report: Callable[[int, int | None], None] | None = None) -> str:
    """Downloads `url` to `target` and returns its SHA-256; two processes may do so at once.

    `expected` is the hexadecimal SHA-256, or None to record what came. `report(done, total)` is called with
    bytes after each chunk (`total` None where the server does not say). Raises DownloadError.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target)
        with replacing(target, sync=True) as file:
            digest = _receive(url, file, report)
            if expected is not None and digest != expected:
                raise DownloadError(f"{url} is not the official file (SHA-256 {digest}, should be {expected})")
            if expected is None:
                _record(target).write_text(f"{digest}  {target.name}\n", encoding="ascii")
    except OSError as error:
        raise DownloadError(f"cannot write {target}: {error.strerror or error}") from error
    return digest


def bar(label: str) -> Callable[[int, int | None], None] | None:
    """A `report` for `fetch` that draws a bar on stderr, or None where stderr is no terminal."""
    if not sys.stderr.isatty():
        return None
    from tqdm import tqdm  # here, not above: most runs download nothing

    line = tqdm(desc=label, unit="B", unit_scale=True, unit_divisor=1024)

    def report(done: int, total: int | None) -> None:
        line.total = total
        line.update(done - line.n)
        if total is not None and done >= total:
            line.close()

    return report


def _receive(url: str, file, report) -> str:
    """Copies the answer to `url` into `file`; its SHA-256. DownloadError for whatever the network does."""
    digest, done = hashlib.sha256(), 0
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "upscale"})
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            length = answer.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
            while True:
                chunk = answer.read(CHUNK)
                if not chunk:
                    break
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                if report:
                    report(done, total)
    except urllib.error.HTTPError as error:
        error.close()
        raise DownloadError(f"{url} answers {error.code} {error.reason}") from error
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError, ValueError) as error:
        raise DownloadError(f"can't reach {url}: {getattr(error, 'reason', None) or error}") from error
    if total is not None and done != total:
        raise DownloadError(f"{url} broke off after {done} of {total} bytes; try again")
    return digest.hexdigest()


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _remove_stale(target: Path) -> None:
    """Removes temporary files that killed downloads of the same file left a day or more ago."""
    for old in target.parent.glob(f"{glob.escape(target.name)}.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > STALE:
                old.unlink()
