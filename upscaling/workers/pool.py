"""The main process's side of the workers: start them, hand out manifests, hear results, replace the dead.

Each worker has a pipe for its tasks and a pipe for its results, both of its own and without a lock: a worker
that is killed takes nothing with it but its ends of the two. At most two manifests are outstanding in a task
pipe, so that a fast worker gets more and a dead one leaves little to do again. Results and process sentinels
are waited for together, and no worker is trusted to say goodbye.
"""

import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from upscaling.common.errors import InputError, UpscaleError
from upscaling.inference.settings import LANCZOS, ModelSettings
from upscaling.workers import status
from upscaling.workers.forkserver import ProcessStarter, end_process

OUTSTANDING = 2  # manifests in one worker's pipe: the one at work and the next
MAX_FAILURES = 3  # workers that one manifest may kill, and tries that a worker has to start
LOADING_SECONDS = 60.0  # that a worker may be silent for before it is ready, however short the stall timeout
LONGEST_LOOK = 2.0  # seconds between two looks that count as silence: not the hours that this process was stopped


class WorkerError(UpscaleError):
    """Workers could not do a manifest, or could not start."""


@dataclass(frozen=True)
class Work:
    """A manifest of one batch to be done: its path, and what an error says of it ("frames 9 to 16")."""

    path: Path
    frames: str


@dataclass(frozen=True)
class BatchDone:
    """A worker says that all output frames of a manifest's batch, `number`, are in place."""

    path: Path
    number: int


@dataclass(frozen=True)
class WorkerLost:
    """A worker died; a fresh one takes its place unless three in a row could not even start."""

    slot: int
    why: str
    replaced: bool


@dataclass
class Slot:
    """One worker's place: its process, its channels, and the manifests it has been given."""

    index: int
    settings: ModelSettings
    process: BaseProcess | None = None
    tasks: connection.Connection | None = None
    results: connection.Connection | None = None
    given: deque[Work] = field(default_factory=deque)
    ready: bool = False
    starts: int = 0
    failed_starts: int = 0  # in a row
    exit_reason: str = ""  # why it is about to end, if it said so
    lost: str = ""  # why the one before died
    heartbeat: float = 0.0  # the last heartbeat seen
    silence: float = 0.0  # seconds that it has had work and given no sign of life


