"""The main process's side of workers that are tasks of a Slurm array job: the interface of dispatch.Crew, by files.

One array job is submitted; its tasks claim manifests from the work directory (claims.py) for as long as the job
goes on. What they did is heard from files, that they are alive is seen by counters in files, and Slurm is asked
now and then, in a thread of its own, which of them it still has. Nothing here waits for a node.
"""

import multiprocessing
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing import connection
from pathlib import Path

import claims
import slurm
import status
from claims import COORDINATOR, SETTINGS, SLURM_JOBS, TASKS, TOKEN
from dispatch import STRIKES, BatchDone, Work, WorkerError, WorkerLost
from errors import BusyError
from manifest import read_manifest
from settings import ModelSettings
from slurm import SlurmError
from task import NOT_SHARED

LOST_SECONDS = 30.0  # silence after which a task counts as dead; less where --stall-timeout says so
BEAT_SECONDS = 2.0  # between two signs of life, the coordinator's and the tasks'
CLAIM_SECONDS = 1.0  # between two looks at who holds what
RESULT_SECONDS = 0.02  # between two looks at what came back
STATUS_FILES = 100  # read in one look, so that 1,000 tasks do not hold up the main loop
SLURM_SECONDS = 15.0  # between two questions to Slurm; sooner where a task went silent, but not below
SLURM_AGAIN = 3.0
SILENT_START = 300.0  # seconds that a running task may take to show up
STOP_SECONDS = 20.0  # for Slurm to end what is cancelled


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


