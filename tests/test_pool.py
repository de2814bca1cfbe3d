"""The worker pool: distribution of manifests, messages, deaths, retries, and what remains after it."""

import ctypes
import os
import signal
import struct
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from upscaling.common.errors import InputError
from upscaling.inference.settings import ModelSettings
from upscaling.workers import retry
from upscaling.workers.handle import State, Task
from upscaling.workers.manifest import Manifest, write_manifest
from upscaling.workers.pool import BatchDone, WorkerError, WorkerLost, WorkerPool
from upscaling.workers.retry import MAX_FAILURES
from upscaling.workers.worker import run_worker


class Workers:
    """A pool whose workers run a target of this file."""

    def __init__(self, target, log_folder, count=2, stall_timeout=30.0):
        self.pool = WorkerPool([ModelSettings("lanczos")] * count, target, log_folder, stall_timeout)
        self.done: list[str] = []
        self.lost: list[WorkerLost] = []
        self.pool.start()

    def submit(self, *names: str) -> None:
        for name in names:
            self.pool.submit(Task(Path(name), f"frames of {name}"))

    def until(self, condition) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, (self.done, self.lost)
            for event in self.pool.wait(0.1):
                if isinstance(event, BatchDone):
                    self.done.append(str(event.path))
                else:
                    self.lost.append(event)


@pytest.fixture
def workers(tmp_path):
    made = []

    def make(target, **options) -> Workers:
        made.append(Workers(target, tmp_path, **options))
        return made[-1]

    yield make
    for one in made:
        one.pool.stop()
    assert list(tmp_path.iterdir()) == []


def works(index, rows, tasks, results, settings, log_folder):
    results.send(("ready",))
    while True:
        path = tasks.recv()
        results.send(("batch", path, 0))
        results.send(("done", path))


def works_slowly(index, rows, tasks, results, settings, log_folder):
    results.send(("ready",))
    while True:
        path = tasks.recv()
        time.sleep(0.2)
        results.send(("batch", path, 0))


def never_works(index, rows, tasks, results, settings, log_folder):
    results.send(("ready",))
    time.sleep(1000)


def dies_after_each_message(index, rows, tasks, results, settings, log_folder):
    results.send(("ready",))
    results.send(("batch", tasks.recv(), 0))
    os.kill(os.getpid(), signal.SIGKILL)


def dies_within_a_message(index, rows, tasks, results, settings, log_folder):
    results.send(("ready",))
    if tasks.recv() == "a":
        os.write(results.fileno(), struct.pack("!i", 100) + b"half")
        os.kill(os.getpid(), signal.SIGKILL)


def closes_its_pipe_and_hangs(index, rows, tasks, results, settings, log_folder):
    results.send(("ready",))
    if tasks.recv() == "a":
        results.close()
        time.sleep(1000)


def dies_of_poison(index, rows, tasks, results, settings, log_folder):
    """With two manifests in flight, as on a GPU: the second may be the one that kills."""
    results.send(("ready",))
    while True:
        paths = [tasks.recv()]
        if tasks.poll(0.3):
            paths.append(tasks.recv())
        if "poison" in paths:
            os.kill(os.getpid(), signal.SIGKILL)
        for path in paths:
            results.send(("batch", path, 0))


def reports_done_late(index, rows, tasks, results, settings, log_folder):
    results.send(("ready",))
    path = tasks.recv()
    results.send(("batch", path, 0))
    again = tasks.recv()
    results.send(("done", path))
    time.sleep(0.3)
    results.send(("batch", again, 0))
    time.sleep(1000)


def counts_its_manifests(index, rows, tasks, results, settings, log_folder):
    results.send(("ready",))
    time.sleep(0.5)
    number = 0
    while tasks.poll():
        tasks.recv()
        number += 1
    results.send(("failed", "", f"{number} outstanding"))
    time.sleep(1000)


def cannot_use_its_model(index, rows, tasks, results, settings, log_folder):
    results.send(("unusable", "", "the weights are none"))
    time.sleep(1000)


