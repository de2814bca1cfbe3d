"""The main process's side of the workers: start them, hand out manifests, hear results, replace the dead.

Each worker has a queue and a pipe of its own: a worker that is killed while it holds one end of either
takes nothing with it but its own. At most two manifests are outstanding in a queue, so that a fast worker
gets more and a dead one leaves little to do again. Results and process sentinels are waited for together.
"""

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path

import status
from errors import UpscaleError
from settings import LANCZOS, ModelSettings

OUTSTANDING = 2  # manifests in one worker's queue: the one at work and the next
STRIKES = 3  # workers that one manifest may kill, and tries that a worker has to start


class WorkerError(UpscaleError):
    """Workers could not do a manifest, or could not start."""


@dataclass(frozen=True)
class Work:
    """A manifest of one batch to be done: its path, and what an error says of it ("frames 9 to 16")."""

    path: Path
    frames: str


@dataclass(frozen=True)
class BatchDone:
    """All output frames of a manifest's batch, `number`, are in place."""

    path: Path
    number: int


@dataclass(frozen=True)
class Restarted:
    """A worker died and a fresh one took its place."""

    slot: int
    why: str


@dataclass
class Slot:
    """One worker's place: its process, its channels, and the manifests it has been given."""

    index: int
    settings: ModelSettings
    process: multiprocessing.process.BaseProcess | None = None
    tasks: object = None  # SimpleQueue
    results: connection.Connection | None = None
    given: deque[Work] = field(default_factory=deque)
    ready: bool = False
    failed_starts: int = 0
    started: float = 0.0  # time.time(); 0: never yet
    busy_since: float = 0.0  # time.time() of its start, or of the first manifest after none


