"""The main process's side of workers that are tasks of a Slurm array job: the interface of dispatch.Crew, by files.

One array job is submitted; its tasks claim manifests from the work directory (claims.py). What they did is heard
from files, that they are alive is seen by counters in files (roster.py), and Slurm is asked now and then, in a
thread of its own, which of them it still has. Nothing here waits for a node.
"""

import contextlib
import multiprocessing
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing import connection
from pathlib import Path

from upscaling.cluster import claims, slurm
from upscaling.cluster.claims import COORDINATOR, SLURM_JOBS, TASKS
from upscaling.cluster.roster import Heart, Roster, Task
from upscaling.cluster.slurm import TaskState, Watch, attempt, end_job
from upscaling.cluster.terms import NOT_SHARED, Terms, not_shared, write_terms
from upscaling.frames.settings import ModelSettings
from upscaling.workers import status
from upscaling.workers.manifest import read_manifest
from upscaling.workers.pool import STRIKES, BatchDone, Work, WorkerError, WorkerLost

LOST_SECONDS = 30.0  # silence after which a task counts as dead; less where --stall-timeout says so
BEAT_SECONDS = 2.0  # between two signs of life, the coordinator's and the tasks'
CLAIM_SECONDS = 1.0  # between two looks at who holds what
RESULT_SECONDS = 0.02  # between two looks at what came back
LONGEST_WAIT = 0.1  # seconds between two looks at anything
LONGEST_LOOK = 2.0  # between two looks that count as silence: not the hours that this process was stopped
SILENT_START = 300.0  # seconds that a running task may take to show up


