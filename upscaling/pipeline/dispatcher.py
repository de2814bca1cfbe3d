"""Batches between the stages and the worker pool.

decode thread ─► Dispatcher ─► WorkerPool ─► Dispatcher ─► Window
                                   ▲             │
                                   └─ SteadySchedule: upscaled batches a second time, with --steady
"""

import itertools
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from upscaling.pipeline.frame_store import FrameStore
from upscaling.pipeline.stages import RunCounts
from upscaling.pipeline.steady_schedule import SteadyBatch, SteadySchedule
from upscaling.pipeline.window import Window
from upscaling.workers.handle import Task
from upscaling.workers.manifest import write_manifest
from upscaling.workers.pool import BatchDone, WorkerLost, WorkerPool

LOOK_SECONDS = 0.25  # between updates of the progress


class WakePipe:
    """A pipe that ends a wait in `multiprocessing.connection.wait`; `wake` is safe in threads and signal handlers."""

    def __init__(self):
        self.reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def wake(self) -> None:
        try:
            if self._writer >= 0:
                os.write(self._writer, b"x")
        except BlockingIOError:
            pass  # the pipe is full, so it wakes anyway

    def drain(self) -> None:
        try:
            while os.read(self.reader, 4096):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        reader, writer = self.reader, self._writer
        self.reader = self._writer = -1  # first: a signal handler may call `wake` at any moment
        os.close(reader)
        os.close(writer)


@dataclass(frozen=True)
class Batch:
    """A batch that was submitted: the task for the pool, and the numbers of its frames."""

    task: Task
    numbers: tuple[int, ...]
    is_context: bool = False  # upscaled for its neighbours only
    steady: SteadyBatch | None = None  # upscaled already, and to be steadied


class Dispatcher:
    """Batches between the stages and the worker pool: from storage to the pool, and its results to the window.

    `submit`, `mark_still` and `end` are for the decode thread; the main loop learns of them in their order.
    """

    def __init__(
        self, frames: FrameStore, window: Window, pool: WorkerPool, counts: RunCounts, say: Callable, steady: bool
    ):
        self._frames, self._window, self._pool, self._counts, self._say = frames, window, pool, counts, say
        self._batches: dict[Path, Batch] = {}  # in flight, by the path of the manifest
        self._events: deque[Callable[[], None]] = deque()  # of the decode thread
        self._numbers = itertools.count()  # of batches, and of those that are steadied
        self._schedule = SteadySchedule() if steady else None
        self._unneeded: set[int] = set()  # frames of the schedule that are not encoded yet
        self.wake_pipe = WakePipe()

    def submit(self, numbers: Sequence[int], is_context: bool = False) -> None:
        """Write the manifest of a batch of stored frames."""
        path, manifest = self._frames.manifest(next(self._numbers), numbers)
        write_manifest(manifest, path)
        batch = Batch(Task(path, frames_text(numbers)), tuple(numbers), is_context)
        self._later(lambda: self._hand_over(batch))

    def mark_still(self, number: int) -> None:
        """The stored frame is shown for so long that it is not steadied."""
        if (schedule := self._schedule) is not None:
            self._later(lambda: schedule.mark_still(number))

    def end(self) -> None:
        """There are no more batches."""
        if self._schedule is not None:
            self._later(self._schedule.end)

    def _later(self, event: Callable[[], None]) -> None:
        self._events.append(event)
        self.wake_pipe.wake()

    def turn(self) -> None:
        """One turn of the main loop: hand batches to the pool, and handle what the workers report."""
        while self._events:
            self._events.popleft()()
        if self._schedule is not None:
            self._steady(self._schedule)
        for event in self._pool.wait(LOOK_SECONDS, [self.wake_pipe.reader]):
            if isinstance(event, WorkerLost):
                self._counts.restarts += event.replaced
                then = "restarting it" if event.replaced else "it cannot be restarted, the others go on"
                self._say(f"worker {event.worker} {event.reason}; {then}")
            elif event.path in self._batches:
                self._complete(event)
        self.wake_pipe.drain()

    def _hand_over(self, batch: Batch) -> None:
        """Give a batch to the pool."""
        self._batches[batch.task.path] = batch
        if self._schedule is not None:
            self._schedule.add(batch.numbers, batch.is_context)
        self._pool.submit(batch.task)

    def _steady(self, schedule: SteadySchedule) -> None:
        """Give the batches that can be steadied to the pool, and remove the frames that are not needed for any."""
        for steady in schedule.take_ready():
            for number in steady.stills:
                self._frames.keep_as_upscaled(number)
            if not steady.moving:
                schedule.finish(steady.numbers)
                self._window.complete(steady.numbers)
                continue
            context = (*steady.stills, *steady.context)
            path, manifest = self._frames.steady_manifest(next(self._numbers), steady.moving, context)
            write_manifest(manifest, path)
            # It goes before those that wait for a network: it is soon done, and the encoder waits for its frames.
            task = Task(path, frames_text(steady.moving), first=True)
            self._batches[path] = Batch(task, steady.moving, steady=steady)
            self._pool.submit(task)
        self.remove_unneeded()

    def remove_unneeded(self) -> None:
        """Remove decoded and upscaled frames that no batch needs; not before they are encoded, as without --steady."""
        if self._schedule is not None:
            self._unneeded.update(self._schedule.take_unneeded())
            gone = {number for number in self._unneeded if not self._window.holds(number)}
            self._unneeded -= gone
            for number in gone:
                self._frames.remove_sources(number)

    def _complete(self, event: BatchDone) -> None:
        """Pass a batch on, to be steadied or encoded, if all its frames are whole; otherwise retry it."""
        batch = self._batches[event.path]
        steadied = batch.steady is not None
        if damage := self._frames.damage(batch.numbers, steadied):
            self._say(f"{damage}; {batch.task.frames} are {'steadied' if steadied else 'upscaled'} again")
            for number in batch.numbers:
                self._frames.discard_output(number, steadied)
            self._pool.retry(batch.task, f"wrote a bad frame: {damage}")
            return
        del self._batches[event.path]
        event.path.unlink(missing_ok=True)
        if self._schedule is None:
            self._window.complete(batch.numbers)
        elif batch.steady is None:
            self._schedule.upscaled(batch.numbers)
        else:
            self._schedule.finish(batch.steady.numbers)
            self._window.complete(batch.steady.numbers)


def frames_text(numbers: Sequence[int]) -> str:
    """A batch's frames as a message names them."""
    return f"frames {numbers[0]} to {numbers[-1]}"
