"""One job's work directory: its lock, what an earlier run left in it, the ledger of closed segments, and clean-up.

    out.mp4.work/   mode 0700, beside the output or inside --work-dir; removed after success
                    (of numbered pictures: frame_%06d.png.work, in their directory)
      job.json      the job's identity: the input and every parameter that changes the result
      lock          locked (flock) while the main process lives; holds its pid
      ledger.jsonl  one line per closed segment, see ledger.py
      input_frames/ upscaled_frames/ output_frames/ manifests/ status/ segments/ logs/

Workers hold a shared lock on the directory itself while they may write in it. A run that finds the main process of
an earlier one gone waits for its workers too before it changes anything.
"""

import enum
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from upscaling.common.errors import BusyError, InputError, full_disk
from upscaling.common.files import (
    NFS_NAME,
    append_synced,
    file_sha256,
    fitting_name,
    is_held_open,
    list_directory,
    remove_empty,
    remove_files,
    replace_file,
    sync_directory,
)
from upscaling.common.locks import claim_name, lock_file, wait_for_shared_locks
from upscaling.common.privacy import check_private
from upscaling.common.text import printable
from upscaling.job.identity import what_changed
from upscaling.job.ledger import SegmentRecord, frames_in, ledger_line, read_ledger

VERSION = 2
OPEN_TRIES = 5
WORKER_SECONDS = 10.0  # how long the workers of a killed main process may take to end
NFS_SECONDS = 1.0  # how long files that were just closed may take to vanish from a directory on NFS
NO_LOCKS = (
    "the work directory's file system has no locks: start no other run for this output on another machine, or choose "
    "a --work-dir on a local disk"
)
NO_MODES = (
    "the work directory's file system has no owners and modes of its own: other users may be able to write there; "
    "choose a --work-dir on a local disk if they are not to be trusted"
)

# Names of the files that the program makes. Clean-up removes nothing else.
TEMPORARY = r"((\.[0-9]+)?\.tmp)?"  # of files.replacing, and of open segments
FOLDERS = {
    "input_frames": rf"frame_[0-9]+\.(npy|png){TEMPORARY}",
    "upscaled_frames": rf"frame_[0-9]+\.(npy|png){TEMPORARY}",
    "output_frames": rf"frame_[0-9]+\.(npy|png){TEMPORARY}",
    "manifests": rf"(manifest|steady)_[0-9]+\.txt{TEMPORARY}",
    "status": rf"(worker_[0-9]+|run)_status\.json{TEMPORARY}",
    "segments": rf"segment_[0-9]+\.mkv{TEMPORARY}",
    "logs": r"worker_[0-9]+\.log",
}
JOINED = r"joined\.[a-z0-9]{1,8}"
OWN_FILES = rf"(job\.json|ledger\.jsonl){TEMPORARY}|{JOINED}"
OWN_NAMES = re.compile(rf"{OWN_FILES}|lock|{NFS_NAME}|{'|'.join(FOLDERS)}")


class Earlier(enum.Enum):
    """What an earlier run left in a work directory."""

    NOTHING = enum.auto()
    RESUMABLE = enum.auto()
    OTHER_PARAMETERS = enum.auto()  # made with other options, from another input, or by another version
    UNREADABLE = enum.auto()  # damaged
    OTHER_OUTPUT = enum.auto()


@dataclass(frozen=True)
class EarlierRun:
    """What an earlier run left: its finished frames, and what is wrong with it in a few words for the user."""

    state: Earlier
    detail: str = ""
    frames: int = 0  # in closed segments


