"""Files: atomic replacement, synced writes, checksums, and removal by pattern; no link is followed."""

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import stat
import zlib
from collections.abc import Collection, Container, Iterator
from pathlib import Path
from typing import BinaryIO

NFS_NAME = r"\.nfs[0-9a-f]+"  # NFS's name for a removed file that a process has open; it goes when that closes it
HASHED_ENDS = 1 << 20  # bytes at each end of a file that identify it
MAX_NAME = 255  # bytes of a file name (NAME_MAX of limits.h on Linux)


def file_sha256(path: Path) -> str:
    """SHA-256 of a whole file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fitting_name(name: str, ending: str) -> str:
    """`name` + `ending`; if that is too long for a file name, `name` is cut and a hash of all of it added."""
    data = os.fsencode(name)
    room = MAX_NAME - len(os.fsencode(ending))
    if len(data) <= room:
        return name + ending
    digest = hashlib.sha256(data).hexdigest()[:16]
    return data[: room - len(digest) - 1].decode("utf-8", "ignore") + f"~{digest}{ending}"


# Writing


def create_file(path: Path) -> int:
    """A descriptor of a new empty file, to read and write; whatever had its name is removed, and no link is followed.

    For names that only this program gives: a file of such a name is what a killed run has left.
    """
    path.unlink(missing_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


@contextlib.contextmanager
def replacing(path: Path, *, sync: bool = False, temporary: Path | None = None) -> Iterator[BinaryIO]:
    """A new file to write to; it replaces `path` at the end of the block, and an exception leaves `path` as it was.

    `sync` waits until the data is on the disk (fsync) before the rename; the rename itself is only durable after
    `sync_directory`. The temporary file is in the same directory, see `create_file`. By default its name is
    unique: NAME.DIGITS.tmp. A caller that is the only writer of `path` may name it instead.
    """
    temporary = temporary or path.with_name(fitting_name(path.name, f".{secrets.randbits(64)}.tmp"))
    fd = create_file(temporary)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(fd)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def replace_file(path: Path, text: str) -> None:
    """Replace a text file atomically; it is on the disk when this returns."""
    with replacing(path, sync=True) as file:
        file.write(text.encode())
    sync_directory(path.parent)


def append_synced(path: Path, text: str) -> None:
    """Append to a text file, which is made if it does not exist; on the disk when this returns."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    data = text.encode()
    try:
        while data:  # one write, unless the disk is full: other processes may append at the same time
            data = data[os.write(fd, data) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_directory(directory: Path) -> None:
    """Make renames within a directory survive a power cut."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return  # write permission alone is enough to rename, but not to sync
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP):
            raise  # else the file system cannot sync directories
    finally:
        os.close(fd)


# Lines with a checksum


def checked_line(value: object) -> str:
    """A line of JSON, a tab, and the CRC-32 of the JSON as 8 hexadecimal digits."""
    text = json.dumps(value, separators=(",", ":"))
    return f"{text}\t{zlib.crc32(text.encode()):08x}\n"


def parse_checked_line(line: bytes) -> object:
    """The value of a line of `checked_line`, without its line break; None if the line is torn or damaged."""
    text, _, crc = line.rpartition(b"\t")
    if crc != b"%08x" % zlib.crc32(text):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


# Identity and removal


def remove_files(directory: Path, folder: str, pattern: str, keep: Container[str] = ()) -> None:
    """Remove the files in `directory/folder` whose whole name matches `pattern`, unless the folder is a link."""
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


def list_directory(directory: Path) -> list[str]:
    """The names in a directory; none if it does not exist."""
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def remove_empty(directory: Path) -> bool:
    """Remove a directory; return False if it is not empty or cannot be removed."""
    try:
        os.rmdir(directory)
    except OSError:
        return False
    return True


def is_held_open(directory: Path, folders: Collection[str]) -> bool:
    """Whether nothing is left in `directory` and its `folders` but files that NFS keeps until a process closes them."""
    left = [name for folder in (".", *folders) for name in list_directory(directory / folder)]
    files = [name for name in left if name not in folders]
    return bool(files) and all(re.fullmatch(NFS_NAME, name) for name in files)


def file_identity(path: Path) -> dict:
    """Size, modification time (ns) and SHA-256 of the first and last MiB of a file."""
    with path.open("rb") as file:
        info = os.fstat(file.fileno())
        digest = hashlib.sha256(file.read(HASHED_ENDS))
        file.seek(max(0, info.st_size - HASHED_ENDS))
        digest.update(file.read(HASHED_ENDS))
    return {"size": info.st_size, "mtime_ns": info.st_mtime_ns, "sha256_of_ends": digest.hexdigest()}
