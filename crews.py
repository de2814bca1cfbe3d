"""Crews of workers for one job, or for one job after another: the model is loaded once for all of them."""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import slurm
from cluster import SlurmCrew
from dispatch import Crew
from plan import Plan
from worker import run_worker

PREFIX = ".upscale-"


class Crews:
    """Lends a crew to jobs, one at a time; a context manager that ends the workers."""

    def __init__(self, folder: Path | None = None):
        """`folder`: where a directory for the crew's own files is made, if it outlives a job; None: it does not."""
        self._folder = folder
        self._scratch: Path | None = None
        self._crew: Crew | None = None
        self._models: tuple = ()

    @contextmanager
    def lend(self, plan: Plan, directory: Path) -> Iterator[Crew | SlurmCrew]:
        """A started crew for a plan's job, whose directory is `directory`; kept for the next one if all goes well."""
        if plan.options.slurm:  # its tasks serve one job's directory
            crew = SlurmCrew(
                plan.models, directory, plan.options.stall_timeout, plan.output.name, slurm.check(plan.options.sbatch)
            )
            crew.start()
            try:
                yield crew
            finally:
                crew.stop()
            return
        if self._crew is not None and not fits(self._models, plan.models):
            self._stop()
        if self._crew is None:
            scratch = directory if self._folder is None else self._own_directory()
            self._crew, self._models = Crew(plan.models, run_worker, scratch, plan.options.stall_timeout), plan.models
        try:
            self._crew.start()
            yield self._crew
        except BaseException:
            self._stop()  # what its workers have at hand belongs to a job that is no more
            raise
        if self._folder is None:
            self._stop()
        else:
            self._crew.drop_work()

    def _own_directory(self) -> Path:
        """A directory that lives as long as this run; those that killed runs of this host left are removed."""
        if self._scratch is None:
            mine = f"{PREFIX}{socket.gethostname()}-"
            for left in self._folder.glob(f"{mine}*"):
                if not _is_alive(left.name.removeprefix(mine)):
                    shutil.rmtree(left, ignore_errors=True)
            self._scratch = self._folder / f"{mine}{os.getpid()}"
            self._scratch.mkdir(mode=0o700)
            (self._scratch / "logs").mkdir()
        return self._scratch

    def _stop(self) -> None:
        if self._crew is not None:
            self._crew.stop()
        self._crew = None

    def __enter__(self) -> "Crews":
        return self

    def __exit__(self, *_) -> None:
        self._stop()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)


def fits(crew: tuple, wanted: tuple) -> bool:
    """Whether a crew with these models can do a job that wants those: the same model, and no fewer workers.

    A picture wants one worker with all cores; six with a share each do it as well, only slower.
    """
    return len(crew) >= len(wanted) and {m.model for m in crew} == {m.model for m in wanted}


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        pass
    return True
