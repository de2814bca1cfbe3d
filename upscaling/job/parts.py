"""One part of a video as a job of its own: its options, and its segments on storage that other machines see.

    out.mp4.parts/part_0002_of_0060/run_0001/
      job.json        what the result depends on: the input, the options, the part's range
      segment_*.mkv   closed segments, Matroska
      ledger.jsonl    a line for each segment, with its frames' times and its SHA-256 (ledger.py)
      part.json       the counts of frames and segments; written last: the part is finished

Every run of a part writes in a directory of its own and reads those of earlier runs, so that no two nodes write in
one directory, even if one that was given up as dead is still at work.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from upscaling.common.errors import InputError, UpscaleError
from upscaling.common.files import (
    append_synced,
    fitting_name,
    remove_empty,
    remove_files,
    replace_file,
    replacing,
    sync_directory,
)
from upscaling.common.text import many, printable
from upscaling.job.identity import differences, what_changed
from upscaling.job.ledger import SegmentRecord, ledger_line, read_ledger
from upscaling.job.options import Options
from upscaling.job.work_dir import WorkDir, refusal

VERSION = 1
OWN_FILES = r"(job\.json|part\.json|ledger\.jsonl|segment_[0-9]+\.mkv)(\.[0-9]+\.tmp)?|task_[0-9_]+\.log"
RUN = re.compile(r"run_[0-9]{4,}")


def parts_directory(output: Path) -> Path:
    """OUTPUT.parts, with the finished parts of an output."""
    return output.with_name(fitting_name(output.name, ".parts"))


def part_directory(output: Path, number: int, count: int) -> Path:
    """The directory of part `number` (from 1) of `count`."""
    return parts_directory(output) / f"part_{number:04d}_of_{count:04d}"


def check_part_options(options: Options) -> None:
    """InputError for options that a part of a video cannot have."""
    for name in ("frames", "time", "compare"):
        if getattr(options, name) is not None:
            raise InputError(f"--part splits a whole video; remove --{name}")


class PartRun:
    """The directory of one run of a part; `records` are its segments."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.records = read_ledger(directory / "ledger.jsonl")
        job = read_json(directory / "job.json")
        self.identity, self.asked = job.get("identity"), job.get("options") or {}

    @property
    def frames(self) -> int:
        """Frames in closed segments."""
        return sum(len(record.pts) for record in self.records)

    @property
    def is_finished(self) -> bool:
        """Whether all frames of the part are in segments."""
        end = read_json(self.directory / "part.json")
        return end == {"version": VERSION, "frames": self.frames, "segments": len(self.records)}

    def path(self, record: SegmentRecord) -> Path:
        return self.directory / record.file

    def is_intact(self, record: SegmentRecord) -> bool:
        """Whether a segment is the file that was entered in the ledger."""
        return record.is_intact(self.path(record))

    def add(self, source: Path, record: SegmentRecord) -> None:
        """Enter a closed segment that lies elsewhere: a hard link to it, or a copy from another file system."""
        link_or_copy(source, self.path(record))
        append_synced(self.directory / "ledger.jsonl", ledger_line(record))
        self.records.append(record)

    def finish(self) -> None:
        """Declare the part finished."""
        end = {"version": VERSION, "frames": self.frames, "segments": len(self.records)}
        replace_file(self.directory / "part.json", json.dumps(end) + "\n")


def runs_of(directory: Path) -> list[PartRun]:
    """All runs that a part has had, in order."""
    return [PartRun(path) for path in sorted(directory.glob("run_*")) if RUN.fullmatch(path.name) and path.is_dir()]


def finished_run(directory: Path, identity: dict) -> PartRun | None:
    """A run that has finished the part with that identity."""
    return next((run for run in runs_of(directory) if run.is_finished and run.identity == plain(identity)), None)


def finished_frames(directory: Path, identity: dict) -> int | None:
    """The frames of a part that a run has finished; None if none has. `identity` is the whole video's."""
    for run in runs_of(directory):
        if run.is_finished and run.identity and not _changed(run.identity, identity):
            return run.frames
    return None


def check_earlier_runs(directory: Path, identity: dict, asked: Mapping[str, str]) -> None:
    """Raise InputError if runs of a part have finished frames, but none was made with the same parameters.

    `asked` are the options given that change the result, as text.
    """
    runs = runs_of(directory)
    last = max((run for run in runs if run.identity), key=lambda run: run.frames, default=None)
    if last is None or not last.frames or any(run.identity == plain(identity) for run in runs):
        return
    changed = what_changed(last.identity or {}, plain(identity), last.asked, asked)
    if changed:
        raise InputError(refusal(directory, last.frames, changed))


