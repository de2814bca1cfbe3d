"""Files put in place whole, synced to the disk, and removed by name only; no link is followed."""

import errno
import hashlib
import os
import re
import stat
from collections.abc import Container
from pathlib import Path


def file_sha256(path: Path) -> str:
    """SHA-256 of a whole file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sync_directory(directory: Path) -> None:
    """Make renames within a directory survive a power cut."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return  # it may be written to, but not read
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that syncs no directories
            raise
    finally:
        os.close(fd)


def replace_file(path: Path, text: str) -> None:
    """Put a text file in place whole, and on the disk before this returns."""
    temporary = path.with_name(path.name + ".tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        write_all(fd, text.encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(temporary, path)
    sync_directory(path.parent)


def write_all(fd: int, data: bytes) -> None:
    """os.write until all of it is written."""
    while data:
        data = data[os.write(fd, data) :]


def is_same_file(fd: int, path: Path) -> bool:
    """Whether `path` is still the name of the open file `fd`."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def remove_files(directory: Path, folder: str, pattern: str, keep: Container[str] = ()) -> None:
    """Unlink the files of `directory/folder` whose whole name matches; a folder that is a link is left alone."""
    try:
        fd = os.open(directory / folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        for name in os.listdir(fd):
            if name in keep or not re.fullmatch(pattern, name):
                continue
            try:
                if not stat.S_ISDIR(os.lstat(name, dir_fd=fd).st_mode):
                    os.unlink(name, dir_fd=fd)
            except FileNotFoundError:
                pass  # gone already
    finally:
        os.close(fd)


def remove_empty(directory: Path) -> bool:
    """Remove a directory; False where it can't be, because it is not empty."""
    try:
        os.rmdir(directory)
    except OSError:
        return False
    return True


HASHED_ENDS = 1 << 20  # bytes at each end of the input that identify it


def file_identity(path: Path) -> dict:
    """Size, modification time (ns) and SHA-256 of the first and last MiB of a file."""
    with path.open("rb") as file:
        info = os.fstat(file.fileno())
        digest = hashlib.sha256(file.read(HASHED_ENDS))
        file.seek(max(0, info.st_size - HASHED_ENDS))
        digest.update(file.read(HASHED_ENDS))
    return {"size": info.st_size, "mtime_ns": info.st_mtime_ns, "sha256_of_ends": digest.hexdigest()}