def reports_a_fatal_error(index, rows, tasks, results, settings, log_folder):
    results.send(("ready",))
    path = tasks.recv()
    time.sleep(0.5)  # time for the test to discard the manifest
    results.send(("fatal", path, "damaged"))
    time.sleep(1000)


def only_the_first_starts(index, rows, tasks, results, settings, log_folder):
    if index:
        os._exit(3)
    works(index, rows, tasks, results, settings, log_folder)


def hangs_with_the_gil(index, rows, tasks, results, settings, log_folder):
    results.send(("ready",))
    ctypes.PyDLL(None).sleep(1000)


def test_every_manifest_is_reported_once(workers):
    names = [f"m{n}" for n in range(40)]
    pool = workers(works)
    pool.submit(*names)
    pool.until(lambda: len(pool.done) == len(names))
    assert sorted(pool.done) == sorted(names) and not pool.lost


def test_a_worker_has_at_most_two_manifests(workers):
    pool = workers(counts_its_manifests, count=1)
    pool.submit(*"abcdefgh")
    pool.until(lambda: pool.pool.workers[0].exit_reason)
    assert pool.pool.workers[0].exit_reason == "failed (2 outstanding)" and len(pool.pool.backlog) == 6


def test_messages_of_a_dead_worker_count(workers):
    names = [f"m{n}" for n in range(8)]
    pool = workers(dies_after_each_message)
    pool.submit(*names)
    pool.until(lambda: len(pool.done) == len(names))
    assert sorted(pool.done) == sorted(names)


@pytest.mark.parametrize("target", [dies_within_a_message, closes_its_pipe_and_hangs])
def test_a_broken_message_or_a_closed_pipe_is_a_death(workers, target):
    pool = workers(target, count=1)
    pool.submit("a")
    pool.until(lambda: pool.lost)
    assert pool.lost[0].replaced and pool.lost[0].reason in ("was killed by SIGKILL", "closed its pipe")
    # The fresh worker has it, or has died of it already.
    assert [task.path.name for task in (*pool.pool.workers[0].outstanding, *pool.pool.backlog)] == ["a"]


def test_the_manifest_that_kills_workers_is_named(workers):
    pool = workers(dies_of_poison)
    pool.submit("a", "b", "c", "poison", "d", "e", "f", "g")
    with pytest.raises(WorkerError, match=r"^frames of poison: given up after 3 tries; the last worker was killed"):
        pool.until(lambda: False)
    assert Counter(pool.done).most_common(1)[0][1] == 1


def kill_together(pool: WorkerPool, what: str) -> None:
    """Kill all workers, or their fork server."""
    pids = [worker.channels.process.pid for worker in pool.workers if worker.channels is not None]
    for pid in [pool.server.pid] if what == "server" else pids:
        os.kill(pid, signal.SIGKILL)


def all_busy(pool: WorkerPool):
    return lambda: all(worker.state is State.BUSY for worker in pool.workers)


@pytest.mark.parametrize(("what", "count"), [("server", 1), ("workers", 2)])
def test_deaths_together_are_no_failures_of_manifests(workers, what, count):
    pool = workers(works_slowly, count=count)
    pool.submit(*(f"m{n}" for n in range(6)))
    for kill in range(1, MAX_FAILURES + 1):
        pool.until(all_busy(pool.pool))
        kill_together(pool.pool, what)
        pool.until(lambda kill=kill: len(pool.lost) == kill * count)
    assert not any(pool.pool.retries.failures.values())
    pool.until(lambda: len(pool.done) == 6)


def test_deaths_together_without_any_progress_end_the_run(workers, monkeypatch):
    monkeypatch.setattr(retry, "MAX_FRUITLESS", 2)
    pool = workers(never_works)
    pool.submit(*"ab")
    with pytest.raises(WorkerError, match=r"^workers died together .* no batch finished .* killed by SIGKILL"):
        while True:
            pool.until(all_busy(pool.pool))
            kill_together(pool.pool, "workers")
            pool.until(lambda: pool.pool.workers[0].state is State.DEAD)


