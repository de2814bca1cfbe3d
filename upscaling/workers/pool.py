"""Worker pool: starts workers, hands out manifests, collects results, and replaces workers that die.

    pipeline ── Task ──► backlog ── at most 2 outstanding ──► worker 0..N-1 ── BatchDone, WorkerLost ──► pipeline

Each worker has a pipe for manifests and a pipe for results, both its own and without a lock: a worker that is
killed leaves no lock behind. At most two manifests are outstanding at a worker, so that a fast one gets more and a
dead one leaves little to repeat. The pool waits for messages and for deaths together.
"""

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import connection
from pathlib import Path
from typing import Any

from upscaling.common.control_groups import oom_kills
from upscaling.common.errors import InputError, UpscaleError
from upscaling.common.system import THREADS_SLEEP
from upscaling.inference.settings import LANCZOS, ModelSettings
from upscaling.models.weights import WeightsError, cache_dir
from upscaling.workers import status
from upscaling.workers.forkserver import ForkServer
from upscaling.workers.handle import State, Task, WorkerHandle
from upscaling.workers.retry import MAX_FAILURES, MAX_FRUITLESS, Death, RetryPolicy

MAX_OUTSTANDING = 2  # manifests that one worker has: the current one and the next
OOM_SECONDS = 2.0  # after the kernel has killed a process for lack of memory, in which deaths are due to that
MAX_ELAPSED = 2.0  # seconds; if more has passed since the last check, this process was stopped (Ctrl-Z)
REALESRGAN_MODELS = ("realesr-animevideov3", "realesr-general-x4v3")  # whose network is in realesrgan itself


class WorkerError(UpscaleError):
    """Workers could not process a manifest, or could not start."""


@dataclass(frozen=True)
class BatchDone:
    """All output frames of batch `number` of a manifest are written."""

    path: Path
    number: int


@dataclass(frozen=True)
class WorkerLost:
    """A worker died. `replaced` is False if it failed to start three times in a row."""

    worker: int
    reason: str
    replaced: bool


