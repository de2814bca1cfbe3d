"""The jobs of one output, watched until the output is in place: how many parts are done, running, waiting, failed."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from upscaling.cluster.slurm import NO_STORAGE, RUNNING, WAITING, Jobs, SlurmError, Task, Work, cancel, tasks_of
from upscaling.common.errors import UpscaleError
from upscaling.common.text import printable
from upscaling.job.parts import part_directory, parts_directory

POLL_SECONDS = 1.0, 15.0  # between two questions to Slurm: at the start, and later
SAY_SECONDS = 10.0  # at the least between two lines about the parts
FAILED_SHOWN = 5  # parts that an error names


class PartsFailed(UpscaleError):
    """Tasks have ended without finishing their parts."""


class Watch:
    """Follows the jobs of `work`; `done` are the finished parts with their frames, None if the join was quicker."""

    def __init__(self, work: Work, jobs: Jobs, finished: dict[int, int], say: Callable[[str], None]):
        self.work, self.jobs, self.say = work, jobs, say
        self.done: dict[int, int | None] = {**finished}
        self.failed: dict[int, Task | None] = {}
        self._before = _file(work.output)
        self._said, self._said_at = "", 0.0

    def run(self) -> None:
        """Wait until the output is in place. PartsFailed or UpscaleError if it will not be."""
        started = time.monotonic()
        while True:
            try:
                tasks = tasks_of(self.jobs)
            except SlurmError as error:  # the controller restarts; the tasks go on
                self._say(f"no news from Slurm: {error}")
            else:
                if self._look(tasks):
                    return
            shortest, longest = POLL_SECONDS
            time.sleep(min(longest, max(shortest, (time.monotonic() - started) / 20)))

    def _look(self, tasks: list[Task]) -> bool:
        """Whether the output is in place."""
        join = next((task for task in tasks if task.job == self.jobs.join), None)
        is_new = _file(self.work.output) not in (None, self._before)
        if join.state == "COMPLETED" if join else is_new:
            self._say(f"parts: {self.work.count} done; joined", now=True)
            return True
        running, waiting = self._count({task.index: task for task in tasks if task.job == self.jobs.array})
        counts = f"{len(self.done)} done, {running} running, {waiting} waiting, {len(self.failed)} failed"
        self._say(f"parts: {counts}{'; joining' if join and join.state == 'RUNNING' else ''}")
        if running or waiting or (join and join.state in RUNNING | WAITING and not self.failed):
            return False
        cancel(self.jobs)  # a join that waits for parts that have failed
        if self.failed:
            raise PartsFailed(self._failures())
        raise UpscaleError(f"the join failed: {_last_error(parts_directory(self.work.output) / 'join.log', join)}")

    def _count(self, tasks: dict[int, Task]) -> tuple[int, int]:
        """(running, waiting) parts; notes those that are done and those that have failed."""
        running = waiting = 0
        ended = []
        for number in sorted(set(range(1, self.work.count + 1)) - set(self.done)):
            task = tasks.get(number)
            if task and task.state in RUNNING:
                running += 1
            elif task and task.state in WAITING:
                waiting += 1
            elif task and task.state == "COMPLETED":
                self.done[number] = self.work.frames_of(number)
            else:
                ended.append(number)
        found = {number: self.work.frames_of(number) for number in ended}
        self.done |= {number: frames for number, frames in found.items() if frames is not None}
        self.failed = {number: tasks.get(number) for number, frames in found.items() if frames is None}
        return running, waiting

    def _failures(self) -> str:
        shown = []
        for number, task in list(self.failed.items())[:FAILED_SHOWN]:
            place = part_directory(self.work.output, number, self.work.count)
            logs = sorted(place.glob(f"task_{self.jobs.array}_*.log"), key=lambda path: path.stat().st_mtime)
            log = logs[-1] if logs else place / f"task_{self.jobs.array}_0.log"
            shown.append(f"part {number}: {_last_error(log, task)}")
        more = f" and {len(self.failed) - FAILED_SHOWN} more" if len(self.failed) > FAILED_SHOWN else ""
        return f"{'; '.join(shown)}{more}; run the same command to do them again"

    def _say(self, line: str, now: bool = False) -> None:
        if line != self._said and (now or time.monotonic() - self._said_at > SAY_SECONDS):
            self._said, self._said_at = line, time.monotonic()
            self.say(line)


def _file(path: Path) -> tuple[int, int] | None:
    """What tells one file of that name from the next."""
    try:
        return os.stat(path).st_ino, os.stat(path).st_mtime_ns
    except OSError:
        return None


def _last_error(log: Path, task: Task | None) -> str:
    """Why a task ended: its own words, else what Slurm says of it."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    words = [line.removeprefix("upscale: error: ") for line in lines if line.startswith("upscale: error: ")]
    if task and task.state == "FAILED" and task.exit_status == NO_STORAGE:
        return f"its node does not see {printable(log.parent)}; OUTPUT must be on storage that all nodes share"
    if words and (task is None or task.state == "FAILED"):
        return f"{words[-1]} (log: {printable(log)})"
    state = f"{task.state}, exit status {task.exit_status}" if task else "ended and forgotten by Slurm"
    return f"{state} (log: {printable(log)})"
