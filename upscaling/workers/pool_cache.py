"""PoolCache of workers for one job, or for one job after another: the model is loaded once for all of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from upscaling.inference.settings import ModelSettings
from upscaling.workers.pool import WorkerPool
from upscaling.workers.worker import run_worker


class PoolCache:
    """Lends a crew to jobs, one at a time; a context manager that ends the workers."""

    def __init__(self, keep: bool = False):
        """`keep`: the crew outlives a job that ends well, for the next one."""
        self._keep = keep
        self._pool: WorkerPool | None = None
        self._models: tuple = ()

    @contextmanager
    def borrow(self, models: tuple[ModelSettings, ...], stall_timeout: float, directory: Path) -> Iterator[WorkerPool]:
        """A started crew of a worker for each of `models`, which logs in a job's `directory`; kept if all goes well."""
        if self._pool is not None and not fits(self._models, models):
            self._stop()
        if self._pool is None:
            self._pool, self._models = WorkerPool(models, run_worker, directory, stall_timeout), models
        try:
            self._pool.move(directory)
            self._pool.start()
            yield self._pool
        except BaseException:
            self._stop()  # what its workers have at hand belongs to a job that is no more
            raise
        if self._keep:
            self._pool.drop_work()
        else:
            self._stop()

    def _stop(self) -> None:
        if self._pool is not None:
            self._pool.stop()
        self._pool = None

    def __enter__(self) -> "PoolCache":
        return self

    def __exit__(self, *_) -> None:
        self._stop()


def fits(pool: tuple, wanted: tuple) -> bool:
    """Whether a crew with these models can do a job that wants those: the same model, and no fewer workers.

    A picture wants one worker with all cores; six with a share each do it as well, only slower.
    """
    return len(pool) >= len(wanted) and {m.model for m in pool} == {m.model for m in wanted}
