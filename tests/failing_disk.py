"""The command on a disk that fails: FAILS=THREAD:FILE python tests/failing_disk.py INPUT OUTPUT SCALE …

The first read past the middle of the input by the thread of that name (decode, join; MainThread probes) fails with
EIO; FILE is then created, and later reads and runs succeed.
"""

import errno
import os
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))


class FailingFile:
    """A file whose first read past its middle fails."""

    def __init__(self, file):
        self.file = file
        self.middle = os.fstat(file.fileno()).st_size // 2
        self.thread, self.failed = os.environ["FAILS"].split(":", 1)

    def read(self, size: int) -> bytes:
        here = threading.current_thread().name == self.thread and self.file.tell() + size > self.middle
        if here and not os.path.exists(self.failed):
            Path(self.failed).touch()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self.file.read(size)

    def __getattr__(self, name: str):
        return getattr(self.file, name)


if __name__ == "__main__":
    from upscaling.demux import input_file

    real = input_file.InputFile.__init__

    def init(self, path):
        real(self, path)
        if os.path.samefile(path, sys.argv[1]):
            self._file = FailingFile(self._file)

    input_file.InputFile.__init__ = init
    from upscaling.cli import main

    sys.exit(main.main())
