"""A worker's life as a task of a batch system: what takes the place of its pipes and of its parent.

`python worker.py --job WORK_DIR` runs a Worker between `Tasks` and `Results`, the claim directory's ends of the
small interface that dispatch.py's two pipes are the local ends of. `Life` is the thread that says that the
task is there, and ends the process, in whatever it is at that moment, as soon as nobody needs it: nothing keeps
a GPU busy for a job that is over.
"""

import os
import random
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from upscaling.cluster import claims
from upscaling.cluster.claims import AFRESH, COORDINATOR, TASKS
from upscaling.cluster.terms import Terms, take_terms, task_settings
from upscaling.common.errors import UpscaleError
from upscaling.workers import status
from upscaling.workers.manifest import ManifestError, read_manifest

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0  # seconds between looks at an empty queue
AHEAD = 8  # manifests at the head of the queue that a task tries for, so that not all go for the first


class Life(threading.Thread):
    """The thread that writes the task's status and ends the process when its time is over.

    `row` gives the worker's row as a dict for JSON.
    """

    def __init__(self, job: Path, index: int, terms: Terms, token: str, row: Callable[[], dict],
                 leave: Callable[[int], None] = os._exit):  # fmt: skip
        super().__init__(name="life", daemon=True)
        self.job, self.index, self.terms, self.token, self.row, self.leave = job, index, terms, token, row, leave
        self.claimant = claims.new_claimant(index)
        self.state, self.error, self.final, self.count = "loading", "", False, 0
        self.pulse = claims.Pulse()
        self.ended = threading.Event()
        self.writing = threading.Lock()
        self.wake = -1  # descriptor that has a byte for each signal

    def take_signals(self) -> None:
        """Have the signals that end a task wake this thread; to be called in the main thread.

        By a descriptor that Python's handler writes to in C: the main thread may be in a kernel for long, and
        libraries have threads of their own, so that blocking the signals in ours would not hold them off.
        """
        self.wake, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)

    def run(self) -> None:
        while not self.ended.is_set():
            number = self._signal(self.terms.beat)
            why = f"got {signal.Signals(number).name}" if number else self.reason_to_end()
            if why:
                print(f"worker: {why}", file=sys.stderr, flush=True)
                self.end(why)
                self.leave(128 + number if number else 0)
                return
            self.report()

    def _signal(self, seconds: float) -> int:
        """The number of a signal that comes within that time, or 0."""
        if self.wake < 0:
            self.ended.wait(seconds)
            return 0
        ready, _, _ = select.select([self.wake], [], [], seconds)
        return os.read(self.wake, 1)[0] if ready else 0

    def reason_to_end(self) -> str:
        """Why this task is not needed any more; empty while it is."""
        content = claims.read_json(self.job / TASKS / COORDINATOR)
        if content.get("token", self.token) != self.token:
            return "another run has taken the job over"
        if content.get("over"):
            return f"the job is over ({content['over']})"
        if not content and not (self.job / TASKS).is_dir():
            return "the job is gone"
        if content:
            self.pulse.see("coordinator", content.get("count"))
        silent = self.pulse.silent("coordinator")
        return f"nothing heard of the main process for {silent:.0f} s" if silent > self.terms.patience else ""

    def report(self, state: str = "", error: str = "") -> None:
        """Replace the task's status file; what can't be written now is written at the next beat."""
        with self.writing:
            self.state, self.error = state or self.state, error or self.error
            self.count += 1
            content = {
                "id": self.claimant, "task": self.index, "token": self.token, "count": self.count,
                "state": self.state, "error": self.error, "final": self.final,
                "node": socket.gethostname(), "row": self.row(),
            }  # fmt: skip
            try:
                claims.put_json(self.job / TASKS / f"task_{self.index}.json", content, durable=False)
            except OSError as error:
                print(f"worker: status not written: {error}", file=sys.stderr)

    def end(self, why: str, error: bool = False, final: bool = False) -> None:
        """Give back what is claimed, and say that this is the end; once.

        `error`: the worker could not start; `final`: another try would meet the same.
        """
        if self.ended.is_set():
            return
        self.ended.set()
        for claimed in claims.claims_of(self.job, self.claimant).get(self.claimant, ()):
            try:
                claims.give_back(claimed)
            except OSError as problem:
                print(f"worker: {claimed.name} not given back: {problem}", file=sys.stderr)
        self.final = final
        if (self.job / TASKS).is_dir():
            self.report("error" if error else "ended", why)