class SlurmCrew:
    """The workers of one job as tasks of a Slurm array; the interface of dispatch.Crew."""

    def __init__(
        self, settings: Sequence[ModelSettings], job: Path, stall_timeout: float = 600.0, name: str = "video",
        sbatch: Sequence[str] = (),
    ):  # fmt: skip
        """One task for each of `settings`, which are all the same; `job` is the job's directory.

        `sbatch` are more options for sbatch. A task that is silent for `stall_timeout` seconds, at most
        LOST_SECONDS, is dead; one that lives, but whose worker is silent for `stall_timeout`, hangs.
        """
        self.settings, self.job, self.stall_timeout, self.name, self.sbatch = settings, job, stall_timeout, name, sbatch
        self.lost_after = min(LOST_SECONDS, stall_timeout)
        self.seen_seconds = min(claims.SEEN_SECONDS, stall_timeout)
        self.beat = min(BEAT_SECONDS, self.lost_after / 5)
        self.array = status.new_array(multiprocessing.get_context("forkserver"), len(settings))
        self.rows = status.rows(self.array)
        self.tasks = [Task(index) for index in range(len(settings))]
        self.token = secrets.token_hex(16)
        self.number = ""  # of the Slurm job
        self.open: dict[str, _Given] = {}  # by the manifest's file name
        self.strikes: dict[Path, int] = {}
        self.pulse = claims.Pulse()
        self.events: list[BatchDone | WorkerLost | str] = []
        self.started: list[str] = []  # lives that became ready
        self.said = ""
        self._next_status = self._next_claims = self._next_results = 0.0
        self._turn = 0
        self.heart: _Heart | None = None
        self.watch: _Watch | None = None

    # Start and stop

    def start(self) -> None:
        """Submit the array; its tasks load while the first manifests are made."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        claims.make_folders(self.job)
        for row, one in zip(self.rows, self.settings, strict=True):
            row["batch"], row["device"] = -1, b"waits for Slurm" if one.device == "auto" else one.device.encode()
        patience = max(2 * self.lost_after, 5 * self.beat)
        terms = {"model": asdict(self.settings[0]), "beat": self.beat, "patience": patience}
        claims.put_json(self.job / TASKS / SETTINGS, terms)
        self.heart = _Heart(self.job / TASKS / COORDINATOR, self.token, self.beat)
        self.heart.write()
        claims.put(self.job / TASKS / TOKEN, self.token + "\n")
        text = slurm.script(self.job, self.token, self.seen_seconds)
        self.number = slurm.submit(text, len(self.tasks), self.name, self.sbatch)
        claims.put(self.job / TASKS / SLURM_JOBS, self.number + "\n")
        self.heart.start()
        self.watch = _Watch(self.number)
        self.watch.start()
        for task in self.tasks:
            task.since = time.monotonic()

    def stop(self) -> None:
        """End all tasks: those that run end by themselves, what is left is cancelled."""
        if self.heart is None:
            return
        self.heart.end("stopped")
        if self.watch is not None:
            self.watch.end()
        if self.number:
            deadline = time.monotonic() + 3 * self.beat
            while self._running() and time.monotonic() < deadline:
                time.sleep(0.05)
            end_job(self.number)
        self.heart = None

    def _running(self) -> list[Task]:
        """Tasks that have shown up and have not said goodbye."""
        now = time.monotonic()
        for task in self.tasks:
            self._read_status(task, now)
        return [task for task in self.tasks if not task.gone and task.state in ("loading", "ready")]

    # Work

    def give(self, work: Work) -> None:
        """Publish a manifest for the first task that claims it."""
        manifest = read_manifest(work.path, self.job)
        outputs = tuple(manifest.output_dir / name for name in manifest.frames)
        self.open[work.path.name] = _Given(work, next(iter(manifest.batches)), outputs)
        claims.publish(self.job, work.path)

    def redo(self, work: Work, why: str) -> None:
        """Have a manifest done again whose output turned out to be wrong; it counts as a strike."""
        self._strike(work, why)
        self.give(work)

    def drop_work(self) -> None:
        """Forget all manifests; those that tasks have already go on and are not heard."""
        self.open.clear()
        self.strikes.clear()
        for name in claims.waiting(self.job):
            (self.job / claims.QUEUE / name).unlink(missing_ok=True)

    def wait(self, timeout: float, others: Iterable = ()) -> list[BatchDone | WorkerLost | str]:
        """What happened: waits up to `timeout` seconds, or for `others`; a str is a line for the user.

        Raises WorkerError where a manifest has killed three workers, where no task can start or sees the work
        directory, where none is left, or where a worker met an error that another try would meet again.
        """
        self.events = []
        others = list(others)
        if others:
            connection.wait(others, min(timeout, 0.1))
        else:
            time.sleep(min(timeout, 0.1))
        now = time.monotonic()
        self._look_at_results(now)
        self._look_at_tasks(now)
        self._look_at_slurm(now)
        if now >= self._next_claims:
            self._next_claims = now + CLAIM_SECONDS
            self._bury_the_dead(now)
        return self.events

    def _look_at_results(self, now: float) -> None:
        if now < self._next_results:
            return
        self._next_results = now + RESULT_SECONDS
        for result in claims.results(self.job):
            given = self.open.get(result.manifest)
            if given is None:
                claims.hear(result.path)
            elif result.final:
                raise WorkerError(result.why)
            elif result.why:
                self._again(result.path, given.work, f"said {result.why}")
            elif missing := claims.unseen(given.outputs):
                given.unseen_since = given.unseen_since or now
                if now - given.unseen_since > self.seen_seconds:
                    self._again(result.path, given.work, f"left no {missing[0].name} that is seen here")
            else:
                claims.hear(result.path, given.work.path)
                del self.open[result.manifest]
                self.events.append(BatchDone(given.work.path, given.batch))

    def _again(self, result: Path, work: Work, why: str) -> None:
        self._strike(work, why)
        self.open[work.path.name].unseen_since = 0.0
        claims.hear(result, self.job / claims.QUEUE / work.path.name)

    def _strike(self, work: Work, why: str) -> None:
        self.strikes[work.path] = self.strikes.get(work.path, 0) + 1
        if self.strikes[work.path] >= STRIKES:
            raise WorkerError(f"{work.frames}: given up after {STRIKES} tries; the last worker {why}")

    # Tasks

    def _look_at_tasks(self, now: float) -> None:
        """Read the status files, some at a time."""
        if now < self._next_status:
            return
        count = min(STATUS_FILES, len(self.tasks))
        for step in range(count):
            self._read_status(self.tasks[(self._turn + step) % len(self.tasks)], now)
        self._turn = (self._turn + count) % len(self.tasks)
        self._next_status = now + self.beat / 4 * count / len(self.tasks)

    def _read_status(self, task: Task, now: float) -> None:
        said = claims.read_json(self.job / TASKS / f"task_{task.index}.json")
        life = said.get("id")
        if said.get("token") != self.token or not isinstance(life, str):
            return  # none yet, torn, or one of an earlier run
        if life != task.life:
            if task.life and not task.gone:
                self._lose(task, "was started anew")
            task.life, task.gone, task.lives, task.state = life, False, task.lives + 1, ""
            task.failed_starts += 1  # until it is ready
        if self.pulse.see(life, said.get("count"), now):
            self.rows[task.index]["heartbeat"] = time.time()
        state, task.error, task.node = str(said.get("state")), str(said.get("error"))[:500], str(said.get("node"))[:64]
        task.final = said.get("final") is True
        if state == "ready" and task.state != "ready":
            task.failed_starts = 0
            self.started.append(life)
        task.state = state
        row = said.get("row")
        if isinstance(row, dict):
            self.pulse.see((life, "worker"), row.get("heartbeat"), now)
            fill_row(self.rows[task.index], row, task)

    def _bury_the_dead(self, now: float) -> None:
        """Take back what dead tasks hold; the manifest that one of them died of has a strike."""
        held = claims.claims_of(self.job)
        by_life = {task.life: task for task in self.tasks if task.life}
        for life, paths in held.items():
            task = by_life.get(life)
            silent = self.pulse.silent(life, now)
            if task is None:  # an earlier life, or one that nobody here started
                if self._is_earlier_life(life) or silent > self.lost_after:
                    self._take_back(paths, "was started anew")
            elif task.gone or task.state in ("ended", "error"):
                self._take_back(paths, "" if task.state == "ended" else task.error or "died")
        for task in self.tasks:
            if not task.gone:
                self._check(task, held.get(task.life, []), now)

    def _is_earlier_life(self, life: str) -> bool:
        index = int(life.partition("-")[0])
        return index < len(self.tasks) and self.tasks[index].lives > 1

    def _check(self, task: Task, held: list[Path], now: float) -> None:
        """Whether a task that was alive is so still."""
        silent = self.pulse.silent(task.life, now)
        hangs = self.pulse.silent((task.life, "worker"), now)
        why = ""
        if task.state in ("ended", "error"):
            why = task.error or "ended"
        elif task.ended:
            why = f"ended: {task.ended}"
        elif silent > self.lost_after:
            why = f"gave no sign of life for {silent:.0f} s"
        elif held and task.state == "ready" and hangs > self.stall_timeout:
            why = f"hangs: no progress for {hangs:.0f} s"
        if why:
            self._take_back(held, "" if task.state == "ended" else why)
            self._lose(task, why)

    def _lose(self, task: Task, why: str) -> None:
        task.gone = True
        self.watch.look()
        where = f" on {task.node}" if task.node else ""
        if task.state == "error" and not self.started and (task.final or task.failed_starts >= STRIKES):
            raise WorkerError(f"workers can't start{where}: {task.error}")
        self.events.append(WorkerLost(task.index, f"{why}{where}", not task.final and task.failed_starts < STRIKES))
        if task.failed_starts >= STRIKES:
            slurm_try(slurm.cancel, f"{self.number}_{task.index}")
        elif why.startswith("hangs"):
            slurm_try(slurm.requeue, self.number, task.index)

    def _take_back(self, paths: list[Path], why: str) -> None:
        """Put claims back into the queue, a strike for the first where the claimant died of it (`why`)."""
        for number, path in enumerate(paths):
            name = claims.split_claim(path.name)[0]
            if claims.give_back(path) and why and number == 0 and name in self.open:
                self._strike(self.open[name].work, why)

    # Slurm

    def _look_at_slurm(self, now: float) -> None:
        news, taken = self.watch.take()
        if news is None:
            return
        for task in self.tasks:
            if taken > task.since and not task.ended:
                self._hear_of(task, news.get(task.index), now)
        if all(task.ended for task in self.tasks):
            last = next((task.error for task in self.tasks if task.state == "error"), "") or self.tasks[0].ended
            raise WorkerError(f"no task of Slurm job {self.number} is left ({last}); rerun to resume")
        waiting = [state for state in news.values() if state.state == "PENDING"]
        line = f"{len(waiting)} of {len(self.tasks)} tasks wait for Slurm ({waiting[0].reason})" if waiting else ""
        if line and len(waiting) == len(self.tasks) and line != self.said:
            self.events.append(line)
        self.said = line

    def _hear_of(self, task: Task, state: slurm.TaskState | None, now: float) -> None:
        if state is not None and state.alive:
            if state.state == "RUNNING" and not task.life and now - task.since > SILENT_START and not self.started:
                raise WorkerError(self._not_shared())
            return
        task.ended = "forgotten by Slurm" if state is None else state.state
        if state is not None and state.exit_status == NOT_SHARED:
            if not any(other.life for other in self.tasks):
                raise WorkerError(self._not_shared())
            self.events.append(WorkerLost(task.index, "is on a node that does not see the work directory", False))
            return
        if state is None or state.state.startswith("CANCELLED") or task.final or task.failed_starts >= STRIKES:
            if task.gone and task.state != "error":
                self.events.append(WorkerLost(task.index, f"ended: {task.ended}", False))
            return
        if slurm_try(slurm.requeue, self.number, task.index):
            if not task.life:
                task.failed_starts += 1
            task.ended, task.since = "", now + 0.5  # what Slurm said meanwhile is of before

    def _not_shared(self) -> str:
        return (
            f"the nodes do not see {self.job}: a work directory for --slurm must lie on storage that all nodes share; "
            "choose one with --work-dir"
        )


@dataclass
class _Given:
    """A manifest that is out: its batch, and the output files that are to come."""

    work: Work
    batch: int
    outputs: tuple[Path, ...] = field(repr=False)
    unseen_since: float = 0.0


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


class _Heart(threading.Thread):
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


class _Watch(threading.Thread):
    """Asks Slurm about the tasks now and then; a slow answer holds up nobody."""

    def __init__(self, number: str):
        super().__init__(name="slurm watch", daemon=True)
        self.number = number
        self.wanted, self.stopped = threading.Event(), False
        self.news: tuple[dict[int, slurm.TaskState] | None, float] = (None, 0.0)

    def run(self) -> None:
        self.wanted.wait(SLURM_AGAIN)
        while not self.stopped:
            asked = time.monotonic()
            try:
                self.news = slurm.states(self.number), asked
            except SlurmError:
                pass  # a controller that restarts; the tasks do not mind
            self.wanted.clear()
            time.sleep(SLURM_AGAIN)
            self.wanted.wait(SLURM_SECONDS - SLURM_AGAIN)

    def look(self) -> None:
        """Ask soon."""
        self.wanted.set()

    def take(self) -> tuple[dict[int, slurm.TaskState] | None, float]:
        """(tasks by index, time.monotonic() of the question), once; (None, 0) where there is nothing new."""
        news, self.news = self.news, (None, 0.0)
        return news

    def end(self) -> None:
        self.stopped = True
        self.wanted.set()


def slurm_try(function: Callable, *arguments) -> bool:
    """Ask something of Slurm that is no great loss if it refuses; whether it did it."""
    try:
        function(*arguments)
    except SlurmError:
        return False
    return True


def end_job(number: str, seconds: float = STOP_SECONDS) -> bool:
    """Cancel a job and wait until none of its tasks runs any more; False where some may."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            slurm.cancel(number)
            if not any(state.alive for state in slurm.states(number).values()):
                return True
        except SlurmError as error:
            if "Invalid job id" in str(error):
                return True
        time.sleep(0.2)
    return False


def end_earlier_tasks(work_dir: Path) -> None:
    """End what an earlier run left in Slurm, before its work directory is used again: it might still write there.

    BusyError where it can't be ended from here.
    """
    try:
        numbers = (work_dir / TASKS / SLURM_JOBS).read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return
    for number in numbers:
        if re.fullmatch(r"[0-9]{1,18}", number, re.ASCII) and not end_job(number):
            raise BusyError(
                f"tasks of an earlier run may still be at work (Slurm job {number}); end them with scancel {number}, "
                f"then remove {work_dir / TASKS / SLURM_JOBS}"
            )