def begin_part(directory: Path, identity: dict, work_dir: WorkDir, restart: bool, asked: Mapping[str, str]) -> PartRun:
    """A new run of a part: it and `work_dir` both have all segments that any run has closed.

    Segments of earlier runs are taken over if `work_dir` has fewer frames, unless the part is to `restart`.
    """
    earlier = [run for run in runs_of(directory) if run.identity == plain(identity)]
    best = max(earlier, key=lambda run: run.frames, default=None)
    if best is not None and best.frames > work_dir.frames_done and not restart:
        _take_over(best, work_dir)
    run = PartRun(_new_run(directory))
    job = {"version": VERSION, "identity": plain(identity), "options": dict(asked)}
    replace_file(run.directory / "job.json", json.dumps(job) + "\n")
    for record in work_dir.records:
        run.add(work_dir.folder("segments") / record.file, record)
    work_dir.on_segment = run.add
    return run


def _take_over(run: PartRun, work_dir: WorkDir) -> None:
    """Put the segments of an earlier run into the work directory, up to the first that is damaged."""
    records = []
    work_dir.keep_segments([])
    for record in run.records:
        if not run.is_intact(record):
            break
        link_or_copy(run.path(record), work_dir.folder("segments") / record.file)
        records.append(record)
    work_dir.keep_segments(records)


def _new_run(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for number in range(1, 10_000):
        path = directory / f"run_{number:04d}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        sync_directory(directory)
        return path
    raise UpscaleError(f"{printable(directory)} has too many runs; remove it")


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name; across file systems, a synced copy."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        with source.open("rb") as data, replacing(target, sync=True) as file:
            shutil.copyfileobj(data, file, 1 << 20)
    sync_directory(target.parent)


def done_line(options: Options, run: PartRun) -> str:
    """What the user is told of a finished part."""
    number, count = options.part or (0, 0)
    return (
        f"part {number} of {count} is finished: {many(run.frames, 'frame')} in {printable(run.directory)}; "
        f"when all parts are, join them with --join {count} in place of --part"
    )


def chain(output: Path, identity: dict, count: int) -> Iterator[PartRun]:
    """The finished runs of all parts in order.

    `identity` is the whole video's. UpscaleError if parts are missing, were made with other options or from another
    input, or do not follow one another.
    """
    directories = [part_directory(output, number, count) for number in range(1, count + 1)]
    finished = [[run for run in runs_of(directory) if run.is_finished] for directory in directories]
    if missing := [number for number, runs in enumerate(finished, 1) if not runs]:
        shown = ", ".join(map(str, missing[:10])) + (", …" if len(missing) > 10 else "")
        raise UpscaleError(f"not finished: part {shown} of {count}; run --part {missing[0]}/{count} and so on first")
    last = None
    for number, runs in enumerate(finished, 1):
        same = [run for run in runs if run.identity and not _changed(run.identity, identity)]
        if not same:
            changed = ", ".join(_changed(runs[0].identity or {}, identity))
            raise UpscaleError(
                f"part {number} of {count} was made with other options or from another input (changed: {changed}); "
                "run it again"
            )
        run = same[0]
        this = run.identity["part"] if run.identity else []
        if this[:2] != [number, count] or (last is not None and last[3:] != [this[2], this[4]]):
            raise UpscaleError(f"part {number} of {count} was cut at another place; run all parts again")
        last = this
        yield run


def _changed(old: dict, new: dict) -> list[str]:
    return differences(old | {"part": None}, plain(new) | {"part": None})


def remove_parts(output: Path, count: int) -> bool:
    """Remove all runs of the parts of `count`; False if other files keep OUTPUT.parts there."""
    place = parts_directory(output)
    for number in range(1, count + 1):
        directory = part_directory(output, number, count)
        for run in runs_of(directory):
            remove_files(directory, run.directory.name, OWN_FILES)
            remove_empty(run.directory)
        remove_files(place, directory.name, OWN_FILES)
        remove_empty(directory)
    remove_files(place.parent, place.name, r"join\.log")
    return remove_empty(place)


def plain(identity: dict) -> dict:
    """An identity as JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(identity))


def read_json(path: Path) -> dict:
    """A file's JSON object; empty if there is none."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
