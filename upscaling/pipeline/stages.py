"""The two stages that run in threads of the main process: decode, and encode.

source ─► DecodeStage ─► input_frames/, window, batches to the dispatcher
window, output_frames/ ─► EncodeStage ─► segments/, ledger
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from upscaling.common.text import printable
from upscaling.decode.decoder import DecodedFrame
from upscaling.demux.input_file import VideoError
from upscaling.encode.message_units import lost_messages
from upscaling.frames import pixel_formats
from upscaling.inference.settings import LANCZOS
from upscaling.job.work_dir import WorkDir
from upscaling.pipeline.frame_store import FrameStore
from upscaling.pipeline.plan import Plan
from upscaling.pipeline.segments import OpenSegment
from upscaling.pipeline.sources import VideoSource
from upscaling.pipeline.steady_schedule import MAX_STILL
from upscaling.pipeline.window import Entry, Window

MISSING_FRAMES, MISSING_SHARE = 2, 0.1  # a video that lacks more frames than both is incomplete
Look = Callable[[int, FrameStore], None]  # takes the number of a frame, and where it is stored
MAX_BATCH_SPAN = 8  # batch sizes: a still must not delay the frames before it for longer


@dataclass
class RunCounts:
    """Frame counts of a run, for reports. Each field is written by one thread."""

    total: int | None  # frames of the video: an estimate until the decoder has ended
    resumed: int = 0  # frames that an earlier run has done
    done: int = 0  # frames encoded, `resumed` included
    repeated: int = 0  # frames of this run that are equal to the one before: no worker gets them
    restarts: int = 0  # of workers
    started: float = field(default_factory=time.monotonic)
    skipping: float = 0.0  # seconds that a resumed run took to decode the frames that are done

    @property
    def seconds(self) -> float:
        """Seconds since the start of the run."""
        return time.monotonic() - self.started

    @property
    def rate(self) -> float:
        """Frames/s of this run, without frames that were resumed and the time it took to reach the first new one."""
        return (self.done - self.resumed) / max(self.seconds - self.skipping, 1e-9)

    @property
    def seconds_left(self) -> int | None:
        """The estimated rest in whole seconds; None if it cannot be estimated."""
        if not self.total or self.done <= self.resumed:
            return None
        return max(0, int((self.total - self.done) / self.rate))

    def facts(self) -> dict:
        """The progress, JSON-able: for --progress json and for --status."""
        return {
            "frames_done": self.done,
            "frames_total": self.total,
            "frames_per_second": round(self.rate, 3),
            "seconds": round(self.seconds, 1),
            "seconds_left": self.seconds_left,
            "restarts": self.restarts,
        }


class Batches(Protocol):
    """What the decode stage tells of its batches (dispatcher.Dispatcher)."""

    def submit(self, numbers: Sequence[int], is_context: bool = False) -> None:
        """Frames of these numbers are in storage and make a batch."""
        ...

    def mark_still(self, number: int) -> None:
        """The stored frame is shown for more than MAX_STILL frames."""
        ...

    def end(self) -> None:
        """There are no more batches."""
        ...


class ShownPicture:
    """The picture that is shown while frames are decoded: one frame, or several with the same samples."""

    def __init__(self):
        self.samples: np.ndarray | None = None
        self.before: np.ndarray | None = None  # the picture before it
        self.frames = 0  # that have shown it so far

    def show(self, samples: np.ndarray) -> bool:
        """Take the next frame; return whether its picture is another one."""
        if self.samples is not None and pixel_formats.equal(samples, self.samples):
            self.frames += 1
            return False
        self.before, self.samples, self.frames = self.samples, samples, 1
        return True

    @property
    def is_still(self) -> bool:
        return self.frames > MAX_STILL


class DecodeStage:
    """Decoded frames into storage and the window; batches of them to the dispatcher."""

    def __init__(self, plan: Plan, frames: FrameStore, window: Window, counts: RunCounts, batches: Batches):
        self._plan, self._frames, self._window, self._counts, self._batches = plan, frames, window, counts, batches
        self._picture = ShownPicture()
        self._stored = 0  # number of the frame that was stored last, which shows the picture
        self._still = 0  # number of the frame that stood still last
        self._last = 0  # number of the frame that was decoded last
        self._batch: list[int] = []
        self._batch_size = 0
        self._has_context_after = False
        self.warnings: list[str] = []  # of the decoder; complete when `run` has returned

    def run(self) -> None:
        """Decode the frames after those that are done; frames equal to the one before are not stored."""
        done = self._last = self._counts.resumed
        self._batch_size = next_batch_size(self._plan, done)
        kinds: set[str] = set()  # of messages
        with self._plan.source.open(done, MAX_STILL if self._plan.steady else 0) as decoder:
            for decoded in decoder:
                samples = self._frames.flat(decoded.planes)
                changed = self._picture.show(samples)
                if decoded.number <= done:
                    continue  # context of the first frame
                if decoded.after_part:
                    self._take_context_after(samples, changed)
                    continue
                if self._last == done > 0:
                    self._counts.skipping = self._counts.seconds
                kinds.update(message.kind for message in decoded.messages)
                if not self._window.wait_for_room():
                    return
                self._take(decoded, samples, changed)
            self._submit_batch()
            self.warnings = [*decoder.warnings, *self._lost_later(kinds)]
        if self._last == 0 and self._plan.part is None:
            raise VideoError(f"{self._plan.options.input}: no frame can be decoded")
        self._counts.total = self._last
        self._batches.end()
        self._window.end()

    def _take(self, decoded: DecodedFrame, samples: np.ndarray, changed: bool) -> None:
        """One frame of the job."""
        number, repeated = decoded.number, not changed
        if self._last == self._counts.resumed:
            repeated = False  # the frame that it may repeat is not in storage
            if self._plan.steady and self._picture.before is not None and not self._picture.is_still:
                self._frames.put(number - 1, self._picture.before)
                self._batches.submit([number - 1], is_context=True)
        if not repeated:
            self._frames.put(number, samples)
            self._stored = number
            self._batch.append(number)
        self._last = number
        self._mark_still()
        self._counts.repeated += repeated
        self._window.add(Entry(number, decoded.pts, repeated, complete=repeated, messages=decoded.messages))
        span = number - self._batch[0] if self._batch else 0
        if len(self._batch) >= self._batch_size or span > MAX_BATCH_SPAN * self._plan.batch_size:
            self._submit_batch()

    def _take_context_after(self, samples: np.ndarray, changed: bool) -> None:
        """A frame after the part: the first other picture is the context of the last one, unless that stands still."""
        if self._has_context_after or not (changed or self._picture.is_still):
            return
        self._has_context_after = True
        self._submit_batch()
        if changed:
            self._frames.put(self._last + 1, samples)
            self._batches.submit([self._last + 1], is_context=True)
        else:
            self._mark_still()

    def _mark_still(self) -> None:
        """Tell once of the picture that is shown if it stands still."""
        if self._plan.steady and self._picture.is_still and self._still != self._stored:
            self._still = self._stored
            self._batches.mark_still(self._stored)

    def _submit_batch(self) -> None:
        if self._batch:
            self._batches.submit(self._batch)
        self._batch, self._batch_size = [], next_batch_size(self._plan, self._last)

    def _lost_later(self, kinds: set[str]) -> list[str]:
        """One line for each kind of message that the video carries, its first frames do not, and the result can't."""
        named = self._plan.info.side_data.get("messages", {}).get("kinds", ())
        return [] if self._plan.target else lost_messages(self._plan.encoding, sorted(kinds.difference(named)))


