"""File systems that a test machine does not have, by patched calls: without locks, without owners and modes, NFS."""

import errno
import fcntl
import os
import stat
from pathlib import Path


def simulate(kind: str) -> None:
    """Patch this process: `flock_ENOLCK` and so on, `no_modes`, `nfs`, `no_listing`; nothing for other kinds."""
    if kind.startswith("flock_"):
        fcntl.flock = fail_with(getattr(errno, kind.removeprefix("flock_")))
    elif kind == "no_modes":
        no_modes()
    elif kind == "nfs":
        nfs()
    elif kind == "no_listing":
        no_listing()


def fail_with(number: int):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail


def no_modes() -> None:
    """Every directory belongs to somebody else, and all may write to it."""
    real = os.lstat

    def lstat(path, **options):
        info = real(path, **options)
        values = list(info)
        if stat.S_ISDIR(info.st_mode):
            values[0], values[4] = info.st_mode | 0o777, 12345
        return os.stat_result(values)

    os.lstat = lstat


def no_listing() -> None:
    """Folders named `sub` cannot be listed."""
    real = os.scandir

    def scandir(path="."):
        if os.path.basename(os.fspath(path)) == "sub":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path)

    os.scandir = scandir


def nfs() -> None:
    """A removed file that a process has open stays as .nfs…, in a directory that cannot be removed then.

    Only logs and locks are looked at: others are closed before they are removed.
    """
    real_unlink, real_rmdir = os.unlink, os.rmdir

    def unlink(path, *, dir_fd=None):
        name = os.path.basename(os.fspath(path))
        if name == "lock" or name.endswith(".log"):
            info = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
            if is_open(info):
                hidden = os.path.join(os.path.dirname(path), f".nfs{info.st_ino:016x}")
                os.rename(path, hidden, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
                return
        real_unlink(path, dir_fd=dir_fd)

    def rmdir(path, *, dir_fd=None):
        for entry in Path(path).glob(".nfs*"):
            if not is_open(entry.stat()):
                real_unlink(entry)
        real_rmdir(path, dir_fd=dir_fd)

    os.unlink = os.remove = unlink
    os.rmdir = rmdir


def is_open(info: os.stat_result) -> bool:
    """Whether any process has a file open."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.path.samestat(link.stat(), info):
                return True
        except OSError:
            continue
    return False
