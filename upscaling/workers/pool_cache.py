"""Crews of workers for one job, or for one job after another: the model is loaded once for all of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from upscaling.inference.settings import ModelSettings
from upscaling.workers.pool import Crew
from upscaling.workers.worker import run_worker


class Crews:
    """Lends a crew to jobs, one at a time; a context manager that ends the workers."""

    def __init__(self, keep: bool = False):
        """`keep`: the crew outlives a job that ends well, for the next one."""
        self._keep = keep
        self._crew: Crew | None = None
        self._models: tuple = ()

    @contextmanager
    def lend(self, models: tuple[ModelSettings, ...], stall_timeout: float, directory: Path) -> Iterator[Crew]:
        """A started crew of a worker for each of `models`, which logs in a job's `directory`; kept if all goes well."""
        if self._crew is not None and not fits(self._models, models):
            self._stop()
        if self._crew is None:
            self._crew, self._models = Crew(models, run_worker, directory, stall_timeout), models
        try:
            self._crew.move(directory)
            self._crew.start()
            yield self._crew
        except BaseException:
            self._stop()  # what its workers have at hand belongs to a job that is no more
            raise
        if self._keep:
            self._crew.drop_work()
        else:
            self._stop()

    def _stop(self) -> None:
        if self._crew is not None:
            self._crew.stop()
        self._crew = None

    def __enter__(self) -> "Crews":
        return self

    def __exit__(self, *_) -> None:
        self._stop()


def fits(crew: tuple, wanted: tuple) -> bool:
    """Whether a crew with these models can do a job that wants those: the same model, and no fewer workers.

    A picture wants one worker with all cores; six with a share each do it as well, only slower.
    """
    return len(crew) >= len(wanted) and {m.model for m in crew} == {m.model for m in wanted}