def missing_frames(plan: Plan, frames: int) -> int:
    """How many frames the container lists that a whole video's decoder did not return, if they are far too few; else 0.

    A few more or less are common: counts of containers are not exact.
    """
    listed = plan.info.listed_frames or 0
    whole = isinstance(plan.source, VideoSource) and plan.source.selection is None
    missing = listed - frames
    return missing if whole and missing > max(MISSING_FRAMES, listed * MISSING_SHARE) else 0


def incomplete_line(plan: Plan, missing: int) -> str:
    """The warning about a result whose input lacks many of its frames."""
    return (
        f"{printable(plan.output)} is incomplete: {missing} of the {plan.info.listed_frames} frames that "
        f"{printable(plan.options.input)} lists could not be read"
    )


def next_batch_size(plan: Plan, submitted: int) -> int:
    """Frames of the next batch: fewer near the end, so that all workers end at about the same time.

    This applies to networks on a CPU only: their last batches take long, and small batches cost nothing more.
    """
    total, models = plan.info.frame_count, plan.models
    if not total or models[0].model == LANCZOS or any(model.device != "cpu" for model in models):
        return plan.batch_size
    left = total - submitted
    if left < -plan.batch_size * len(models):
        return plan.batch_size  # the container's count is wrong; slightly too low is common
    return max(1, min(plan.batch_size, -(-left // len(models))))


class EncodeStage:
    """Upscaled frames out of the window into segments, in presentation order."""

    def __init__(
        self, plan: Plan, work_dir: WorkDir, frames: FrameStore, window: Window, counts: RunCounts, look: Look | None
    ):
        """`look` is called with each upscaled frame while it is in storage."""
        self._plan, self._work_dir, self._frames, self._window, self._counts = plan, work_dir, frames, window, counts
        self._look = look
        self._planes: list[np.ndarray] = []  # of the frame encoded last

    def run(self) -> None:
        """Encode until the video or the run ends; the open segment is closed in either case."""
        while (entry := self._window.take()) is not None:
            with OpenSegment(self._work_dir, self._plan) as segment:
                while entry is not None:
                    self._encode(entry, segment)
                    entry = None if segment.is_full() else self._window.take()

    def _encode(self, entry: Entry, segment: OpenSegment) -> None:
        if not entry.repeated:
            self._planes = self._frames.planes(entry.number)
        segment.write(self._planes, entry.pts, entry.messages)
        if not entry.repeated:
            if self._look is not None:
                self._look(entry.number, self._frames)
            self._frames.remove(entry.number)
        self._window.release(entry)
        self._counts.done += 1
