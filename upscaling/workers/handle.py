"""One worker as the main process sees it: its process, its pipes, its state and its outstanding manifests.

dead ── start ──► starting ── "ready" ──► ready ◄── manifests ──► busy ──► dead
"""

import enum
import signal
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

from upscaling.inference.settings import ModelSettings
from upscaling.workers import status
from upscaling.workers.forkserver import KILL_SECONDS, ForkServer, WorkerProcess

LOADING_SECONDS = 60.0  # without a heartbeat that a worker may take to load, however short the stall timeout


@dataclass(frozen=True)
class Task:
    """A manifest of one batch: its path, and its frames as an error names them ("frames 9 to 16")."""

    path: Path
    frames: str


class State(enum.Enum):
    """Where a worker is in its life."""

    DEAD = "dead"  # or not started yet
    STARTING = "starting"  # loads its model; it may have manifests already
    READY = "ready"  # has nothing to do
    BUSY = "busy"


@dataclass
class Channels:
    """What exists only while a worker lives: its process, and the main process's ends of its two pipes."""

    process: WorkerProcess
    tasks: Connection
    results: Connection


@dataclass
class WorkerHandle:
    """The worker of one index; a fresh process takes the place of a dead one."""

    index: int
    settings: ModelSettings
    channels: Channels | None = None
    outstanding: deque[Task] = field(default_factory=deque)  # in the order in which they were sent
    loaded: bool = False
    starts: int = 0
    failed_starts: int = 0  # in a row
    exit_reason: str = ""  # what it said about its end, before it; afterwards why it ended
    heartbeat: float = 0.0  # the last one seen, seconds since the epoch
    silent_seconds: float = 0.0  # that it has had work since that heartbeat

    @property
    def state(self) -> State:
        if self.channels is None:
            return State.DEAD
        if not self.loaded:
            return State.STARTING
        return State.BUSY if self.outstanding else State.READY

    def start(self, server: ForkServer, target: Callable, rows: int, log_folder: Path) -> None:
        """Fork the process; `rows` is the descriptor of the status rows, `target` as in WorkerPool."""
        self.loaded, self.exit_reason, self.heartbeat, self.silent_seconds = False, "", 0.0, 0.0
        self.starts += 1
        tasks_reader, tasks = Pipe(duplex=False)
        results, results_writer = Pipe(duplex=False)
        with tasks_reader, results_writer:  # closed here so that each pipe ends when the worker does
            process = server.fork(
                run_target,
                (target, self.index, self.settings, log_folder),
                [tasks_reader.fileno(), results_writer.fileno(), rows],
            )
        self.channels = Channels(process, tasks, results)

    def is_alive(self) -> bool:
        return self.channels is not None and self.channels.process.is_alive()

    def send(self, task: Task) -> None:
        """Send a manifest; if the worker is dead, its death is noticed and the manifest is sent to another."""
        assert self.channels is not None, "only to a worker that was started"
        self.outstanding.append(task)
        try:
            self.channels.tasks.send(str(task.path))
        except OSError:
            pass

    def take_back(self, path: str) -> Task | None:
        """Remove an outstanding manifest; None if this worker does not have it (any more)."""
        task = next((task for task in self.outstanding if str(task.path) == path), None)
        if task is not None:
            self.outstanding.remove(task)
        return task

    def is_stalled(self, heartbeat: float, elapsed: float, stall_timeout: float) -> bool:
        """Take note of the heartbeat in its status row; return whether it has had work without one for too long.

        `elapsed` are the seconds since the last call.
        """
        forked = self.channels is not None and self.channels.process.pid is not None
        if not forked or not self.outstanding or heartbeat != self.heartbeat:
            self.heartbeat, self.silent_seconds = heartbeat, 0.0
            return False
        self.silent_seconds += elapsed
        limit = stall_timeout if self.loaded else max(stall_timeout, LOADING_SECONDS)
        return self.silent_seconds > limit

    def end_reason(self) -> str:
        """Why the process ended, as the predicate of a sentence about it."""
        if self.exit_reason or self.channels is None:
            return self.exit_reason
        process = self.channels.process
        process.join(1)  # its pipe may end a moment before it does
        if process.is_alive():
            return "closed its pipe"
        if process.start_error:
            return f"failed ({process.start_error})"
        if process.exit_code is None:
            return "ended with the fork server"
        if process.exit_code >= 0:
            return f"ended with exit status {process.exit_code}"
        names = {number.value: number.name for number in signal.Signals}
        return f"was killed by {names.get(-process.exit_code, f'signal {-process.exit_code}')}"

    def kill(self) -> None:
        if self.channels is not None:
            self.channels.process.kill()

    def close(self) -> None:
        """SIGKILL the process, whatever it is doing, wait until it is gone, and close its pipes."""
        if self.channels is None:
            return
        channels, self.channels = self.channels, None
        channels.process.kill()
        if channels.process.pid is not None:  # else it is not forked yet, and ends with the server
            channels.process.join(KILL_SECONDS)
        channels.process.close()
        channels.results.close()
        channels.tasks.close()


def run_target(
    target: Callable, index: int, settings: ModelSettings, log_folder: Path, tasks: int, results: int, rows: int
) -> None:
    """In the worker: call the target with connections in place of descriptors."""
    target(
        index,
        status.map_rows(rows),
        Connection(tasks, writable=False),
        Connection(results, readable=False),
        settings,
        log_folder,
    )