class WorkerPool:
    """The workers of a run, or of several runs one after another: their models stay loaded."""

    def __init__(
        self, settings: Sequence[ModelSettings], target: Callable, scratch: Path, stall_timeout: float = 600.0
    ):
        """One worker for each of `settings`; `target` is worker.run_worker.

        `scratch` is a job's directory, where the workers log until they have a manifest. `stall_timeout` is
        in seconds: a worker that has work and gives no sign of life for that long is dead.
        """
        plain = settings[0].model == LANCZOS
        # Imported once, in the fork server; CUDA is not initialised by an import, so forks may use it.
        heavy = ["upscaling.frames.swscale"] if plain else ["upscaling.inference.upscaler", "upscaling.frames.yuv"]
        modules = ["upscaling.workers.worker", *heavy]
        self.starter = ProcessStarter(scratch, modules)
        self.target, self.stall_timeout, self.scratch = target, stall_timeout, scratch
        self.slots = [Slot(index, one) for index, one in enumerate(settings)]
        self.array = status.new_array(self.starter.context, len(self.slots))
        self.rows = status.rows(self.array)
        self.backlog: deque[Work] = deque()
        self.failures: dict[Path, int] = {}  # of every manifest that a worker had when it died
        self.events: list[BatchDone | WorkerLost] = []
        self.looked = time.monotonic()

    # Start and stop

    def start(self) -> None:
        """Start the workers that do not run yet; they load while the first manifests are made."""
        for slot in self.slots:
            if slot.process is None:
                self._start(slot)

    def move(self, scratch: Path) -> None:
        """Leave no more traces in the last job's directory: the next one's is `scratch`."""
        self.scratch = self.starter.scratch = scratch

    def _start(self, slot: Slot) -> None:
        self.rows[slot.index] = status.empty_row()
        row = self.rows[slot.index]
        row["restarts"], row["batch"], row["device"] = slot.starts, -1, slot.settings.device.encode()
        slot.ready, slot.exit_reason, slot.heartbeat, slot.silence = False, "", 0.0, 0.0
        tasks, slot.tasks = self.starter.context.Pipe(duplex=False)
        slot.results, results = self.starter.context.Pipe(duplex=False)
        slot.process = self.starter.start(
            self.target,
            (slot.index, self.array, tasks, results, slot.settings, self.scratch / "logs"),
            f"worker {slot.index}",
        )
        slot.starts += 1
        tasks.close()
        results.close()  # so that the pipe ends when the worker does

    def stop(self) -> None:
        """End all workers at once: what they had at hand is done again by whoever resumes."""
        for slot in self.slots:
            if slot.process is not None:
                slot.process.kill()
        for slot in self.slots:
            if slot.process is not None:
                self._end(slot)
        self.starter.stop()

    def _end(self, slot: Slot) -> None:
        process, slot.process = slot.process, None
        end_process(process)
        slot.results.close()
        slot.tasks.close()

    # Work

    def give(self, work: Work) -> None:
        """Queue a manifest for the first worker that has room."""
        self.backlog.append(work)

    def retry(self, work: Work, why: str) -> None:
        """Have a manifest done again whose output turned out to be wrong; it counts as a strike."""
        self._count_failure(work, why)

    def drop_work(self) -> None:
        """Forget all manifests; those that workers have already go on and are not heard."""
        self.backlog.clear()
        self.failures.clear()
        for slot in self.slots:
            slot.given.clear()

    def _hand_out(self) -> None:
        for room in range(OUTSTANDING):  # everyone gets a first manifest before anyone gets a second
            for slot in sorted(self.slots, key=lambda slot: not slot.ready):
                if not self.backlog:
                    return
                if slot.process is None or len(slot.given) != room:
                    continue
                # Alone, so that it is known which manifest a worker dies of.
                if room and (self.backlog[0].path in self.failures or slot.given[0].path in self.failures):
                    continue
                work = self.backlog.popleft()
                slot.given.append(work)
                try:
                    slot.tasks.send(str(work.path))
                except OSError:
                    pass  # it has died: that is heard in a moment, and its work handed on

    def wait(self, timeout: float, others: Iterable = ()) -> list[BatchDone | WorkerLost]:
        """What happened: waits up to `timeout` seconds for a worker's message or death, or for `others`.

        Raises WorkerError where a manifest has killed three workers, where no worker can start, or where
        a worker met an error that another try would meet again; InputError where the model can't be used.
        """
        self.events = []
        for slot in self.slots:
            # Not at once when one dies: a signal that killed all may be meant for this process too.
            if slot.process is None and slot.failed_starts < MAX_FAILURES:
                self._start(slot)
                self.events.append(WorkerLost(slot.index, slot.lost, True))
        self._hand_out()
        sources = {}
        for slot in self.slots:
            if slot.process is not None:
                sources[slot.results] = sources[slot.process.sentinel] = slot
        happened = [sources[source] for source in connection.wait([*sources, *others], timeout) if source in sources]
        for index in dict.fromkeys(slot.index for slot in happened):
            slot = self.slots[index]
            if not self._drain_messages(slot) or not slot.process.is_alive():
                self._replace_dead(slot, "")
        self._find_stalled()
        self._hand_out()
        return self.events

    def _drain_messages(self, slot: Slot) -> bool:
        """Take in every message that a worker's pipe holds; False where it was the last one."""
        try:
            while slot.results.poll():
                self._take(slot, slot.results.recv())
        except (EOFError, OSError):
            return False
        return True

    def _take(self, slot: Slot, message: tuple) -> None:
        kind, *rest = message
        if kind == "ready":
            slot.ready, slot.failed_starts = True, 0
        if kind in ("ready", "done"):  # "done" may come when its manifest is already given out again
            return
        work = self._take_back(slot, rest[0])
        if kind == "batch" and work is not None:
            # Its frames may be encoded and gone in a moment: nobody may be given them again.
            self.events.append(BatchDone(work.path, rest[1]))
        elif kind == "failed":  # its process ends now
            slot.exit_reason = f"failed ({rest[1]})"
            if work is not None:
                self._count_failure(work, slot.exit_reason)
        elif kind == "unusable":  # what it was given to load, not what it did
            raise InputError(rest[1])
        elif kind == "fatal" and work is not None:
            raise WorkerError(rest[1])

    def _take_back(self, slot: Slot, path: str) -> Work | None:
        work = next((w for w in slot.given if str(w.path) == path), None)
        if work is not None:
            slot.given.remove(work)
        return work

    # Death

    def _find_stalled(self) -> None:
        now = time.monotonic()
        step, self.looked = min(now - self.looked, LONGEST_LOOK), now
        for slot in self.slots:
            heartbeat = float(self.rows[slot.index]["heartbeat"])
            if not slot.given or heartbeat != slot.heartbeat:
                slot.heartbeat, slot.silence = heartbeat, 0.0
                continue
            slot.silence += step
            limit = self.stall_timeout if slot.ready else max(self.stall_timeout, LOADING_SECONDS)
            if slot.process is not None and slot.silence > limit:
                self._replace_dead(slot, f"gave no sign of life for {slot.silence:.0f} s")

    def _replace_dead(self, slot: Slot, why: str) -> None:
        """Clear a dead worker's place for a fresh one; its manifests go to whoever has room."""
        self._drain_messages(slot)  # what it said before it died counts
        why = why or slot.exit_reason or ended(slot.process)
        at_fault = not slot.exit_reason and slot.ready
        self._end(slot)
        given, slot.given = list(slot.given), deque()
        self.backlog.extendleft(reversed(given[at_fault:]))
        if not slot.ready:
            slot.failed_starts += 1
        replaced = slot.failed_starts < MAX_FAILURES
        if not replaced and not any(other.process is not None and other.ready for other in self.slots):
            raise WorkerError(f"worker {slot.index} could not start, {MAX_FAILURES} times; the last time it {why}")
        slot.lost = why
        if not replaced:
            self.events.append(WorkerLost(slot.index, why, False))
        for work in given if slot.ready else ():
            self.failures.setdefault(work.path, 0)
        if given and at_fault:  # the first it was given is the one that it died of
            self._count_failure(given[0], why)

    def _count_failure(self, work: Work, why: str) -> None:
        self.failures[work.path] = self.failures.get(work.path, 0) + 1
        if self.failures[work.path] >= MAX_FAILURES:
            raise WorkerError(f"{work.frames}: given up after {MAX_FAILURES} tries; the last worker {why}")
        self.backlog.appendleft(work)


def ended(process: BaseProcess) -> str:
    """How a process ended, as the end of a sentence about it."""
    process.join(1)  # its pipe may end a moment before it does
    code = process.exitcode
    if code is not None and code < 0:
        names = {number.value: number.name for number in signal.Signals}
        return f"was killed by {names.get(-code, f'signal {-code}')}"
    return "closed its pipe" if code is None else f"ended with exit status {code}"