class WorkDir:
    """A job's work directory. `open` locks it; then either `resume` or `start_over` prepares it for a run."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.records: list[SegmentRecord] = []
        self.notes: list[str] = []  # what could not be checked on this file system
        self.discarded = ""  # why nothing of an earlier run was kept; empty if there was none, or it is resumed
        self._job: dict = {}  # the content of job.json for this run
        self.on_segment: Callable[[Path, SegmentRecord], None] | None = None  # called with each segment added
        self._lock = -1
        self._claim = -1
        self._created = False  # by this object
        self._created_parent = False  # the directory of numbered pictures

    def folder(self, name: str) -> Path:
        return self.directory / name

    # Opening

    def open(self, identity: dict, output: Path, asked: Mapping[str, str] | None = None) -> EarlierRun:
        """Lock the directory, which is created if needed, and return what an earlier run left in it, untouched.

        `asked` are the options given that change the result, as text: a later run with others is told of them.
        Raises BusyError if another run holds the directory or the output, InputError if the directory is not one
        of this program and user.
        """
        self._job = {
            "version": VERSION,
            "output": os.fsencode(output).hex(),  # a path need not be UTF-8
            "identity": json.loads(json.dumps(identity)),  # as it is read again: tuples become lists
            "options": dict(asked or {}),
        }
        self._claim = claim_name(output)
        try:
            self._lock_directory()
            return self._earlier_run()
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Release the directory, and remove it if this run made it: nothing in it is worth keeping."""
        if self._created and self.held and self.remove() and self._created_parent:
            remove_empty(self.directory.parent)
        self.close()

    def resume(self) -> None:
        """Keep the closed segments of the earlier run, and remove everything else that it left."""
        self._remove_contents(keep_segments=True)
        self._make_folders()
        # This also removes a torn last line, which must not be appended to.
        self.keep_segments(read_ledger(self.directory / "ledger.jsonl"))
        sync_directory(self.directory.parent)

    def start_over(self, why: str = "") -> None:
        """Remove everything that an earlier run left; `why` is what the user is told of that."""
        self.discarded = why
        self._remove_contents(keep_segments=False)
        self._make_folders()
        replace_file(self.directory / "job.json", json.dumps(self._job, indent=1) + "\n")
        self.keep_segments([])
        sync_directory(self.directory.parent)

    def _lock_directory(self) -> None:
        for tries_left in reversed(range(OPEN_TRIES)):
            self._make_directory()
            try:
                self._lock = lock_file(self.directory / "lock", without=lambda: self.notes.append(NO_LOCKS))
                break
            except FileNotFoundError:  # a run that has just ended removed the directory
                if not tries_left:
                    raise
            except OSError as error:
                if self._created:
                    remove_files(self.directory, ".", "lock")
                    remove_empty(self.directory)
                if self._created_parent:
                    remove_empty(self.directory.parent)
                if full_disk(error):
                    raise
                what = f"cannot lock work directory {self.directory}: {error.strerror}"
                raise InputError(f"{what}; choose a --work-dir on a local disk") from error
        if not wait_for_shared_locks(self.directory, WORKER_SECONDS):
            raise BusyError(f"workers of an earlier run are still running in {self.directory}; stop them first")

    def _make_directory(self) -> None:
        try:
            if not self.directory.parent.exists():
                os.mkdir(self.directory.parent)
                self._created_parent = True
            os.mkdir(self.directory, 0o700)
            self._created = True
        except FileExistsError:
            pass
        except OSError as error:
            raise InputError(f"cannot create work directory {self.directory}: {error.strerror}") from error
        self._check_private(self.directory)
        entries = list_directory(self.directory)
        if foreign := sorted(name for name in entries if not OWN_NAMES.fullmatch(name)):
            raise InputError(
                f"{self.directory} is not a work directory of this program: it contains {foreign[0]!r}; "
                "move that away or choose another --work-dir"
            )

    def _make_folders(self) -> None:
        for name in FOLDERS:
            (self.directory / name).mkdir(mode=0o700, exist_ok=True)
            self._check_private(self.directory / name)

    def _check_private(self, directory: Path) -> None:
        """InputError unless nobody else may write to `directory`, as far as its file system can tell."""
        if not check_private(directory) and NO_MODES not in self.notes:
            self.notes.append(NO_MODES)

    def _earlier_run(self) -> EarlierRun:
        try:
            job = json.loads((self.directory / "job.json").read_bytes())
            output = bytes.fromhex(job.get("output") or self._job["output"])
            identity, asked = dict(job.get("identity", {})), dict(job.get("options", {}))
        except FileNotFoundError:
            return EarlierRun(Earlier.NOTHING)
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return EarlierRun(Earlier.UNREADABLE, "its job.json is damaged")
        if output.hex() != self._job["output"]:
            return EarlierRun(Earlier.OTHER_OUTPUT, os.fsdecode(output))
        frames = frames_in(read_ledger(self.directory / "ledger.jsonl"))
        if job.get("version") != VERSION:
            return EarlierRun(Earlier.OTHER_PARAMETERS, "made by another version of this program", frames)
        if changed := what_changed(identity, self._job["identity"], asked, self._job["options"]):
            return EarlierRun(Earlier.OTHER_PARAMETERS, changed, frames)
        return EarlierRun(Earlier.RESUMABLE, frames=frames)

    @property
    def held(self) -> bool:
        """Whether this process holds the directory."""
        return self._lock >= 0

    # The ledger

    def keep_segments(self, records: Sequence[SegmentRecord]) -> None:
        """Remove all other segments from the ledger and from the disk."""
        self.records = list(records)
        replace_file(self.directory / "ledger.jsonl", "".join(map(ledger_line, records)))
        remove_files(self.directory, "segments", FOLDERS["segments"], keep={record.file for record in records})

    def add_segment(self, written: Path, pts: Sequence[int], encoder: str = "") -> SegmentRecord:
        """Move a closed, synced segment into place, then append it to the ledger; `encoder`: SegmentWriter's."""
        number = len(self.records)
        path = self.directory / "segments" / f"segment_{number:06d}.mkv"
        record = SegmentRecord(
            segment=number,
            file=path.name,
            first=self.frames_done + 1,
            pts=tuple(pts),
            size=written.stat().st_size,
            sha256=file_sha256(written),
            encoder=encoder,
        )
        os.replace(written, path)
        sync_directory(path.parent)
        append_synced(self.directory / "ledger.jsonl", ledger_line(record))
        self.records.append(record)
        if self.on_segment is not None:
            self.on_segment(path, record)
        return record

    @property
    def frames_done(self) -> int:
        """Frames in closed segments."""
        return frames_in(self.records)

    # Clean-up

    def remove_frames(self) -> None:
        """Remove frames, manifests and an unfinished output: only segments are kept for the next run."""
        for name in ("input_frames", "upscaled_frames", "output_frames", "manifests"):
            remove_files(self.directory, name, FOLDERS[name])
        remove_files(self.directory, ".", JOINED)

    def _remove_contents(self, keep_segments: bool) -> None:
        for name, pattern in FOLDERS.items():
            if name != "segments" or not keep_segments:
                remove_files(self.directory, name, pattern)
        remove_files(self.directory, ".", JOINED if keep_segments else OWN_FILES)

    def remove(self) -> bool:
        """Remove the directory with everything that this job made in it; return False if other files are left."""
        self._remove_contents(keep_segments=False)
        for name in FOLDERS:
            remove_empty(self.directory / name)
        remove_files(self.directory, ".", "lock")  # last and while it is locked, so that no other run comes between
        deadline = time.monotonic() + NFS_SECONDS
        while not remove_empty(self.directory):
            if not self.is_held_open() or time.monotonic() > deadline:
                return not self.directory.exists()
            self.close()  # the lock file is one of them
            time.sleep(NFS_SECONDS / 20)
            for name in FOLDERS:
                remove_empty(self.directory / name)
        return True

    def is_held_open(self) -> bool:
        """Whether the directory is only left because processes have removed files open (NFS)."""
        return is_held_open(self.directory, FOLDERS)

    def close(self) -> None:
        """Release the directory and the output."""
        for descriptor in (self._lock, self._claim):
            if descriptor >= 0:
                os.close(descriptor)
        self._lock = self._claim = -1


