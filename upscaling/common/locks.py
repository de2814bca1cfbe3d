"""Locks between processes: a lock file with its owner's pid, a claim on a file's name, and waiting for shared locks."""

import errno
import fcntl
import hashlib
import os
import socket
import struct
import time
from pathlib import Path

from upscaling.common.errors import BusyError

BUSY = "another run (pid {}) is writing this output; wait for it or stop it"
LOCK_SECONDS = 0.5  # --status holds the lock for a moment when it looks
RETRY_SECONDS = 0.02
# flock(2) on NFS needs a descriptor that is open for writing, which a directory's cannot be.
NO_DIRECTORY_LOCKS = (errno.EBADF, errno.ENOLCK, errno.EINVAL, errno.EOPNOTSUPP)


def lock_file(path: Path) -> int:
    """Lock a file, which is created if needed, and write this process's pid into it.

    The lock lasts until the returned descriptor is closed or the process ends. Raises BusyError with the owner's pid.
    """
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(lock)
            if time.monotonic() > deadline:
                raise BusyError(BUSY.format(pid)) from error
            time.sleep(RETRY_SECONDS)
            continue
        if _is_name_of(lock, path):  # else a run that has just ended removed the file between open and flock
            break
        os.close(lock)
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _is_name_of(fd: int, path: Path) -> bool:
    """Whether `path` is still the name of the open file `fd`."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def wait_for_shared_locks(directory: Path, seconds: float) -> bool:
    """Wait until no process holds a shared lock on a directory; return False if one still does after `seconds`.

    On a file system without locks on directories (NFS) it returns True at once.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    deadline = time.monotonic() + seconds
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return False
                time.sleep(RETRY_SECONDS)
            except OSError as error:
                if error.errno not in NO_DIRECTORY_LOCKS:
                    raise
                return True
    finally:
        os.close(fd)


def claim_name(path: Path) -> int:
    """Claim a file's name, which need not exist, until the returned descriptor is closed or this process ends.

    Raises BusyError with the owner's pid. Two runs for one output may have different work directories, and nothing
    may be created beside the output, so the claim is an abstract Unix socket (unix(7)): no file system shows it, and
    the kernel releases it.
    """
    place = Path(os.path.realpath(path))
    folder = os.stat(place.parent) if place.parent.is_dir() else None
    key = (folder.st_dev, folder.st_ino, os.fsencode(place.name)) if folder else os.fsencode(place)
    address = b"\0upscale-" + hashlib.sha256(repr(key).encode()).hexdigest().encode()
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(address)
        claim.listen(128)
        return claim.detach()
    except OSError as error:
        claim.close()
        raise BusyError(BUSY.format(_owner(address))) from error


def _owner(address: bytes) -> int | str:
    """The pid of the process that listens on a Unix socket (SO_PEERCRED)."""
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        try:
            client.connect(address)
            return struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        except OSError:
            return "unknown"
