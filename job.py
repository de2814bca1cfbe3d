"""One job's directory: who may use it, its identity and lock, the ledger of what is done, and clean-up.

    out.mp4.work/   mode 0700, beside the output or inside --work-dir; removed after success
      job.json      the job's identity: the input and every parameter that changes the result
      lock          flock'd for as long as the main process lives; holds its pid
      ledger.jsonl  a line for each closed segment; each line carries its own CRC-32
      input_frames/ output_frames/ manifests/ status/ segments/ logs/

The ledger is only ever appended to, and fsynced after a segment was; a torn last line is recognised by its
CRC and costs that one segment.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import time
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

from errors import BusyError, InputError, UpscaleError

VERSION = 1
HASHED_ENDS = 1 << 20  # bytes at each end of the input that identify it
FOLDERS = {
    "input_frames": r"frame_[0-9]+\.(npy|png)(\.tmp)?",
    "output_frames": r"frame_[0-9]+\.(npy|png)(\.[0-9]+)?(\.tmp)?",
    "manifests": r"manifest_[0-9]+\.txt(\.tmp)?",
    "status": r"worker_[0-9]+_status\.json(\.tmp)?",
    "segments": r"segment_[0-9]+\.mkv(\.tmp)?",
    "logs": r"worker_[0-9]+\.log",
}
SOCKET = r"listener-[A-Za-z0-9_]{1,16}"  # of multiprocessing's fork server, see dispatch.py
OWN_FILES = rf"(job\.json|ledger\.jsonl)(\.tmp)?|joined\.[a-z0-9]{{1,8}}|{SOCKET}"


@dataclass(frozen=True)
class SegmentRecord:
    """A closed segment: frames `first` to `first + len(pts) - 1` (1-based), pts in ticks of the time base."""

    segment: int
    file: str
    first: int
    pts: tuple[int, ...]
    size: int  # bytes
    sha256: str


def input_identity(path: Path) -> dict:
    """Size, modification time (ns) and SHA-256 of the first and last MiB of a file."""
    with path.open("rb") as file:
        info = os.fstat(file.fileno())
        digest = hashlib.sha256(file.read(HASHED_ENDS))
        file.seek(max(0, info.st_size - HASHED_ENDS))
        digest.update(file.read(HASHED_ENDS))
    return {"size": info.st_size, "mtime_ns": info.st_mtime_ns, "sha256_of_ends": digest.hexdigest()}


def differences(old: dict, new: dict, prefix: str = "") -> list[str]:
    """Names of the entries in which two identities differ, dotted."""
    names = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            names += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(f"{prefix}{key}")
    return names


class Job:
    """A job's directory, held by this process from `open` to `close`."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.records: list[SegmentRecord] = []
        self.afresh: str = ""  # why nothing of an earlier run was kept; empty where there was none
        self._lock = -1

    def folder(self, name: str) -> Path:
        return self.directory / name

    # Opening

    def open(self, identity: dict, output: Path, restart: bool = False) -> "Job":
        """Take the directory: make it or check whose it is, lock it, and load what an earlier run left.

        Raises BusyError where another run holds it, InputError where it is not ours to use.
        """
        identity = json.loads(json.dumps(identity))  # as a reader of job.json sees it: tuples are lists
        self._make_directory()
        self._take_lock()
        try:
            self._load(identity, output, restart)
        except BaseException:
            self.close()
            raise
        return self

    def _make_directory(self) -> None:
        try:
            os.mkdir(self.directory, 0o700)
        except FileExistsError:
            check_private(self.directory)
        except OSError as error:
            raise InputError(f"cannot make the work directory {self.directory}: {error.strerror}") from error
        entries = set(os.listdir(self.directory))
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
                raise BusyError(f"another run (pid {pid}) is at work on this output; wait for it or stop it") from error
            if _same_file(lock, path):  # not one that a finishing run removed between open and flock
                break
            os.close(lock)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._lock = lock

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
        if keep:
            self.records = read_ledger(self.directory / "ledger.jsonl")
        else:
            content = {"version": VERSION, "output": place, "identity": identity}
            _replace(self.directory / "job.json", json.dumps(content, indent=1) + "\n")

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
        except (OSError, ValueError, TypeError):
            return {}

    # The ledger

    def keep_segments(self, verified: int) -> None:
        """Trust the first `verified` segments only: forget the others, in the ledger and on disk."""
        self.records = self.records[:verified]
        _replace(self.directory / "ledger.jsonl", "".join(map(_ledger_line, self.records)))
        kept = {record.file for record in self.records}
        for name in os.listdir(self.directory / "segments"):
            if name not in kept and re.fullmatch(FOLDERS["segments"], name):
                os.unlink(self.directory / "segments" / name)

    def add_segment(self, written: Path, pts: list[int]) -> SegmentRecord:
        """Enter a closed, fsynced segment: rename it into place, then append it to the ledger."""
        number = len(self.records)
        path = self.directory / "segments" / f"segment_{number:06d}.mkv"
        record = SegmentRecord(
            number, path.name, self.frames_done + 1, tuple(pts), written.stat().st_size, file_sha256(written)
        )
        os.replace(written, path)
        sync_directory(path.parent)
        ledger = os.open(self.directory / "ledger.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            _write_all(ledger, _ledger_line(record).encode())
            os.fsync(ledger)
        finally:
            os.close(ledger)
        self.records.append(record)
        return record

    @property
    def frames_done(self) -> int:
        """Frames in closed segments."""
        return self.records[-1].first + len(self.records[-1].pts) - 1 if self.records else 0

    # Clean-up

    def remove_frames(self) -> None:
        """Remove frames and manifests of an earlier run: only segments are kept across runs."""
        for name in ("input_frames", "output_frames", "manifests"):
            _remove_files(self.directory, name, FOLDERS[name])

    def _remove_contents(self, keep_segments: bool) -> None:
        for name, pattern in FOLDERS.items():
            if name != "segments" or not keep_segments:
                _remove_files(self.directory, name, pattern)
        _remove_files(self.directory, ".", OWN_FILES if not keep_segments else rf"joined\.[a-z0-9]{{1,8}}|{SOCKET}")

    def remove(self) -> bool:
        """Remove the directory with what this job made in it; False where something else keeps it there."""
        self._remove_contents(keep_segments=False)
        for name in FOLDERS:
            _remove_empty(self.directory / name)
        _remove_files(self.directory, ".", "lock")  # last, and still held: nobody else can be in between
        return _remove_empty(self.directory)

    def close(self) -> None:
        """Give up the lock."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


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


def read_ledger(path: Path) -> list[SegmentRecord]:
    """The whole records from the start of a ledger; it ends at the first line that is torn or out of order."""
    records: list[SegmentRecord] = []
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return records
    except OSError as error:
        raise UpscaleError(f"cannot read {path}: {error.strerror}") from error
    for line in data.split(b"\n")[:-1]:  # what follows the last line break is torn
        record = _parse_line(line)
        last = records[-1] if records else None
        if (
            record is None
            or record.segment != len(records)
            or record.first != (last.first + len(last.pts) if last else 1)
            or (last and record.pts[0] <= last.pts[-1])
        ):
            break
        records.append(record)
    return records


def _ledger_line(record: SegmentRecord) -> str:
    text = json.dumps(asdict(record), separators=(",", ":"))
    return f"{text}\t{zlib.crc32(text.encode()):08x}\n"


def _parse_line(line: bytes) -> SegmentRecord | None:
    text, tab, crc = line.rpartition(b"\t")
    try:
        if not tab or int(crc, 16) != zlib.crc32(text):
            return None
        record = SegmentRecord(**{**json.loads(text), "pts": tuple(json.loads(text)["pts"])})
        whole = [record.segment, record.first, record.size, *record.pts]
        increasing = all(a < b for a, b in zip(record.pts, record.pts[1:]))  # noqa: B905 - pairs of neighbours
        named = re.fullmatch(r"segment_[0-9]{6,}\.mkv", record.file)
    except (ValueError, TypeError, KeyError):
        return None
    return record if record.pts and increasing and named and all(type(n) is int for n in whole) else None


# Files


def file_sha256(path: Path) -> str:
    """SHA-256 of a whole file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sync_directory(directory: Path) -> None:
    """Make renames within a directory survive a power cut."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def free_bytes(directory: Path) -> int:
    """Bytes that this user may still write on the file system of `directory`."""
    return shutil.disk_usage(directory).free


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        _write_all(fd, text.encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(temporary, path)
    sync_directory(path.parent)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _remove_files(directory: Path, folder: str, pattern: str) -> None:
    """Unlink the files of `directory/folder` whose whole name matches; a folder that is a link is left alone."""
    try:
        fd = os.open(directory / folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        for name in os.listdir(fd):
            if re.fullmatch(pattern, name) and not stat.S_ISDIR(os.lstat(name, dir_fd=fd).st_mode):
                os.unlink(name, dir_fd=fd)
    finally:
        os.close(fd)


def _remove_empty(directory: Path) -> bool:
    try:
        os.rmdir(directory)
    except OSError:
        return False
    return True