def open_work_dir(
    directory: Path, identity: dict, output: Path, restart: bool = False, asked: Mapping[str, str] | None = None
) -> WorkDir:
    """Open a work directory and resume the job in it, or start over if nothing is finished or with `restart`.

    Raises BusyError and InputError as `WorkDir.open`, and InputError if the directory belongs to another output or
    holds finished frames that this run cannot resume.
    """
    work_dir = WorkDir(directory)
    earlier = work_dir.open(identity, output, asked)
    try:
        if earlier.state is Earlier.OTHER_OUTPUT:
            raise InputError(f"{directory} belongs to another output, {earlier.detail!r}; choose another --work-dir")
        if earlier.state is Earlier.RESUMABLE and not restart:
            work_dir.resume()
        elif earlier.state is Earlier.UNREADABLE:
            work_dir.start_over(earlier.detail)
        elif not earlier.frames:
            work_dir.start_over()
        elif restart:
            work_dir.start_over("--restart")
        else:
            raise InputError(refusal(directory, earlier.frames, earlier.detail))
    except BaseException:
        work_dir.abandon()
        raise
    return work_dir


def work_dir_of(output: Path, part: tuple[int, int] | None = None) -> Path:
    """Where the work directory of an output, or of part I of N, is unless --work-dir says otherwise."""
    ending = f".{part[0]}of{part[1]}.work" if part else ".work"
    return output.with_name(fitting_name(output.name, ending))


def refusal(directory: Path, frames: int, what: str) -> str:
    """The message for finished frames that a run with other parameters does not delete; `what` says what they are."""
    repeat = "repeat that, or add" if what.startswith("made with") else "to discard them add"
    return f"{printable(directory)} holds {frames:,} finished frames {what}; {repeat} --restart"
