"""One job's directory: who may use it, its identity and lock, the ledger of what is done, and clean-up.

    out.mp4.work/   mode 0700, beside the output or inside --work-dir; removed after success
      job.json      the job's identity: the input and every parameter that changes the result
      lock          flock'd for as long as the main process lives; holds its pid
      ledger.jsonl  a line for each closed segment; each line carries its own CRC-32
      input_frames/ output_frames/ manifests/ status/ segments/ logs/

The ledger (ledger.py) is only ever appended to, and fsynced after a segment was. Every worker holds the directory
itself by a shared flock while it may write there: a run that finds the job's main process gone waits for its
workers too before it touches anything.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import socket
import stat
import struct
import time
from pathlib import Path

from upscaling.common.errors import BusyError, InputError
from upscaling.common.files import (
    append_synced,
    file_sha256,
    is_same_file,
    remove_empty,
    remove_files,
    replace_file,
    sync_directory,
)
from upscaling.job.fingerprint import differences
from upscaling.job.ledger import SegmentRecord, ledger_line, read_ledger

VERSION = 1
BUSY = "another run (pid {}) is at work on this output; wait for it or stop it"
OPEN_TRIES = 5
WORKER_SECONDS = 10.0  # for the workers of a main process that was killed to end
TEMPORARY = r"((\.[0-9]+)?\.tmp)?"  # of files.replacing, and of open segments
FOLDERS = {
    "input_frames": rf"frame_[0-9]+\.(npy|png){TEMPORARY}",
    "output_frames": rf"frame_[0-9]+\.(npy|png){TEMPORARY}",
    "manifests": rf"manifest_[0-9]+\.txt{TEMPORARY}",
    "status": rf"worker_[0-9]+_status\.json{TEMPORARY}",
    "segments": rf"segment_[0-9]+\.mkv{TEMPORARY}",
    "logs": r"worker_[0-9]+\.log",
}
JOINED = r"joined\.[a-z0-9]{1,8}"
OWN_FILES = rf"(job\.json|ledger\.jsonl|complete\.json){TEMPORARY}|{JOINED}"


class WorkDir:
    """A job's directory, held by this process from `open` to `close`."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.records: list[SegmentRecord] = []
        self.afresh: str = ""  # why nothing of an earlier run was kept; empty where there was none
        self._lock = -1
        self._claim = -1

    def folder(self, name: str) -> Path:
        return self.directory / name

    # Opening

    def open(self, identity: dict, output: Path, restart: bool = False) -> "WorkDir":
        """Take the directory: make it or check whose it is, lock it, and load what an earlier run left.

        Raises BusyError where another run holds it, InputError where it is not ours to use.
        """
        identity = json.loads(json.dumps(identity))  # as a reader of job.json sees it: tuples are lists
        self._claim = claim_output(output)
        try:
            self._take(identity, output, restart)
        except BaseException:
            self.close()
            raise
        return self

    def _take(self, identity: dict, output: Path, restart: bool) -> None:
        for left in reversed(range(OPEN_TRIES)):
            self._make_directory()
            try:
                self._take_lock()
                break
            except FileNotFoundError:  # a run that has just ended took the directory along
                if not left:
                    raise
        self._wait_for_workers()
        self._load(identity, output, restart)

    def _make_directory(self) -> None:
        try:
            os.mkdir(self.directory, 0o700)
        except FileExistsError:
            check_private(self.directory)
        except OSError as error:
            raise InputError(f"cannot make the work directory {self.directory}: {error.strerror}") from error
        try:
            entries = set(os.listdir(self.directory))
        except FileNotFoundError:
            entries = set()
        own = re.compile(f"{OWN_FILES}|lock|{'|'.join(FOLDERS)}")
        if foreign := sorted(name for name in entries if not own.fullmatch(name)):
            raise InputError(
                f"{self.directory} is not a work directory of this program: it holds {foreign[0]!r}; "
                "move that away or choose another --work-dir"
            )

    def _take_lock(self) -> None:
        path = self.directory / "lock"
        deadline = time.monotonic() + 0.5  # status.py holds the lock for a moment when it looks
        while True:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                pid = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
                os.close(lock)
                if time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                raise BusyError(BUSY.format(pid)) from error
            if is_same_file(lock, path):  # not one that a finishing run removed between open and flock
                break
            os.close(lock)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._lock = lock

    def _wait_for_workers(self) -> None:
        """Until no worker of an earlier run holds the directory; they end by themselves once their run is gone."""
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        deadline = time.monotonic() + WORKER_SECONDS
        try:
            while True:
                try:
                    fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise BusyError(
                            f"workers of an earlier run are still at work in {self.directory}; stop them first"
                        ) from None
                    time.sleep(0.02)
                except OSError as error:
                    # NFS: flock(2) there wants a descriptor that may be written to, and a directory has none.
                    if error.errno not in (errno.EBADF, errno.ENOLCK, errno.EINVAL, errno.EOPNOTSUPP):
                        raise
                    return
        finally:
            os.close(directory)

    def _load(self, identity: dict, output: Path, restart: bool) -> None:
        old = self._read_job()
        place = os.fsencode(output).hex()  # bytes that may be no UTF-8
        if old and old.get("output") not in (None, place):
            other = os.fsdecode(bytes.fromhex(old["output"]))
            raise InputError(f"{self.directory} belongs to another output, {other!r}; choose another --work-dir")
        if restart and old is not None:
            self.afresh = "--restart"
        elif old is not None and old.get("version") != VERSION:
            self.afresh = "another version of this program made it" if old else "its job.json is damaged"
        elif old is not None and (changed := differences(old.get("identity", {}), identity)):
            self.afresh = "changed: " + ", ".join(changed)
        keep = old is not None and not self.afresh
        self._remove_contents(keep_segments=keep)
        for name in FOLDERS:
            (self.directory / name).mkdir(mode=0o700, exist_ok=True)
            check_private(self.directory / name)
        if not keep:
            content = {"version": VERSION, "output": place, "identity": identity}
            replace_file(self.directory / "job.json", json.dumps(content, indent=1) + "\n")
        records = read_ledger(self.directory / "ledger.jsonl") if keep else []
        self.keep_segments(records)  # a torn line must go before another is appended to it
        sync_directory(self.directory.parent)

    def _read_job(self) -> dict | None:
        """job.json; {} where it is damaged, None where there is none."""
        try:
            job = json.loads((self.directory / "job.json").read_bytes())
            if not isinstance(job, dict) or not isinstance(job.get("identity", {}), dict):
                return {}
            bytes.fromhex(job.get("output") or "")
            return job
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, RecursionError):
            return {}

    @property
    def held(self) -> bool:
        """Whether this process holds the directory."""
        return self._lock >= 0

    # The ledger

    def keep_segments(self, records: list[SegmentRecord]) -> None:
        """Trust these segments only: forget the others, in the ledger and on disk."""
        self.records = list(records)
        replace_file(self.directory / "ledger.jsonl", "".join(map(ledger_line, records)))
        remove_files(self.directory, "segments", FOLDERS["segments"], keep={record.file for record in records})

    def add_segment(self, written: Path, pts: list[int]) -> SegmentRecord:
        """Enter a closed, fsynced segment: rename it into place, then append it to the ledger."""
        number = len(self.records)
        path = self.directory / "segments" / f"segment_{number:06d}.mkv"
        record = SegmentRecord(
            number, path.name, self.frames_done + 1, tuple(pts), written.stat().st_size, file_sha256(written)
        )
        os.replace(written, path)
        sync_directory(path.parent)
        append_synced(self.directory / "ledger.jsonl", ledger_line(record))
        self.records.append(record)
        return record

    @property
    def frames_done(self) -> int:
        """Frames in closed segments."""
        return self.records[-1].first + len(self.records[-1].pts) - 1 if self.records else 0

    # Clean-up

    def remove_frames(self) -> None:
        """Remove frames, manifests and a half joined file: only segments are kept across runs."""
        for name in ("input_frames", "output_frames", "manifests"):
            remove_files(self.directory, name, FOLDERS[name])
        remove_files(self.directory, ".", JOINED)

    def _remove_contents(self, keep_segments: bool) -> None:
        for name, pattern in FOLDERS.items():
            if name != "segments" or not keep_segments:
                remove_files(self.directory, name, pattern)
        remove_files(self.directory, ".", OWN_FILES if not keep_segments else JOINED)

    def remove(self) -> bool:
        """Remove the directory with what this job made in it; False where something else keeps it there."""
        self._remove_contents(keep_segments=False)
        for name in FOLDERS:
            remove_empty(self.directory / name)
        remove_files(self.directory, ".", "lock")  # last, and still held: nobody else can be in between
        return remove_empty(self.directory)

    def close(self) -> None:
        """Give up the directory and the output."""
        for descriptor in (self._lock, self._claim):
            if descriptor >= 0:
                os.close(descriptor)
        self._lock = self._claim = -1


def claim_output(output: Path) -> int:
    """Hold an output's name until the descriptor is closed or this process ends; BusyError with the holder's pid.

    Two runs for one output may have different work directories, and nothing may lie beside the output: so the
    claim is an abstract Unix socket (unix(7)), which no file system shows and the kernel gives free.
    """
    place = Path(os.path.realpath(output))
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
        raise BusyError(BUSY.format(_holder(address))) from error


def _holder(address: bytes) -> int | str:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.setblocking(False)
        try:
            asking.connect(address)
            return struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        except OSError:
            return "unknown"


def check_private(directory: Path) -> None:
    """InputError unless `directory` is a directory (no link) of this user that nobody else may write to."""
    info = os.lstat(directory)
    if not stat.S_ISDIR(info.st_mode):
        kind = "a link" if stat.S_ISLNK(info.st_mode) else "not a directory"
        raise InputError(f"the work directory {directory} is {kind}; remove it or choose another --work-dir")
    if info.st_uid != os.geteuid():
        raise InputError(f"the work directory {directory} belongs to another user; choose another --work-dir")
    if info.st_mode & 0o022:
        raise InputError(f"others may write to the work directory {directory}; run chmod go-w on it, or remove it")