def test_a_late_done_message_does_not_end_a_retry(workers):
    pool = workers(reports_done_late, count=1)
    pool.submit("a")
    pool.until(lambda: pool.done == ["a"])
    pool.pool.retry(Task(Path("a"), "frames of a"), "was wrong")
    pool.until(lambda: pool.done == ["a", "a"])


def test_an_unusable_model_is_bad_input(workers):
    pool = workers(cannot_use_its_model)
    with pytest.raises(InputError, match="the weights are none"):
        pool.until(lambda: False)


def test_a_fatal_error_ends_the_run_unless_the_manifest_was_discarded(workers):
    pool = workers(reports_a_fatal_error)
    pool.submit("a")
    with pytest.raises(WorkerError, match="damaged"):
        pool.until(lambda: False)
    pool = workers(reports_a_fatal_error, count=1)
    pool.submit("a")
    pool.until(lambda: pool.pool.workers[0].outstanding)
    pool.pool.discard_tasks()
    for _ in range(10):
        assert pool.pool.wait(0.1) == []


def test_a_worker_that_cannot_start_is_given_up(workers):
    pool = workers(only_the_first_starts)
    pool.submit(*"abcdef")
    pool.until(lambda: len(pool.done) == 6 and len(pool.lost) == 3)
    assert [lost.replaced for lost in pool.lost] == [True, True, False]
    assert {lost.reason for lost in pool.lost} == {"ended with exit status 3"}


def test_a_worker_that_has_work_and_no_heartbeat_is_replaced(workers):
    pool = workers(hangs_with_the_gil, count=1, stall_timeout=0.5)
    for _ in range(10):
        assert pool.pool.wait(0.1) == []  # no work, no timeout
    pool.submit("a")
    pool.until(lambda: pool.lost)
    assert pool.lost[0].reason.startswith("sent no heartbeat for ")


def test_a_stopped_pool_leaves_nothing(tmp_path):
    """No process and no descriptor."""
    open_after = []
    for _ in range(2):
        one = Workers(hangs_with_the_gil, tmp_path)
        one.until(lambda one=one: all(worker.state is State.READY for worker in one.pool.workers))
        server = one.pool.server.pid
        pids = [server, *(worker.channels.process.pid for worker in one.pool.workers)]
        about = dict(line.split(":", 1) for line in Path(f"/proc/{server}/status").read_text().splitlines())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            assert int(about["SigBlk"], 16) >> (number - 1) & 1  # a terminal sends them to all processes
        one.pool.stop()
        del one
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{pid}").exists() for pid in pids):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        open_after.append(sorted(os.listdir("/proc/self/fd")))
    assert open_after[0] == open_after[1] and list(tmp_path.iterdir()) == []


def test_a_manifest_must_not_name_directories_outside_its_job(tmp_path):
    job = tmp_path / "job"
    for folder in ("manifests", "logs", "output_frames"):
        (job / folder).mkdir(parents=True)
    manifest = Manifest(0, Path("/etc"), job / "output_frames", Fraction(2), 8, 0, "yuv420p", "bt709 limited", 1,
                        {0: ("frame_000001.npy",)})  # fmt: skip
    pool = Workers(run_worker, job, count=1)
    try:
        pool.submit(str(write_manifest(manifest, job / "manifests" / "manifest_000000.txt")))
        with pytest.raises(WorkerError, match=r"line 2: Input Dir .*outside"):
            pool.until(lambda: False)
    finally:
        pool.pool.stop()


def test_threads_of_workers_sleep_unless_the_user_says_otherwise(workers, monkeypatch):
    """Threads that busy-wait take the cores from those that they wait for if several runs share a machine."""
    for chosen, found in (("", "PASSIVE"), ("ACTIVE", "ACTIVE")):
        monkeypatch.setenv("OMP_WAIT_POLICY", chosen)
        if not chosen:
            monkeypatch.delenv("OMP_WAIT_POLICY")
        server = workers(works).pool.server
        environment = Path(f"/proc/{server.pid}/environ").read_bytes().split(b"\0")
        assert f"OMP_WAIT_POLICY={found}".encode() in environment
