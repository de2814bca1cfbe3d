"""Segments: the one that is being written, those of an earlier run verified, and all of them joined into the output."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from upscaling.common.errors import UpscaleError
from upscaling.common.files import file_sha256, sync_directory
from upscaling.common.text import many
from upscaling.encode.muxer import Segment, join
from upscaling.encode.segment_writer import SegmentWriter
from upscaling.job.ledger import SegmentRecord
from upscaling.job.plan import Plan
from upscaling.job.sources import PictureSource
from upscaling.job.work_dir import WorkDir

SEGMENT_SECONDS = 60.0  # a segment is closed after that time, or after --segment-frames


class OpenSegment:
    """The segment that is being written; a context manager that enters it in the job's ledger when it is left.

    An error elsewhere, even in finding the next frame, does not cost the frames that are in it.
    """

    def __init__(self, work_dir: WorkDir, plan: Plan):
        self.work_dir, self.limit, self.pts = work_dir, plan.options.segment_frames, []
        self.path = work_dir.folder("segments") / f"segment_{len(work_dir.records):06d}.mkv.tmp"
        self.writer = SegmentWriter(self.path, plan.encoding)
        self.opened = time.monotonic()
        self.whole = True

    def write(self, planes: list[np.ndarray], pts: int) -> None:
        self.whole = False
        self.writer.write(planes, pts)
        self.whole = True
        self.pts.append(pts)

    def is_full(self) -> bool:
        return len(self.pts) >= self.limit or time.monotonic() - self.opened > SEGMENT_SECONDS

    def __enter__(self) -> "OpenSegment":
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            if self.whole:
                self.writer.close()
                if self.pts and self.work_dir.held:
                    self.work_dir.add_segment(self.path, self.pts)
        finally:
            self.writer.__exit__(UpscaleError, error, trace)  # lets go of the file where it was not closed
            self.path.unlink(missing_ok=True)  # room on a full disk


def verify(work_dir: WorkDir, say: Callable[[str], None], check: Callable[[], None]) -> None:
    """Keep the segments of an earlier run up to the first whose size or SHA-256 is not the ledger's.

    `check` is called before each and raises where the run is to end.
    """
    good = []
    for record in work_dir.records:
        check()
        if not _is_intact(work_dir.folder("segments") / record.file, record):
            break
        good.append(record)
    if len(good) < len(work_dir.records):
        damaged = many(len(work_dir.records) - len(good), "segment")
        say(f"dropping {damaged} of the earlier run: damaged, or after a damaged one")
        work_dir.keep_segments(good)


def _is_intact(path: Path, record: SegmentRecord) -> bool:
    """Whether the file is the one that was entered in the ledger, after it was synced."""
    try:
        return not path.is_symlink() and path.stat().st_size == record.size and file_sha256(path) == record.sha256
    except OSError:
        return False


def finish(plan: Plan, work_dir: WorkDir) -> list[str]:
    """Join the segments with the input's other streams and move the result to its name; returns warnings.

    Nothing shows under the output's name before all of it is on the disk. A run that is killed meanwhile
    leaves nothing beside the output: the file grows in the work directory, or, where that is on another file
    system, in the output's directory without any name (O_TMPFILE of open(2)).
    """
    if plan.source.identity()["input"] != plan.identity["input"]:
        raise UpscaleError(f"{plan.options.input} was changed while it was being upscaled; rerun to start afresh")
    if plan.target is not None:
        icc = plan.source.files[0] if isinstance(plan.source, PictureSource) else None
        return plan.target.write(work_dir, plan.source.numbers, icc)
    if plan.part is not None:
        return []
    return put_together(
        [(work_dir.folder("segments") / record.file, record.pts) for record in work_dir.records], plan, work_dir
    )


def put_together(parts: list[tuple[Path, tuple[int, ...]]], plan: Plan, work_dir: WorkDir) -> list[str]:
    """Segments, (path, times of its frames) each, as the plan's output in place; warnings.

    `work_dir` is one that is held, on whose file system the output grows.
    """
    segments = [Segment(path, pts) for path, pts in parts]
    container = plan.output.suffix[1:].lower()

    def into(target: Path) -> list[str]:
        warnings = join(segments, plan.info, plan.encoding, target, container, plan.clip(work_dir.records))
        if not work_dir.held:
            raise UpscaleError("the job was given up meanwhile")
        return warnings

    place = Path(os.path.realpath(plan.output))  # a link to an output stays, as with any program that writes to it
    if os.stat(work_dir.directory).st_dev == os.stat(place.parent).st_dev:
        warnings = _join_named(work_dir.directory / f"joined.{container}", into, place)
    else:
        warnings = _join_elsewhere(into, place)
    sync_directory(place.parent)
    return warnings


def _join_named(target: Path, into: Callable[[Path], list[str]], place: Path) -> list[str]:
    try:
        warnings = into(target)
        os.replace(target, place)
        return warnings
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _join_elsewhere(into: Callable[[Path], list[str]], place: Path) -> list[str]:
    target = place.parent / f".{place.name[:60]}.joined"
    target.unlink(missing_ok=True)  # of a run that was killed, where there is no O_TMPFILE or just before the rename
    try:
        nameless = os.open(place.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
    except OSError:  # a file system that has none: NFS, FAT
        return _join_named(target, into, place)
    try:
        warnings = into(Path(f"/proc/self/fd/{nameless}"))
        # `src_dir_fd` has no say in an absolute name, but without it os.link does not follow the link in /proc.
        os.link(f"/proc/self/fd/{nameless}", target, src_dir_fd=nameless, follow_symlinks=True)
    finally:
        os.close(nameless)
    os.replace(target, place)
    return warnings
