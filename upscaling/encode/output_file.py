"""A file that a muxer writes to: its first error is kept until asked for, and a closed file is on the disk."""

import os
from pathlib import Path

from upscaling.common.files import create_file


class OutputFile:
    """A writable, seekable file for `av.open(file, "w", …)`.

    libavformat ignores write errors (a full disk shows as a truncated file only), and PyAV prints a second one
    to stderr. So no method that PyAV calls ever raises; `check` raises the first error instead.
    """

    def __init__(self, target: Path | int) -> None:
        """`target`: the name of a temporary file, which is created, or a descriptor of an unnamed one."""
        # libavformat opens the file by its name to read back what it wrote (mp4 with faststart)
        self.name = f"/proc/self/fd/{target}" if isinstance(target, int) else os.path.abspath(target)
        self._file = os.fdopen(os.dup(target) if isinstance(target, int) else create_file(target), "wb", buffering=0)
        self._file.seek(0)
        self._file.truncate()
        self._error: OSError | None = None

    @property
    def closed(self) -> bool:
        return self._file.closed

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        while view and self._error is None:
            try:
                view = view[self._file.write(view) :]
            except OSError as error:
                self._error = error
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except OSError as error:
            self._error = self._error or error
            return offset

    def tell(self) -> int:
        return self._file.tell()

    def check(self) -> None:
        """OSError if anything written so far did not reach the file."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Waits until everything is on the disk; OSError if it can't be."""
        if self._file.closed:
            return
        try:
            self.check()
            os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def abandon(self) -> None:
        """Closes the file without waiting or raising: its content is of no use."""
        self._file.close()
