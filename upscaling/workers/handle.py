"""A worker's handle in the main process: its process, its pipes, its state and its outstanding manifests.

    dead ── start ──► starting ── model loaded ──► ready ◄── manifests ──► busy

From every state a worker can become dead.
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

LOADING_SECONDS = 60.0  # least time without a heartbeat after which a worker that loads its model counts as stalled


@dataclass(frozen=True)
class Task:
    """A manifest of one batch: its path, and its frames as an error names them ("frames 9 to 16")."""

    path: Path
    frames: str
    first: bool = False  # goes before manifests that are not


class State(enum.Enum):
    """The state of a worker."""

    DEAD = "dead"  # or not started yet
    STARTING = "starting"  # loads its model; may have manifests already
    READY = "ready"  # model loaded, no manifest
    BUSY = "busy"


@dataclass
class Channels:
    """A worker's process, and the main process's ends of its two pipes."""

    process: WorkerProcess
    tasks: Connection
    results: Connection


@dataclass
class WorkerHandle:
    """The worker with one index; its process may die and be replaced."""

    index: int
    settings: ModelSettings
    channels: Channels | None = None
    outstanding: deque[Task] = field(default_factory=deque)  # in the order in which they were sent
    loaded: bool = False
    starts: int = 0
    failed_starts: int = 0  # in a row
    exit_reason: str = ""  # set before it dies if it reports an error, otherwise after
    heartbeat: float = 0.0  # the last one, seconds since the epoch
    silent_seconds: float = 0.0  # with work, since that heartbeat

    @property
    def state(self) -> State:
        if self.channels is None:
            return State.DEAD
        if not self.loaded:
            return State.STARTING
        return State.BUSY if self.outstanding else State.READY

    def start(self, server: ForkServer, target: Callable, rows: int, log_folder: Path) -> None:
        """Start the process. `rows` is the descriptor of the status rows; `target` is as in WorkerPool."""
        self.loaded, self.exit_reason, self.heartbeat, self.silent_seconds = False, "", 0.0, 0.0
        self.starts += 1
        tasks_reader, tasks = Pipe(duplex=False)
        results, results_writer = Pipe(duplex=False)
        with tasks_reader, results_writer:  # else the pipes would stay open after the worker's death
            process = server.fork(
                run_target,
                (target, self.index, self.settings, log_folder),
                [tasks_reader.fileno(), results_writer.fileno(), rows],
            )
        self.channels = Channels(process, tasks, results)

    def is_alive(self) -> bool:
        return self.channels is not None and self.channels.process.is_alive()

    def is_forked(self) -> bool:
        """Return whether the server has forked the process; it may have ended since."""
        return self.channels is not None and self.channels.process.pid is not None

    def died_with_server(self) -> bool:
        """Return whether the process has ended without an exit status: the fork server died, and it with that."""
        process = self.channels.process if self.channels is not None else None
        return process is not None and process.pid is not None and not process.is_alive() and process.exit_code is None

    def send(self, task: Task) -> None:
        """Send a manifest. If the worker is dead, the pool notices soon and retries the manifest with another."""
        assert self.channels is not None, "the worker was started"
        self.outstanding.append(task)
        try:
            self.channels.tasks.send(str(task.path))
        except OSError:
            pass

    def remove_outstanding(self, path: str) -> Task | None:
        """Remove a manifest from `outstanding` and return it; return None if it is not there."""
        task = next((task for task in self.outstanding if str(task.path) == path), None)
        if task is not None:
            self.outstanding.remove(task)
        return task

    def check_stalled(self, heartbeat: float, elapsed: float, stall_timeout: float) -> bool:
        """Return whether the worker has had work, but no heartbeat, for longer than the timeout.

        `heartbeat` is the one in its status row; `elapsed` are the seconds since the last call.
        """
        if not self.is_forked() or not self.outstanding or heartbeat != self.heartbeat:
            self.heartbeat, self.silent_seconds = heartbeat, 0.0
            return False
        self.silent_seconds += elapsed
        limit = stall_timeout if self.loaded else max(stall_timeout, LOADING_SECONDS)
        return self.silent_seconds > limit

    def end_reason(self) -> str:
        """Why the process ended, as a predicate: "was killed by SIGKILL"."""
        if self.exit_reason or self.channels is None:
            return self.exit_reason
        process = self.channels.process
        process.join(1)  # the pipe ends shortly before the process does
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
        """Kill the process, wait until it has ended, and close its pipes."""
        if self.channels is None:
            return
        channels, self.channels = self.channels, None
        channels.process.kill()
        if channels.process.pid is not None:  # otherwise it is not forked yet
            channels.process.join(KILL_SECONDS)
        channels.process.close()
        channels.results.close()
        channels.tasks.close()


def run_target(
    target: Callable, index: int, settings: ModelSettings, log_folder: Path, tasks: int, results: int, rows: int
) -> None:
    """In the worker process: wrap the descriptors and call the target."""
    target(
        index,
        status.map_rows(rows),
        Connection(tasks, writable=False),
        Connection(results, readable=False),
        settings,
        log_folder,
    )