class Tasks:
    """In the place of the tasks pipe: paths of claimed manifests, until the task's time is over."""

    def __init__(self, job: Path, life: Life, seen_seconds: float = claims.SEEN_SECONDS):
        self.job, self.life, self.seen_seconds = job, life, seen_seconds
        self.held: deque[str] = deque()

    def poll(self) -> bool:
        """Whether there is a manifest for this task at the moment; if there is, it is claimed."""
        return bool(self.held) or self._claim()

    def recv(self) -> str:
        """The next manifest, waited for; EOFError when the task's time is over."""
        pause = FIRST_PAUSE
        while not self.held and not self._claim():
            # At odds with the other tasks, so that they do not all ask the storage at the same moment.
            if self.life.ended.wait(pause * random.uniform(0.5, 1.5)):
                raise EOFError
            pause = min(pause * 1.5, LONGEST_PAUSE)
        return self.held.popleft()

    def _claim(self) -> bool:
        names = claims.waiting(self.job)[:AHEAD]
        # The first frames are the ones that the encoder waits for; a place further down costs nobody anything.
        while names and not self.life.ended.is_set():
            name = names.pop(0)
            claimed = claims.claim(self.job, name, self.life.claimant)
            if claimed is None:
                random.shuffle(names)  # the others were as quick: now try elsewhere
                continue
            if claims.read_token(self.job) != self.life.token:
                claims.give_back(claimed)  # another run's: its model may be another one, too
                return False
            if self._frames_seen(claimed):
                self.held.append(str(claimed))
                return True
        return False

    def _frames_seen(self, claimed: Path) -> bool:
        """Whether a manifest's frames are there for this node: waits for them, gives the manifest up otherwise."""
        try:
            work = read_manifest(claimed, self.job)
        except ManifestError:
            return True  # the worker says what is wrong with it
        # Frames whose output is complete are not read any more, and may be gone.
        wanted = [work.input_dir / name for name in work.frames if not (work.output_dir / name).exists()]
        missing = claims.wait_until_seen(wanted, self.seen_seconds)
        if missing:
            why = f"{missing[0].name} was not seen on {socket.gethostname()} for {self.seen_seconds:.0f} s"
            claims.fail(claimed, why)
        return not missing


class Results:
    """In the place of the results pipe: what a worker says becomes a rename, or a line in the status file."""

    def __init__(self, job: Path, life: Life):
        self.job, self.life = job, life

    def send(self, message: tuple) -> None:
        """("ready",) ("batch", path, n) ("done", path) ("failed", "fatal" or "unusable", path or "", why)."""
        kind, *rest = message
        if kind == "ready":
            self.life.report("ready")
        elif kind == "batch":
            self._keep(Path(rest[0]), rest[1])
        elif kind == "done":
            claims.finish(Path(rest[0]))
            self.life.report()  # the counts, for the bars
        elif kind in ("failed", "fatal") and rest[0]:
            claims.fail(Path(rest[0]), rest[1], final=kind == "fatal")
        elif kind in ("failed", "fatal", "unusable"):
            self.life.end(rest[1], error=True, final=kind != "failed")

    def _keep(self, claimed: Path, batch: int) -> None:
        """A batch's outputs must outlive this node before they count as done."""
        try:
            work = read_manifest(claimed, self.job)
            claims.sync_files(work.output_dir / name for name in work.batches[batch])
        except (ManifestError, KeyError, FileNotFoundError):
            pass  # the claim was taken back, or the frames are encoded and gone: another one did them


# The task


def row_dict(row) -> dict:
    """A row of the status array as JSON has it."""
    values = {name: row[name].item() for name in row.dtype.names}
    return {n: v.decode("utf-8", "replace") if isinstance(v, bytes) else v for n, v in values.items()}


def serve_job(job: Path, token: str, seen_seconds: float, make_worker: Callable) -> int:
    """Serve a job's claim directory until the job is over; the exit status of the process.

    `make_worker` is worker.Worker. 0: over; 1: it can't start; terms.NOT_SHARED; AFRESH after a failed manifest.
    """
    number = os.environ.get("SLURM_ARRAY_TASK_ID", "")
    index = int(number) if number.isascii() and number.isdigit() else 100_000 + os.getpid() % 900_000
    try:
        terms, token = take_terms(job, token, seen_seconds)
        settings = task_settings(terms)
    except UpscaleError as error:
        print(f"worker: error: {error}", file=sys.stderr)
        return error.exit_status
    row = status.empty_row()
    row["pid"], row["heartbeat"], row["device"], row["batch"] = os.getpid(), time.time(), settings.device.encode(), -1
    life = Life(job, index, terms, token, lambda: row_dict(row))
    life.take_signals()
    life.report()
    life.start()
    worker = make_worker(index, row, Tasks(job, life, seen_seconds), Results(job, life), settings)
    worker.job = job  # it must not hold the directory by a lock: none crosses nodes
    try:
        worker.open_log(job / "logs")
        worker.load()
        worker.serve()
    except EOFError:
        return 0
    except BaseException as error:
        if life.ended.is_set():  # its claims are given back: what the worker misses now is no failure
            life.join()
            return 0
        worker.fail(error)
        life.end(f"failed: {type(error).__name__}")
        os._exit(1 if life.final else AFRESH)  # a broken device can hang the usual way out
