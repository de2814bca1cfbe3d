"""One job, all stages at once: decode thread, workers, encode thread, and the main loop between them.

decode thread ── frames, manifests ──► Crew (dispatch.py) ── results ──► Window ──► encode thread ─► segments
      ▲                                                                   │
      └───────────── waits until the window has room for a frame ◄────────┘
"""

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

import frame
import status
from decode import Decoder
from dispatch import BatchDone, Crew, Restarted, Work, WorkerError
from encode import SegmentWriter, verify_segment
from errors import Stopped, UpscaleError
from job import Job, sync_directory
from manifest import Manifest, write_manifest
from mux import Segment, join
from plan import Plan
from video import VideoError

SEGMENT_FRAMES = 250
SEGMENT_SECONDS = 60.0
GRACE_SECONDS = 4.0  # for encoding what is upscaled already, when the run is stopped
LOOK_SECONDS = 0.25  # between looks at the workers, for the bars
STATUS_SECONDS = 1.0  # between writes of the status files


@dataclass
class Entry:
    """A frame on its way. `held` frames have the pixels of the frame before and no files of their own."""

    number: int
    pts: int
    held: bool
    complete: bool


class Window:
    """The frames in storage: at most `capacity` that are not held, in presentation order."""

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.entries: deque[Entry] = deque()
        self.by_number: dict[int, Entry] = {}  # of those with files
        self.changed = threading.Condition()
        self.ended = False
        self.stop_by: float | None = None  # time.monotonic()
        self.error: BaseException | None = None

    def wait_for_room(self) -> bool:
        """Until one more frame may be stored; False where the run ends first."""
        with self.changed:
            self.changed.wait_for(lambda: len(self.by_number) < self.capacity or self.stop_by is not None)
            return self.stop_by is None

    def add(self, entry: Entry) -> None:
        with self.changed:
            self.entries.append(entry)
            if not entry.held:
                self.by_number[entry.number] = entry
            self.changed.notify_all()

    def complete(self, numbers: list[int]) -> None:
        """The outputs of these frames are in place."""
        with self.changed:
            for number in numbers:
                if number in self.by_number:
                    self.by_number[number].complete = True
            self.changed.notify_all()

    def end(self) -> None:
        """No more frames will be added."""
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def stop(self, grace: float, error: BaseException | None = None) -> None:
        """End the run: what is complete may still be taken for `grace` seconds."""
        with self.changed:
            self.error = self.error or error
            if self.stop_by is None:
                self.stop_by = time.monotonic() + grace
            self.changed.notify_all()

    def take(self) -> Entry | None:
        """The next frame once it is complete; None at the end of the video or of the run."""
        with self.changed:
            self.changed.wait_for(
                lambda: (
                    (self.entries and self.entries[0].complete)
                    or (self.ended and not self.entries)
                    or self.stop_by is not None
                )
            )
            out_of_time = self.stop_by is not None and time.monotonic() > self.stop_by
            if not self.entries or not self.entries[0].complete or out_of_time:
                return None
            return self.entries[0]

    def release(self, entry: Entry) -> None:
        """The frame taken last is encoded and its files are gone."""
        with self.changed:
            self.entries.popleft()
            self.by_number.pop(entry.number, None)
            self.changed.notify_all()


@dataclass
class Tally:
    """The counts of a run, for reports; frames are counted when they are encoded."""

    total: int | None  # frames of the video: an estimate until the decoder has ended
    kept: int = 0  # frames that an earlier run had done
    done: int = 0  # frames of the video, `kept` included
    held: int = 0  # of this run: frames equal to the one before, which no worker saw
    restarts: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


