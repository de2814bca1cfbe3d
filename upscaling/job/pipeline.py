"""One job, all stages at once: decode thread, workers, encode thread, and the main loop between them.

decode thread ── frames, manifests ──► WorkerPool ── results ──► Window ──► encode thread ─► segments
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

from upscaling.common.errors import Stopped
from upscaling.decode.reader import VideoError
from upscaling.frames import pixel_formats
from upscaling.inference.settings import LANCZOS
from upscaling.job.frame_store import FrameStore
from upscaling.job.plan import Plan
from upscaling.job.segments import OpenSegment, finish
from upscaling.job.window import Entry, Window
from upscaling.job.work_dir import WorkDir
from upscaling.workers import status
from upscaling.workers.handle import Task
from upscaling.workers.manifest import Manifest, write_manifest
from upscaling.workers.pool import BatchDone, WorkerError, WorkerLost, WorkerPool

GRACE_SECONDS = 4.0  # for encoding what is upscaled already, when the run is stopped
CLOSE_SECONDS = 8.0  # for that and for closing the open segment; what an encoder keeps longer is lost
LOOK_SECONDS = 0.25  # between looks at the workers, for the bars
STATUS_SECONDS = 1.0  # between writes of the status files


@dataclass
class RunCounts:
    """The counts of a run, for reports; frames are counted when they are encoded."""

    total: int | None  # frames of the video: an estimate until the decoder has ended
    resumed: int = 0  # frames that an earlier run had done
    done: int = 0  # frames of the video, `resumed` included
    repeated: int = 0  # of this run: frames equal to the one before, which no worker saw
    restarts: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


class Pipeline:
    """One job's run through a crew of workers."""

    def __init__(self, plan: Plan, work_dir: WorkDir, pool: WorkerPool, say: Callable[[str], None], show: Callable):
        """`say` takes one line for the user, `show(counts, rows)` is called a few times a second."""
        self.plan, self.work_dir, self.pool, self.say, self.show = plan, work_dir, pool, say, show
        self.window = Window(plan.window)
        self.frames = FrameStore(plan, work_dir)
        self.counts = RunCounts(plan.info.frame_count)
        self.warnings: list[str] = []  # of the decoder; complete when `run` has returned
        self.works: dict[Path, tuple[Task, list[int]]] = {}  # manifests not done yet, the numbers of their frames
        self.new_works: deque[Task] = deque()
        self.wake_reader, self.wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.signal = 0

    # The run

    def run(self) -> None:
        """All frames that are not in closed segments yet, into segments; raises what ended it early."""
        self.counts.resumed = self.counts.done = self.work_dir.frames_done
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
            if self._wait_for(threads):
                self._close_wakes()
        if self.window.error is not None:
            raise self.window.error
        self.check()

    def check(self) -> None:
        """Stopped where a signal has come."""
        if self.signal:
            raise Stopped(self.signal)

    def _wait_for(self, threads: list[threading.Thread]) -> bool:
        """Wait for the stages to end; False where one does not in the time that a signal leaves.

        One that is then still in a decoder or an encoder does nothing any more when it comes back.
        """
        deadline = None
        while alive := [thread for thread in threads if thread.is_alive()]:
            if deadline is None and (self.signal or alive == threads[:1]):
                deadline = time.monotonic() + CLOSE_SECONDS
            if deadline is not None and time.monotonic() > deadline:
                return False
            alive[-1].join(0.05)
        return True

    def _close_wakes(self) -> None:
        reader, writer = self.wake_reader, self.wake_writer
        self.wake_reader = self.wake_writer = -1
        os.close(reader)
        os.close(writer)

    def _attend(self, encoding: threading.Thread) -> None:
        """The main loop: hand out manifests, hear workers, draw, until the last frame is encoded."""
        written = 0.0
        while encoding.is_alive() and self.window.stop_by is None:
            self.check()
            while self.new_works:
                self.pool.submit(self.new_works.popleft())
            for event in self.pool.wait(LOOK_SECONDS, [self.wake_reader]):
                self._take(event)
            self._drain_wakes()
            if time.monotonic() - written > STATUS_SECONDS:
                status.write_json(self.pool.rows, self.work_dir.directory)
                written = time.monotonic()
            self.show(self.counts, self.pool.rows)
        status.write_json(self.pool.rows, self.work_dir.directory)  # what the workers came to, for --keep-work

    def _take(self, event: BatchDone | WorkerLost | str) -> None:
        if isinstance(event, str):
            self.say(event)
        elif isinstance(event, WorkerLost):
            self.counts.restarts += event.replaced
            then = "a fresh one takes its place" if event.replaced else "it can't be started; the others go on"
            self.say(f"worker {event.worker} {event.reason}; {then}")
        elif event.path in self.works:
            work, numbers = self.works[event.path]
            if damage := self._damage(numbers):
                self.say(f"{damage}; {work.frames} are done again")
                for number in numbers:
                    self.frames.discard(number)
                self.pool.retry(work, f"left this: {damage}")
                return
            del self.works[event.path]
            self.window.complete(numbers)
            event.path.unlink(missing_ok=True)

    def _damage(self, numbers: list[int]) -> str:
        """What is wrong with the upscaled frames of these numbers as they lie there; nothing if they are whole."""
        for number in numbers:
            if self.frames.has_its_size(number):
                continue
            try:
                self.frames.samples(number)
            except WorkerError as error:
                return str(error)
        return ""

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
            if self.wake_writer >= 0:
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
        size = self._size_of_batch(self.work_dir.frames_done)
        number_of = itertools.count()
        previous: np.ndarray | None = None
        last = self.work_dir.frames_done
        with self.plan.source.open(last) as decoder:
            for decoded in decoder:
                last = decoded.number
                samples = self.frames.flat(decoded.planes)
                repeated = previous is not None and pixel_formats.equal(samples, previous)
                if not self.window.wait_for_room():
                    return
                if not repeated:
                    self.frames.put(decoded.number, samples)
                    batch.append(decoded.number)
                    previous = samples
                self.counts.repeated += repeated
                self.window.add(Entry(decoded.number, decoded.pts, repeated, repeated))
                # A long still must not keep the frames before it from being upscaled.
                if len(batch) >= size or (batch and last - batch[0] > 8 * self.plan.batch_size):
                    self._deal(next(number_of), batch)
                    batch, size = [], self._size_of_batch(last)
            if batch:
                self._deal(next(number_of), batch)
            self.warnings = decoder.warnings
        if last == 0 and self.plan.part is None:
            raise VideoError(f"{self.plan.options.input}: no frame of it decodes")
        self.counts.total = last
        self.window.end()

    def _size_of_batch(self, dealt: int) -> int:
        """How many frames the next batch takes: fewer near the end, so that the workers end together.

        Only where a network runs on a CPU: there the last batches are long, and small ones cost nothing more.
        """
        total, models = self.plan.info.frame_count, self.plan.models
        if not total or models[0].model == LANCZOS or any(m.device != "cpu" for m in models):
            return self.plan.batch_size
        left = total - dealt
        if left < -self.plan.batch_size * len(models):
            return self.plan.batch_size  # the container's count is wrong; a little less than there are is common
        return max(1, min(self.plan.batch_size, -(-left // len(models))))

    def _deal(self, number: int, frames: list[int]) -> None:
        """Write the manifest of one batch and have the main loop hand it out."""
        source, target = self.frames.conversion.source, self.frames.conversion.target
        options = self.plan.options
        manifest = Manifest(
            worker=number % options.workers,
            input_dir=self.work_dir.folder("input_frames"),
            output_dir=self.work_dir.folder("output_frames"),
            scale=max(Fraction(target.width, source.width), Fraction(target.height, source.height)),
            batch_size=self.plan.batch_size,
            patch_size=options.patch_size,
            pixel_format=source.pixel_format,
            colour=f"{source.matrix} {'full' if source.full_range else 'limited'}",
            total_frames=len(frames),
            batches={number: tuple(map(self.frames.name, frames))},
            chroma_location=source.chroma_location,
            frame_size=(source.width, source.height),
            output_size=(target.width, target.height),
            output_pixel_format=target.pixel_format,
            output_colour=f"{target.matrix} {'full' if target.full_range else 'limited'}",
        )
        path = write_manifest(manifest, self.work_dir.folder("manifests") / f"manifest_{number:06d}.txt")
        work = Task(path, f"frames {frames[0]} to {frames[-1]}")
        self.works[path] = work, list(frames)
        self.new_works.append(work)
        self.wake()

    # Encode

    def _encode(self) -> None:
        """Upscaled frames into segments, in order; closes the open segment however the run ends."""
        previous: list[np.ndarray] | None = None
        while (entry := self.window.take()) is not None:
            with OpenSegment(self.work_dir, self.plan) as segment:
                while entry is not None:
                    if not entry.repeated:
                        previous = self.frames.planes(entry.number)
                    segment.write(previous, entry.pts)
                    if not entry.repeated:
                        self.frames.remove(entry.number)
                    self.window.release(entry)
                    self.counts.done += 1
                    if segment.is_full():
                        break
                    entry = self.window.take()

    # After

    def finish(self) -> list[str]:
        """The segments as the output, in place; returns warnings.

        In a thread: neither a muxer nor a disk lets itself be interrupted, and a signal is to end this soon.
        """
        results: list[list[str] | BaseException] = []

        def work() -> None:
            try:
                results.append(finish(self.plan, self.work_dir))
            except BaseException as error:
                results.append(error)

        thread = threading.Thread(target=work, name="join", daemon=True)
        thread.start()
        while thread.is_alive():
            self.check()
            thread.join(0.05)
        if isinstance(results[0], BaseException):
            raise results[0]
        return results[0]
