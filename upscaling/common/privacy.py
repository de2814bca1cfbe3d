"""Whether a work directory is private to its user, as far as its file system knows owners and modes."""

import os
import secrets
import stat
from pathlib import Path

from upscaling.common.errors import InputError


def check_private(directory: Path) -> bool:
    """Raise InputError unless `directory` is a directory (no link) of this user that nobody else may write to.

    Return False if that cannot be checked, because its file system has no owners or modes of its own.
    """
    info = os.lstat(directory)
    if not stat.S_ISDIR(info.st_mode):
        kind = "a link" if stat.S_ISLNK(info.st_mode) else "not a directory"
        raise InputError(f"work directory {directory} is {kind}; remove it or choose another --work-dir")
    if info.st_uid == os.geteuid() and not info.st_mode & 0o022:
        return True
    try:
        if not honours_modes(directory):
            return False
    except OSError:
        pass  # not ours to write to
    if info.st_uid != os.geteuid():
        raise InputError(f"work directory {directory} belongs to another user; choose another --work-dir")
    raise InputError(f"others may write to work directory {directory}; run chmod go-w on it, or remove it")


def honours_modes(directory: Path) -> bool:
    """Whether the file system of a directory keeps owners and modes, tried with a directory that is removed again.

    NTFS, FAT and SMB mounts give all files one owner and mode; NFS may give root's files to nobody (root_squash).
    """
    probe = directory / f"probe.{secrets.randbits(64)}.tmp"
    os.mkdir(probe, 0o700)
    try:
        info = os.lstat(probe)
    finally:
        os.rmdir(probe)
    return info.st_uid == os.geteuid() and not info.st_mode & 0o022