class Pipeline:
    """One job's run through a crew of workers."""

    def __init__(self, plan: Plan, job: Job, crew: Crew, say: Callable[[str], None], show: Callable):
        """`say` takes one line for the user, `show(tally, rows)` is called a few times a second."""
        self.plan, self.job, self.crew, self.say, self.show = plan, job, crew, say, show
        self.window = Window(plan.window)
        self.tally = Tally(plan.info.frame_count)
        self.decoder: Decoder | None = None
        self.works: dict[Path, list[int]] = {}  # manifests that are not done yet: the numbers of their frames
        self.new_works: deque[Work] = deque()
        self.wake_reader, self.wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.signal = 0

    # The run

    def run(self) -> None:
        """All frames that are not in closed segments yet, into segments; raises what ended it early."""
        self.tally.kept = self.tally.done = self.job.frames_done
        threads = [
            threading.Thread(target=self._guard, args=(stage,), name=name, daemon=True)
            for stage, name in ((self._decode, "decode"), (self._encode, "encode"))
        ]
        for thread in threads:
            thread.start()
        try:
            self._attend(threads[1])
        except BaseException as error:
            self.window.stop(GRACE_SECONDS, error)
        finally:
            self.window.stop(GRACE_SECONDS)
            for thread in threads:
                thread.join()
            os.close(self.wake_reader)
            os.close(self.wake_writer)
        if self.window.error is not None:
            raise self.window.error

    def _attend(self, encoding: threading.Thread) -> None:
        """The main loop: hand out manifests, hear workers, draw, until the last frame is encoded."""
        written = 0.0
        while encoding.is_alive() and self.window.stop_by is None:
            if self.signal:
                raise Stopped(self.signal)
            while self.new_works:
                self.crew.give(self.new_works.popleft())
            for event in self.crew.wait(LOOK_SECONDS, [self.wake_reader]):
                self._take(event)
            self._drain_wakes()
            if time.monotonic() - written > STATUS_SECONDS:
                status.write_json(self.crew.array, self.job.directory)
                written = time.monotonic()
            self.show(self.tally, self.crew.rows)

    def _take(self, event: BatchDone | Restarted) -> None:
        if isinstance(event, Restarted):
            self.tally.restarts += 1
            self.say(f"worker {event.slot} {event.why}; a fresh one takes its place")
        elif event.path in self.works:
            self.window.complete(self.works.pop(event.path))
            event.path.unlink(missing_ok=True)

    def _guard(self, stage: Callable[[], None]) -> None:
        """Run a stage in its thread; its error ends the run and is raised by `run`."""
        try:
            stage()
        except BaseException as error:
            self.window.stop(GRACE_SECONDS, error)
        finally:
            self.wake()

    def wake(self) -> None:
        """Have the main loop look now; safe in a signal handler."""
        try:
            os.write(self.wake_writer, b"x")
        except BlockingIOError:
            pass  # it has been woken already

    def _drain_wakes(self) -> None:
        try:
            while os.read(self.wake_reader, 4096):
                pass
        except BlockingIOError:
            pass

    # Decode

    def _decode(self) -> None:
        """Frames into storage, batches into manifests; a frame equal to the one before is not stored."""
        batch: list[int] = []
        number_of = itertools.count()
        previous: np.ndarray | None = None
        with Decoder(self.plan.info, skip=self.job.frames_done) as self.decoder:
            last = self.job.frames_done
            for decoded in self.decoder:
                last = decoded.number
                samples = self._flat(decoded.planes)
                held = previous is not None and np.array_equal(samples, previous)
                if not held and not self.window.wait_for_room():
                    return
                if not held:
                    self._store(decoded.number, samples)
                    batch.append(decoded.number)
                    previous = samples
                self.tally.held += held
                self.window.add(Entry(decoded.number, decoded.pts, held, held))
                # A long still must not keep the frames before it from being upscaled.
                if len(batch) == self.plan.batch_size or (
                    batch and decoded.number - batch[0] > 8 * self.plan.batch_size
                ):
                    self._deal(next(number_of), batch)
                    batch = []
            if batch:
                self._deal(next(number_of), batch)
        if last == 0:
            raise VideoError(f"{self.plan.options.input}: no frame of it decodes")
        self.tally.total = last
        self.window.end()

    def _flat(self, planes: list[np.ndarray]) -> np.ndarray:
        """A decoded frame's planes one after another without padding: a flat array."""
        p = self.plan.picture
        fmt = frame.FORMATS[p.pixel_format]
        samples = np.empty(frame.sample_count(fmt, p.width, p.height), fmt.dtype)
        for target, plane in zip(frame.planes(samples, fmt, p.width, p.height), planes, strict=True):
            target[...] = plane.reshape(target.shape)
        return samples

    def _store(self, number: int, samples: np.ndarray) -> None:
        p = self.plan.picture
        shape = frame.stored_shape(frame.FORMATS[p.pixel_format], p.width, p.height)
        with (self.job.folder("input_frames") / frame.frame_name(number)).open("wb") as file:
            np.lib.format.write_array(file, samples.reshape(shape), allow_pickle=False)

    def _deal(self, number: int, frames: list[int]) -> None:
        """Write the manifest of one batch and have the main loop hand it out."""
        p, options = self.plan.picture, self.plan.options
        manifest = Manifest(
            worker=number % options.workers,
            input_dir=self.job.folder("input_frames"),
            output_dir=self.job.folder("output_frames"),
            scale=max(Fraction(p.out_width, p.width), Fraction(p.out_height, p.height)),
            batch_size=self.plan.batch_size,
            patch_size=options.patch_size,
            pixel_format=p.pixel_format,
            colour=f"{p.matrix} {'full' if p.full_range else 'limited'}",
            total_frames=len(frames),
            batches={number: tuple(frame.frame_name(n) for n in frames)},
            chroma_location=p.chroma_location,
            frame_size=(p.width, p.height),
            output_size=(p.out_width, p.out_height),
            output_pixel_format=p.out_pixel_format,
            output_colour=f"{p.out_matrix} {'full' if p.out_full_range else 'limited'}",
        )
        path = write_manifest(manifest, self.job.folder("manifests") / f"manifest_{number:06d}.txt")
        self.works[path] = list(frames)
        self.new_works.append(Work(path, f"frames {frames[0]} to {frames[-1]}"))
        self.wake()

    # Encode

    def _encode(self) -> None:
        """Upscaled frames into segments, in order; closes the open segment however the run ends."""
        previous: list[np.ndarray] | None = None
        while (entry := self.window.take()) is not None:
            with _OpenSegment(self.job, self.plan) as segment:
                while entry is not None:
                    if not entry.held:
                        previous = self._load(entry.number)
                    segment.write(previous, entry.pts)
                    if not entry.held:
                        self._remove(entry.number)
                    self.window.release(entry)
                    self.tally.done += 1
                    if segment.is_full():
                        break
                    entry = self.window.take()

    def _load(self, number: int) -> list[np.ndarray]:
        """The planes of an upscaled frame, memory-mapped."""
        p = self.plan.picture
        path = self.job.folder("output_frames") / frame.frame_name(number)
        fmt, size = frame.FORMATS[p.out_pixel_format], p.stored_size
        try:
            samples = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise WorkerError(f"frame {number} came back damaged: {error}") from error
        if samples.dtype != fmt.dtype or samples.size != frame.sample_count(fmt, *size):
            raise WorkerError(f"frame {number} came back with the wrong size")
        return frame.planes(samples, fmt, *size)

    def _remove(self, number: int) -> None:
        for folder in ("input_frames", "output_frames"):
            (self.job.folder(folder) / frame.frame_name(number)).unlink(missing_ok=True)

    # After

    def finish(self) -> list[str]:
        """Join the segments with the input's other streams, move the result to its name; returns warnings."""
        plan, job = self.plan, self.job
        container = plan.output.suffix[1:].lower()
        segments = [Segment(job.folder("segments") / record.file, record.pts) for record in job.records]
        # In the work directory where that is on the output's file system: a run that is killed while it joins
        # leaves nothing beside the output, and the rename is as atomic.
        beside = os.stat(job.directory).st_dev != os.stat(plan.output.parent).st_dev
        target = plan.output.parent / f".{plan.output.name}.joined" if beside else job.directory / f"joined.{container}"
        try:
            warnings = join(segments, plan.info, plan.encoding, target, container)
            os.replace(target, plan.output)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        sync_directory(plan.output.parent)
        return warnings