class SlurmCrew:
    """The workers of one job as tasks of a Slurm array; the interface of dispatch.Crew."""

    def __init__(self, settings: Sequence[ModelSettings], job: Path, stall_timeout: float = 600.0, name: str = "video",
                 sbatch: Sequence[str] = ()):  # fmt: skip
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
        self.token = secrets.token_hex(16)
        self.roster = Roster(job, self.token, self.rows)
        self.tasks = self.roster.tasks
        self.number = ""  # of the Slurm job
        self.open: dict[str, _Given] = {}  # by the manifest's file name
        self.strikes: dict[Path, int] = {}
        self.events: list[BatchDone | WorkerLost | str] = []
        self.stillborn = 0  # tasks that ended without a word
        self.said = ""  # the last line about tasks that wait
        self.clock = 0.0  # seconds of this run, less what this process was stopped
        self.looked = time.monotonic()
        self._next_claims = self._next_results = 0.0  # by the clock
        self.heart: Heart | None = None
        self.watch: Watch | None = None

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
        write_terms(self.job, self.token, Terms(asdict(self.settings[0]), self.beat, patience))
        self.heart = Heart(self.job / TASKS / COORDINATOR, self.token, self.beat)
        self.heart.write()
        text = slurm.script(self.job, self.token, self.seen_seconds)
        self.number = slurm.submit(text, len(self.tasks), self.name, self.sbatch)
        claims.put(self.job / TASKS / SLURM_JOBS, self.number + "\n")
        self.heart.start()
        self.watch = Watch(self.number)
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
            while self.roster.running() and time.monotonic() < deadline:
                time.sleep(0.05)
            end_job(self.number)
            with contextlib.suppress(OSError):  # what the tasks did last
                status.write_json(self.array, self.job)
        self.heart = None

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
        connection.wait(list(others), min(timeout, LONGEST_WAIT))
        now = time.monotonic()
        self.clock, self.looked = self.clock + min(now - self.looked, LONGEST_LOOK), now
        self._look_at_results(self.clock)
        for task in self.roster.look(self.clock, self.beat / 4):
            self._lose(task, "was started anew")
        self._look_at_slurm()
        if self.clock >= self._next_claims:
            self._next_claims = self.clock + CLAIM_SECONDS
            self._bury_the_dead(self.clock)
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

    def _bury_the_dead(self, now: float) -> None:
        """Take back what dead tasks hold; the manifest that one of them died of has a strike."""
        held = claims.claims_of(self.job)
        for life, paths in held.items():
            task = self.roster.of_index(life)
            if task is None or not task.life:  # a worker that somebody started by hand, or not heard of yet
                if self.roster.pulse.silent(life, now) > self.stall_timeout:
                    self._take_back(paths, "gave no sign of life")
            elif task.life != life or task.gone:
                self._take_back(paths, "" if task.state == "ended" else task.error or "died")
        for task in self.tasks:
            if not task.gone:
                self._check(task, held.get(task.life, []), now)

    def _check(self, task: Task, held: list[Path], now: float) -> None:
        """Whether a task that was alive is so still."""
        pulse, worker = self.roster.pulse, (task.life, "worker")
        if not held:
            pulse.forget(worker)  # it waits for work, and says nothing meanwhile
        silent, hangs = pulse.silent(task.life, now), pulse.silent(worker, now)
        why = ""
        if task.state in ("ended", "error"):
            why = task.error or "ended"
        elif task.ended:
            why = f"ended: {task.ended}"
        elif silent > self.lost_after:
            why = f"gave no sign of life for {silent:.0f} s"
        elif task.state == "ready" and hangs > self.stall_timeout:
            why = f"hangs: no progress for {hangs:.0f} s"
        if why:
            self._take_back(held, "" if task.state == "ended" else why)
            self._lose(task, why)

    def _lose(self, task: Task, why: str) -> None:
        """A life of a task has ended; Slurm, or the task's own script, begins another."""
        task.gone = True
        self.watch.look()
        where = f" on {task.node}" if task.node else ""
        often = task.failed_starts >= STRIKES
        if task.state == "error" and not self.roster.ready_lives and (task.final or often):
            raise WorkerError(f"workers can't start{where}: {task.error}")
        self.events.append(WorkerLost(task.index, f"{why}{where}", not task.final and not often))
        if often:
            attempt(slurm.cancel, f"{self.number}_{task.index}")
        elif why.startswith("hangs"):
            attempt(slurm.requeue, self.number, task.index)

    def _take_back(self, paths: list[Path], why: str) -> None:
        """Put claims back into the queue, a strike for the first where the claimant died of it (`why`)."""
        for number, path in enumerate(paths):
            name = claims.split_claim(path.name)[0]
            if claims.give_back(path) and why and number == 0 and name in self.open:
                self._strike(self.open[name].work, why)

    # Slurm

    def _look_at_slurm(self) -> None:
        news, asked = self.watch.take()
        if news is None:
            return
        for task in self.tasks:
            if asked > task.since and not task.ended:
                self._hear_of(task, news.get(task.index))
        if all(task.ended for task in self.tasks):
            last = next((task.error for task in self.tasks if task.error), self.tasks[0].ended)
            raise WorkerError(f"no task of Slurm job {self.number} is left ({last}); rerun to resume")
        waiting = [state for state in news.values() if state.state == "PENDING"]
        line = ""
        if len(waiting) == len(self.tasks):
            line = f"all {len(waiting)} tasks wait for Slurm ({waiting[0].reason})"
        if line and line != self.said:
            self.events.append(line)
        self.said = line

    def _hear_of(self, task: Task, state: TaskState | None) -> None:
        """What Slurm says of a task: one that has ended is requeued, unless somebody cancelled it."""
        if state is not None and state.alive:
            running = time.monotonic() - task.since
            if state.state == "RUNNING" and running > SILENT_START and not self.roster.shown_up:
                raise WorkerError(not_shared(self.job))
            return
        task.ended = "forgotten by Slurm" if state is None else state.state
        if state is not None and state.exit_status == NOT_SHARED:
            if not self.roster.shown_up:
                raise WorkerError(not_shared(self.job))
            self.events.append(WorkerLost(task.index, "is on a node that does not see the work directory", False))
            return
        if state is None or state.state.startswith("CANCELLED") or task.final or task.failed_starts >= STRIKES:
            if task.gone and not task.final:
                self.events.append(WorkerLost(task.index, f"ended: {task.ended}", False))
            return
        if not task.life:
            self._note_stillborn(task, state)
        if attempt(slurm.requeue, self.number, task.index):
            task.ended, task.since = "", time.monotonic()  # what Slurm was asked before is of the life before

    def _note_stillborn(self, task: Task, state: TaskState) -> None:
        """A task ended before it could write a status: a Python that is not there, a library that is missing."""
        task.failed_starts += 1
        self.stillborn += 1
        if self.stillborn >= min(STRIKES, len(self.tasks)) and not self.roster.shown_up:
            raise WorkerError(
                f"tasks end before they can start ({state.state}, exit status {state.exit_status}); "
                f"see {self.job / 'logs' / f'worker_{task.index}.log'}"
            )


@dataclass
class _Given:
    """A manifest that is out: its batch, and the output files that are to come."""

    work: Work
    batch: int
    outputs: tuple[Path, ...] = field(repr=False)
    unseen_since: float = 0.0