class Crew:
    """The workers of a run, or of several runs one after another: their models stay loaded."""

    def __init__(
        self,
        settings: Sequence[ModelSettings],
        target: Callable,
        scratch: Path,
        stall_timeout: float = 600.0,
    ):
        """One worker for each of `settings`; `scratch`, a job's directory, takes the fork server's socket.

        `stall_timeout` is in seconds: a worker that has work and gives no sign of life for that long is dead.
        """
        self.context = multiprocessing.get_context("forkserver")
        self.target, self.stall_timeout, self.scratch = target, stall_timeout, scratch
        self.slots = [Slot(index, one) for index, one in enumerate(settings)]
        self.array = status.new_array(self.context, len(self.slots))
        self.rows = status.rows(self.array)
        self.backlog: deque[Work] = deque()
        self.strikes: dict[Path, int] = {}
        self.events: list[BatchDone | Restarted] = []

    # Start and stop

    def start(self) -> None:
        """Start all workers; returns at once, they load while the first manifests are made."""
        plain = self.slots[0].settings.model == LANCZOS
        # Imported once, in the fork server; CUDA is not initialised by an import, so forks may use it.
        self.context.set_forkserver_preload(["worker", "resize"] if plain else ["worker", "model", "colour"])
        _socket_folder(self.scratch)
        for slot in self.slots:
            self._start(slot)

    def _start(self, slot: Slot) -> None:
        restarts = int(self.rows[slot.index]["restarts"]) + (slot.started > 0)
        self.rows[slot.index] = status.empty_row()
        row = self.rows[slot.index]
        row["restarts"], row["batch"], row["device"] = restarts, -1, slot.settings.device.encode()
        slot.ready, slot.started = False, time.time()
        slot.busy_since = slot.started
        slot.tasks = self.context.SimpleQueue()
        slot.results, child_end = self.context.Pipe(duplex=False)
        slot.process = self.context.Process(
            target=self.target,
            args=(slot.index, self.array, slot.tasks, child_end, slot.settings, self.scratch / "logs"),
            name=f"worker {slot.index}",
            daemon=True,
        )
        slot.process.start()
        child_end.close()  # so that the pipe ends when the worker does

    def stop(self) -> None:
        """End all workers at once: what they had at hand is done again by whoever resumes."""
        for slot in self.slots:
            if slot.process is not None and slot.process.is_alive():
                slot.process.kill()
        for slot in self.slots:
            if slot.process is not None:
                slot.process.join()
                self._close(slot)

    def _close(self, slot: Slot) -> None:
        slot.process.close()
        slot.results.close()
        slot.tasks.close()
        slot.process = None

    # Work

    def give(self, work: Work) -> None:
        """Queue a manifest for the first worker that has room."""
        self.backlog.append(work)
        self._hand_out()

    def drop_work(self) -> None:
        """Forget all manifests; those that workers have already go on and are not heard."""
        self.backlog.clear()
        self.strikes.clear()

    def _hand_out(self) -> None:
        for room in range(OUTSTANDING):  # everyone gets a first manifest before anyone gets a second
            for slot in self.slots:
                if self.backlog and slot.process is not None and len(slot.given) == room:
                    work = self.backlog.popleft()
                    if not slot.given:
                        slot.busy_since = time.time()
                    slot.given.append(work)
                    slot.tasks.put(str(work.path))

    def wait(self, timeout: float, others: Iterable = ()) -> list[BatchDone | Restarted]:
        """What happened: waits up to `timeout` seconds for a worker's message or death, or for `others`.

        Raises WorkerError where a manifest has killed three workers, where workers can't start, or where
        a worker met an error that another try would meet again.
        """
        self.events = []
        sources = {slot.results: slot for slot in self.slots} | {s.process.sentinel: s for s in self.slots}
        for source in connection.wait([*sources, *others], timeout):
            slot = sources.get(source)
            if slot is None or slot.process is None:
                continue
            if source is slot.results:
                self._hear(slot)
            elif source == slot.process.sentinel:
                self._bury(slot, "died")
        self._find_stalled()
        self._hand_out()
        return self.events

    def _hear(self, slot: Slot) -> None:
        """Take in every message that a worker's pipe holds; the death of its worker is the sentinel's to tell."""
        try:
            while slot.results.poll():
                self._take(slot, slot.results.recv())
        except (EOFError, OSError):
            slot.process.join(1)
            self._bury(slot, "died")

    def _take(self, slot: Slot, message: tuple) -> None:
        kind, *rest = message
        if kind == "ready":
            slot.ready, slot.failed_starts = True, 0
        elif kind == "batch":
            # Its frames may be encoded and gone in a moment: nobody may be given them again.
            self._take_back(slot, rest[0])
            self.events.append(BatchDone(Path(rest[0]), rest[1]))
        elif kind == "failed":
            work = self._take_back(slot, rest[0])
            if work is not None:
                self._strike(work, f"said {rest[1]}")
        elif kind == "fatal":
            raise WorkerError(rest[1])

    def _take_back(self, slot: Slot, path: str) -> Work | None:
        work = next((w for w in slot.given if str(w.path) == path), None)
        if work is not None:
            slot.given.remove(work)
        return work

    # Death

    def _find_stalled(self) -> None:
        now = time.time()
        for slot in self.slots:
            last = max(float(self.rows[slot.index]["heartbeat"]), slot.busy_since)
            if slot.given and now - last > self.stall_timeout:
                slot.process.kill()
                slot.process.join()
                self._bury(slot, f"gave no sign of life for {now - last:.0f} s")

    def _bury(self, slot: Slot, why: str) -> None:
        """Put a fresh worker in a dead one's place; its manifests go to whoever has room."""
        code = slot.process.exitcode
        if code is not None and code < 0 and why == "died":
            why = f"was killed by {signal.Signals(-code).name}"
        elif why == "died":
            why = f"ended with exit status {code}"
        try:
            while slot.results.poll():  # what it said before it died counts
                self._take(slot, slot.results.recv())
        except (EOFError, OSError):
            pass
        if not slot.ready:
            slot.failed_starts += 1
            if slot.failed_starts >= STRIKES:
                raise WorkerError(f"worker {slot.index} {why} {STRIKES} times while it loaded; see its log")
        given, slot.given = list(slot.given), deque()
        self._close(slot)
        self._start(slot)
        self.events.append(Restarted(slot.index, why))
        self.backlog.extendleft(reversed(given[1:] if slot.failed_starts == 0 else given))
        if given and slot.failed_starts == 0:  # the first it was given is the one that it died of
            self._strike(given[0], why)

    def _strike(self, work: Work, why: str) -> None:
        self.strikes[work.path] = self.strikes.get(work.path, 0) + 1
        if self.strikes[work.path] >= STRIKES:
            raise WorkerError(f"{work.frames}: gave up after {STRIKES} workers; the last one {why}")
        self.backlog.appendleft(work)


def _socket_folder(scratch: Path) -> None:
    """Have multiprocessing keep its fork server's socket in the job's directory, to be cleaned up with it.

    In the temp directory a killed run would leave it behind. By way of /proc, because the path of a socket
    may have 107 bytes only (unix(7)); through `_config`, because a `tempfile.tempdir` would be removed once
    more at exit.
    """
    fd = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    multiprocessing.current_process()._config["tempdir"] = f"/proc/{os.getpid()}/fd/{fd}"
