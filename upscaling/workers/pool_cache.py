"""Keeps a worker pool from one job to the next, so that the model is loaded once."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from upscaling.inference.settings import ModelSettings
from upscaling.workers.pool import WorkerPool
from upscaling.workers.worker import run_worker


class PoolCache:
    """Lends a worker pool to jobs, one at a time; a context manager that ends the workers."""

    def __init__(self, keep: bool = False):
        """`keep`: the pool outlives a job that ends well, for the next one."""
        self._keep = keep
        self._pool: WorkerPool | None = None
        self._models: tuple[ModelSettings, ...] = ()
        self._when_stopped: list[Callable[[], object]] = []

    @contextmanager
    def borrow(self, models: tuple[ModelSettings, ...], stall_timeout: float, directory: Path) -> Iterator[WorkerPool]:
        """A started pool with at least one worker for each of `models`, for the job in `directory`.

        A job that ends with an exception ends the workers too: what they have in progress is void.
        """
        if self._pool is not None and not is_compatible(self._models, models):
            self._stop()
        logs = directory / "logs"
        if self._pool is None:
            self._pool, self._models = WorkerPool(models, run_worker, logs, stall_timeout), models
        try:
            self._pool.log_folder = logs
            self._pool.start()
            yield self._pool
        except BaseException:
            self._stop()
            raise
        if self._keep:
            self._pool.discard_tasks()
        else:
            self._stop()

    def when_stopped(self, action: Callable[[], object]) -> None:
        """Call `action` once the workers have ended; while they live they keep a job's log files open."""
        self._when_stopped.append(action)

    def _stop(self) -> None:
        if self._pool is not None:
            self._pool.stop()
        self._pool = None
        while self._when_stopped:
            self._when_stopped.pop()()

    def __enter__(self) -> "PoolCache":
        return self

    def __exit__(self, *_) -> None:
        self._stop()


def is_compatible(pool: Sequence[ModelSettings], wanted: Sequence[ModelSettings]) -> bool:
    """Return whether a pool with these models can do a job that wants those: the same model, enough workers.

    A still image wants one worker with all cores; six with a share each are only slower.
    """
    return len(pool) >= len(wanted) and {m.model for m in pool} == {m.model for m in wanted}
