"""The tasks of a job as its coordinator sees them: by their status files, which a counter in each keeps alive."""

import os
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from upscaling.cluster import claims
from upscaling.cluster.claims import TASKS
from upscaling.workers import status

STATUS_FILES = 100  # read in one look, so that 1,000 tasks do not hold up the main loop


@dataclass
class Task:
    """What is known of one task of the array; `life` changes when it is started anew."""

    index: int
    life: str = ""
    state: str = ""  # loading, ready, ended, error: as it says
    error: str = ""
    final: bool = False  # the error is one that another try would meet again
    node: str = ""
    lives: int = 0
    failed_starts: int = 0  # in a row
    gone: bool = True  # its life has ended, or none was seen yet
    ended: str = ""  # why Slurm does not have it any more; empty while it has
    since: float = 0.0  # time.monotonic() of when it was (re)submitted: older news of Slurm are of its last life


class Roster:
    """All tasks of a job; reads their status files into rows of the status array."""

    def __init__(self, job: Path, token: str, rows):
        """`rows` are of status.rows, one a task; a status file without `token` is of an earlier run."""
        self.job, self.token, self.rows = job, token, rows
        self.tasks = [Task(index) for index in range(len(rows))]
        self.pulse = claims.Pulse()
        self.ready_lives = 0  # lives that became ready
        self._next = 0.0
        self._turn = 0

    @property
    def shown_up(self) -> bool:
        """Whether any task has written a status: then the storage is shared."""
        return any(task.life for task in self.tasks)

    def of_life(self, life: str) -> Task | None:
        """The task whose present life it is."""
        task = self.of_index(life)
        return task if task is not None and task.life == life else None

    def of_index(self, life: str) -> Task | None:
        """The task whose present or earlier life it is; None for a worker that is no task of the array."""
        index = int(life.partition("-")[0])
        return self.tasks[index] if index < len(self.tasks) else None

    def look(self, now: float, every: float) -> list[Task]:
        """Read status files, some at a time, each about every `every` seconds; the tasks that were started anew."""
        if now < self._next:
            return []
        count = min(STATUS_FILES, len(self.tasks))
        turn = [self.tasks[(self._turn + step) % len(self.tasks)] for step in range(count)]
        self._turn = (self._turn + count) % len(self.tasks)
        self._next = now + every * count / len(self.tasks)
        return [task for task in turn if self.read(task, now)]

    def running(self) -> list[Task]:
        """Tasks that have shown up and have not said goodbye."""
        for task in self.tasks:
            self.read(task, time.monotonic())
        return [task for task in self.tasks if not task.gone and task.state in ("loading", "ready")]

    def read(self, task: Task, now: float) -> bool:
        """Read a task's status; whether it has been started anew, with its life before not known to be gone."""
        said = claims.read_json(self.job / TASKS / f"task_{task.index}.json")
        life = said.get("id")
        if said.get("token") != self.token or not isinstance(life, str):
            return False  # none yet, torn, or one of an earlier run
        anew = life != task.life and not task.gone
        if life != task.life:
            task.life, task.gone, task.lives, task.state = life, False, task.lives + 1, ""
            task.failed_starts += 1  # until it is ready
        if self.pulse.see(life, said.get("count"), now):
            self.rows[task.index]["heartbeat"] = time.time()
        state, task.error, task.node = str(said.get("state")), str(said.get("error"))[:500], str(said.get("node"))[:64]
        task.final = said.get("final") is True
        if state == "ready" and task.state != "ready":
            task.failed_starts = 0
            self.ready_lives += 1
        task.state = state
        row = said.get("row")
        if isinstance(row, dict):
            self.pulse.see((life, "worker"), row.get("heartbeat"), now)
            fill_row(self.rows[task.index], row, task)
        return anew


def fill_row(row, said: dict, task: Task) -> None:
    """A task's row, as its status file has it, into the status array; what is no number or text stays as it is."""
    for name in ("state", "batch", "total_batches", "batches_done", "frames_done", "start", "end"):
        value = said.get(name)
        if isinstance(value, int | float) and abs(value) < 1 << 62:
            row[name] = min(int(value), status.ERROR) if name == "state" else value
    for name, size in (("manifest", 64), ("error", 256)):
        row[name] = str(said.get(name) or "").encode("ascii", "replace")[:size]
    row["restarts"], row["pid"] = max(0, task.lives - 1), 0  # the number of a process on another node
    row["device"] = f"{said.get('device')}@{task.node}".encode("ascii", "replace")[:32]


class Heart(threading.Thread):
    """The coordinator's sign of life: tasks end when it stops, or when it says that the job is over."""

    def __init__(self, path: Path, token: str, beat: float):
        super().__init__(name="heart", daemon=True)
        self.path, self.token, self.beat = path, token, beat
        self.count, self.over = 0, ""
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(self.beat):
            self.write()

    def write(self) -> None:
        self.count += 1
        about = {"token": self.token, "count": self.count, "over": self.over, "node": socket.gethostname()}
        try:
            claims.put_json(self.path, about | {"pid": os.getpid()}, durable=False)
        except OSError:
            pass  # a full disk: the stages meet it too, and say so

    def end(self, why: str) -> None:
        self.over = why
        self.stopped.set()
        if self.is_alive():
            self.join()
        self.write()
