"""One column's process: forked from the fork server, it upscales windows with one model, and ends with it.

    main process                              this module, in the process
      task pipe    ────── Task ──────────────►   upscale the frames, one by one
      result pipe  ◄───── None: the model is loaded; Cell; or the text of an error, the last message

So the main process is free of torch, one model is in memory at a time, and a model that crashes or takes too long
costs its own column only.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.connection import Connection, Pipe

import numpy as np

from upscaling.common.errors import UpscaleError
from upscaling.common.memory_limits import memory_error
from upscaling.common.system import retain_freed_memory
from upscaling.frames.conversion import FrameConversion
from upscaling.inference.engine import BatchUpscaler, make_upscaler
from upscaling.inference.settings import LANCZOS, ModelSettings
from upscaling.workers.forkserver import KILL_SECONDS, ForkServer
from upscaling.workers.pool import preload_modules, worker_environment
from upscaling.workers.worker import error_text


class ColumnError(UpscaleError):
    """A column's cells cannot be made; the message says why."""


class TooSlow(ColumnError):
    """There is no time left."""


@dataclass(frozen=True)
class Task:
    """Frames to upscale, flat arrays in the layout `conversion.source`; `wanted` is the index of the one to return."""

    frames: tuple[np.ndarray, ...]
    wanted: int
    conversion: FrameConversion
    steady: bool = False  # return that frame also as --steady makes it


@dataclass
class Cell:
    """The result of a task: flat arrays in the layout `conversion.target.padded`."""

    upscaled: np.ndarray
    seconds: list[float] = field(default_factory=list)  # of each frame, as Watch has it
    elapsed: float = 0.0  # seconds for all of them, by the clock on the wall
    steadied: np.ndarray | None = None
    steady_seconds: float = 0.0  # that a frame of a long video takes beside that
    steady_error: str = ""


# The main process's side


def fork_server(settings: Sequence[ModelSettings]) -> ForkServer:
    """The server for processes of all these settings."""
    modules = [name for one in settings if one.model != LANCZOS for name in preload_modules(one)]
    return ForkServer([*dict.fromkeys([*modules, __name__])], worker_environment())


class ColumnProcess:
    """A process for one column; a context manager that kills it."""

    def __init__(self, server: ForkServer, settings: ModelSettings):
        reader, self._tasks = Pipe(duplex=False)
        self._results, writer = Pipe(duplex=False)
        with reader, writer:  # else the pipes would stay open after the process's death
            self._process = server.fork(_serve, (settings,), [reader.fileno(), writer.fileno()])
        self._loaded = False

    def __enter__(self) -> "ColumnProcess":
        return self

    def __exit__(self, *_) -> None:
        self._process.kill()
        if self._process.pid is not None:
            self._process.join(KILL_SECONDS)
        for end in (self._process, self._tasks, self._results):
            end.close()

    def run(self, task: Task, stop_at: float) -> Cell:
        """The task's result; ColumnError if it fails, TooSlow if that is not there at `stop_at` (time.monotonic)."""
        try:
            if not self._loaded:  # until then a task that is larger than the pipe's buffer would wait
                self._reply(stop_at)
                self._loaded = True
            self._tasks.send(task)
            reply = self._reply(stop_at)
        except (EOFError, OSError) as error:
            raise ColumnError(self._end()) from error
        assert reply is not None
        return reply

    def _reply(self, stop_at: float) -> Cell | None:
        while not self._results.poll():
            left = stop_at - time.monotonic()
            if left <= 0:
                raise TooSlow("it takes too long here")
            connection.wait([self._results, self._process.sentinel], left)
            if not self._process.is_alive() and not self._results.poll():
                raise ColumnError(self._end())
        reply = self._results.recv()
        if isinstance(reply, str):
            raise ColumnError(reply)
        return reply

    def _end(self) -> str:
        self._process.join(1)
        if self._process.start_error:
            return self._process.start_error
        code = self._process.exit_code
        return "its process was killed" if code is None or code < 0 else f"its process ended with exit status {code}"


# In the process


def _serve(settings: ModelSettings, tasks: int, results: int) -> None:
    """Target of the process: do tasks until the pipe ends."""
    with open(os.devnull, "wb") as nowhere:
        for standard in (1, 2):
            os.dup2(nowhere.fileno(), standard)  # what a library prints does not belong into the terminal
    retain_freed_memory()
    receiver, sender = Connection(tasks, writable=False), Connection(results, readable=False)
    try:
        upscaler = make_upscaler(settings, lambda: None)
        sender.send(None)
        while True:
            sender.send(_cell(receiver.recv(), upscaler, settings.device == "cpu"))
    except EOFError:
        pass
    except Exception as error:  # any library raises whatever it likes: the main process shows it in the cell
        sender.send(error_text(memory_error(error) or error))


class Watch:
    """Measures from now on what the work of this process takes; on a CPU without what other processes take of it."""

    def __init__(self, on_cpu: bool):
        self._on_cpu = on_cpu
        self._start, self._used = time.perf_counter(), time.process_time()

    @property
    def seconds(self) -> float:
        elapsed, used = time.perf_counter() - self._start, time.process_time() - self._used
        return min(elapsed, used) if self._on_cpu else elapsed  # with several threads `used` is the larger one


def _cell(task: Task, upscaler: BatchUpscaler, on_cpu: bool) -> Cell:
    results, seconds = [], []
    started = time.perf_counter()
    indices = range(len(task.frames)) if task.steady else [task.wanted]
    for index in indices:
        watch = Watch(on_cpu)
        upscaler.submit([task.frames[index]], task.conversion)
        results.append(upscaler.collect()[0].copy())
        seconds.append(watch.seconds)
    cell = Cell(results[task.wanted if task.steady else 0], seconds, time.perf_counter() - started)
    if task.steady:
        _steady(task, results, cell)
    return cell


def _steady(task: Task, results: list[np.ndarray], cell: Cell) -> None:
    """Add the steadied frame, and its time, to the cell."""
    try:
        from upscaling.inference.steady import steady_frames
    except ImportError as error:
        cell.steady_error = f"OpenCV cannot be loaded ({error})"
        return
    count = len(task.frames)
    watch = Watch(on_cpu=True)
    steadied = list(steady_frames(task.frames, results, range(count), task.conversion, lambda: None))
    # Three frames have two motions between them, as two frames of a long video have.
    cell.steady_seconds = watch.seconds / max(1, count - 1)
    cell.steadied = steadied[task.wanted]