class WorkerPool:
    """The workers of a run, or of several runs one after another: their models stay loaded."""

    def __init__(
        self, settings: Sequence[ModelSettings], target: Callable, log_folder: Path, stall_timeout: float = 600.0
    ):
        """One worker for each of `settings`; `target` is worker.run_worker.

        Workers log in `log_folder` until they get a manifest, then in its job's. A worker that has work and no
        heartbeat for `stall_timeout` seconds counts as dead.
        """
        self.target, self.log_folder, self.stall_timeout = target, log_folder, stall_timeout
        self.server = ForkServer(preload_modules(settings[0]), worker_environment())
        self.workers = [WorkerHandle(index, one) for index, one in enumerate(settings)]
        self.rows_descriptor, self.rows = status.create_rows(len(self.workers))
        self.backlog: deque[Task] = deque()
        self.retries = RetryPolicy()
        self.kept_back: dict[Path, Task] = {}  # of workers whose death is not judged yet
        self.events: list[BatchDone | WorkerLost] = []
        self.last_check = time.monotonic()
        self.oom_kills, self.oom_time = oom_kills(), -math.inf

    # Start and stop

    def start(self) -> None:
        """Start the workers that are not running; they load their models while the first manifests are made."""
        for worker in self.workers:
            if worker.state is State.DEAD:
                self._start(worker)

    def _start(self, worker: WorkerHandle) -> None:
        self.rows[worker.index] = status.empty_row()
        row = self.rows[worker.index]
        row["restarts"], row["batch"], row["device"] = worker.starts, -1, worker.settings.device.encode()
        worker.start(self.server, self.target, self.rows_descriptor, self.log_folder)

    def stop(self) -> None:
        """Kill all workers and the fork server; a resumed run repeats what they had in progress."""
        for worker in self.workers:
            worker.kill()
        for worker in self.workers:
            worker.close()
        self.server.stop()
        if self.rows_descriptor >= 0:
            os.close(self.rows_descriptor)
        self.rows_descriptor = -1

    # Manifests

    def submit(self, task: Task) -> None:
        """Queue a manifest for the first worker that has room."""
        place = len(self.backlog)
        if task.first:
            place = next((i for i, other in enumerate(self.backlog) if not other.first), place)
        self.backlog.insert(place, task)

    def retry(self, task: Task, reason: str) -> None:
        """Process a manifest again because its output is wrong; this counts as a failure of the manifest."""
        self._count_failure(task, reason)

    def discard_tasks(self) -> None:
        """Forget all manifests; workers finish those that they have, but their results are ignored."""
        self.backlog.clear()
        self.kept_back.clear()
        self.retries.clear()
        for worker in self.workers:
            worker.outstanding.clear()

    def wait(self, timeout: float, others: Iterable = ()) -> list[BatchDone | WorkerLost]:
        """Wait up to `timeout` seconds for a message or the death of a worker, or for `others`; return the events.

        Raises WorkerError if a manifest failed three times, if no worker can start, if workers die together again
        and again with nothing done in between, or if a worker met an error that another attempt would meet again;
        InputError if the model cannot be used.
        """
        self.events = []
        self._judge_deaths()
        self._restart_dead()
        self._hand_out()
        for worker in self._wait_for_workers(timeout, others):
            pipe_open = self._drain_messages(worker)
            if not pipe_open or not worker.is_alive():
                self._replace_dead(worker)
        self._replace_stalled()
        self._hand_out()
        return self.events

    def _restart_dead(self) -> None:
        # Not before its death is judged: a signal that killed all workers may be on its way to this process too.
        for worker in self.workers:
            may_restart = self.retries.may_restart(worker.failed_starts)
            if worker.state is State.DEAD and may_restart and not self.retries.is_unjudged(worker.index):
                reason = worker.exit_reason
                self._start(worker)
                self.events.append(WorkerLost(worker.index, reason, True))

    def _hand_out(self) -> None:
        """Send manifests to workers with room: every worker gets one before any gets a second."""
        alive = [worker for worker in self.workers if worker.state is not State.DEAD]
        alive.sort(key=lambda worker: worker.state is State.STARTING)  # those that are ready first
        for outstanding in range(MAX_OUTSTANDING):
            for worker in alive:
                if self.backlog and len(worker.outstanding) == outstanding and self._may_send(worker, self.backlog[0]):
                    worker.send(self.backlog.popleft())

    def _may_send(self, worker: WorkerHandle, task: Task) -> bool:
        suspects = map(self.retries.is_suspect, (task.path, *(other.path for other in worker.outstanding)))
        return not worker.outstanding or not any(suspects)

    def _wait_for_workers(self, timeout: float, others: Iterable) -> list[WorkerHandle]:
        sources: dict[Any, WorkerHandle] = {}
        for worker in self.workers:
            if worker.channels is not None:
                sources[worker.channels.results] = sources[worker.channels.process.sentinel] = worker
        happened = connection.wait([*sources, *others], timeout)
        return list({sources[source].index: sources[source] for source in happened if source in sources}.values())

    # Messages

    def _drain_messages(self, worker: WorkerHandle) -> bool:
        """Handle every message in a worker's pipe; return False if the pipe has ended."""
        if worker.channels is None:
            return False
        results = worker.channels.results
        try:
            while results.poll():
                self._handle(worker, results.recv())
        except (EOFError, OSError):
            return False
        return True

    def _handle(self, worker: WorkerHandle, message: tuple) -> None:
        """Handle one message; worker.py describes them."""
        kind, *rest = message
        if kind == "ready":
            worker.loaded, worker.failed_starts = True, 0
        if kind in ("ready", "done"):  # the manifest of a late "done" may be outstanding again
            return
        task = worker.remove_outstanding(rest[0])
        if kind == "batch" and task is not None:
            # The encoder may delete these frames at any moment; never hand this batch out again.
            self.events.append(BatchDone(task.path, rest[1]))
            self.retries.record_progress()
        elif kind == "failed":  # the worker exits now
            worker.exit_reason = f"failed ({rest[1]})"
            if task is not None:
                self._count_failure(task, worker.exit_reason)
        elif kind == "unusable":
            raise InputError(rest[1])
        elif kind == "fatal" and task is not None:
            raise WorkerError(rest[1])

    # Death

    def _replace_stalled(self) -> None:
        now = time.monotonic()
        elapsed, self.last_check = min(now - self.last_check, MAX_ELAPSED), now
        for worker in self.workers:
            if worker.check_stalled(float(self.rows[worker.index]["heartbeat"]), elapsed, self.stall_timeout):
                self._replace_dead(worker, f"sent no heartbeat for {worker.silent_seconds:.0f} s")

    def _replace_dead(self, worker: WorkerHandle, reason: str = "") -> None:
        """Return a dead worker's manifests to the backlog, but for the one to blame; `_restart_dead` restarts it."""
        self._drain_messages(worker)  # what it reported before it died counts
        reported = bool(worker.exit_reason)
        reason = reason or worker.end_reason() + self._out_of_memory()
        forked, with_server = worker.is_forked(), worker.died_with_server()
        worker.close()
        worker.exit_reason = reason
        tasks = list(worker.outstanding)
        worker.outstanding.clear()
        to_blame = self.retries.to_blame([task.path for task in tasks], worker.loaded, reported)
        self.backlog.extendleft(task for task in reversed(tasks) if task.path != to_blame)
        self.kept_back |= {task.path: task for task in tasks if task.path == to_blame}
        if not reported and forked:
            death = Death(worker.index, to_blame, reason, time.monotonic(), worker.loaded, with_server)
            self.retries.record_death(death)
        elif not worker.loaded:
            self._count_failed_start(worker)

    def _out_of_memory(self) -> str:
        """Why workers were killed, if the kernel has killed any since the last death: to be added to the reason."""
        before, self.oom_kills = self.oom_kills, oom_kills()
        self.oom_time = time.monotonic() if self.oom_kills > before else self.oom_time
        recent = time.monotonic() - self.oom_time < OOM_SECONDS  # with the fork server several die of one kill
        return ": out of memory, the limit is the control group's; use fewer workers or raise it" if recent else ""

    def _judge_deaths(self) -> None:
        while (verdict := self.retries.judge(time.monotonic())) is not None:
            for death in verdict.deaths:
                task = self.kept_back.pop(death.manifest, None) if death.manifest else None
                if verdict.forgiven and task is not None:
                    self.backlog.appendleft(task)
                elif task is not None:
                    self._count_failure(task, death.reason)
                elif not verdict.forgiven and not death.loaded:
                    self._count_failed_start(self.workers[death.worker])
            if not self.retries.may_go_on():
                raise WorkerError(
                    f"workers died together {MAX_FRUITLESS} times with no batch finished in between; the last one "
                    f"{verdict.deaths[-1].reason}; rerun to resume"
                )

    def _count_failed_start(self, worker: WorkerHandle) -> None:
        worker.failed_starts += 1
        if self.retries.may_restart(worker.failed_starts):
            return
        if not any(other.state in (State.READY, State.BUSY) for other in self.workers):
            reason = f"{MAX_FAILURES} times; the last time it {worker.exit_reason}"
            raise WorkerError(f"worker {worker.index} could not start, {reason}")
        self.events.append(WorkerLost(worker.index, worker.exit_reason, False))

    def _count_failure(self, task: Task, reason: str) -> None:
        if not self.retries.record_failure(task.path):
            raise WorkerError(f"{task.frames}: given up after {MAX_FAILURES} tries; the last worker {reason}")
        self.backlog.appendleft(task)


def preload_modules(settings: ModelSettings) -> tuple[str, ...]:
    """The modules that a worker needs for its model; the fork server imports them once for all workers.

    Importing torch does not initialise CUDA, nor ncnn Vulkan, so forked workers may use them.
    """
    if settings.model == LANCZOS:
        return "upscaling.workers.worker", "upscaling.inference.lanczos_engine"
    network = ("upscaling.workers.worker", f"upscaling.inference.{settings.engine}_engine")
    if settings.model in REALESRGAN_MODELS and find_spec("realesrgan") is not None:
        return network
    return (*network, "spandrel")  # imports torchvision: two seconds


def worker_environment() -> dict[str, str]:
    """Variables for the workers, but for those that the user has set.

    Their threads do not busy-wait (system.THREADS_SLEEP). torch's compiler keeps its cache where ours is: it makes
    its directory as soon as torchvision is imported, and would leave it in $TMPDIR after every run.
    """
    found = dict(THREADS_SLEEP)
    try:
        found["TORCHINDUCTOR_CACHE_DIR"] = str(cache_dir() / "torchinductor")
    except WeightsError:  # no home directory: torch's own choice
        pass
    return {name: value for name, value in found.items() if name not in os.environ}