class _OpenSegment:
    """The segment that is being written; entered in the ledger when it is left, also by an error elsewhere."""

    def __init__(self, job: Job, plan: Plan):
        self.job, self.pts = job, []
        self.path = job.folder("segments") / f"segment_{len(job.records):06d}.mkv.tmp"
        self.writer = SegmentWriter(self.path, plan.encoding)
        self.opened = time.monotonic()

    def write(self, planes: list[np.ndarray], pts: int) -> None:
        self.writer.write(planes, pts)
        self.pts.append(pts)

    def is_full(self) -> bool:
        return len(self.pts) >= SEGMENT_FRAMES or time.monotonic() - self.opened > SEGMENT_SECONDS

    def __enter__(self) -> "_OpenSegment":
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.writer.close()
        if self.pts and kind is None:
            self.job.add_segment(self.path, self.pts)


def verify(job: Job, say: Callable[[str], None]) -> None:
    """Keep the segments of an earlier run up to the first that is not what the ledger says of it."""
    good = 0
    for record in job.records:
        path = job.folder("segments") / record.file
        try:
            if verify_segment(path) != len(record.pts):
                break
        except (UpscaleError, OSError):
            break
        good += 1
    if good < len(job.records):
        say(f"{len(job.records) - good} segments of the earlier run are damaged; their frames are done again")
    job.keep_segments(good)
