"""Locks between processes: a lock file with its owner's pid, a claim on a file's name, and waiting for shared locks."""

import errno
import fcntl
import hashlib
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

from upscaling.common.errors import BusyError

BUSY = "another run (pid {}) is writing this output; wait for it or stop it"
LOCK_SECONDS = 0.5  # --status holds the lock for a moment when it looks
RETRY_SECONDS = 0.02
# A file system without locks: Lustre without -o flock, NFS without a lock daemon, some of SMB and FUSE. EBADF: flock(2)
# on NFS needs a descriptor that is open for writing, which a directory's cannot be.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)


def try_lock(fd: int, operation: int) -> bool | None:
    """Lock an open file (flock(2), LOCK_EX or LOCK_SH) if nobody holds it; None if its file system has no locks."""
    try:
        fcntl.flock(fd, operation | fcntl.LOCK_NB)
        return True
    except BlockingIOError:  # EWOULDBLOCK: the only error that means another owner
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return None


def lock_file(path: Path, without: Callable[[], None] = lambda: None) -> int:
    """Lock a file, which is created if needed, and write this process's pid into it.

    The lock lasts until the returned descriptor is closed or the process ends. Raises BusyError with the owner's pid.
    On a file system that has no locks the file is not locked, and `without` is called.
    """
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            locked = try_lock(lock, fcntl.LOCK_EX)
            pid = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
            current = _is_name_of(lock, path)  # else a run that has just ended removed the file between open and flock
        except BaseException:
            os.close(lock)
            raise
        if locked is not False and current:
            break
        os.close(lock)
        if locked is False:
            if time.monotonic() > deadline:
                raise BusyError(BUSY.format(pid))
            time.sleep(RETRY_SECONDS)
    if locked is None:
        without()
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

    On a file system without locks on directories it returns True at once.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    deadline = time.monotonic() + seconds
    try:
        while try_lock(fd, fcntl.LOCK_EX) is False:
            if time.monotonic() > deadline:
                return False
            time.sleep(RETRY_SECONDS)
        return True
    finally:
        os.close(fd)


def claim_name(path: Path) -> int:
    """Claim a file's name, which need not exist, until the returned descriptor is closed or this process ends.

    Raises BusyError with the owner's pid; returns -1 if the system allows no such socket. Two runs for one output may
    have different work directories, and nothing may be created beside the output, so the claim is an abstract Unix
    socket (unix(7)): no file system shows it, and the kernel releases it.
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
        if error.errno == errno.EADDRINUSE:
            raise BusyError(BUSY.format(_owner(address))) from error
        return -1


def _owner(address: bytes) -> int | str:
    """The pid of the process that listens on a Unix socket (SO_PEERCRED)."""
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        try:
            client.connect(address)
            return struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        except OSError:
            return "unknown"
