"""Segments of a run: the open one, those of an earlier run verified, and all of them joined into the output."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from upscaling.common.errors import InputError, UpscaleError
from upscaling.common.files import fitting_name, sync_directory
from upscaling.common.text import many, printable
from upscaling.decode.messages import Message
from upscaling.encode.segment_writer import SegmentWriter
from upscaling.job.ledger import frames_in
from upscaling.job.work_dir import WorkDir
from upscaling.mux.muxer import join
from upscaling.mux.video_track import Segment
from upscaling.pipeline.checks import check_overwritten, written_files
from upscaling.pipeline.picture_sources import AnimationSource, PictureSource
from upscaling.pipeline.picture_target import Origin
from upscaling.pipeline.plan import Plan

SEGMENT_SECONDS = 60.0  # a segment is closed after that time, or after --segment-frames


class OpenSegment:
    """The segment that is being written; a context manager that closes it and enters it in the ledger at the end.

    This also happens after an error elsewhere, for instance in reading the next frame: the frames that are in the
    segment are kept.
    """

    def __init__(self, work_dir: WorkDir, plan: Plan):
        self._work_dir, self._max_frames = work_dir, plan.options.segment_frames
        self._path = work_dir.folder("segments") / f"segment_{len(work_dir.records):06d}.mkv.tmp"
        self._writer = SegmentWriter(self._path, plan.encoding)
        self._encoder = self._writer.encoder
        self._pts: list[int] = []
        self._opened = time.monotonic()
        self._failed = False
        try:
            self._check_encoder(plan.encoding.codec)
        except InputError as error:
            self.__exit__(InputError, error, None)
            raise

    def _check_encoder(self, codec: str) -> None:
        """Raise InputError if the encoder's header is not that of the finished segments: they could not be joined."""
        records = self._work_dir.records
        if records and records[-1].encoder not in ("", self._encoder):
            raise InputError(
                f"{printable(self._work_dir.directory)} holds {frames_in(records):,} finished frames made with another "
                f"version of {codec}, which do not fit those of this one; install that again, or add --restart"
            )

    def write(self, planes: list[np.ndarray], pts: int, messages: Sequence[Message] = ()) -> None:
        """Encode a frame with its messages; `pts` is in ticks of the encoder's time base."""
        self._failed = True  # until it is written
        self._writer.write(planes, pts, messages)
        self._failed = False
        self._pts.append(pts)

    def is_full(self) -> bool:
        return len(self._pts) >= self._max_frames or time.monotonic() - self._opened > SEGMENT_SECONDS

    def __enter__(self) -> "OpenSegment":
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            if not self._failed:
                self._writer.close()
                if self._pts and self._work_dir.held:
                    self._work_dir.add_segment(self._path, self._pts, self._encoder)
        finally:
            self._writer.__exit__(UpscaleError, error, trace)  # closes the file if `close` did not
            self._path.unlink(missing_ok=True)  # frees space on a full disk


def verify(work_dir: WorkDir, say: Callable[[str], None], check: Callable[[], None]) -> None:
    """Keep the segments of an earlier run up to the first whose size or SHA-256 is not the ledger's.

    `check` is called before each one and raises if the run is to end.
    """
    intact = []
    for record in work_dir.records:
        check()
        if not record.is_intact(work_dir.folder("segments") / record.file):
            break
        intact.append(record)
    if len(intact) < len(work_dir.records):
        dropped = many(len(work_dir.records) - len(intact), "segment")
        say(f"dropping {dropped} of the earlier run: damaged, or after a damaged one")
        work_dir.keep_segments(intact)


def finish(plan: Plan, work_dir: WorkDir) -> list[str]:
    """Write the output and move it into place; return warnings.

    Nothing has the output's name before all of it is on the disk. A run that is killed meanwhile leaves nothing
    beside the output: the file is written in the work directory, or, if that is on another file system, as an
    unnamed file in the output's directory (O_TMPFILE of open(2)).
    """
    if plan.source.identity()["input"] != plan.identity["input"]:
        raise UpscaleError(f"{plan.options.input} changed while it was upscaled; run the command again with --restart")
    if plan.target is not None:
        _check_output(plan)
        plan.target.write(work_dir, _origin(plan))
    if plan.target is not None or plan.part is not None:
        return []
    segments = [Segment(work_dir.folder("segments") / record.file, record.pts) for record in work_dir.records]
    return join_into_output(segments, plan, work_dir)


def _origin(plan: Plan) -> Origin:
    """What the pictures of a job take from its input."""
    source = plan.source
    if isinstance(source, AnimationSource):
        return Origin(plan.info, source.files, None, source.last_duration, source.animation.loops)
    files = source.files if isinstance(source, PictureSource) else ()
    return Origin(plan.info, files, source.numbers)


def join_into_output(segments: Sequence[Segment], plan: Plan, work_dir: WorkDir) -> list[str]:
    """Join segments with the input's other streams into the output; return warnings.

    `work_dir` is held by this process; the output is written there if it is on the same file system.
    """
    container = plan.output.suffix[1:].lower()
    _check_output(plan)

    def write(target: Path | int) -> list[str]:
        warnings = join(
            segments, plan.info, plan.encoding, target, container, plan.clip(work_dir.records), plan.streams
        )
        if not work_dir.held:
            raise UpscaleError("the run ended while the output was written")
        return warnings

    place = Path(os.path.realpath(plan.output))  # an output that is a link stays one; its target is replaced
    if os.stat(work_dir.directory).st_dev == os.stat(place.parent).st_dev:
        warnings = _write_and_rename(work_dir.directory / f"joined.{container}", write, place)
    else:
        warnings = _write_unnamed(write, place)
    sync_directory(place.parent)
    return warnings


def _check_output(plan: Plan) -> None:
    """UpscaleError if a file that this program did not make has taken an output's place since the job began."""
    files = written_files(plan.options, plan.target, plan.source.numbers)
    try:
        check_overwritten((path for what, path in files if what == "output"), plan.options.overwrite)
    except InputError as error:
        raise UpscaleError(str(error)) from error


def _write_and_rename(temporary: Path, write: Callable[[Path | int], list[str]], place: Path) -> list[str]:
    try:
        warnings = write(temporary)
        os.replace(temporary, place)
        return warnings
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_unnamed(write: Callable[[Path | int], list[str]], place: Path) -> list[str]:
    """Write an unnamed file beside `place` and give it that name; a named one on file systems without O_TMPFILE."""
    temporary = place.parent / fitting_name(f".{place.name}", ".joined")
    temporary.unlink(missing_ok=True)  # of a run that was killed just before the rename, or without O_TMPFILE
    try:
        unnamed = os.open(place.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
    except OSError:  # not supported, for instance by NFS and FAT
        return _write_and_rename(temporary, write, place)
    try:
        warnings = write(unnamed)
        # `src_dir_fd` does not matter for an absolute path, but without it os.link does not follow the link in /proc.
        os.link(f"/proc/self/fd/{unnamed}", temporary, src_dir_fd=unnamed, follow_symlinks=True)
    finally:
        os.close(unnamed)
    os.replace(temporary, place)
    return warnings
