"""The worker pool: who gets which manifest, what is heard, who is to blame, and what is left behind."""

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
from upscaling.workers.handle import State, Task
from upscaling.workers.manifest import Manifest, write_manifest
from upscaling.workers.pool import BatchDone, WorkerError, WorkerLost, WorkerPool
from upscaling.workers.worker import run_worker


class Workers:
    """A pool with a target of this file, driven until a condition holds."""

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
    assert list(tmp_path.iterdir()) == []  # not even the fork server's socket


def obedient(index, rows, tasks, results, settings, log_folder):
    results.send(("ready",))
    while True:
        path = tasks.recv()
        results.send(("batch", path, 0))
        results.send(("done", path))


def dies_after_every_message(index, rows, tasks, results, settings, log_folder):
    results.send(("ready",))
    results.send(("batch", tasks.recv(), 0))
    os.kill(os.getpid(), signal.SIGKILL)


def dies_in_the_middle_of_a_message(index, rows, tasks, results, settings, log_folder):
    results.send(("ready",))
    if tasks.recv() == "a":
        os.write(results.fileno(), struct.pack("!i", 100) + b"half")
        os.kill(os.getpid(), signal.SIGKILL)


def closes_its_pipe_and_stays(index, rows, tasks, results, settings, log_folder):
    results.send(("ready",))
    if tasks.recv() == "a":
        results.close()
        time.sleep(1000)


def has_two_in_flight_and_dies_of_poison(index, rows, tasks, results, settings, log_folder):
    """As on a GPU: what kills may be the second of the two that it was given."""
    results.send(("ready",))
    while True:
        paths = [tasks.recv()]
        if tasks.poll(0.3):
            paths.append(tasks.recv())
        if "poison" in paths:
            os.kill(os.getpid(), signal.SIGKILL)
        for path in paths:
            results.send(("batch", path, 0))


def says_done_late(index, rows, tasks, results, settings, log_folder):
    results.send(("ready",))
    path = tasks.recv()
    results.send(("batch", path, 0))
    again = tasks.recv()
    results.send(("done", path))
    time.sleep(0.3)
    results.send(("batch", again, 0))
    time.sleep(1000)


def counts_what_it_has(index, rows, tasks, results, settings, log_folder):
    results.send(("ready",))
    time.sleep(0.5)
    number = 0
    while tasks.poll():
        tasks.recv()
        number += 1
    results.send(("failed", "", f"{number} outstanding"))
    time.sleep(1000)


def finds_its_model_unusable(index, rows, tasks, results, settings, log_folder):
    results.send(("unusable", "", "the weights are none"))
    time.sleep(1000)


def fails_for_good(index, rows, tasks, results, settings, log_folder):
    results.send(("ready",))
    path = tasks.recv()
    time.sleep(0.5)  # so that the work can be dropped before it is told
    results.send(("fatal", path, "damaged"))
    time.sleep(1000)


def only_the_first_starts(index, rows, tasks, results, settings, log_folder):
    if index:
        os._exit(3)
    obedient(index, rows, tasks, results, settings, log_folder)


def hangs_in_c(index, rows, tasks, results, settings, log_folder):
    results.send(("ready",))
    ctypes.PyDLL(None).sleep(1000)  # with the interpreter's lock held


def test_every_manifest_is_reported_once(workers):
    names = [f"m{n}" for n in range(40)]
    pool = workers(obedient)
    pool.submit(*names)
    pool.until(lambda: len(pool.done) == len(names))
    assert sorted(pool.done) == sorted(names) and not pool.lost


def test_nobody_has_more_than_two(workers):
    pool = workers(counts_what_it_has, count=1)
    pool.submit(*"abcdefgh")
    pool.until(lambda: pool.pool.workers[0].exit_reason)
    assert pool.pool.workers[0].exit_reason == "failed (2 outstanding)" and len(pool.pool.backlog) == 6


def test_what_a_worker_said_before_it_died_counts(workers):
    names = [f"m{n}" for n in range(8)]
    pool = workers(dies_after_every_message)
    pool.submit(*names)
    pool.until(lambda: len(pool.done) == len(names))
    assert sorted(pool.done) == sorted(names)


@pytest.mark.parametrize("target", [dies_in_the_middle_of_a_message, closes_its_pipe_and_stays])
def test_half_a_message_and_a_closed_pipe_hang_nobody(workers, target):
    pool = workers(target, count=1)
    pool.submit("a")
    pool.until(lambda: pool.lost)
    assert pool.lost[0].replaced and pool.lost[0].reason in ("was killed by SIGKILL", "closed its pipe")
    # The fresh one has it, or has died of it already and it waits for the next.
    assert [task.path.name for task in (*pool.pool.workers[0].outstanding, *pool.pool.backlog)] == ["a"]


def test_the_manifest_that_kills_is_named_and_no_other(workers):
    pool = workers(has_two_in_flight_and_dies_of_poison)
    pool.submit("a", "b", "c", "poison", "d", "e", "f", "g")
    with pytest.raises(WorkerError, match=r"^frames of poison: given up after 3 tries; the last worker was killed"):
        pool.until(lambda: False)
    assert Counter(pool.done).most_common(1)[0][1] == 1


def test_a_manifest_given_out_again_is_not_lost_to_a_late_done(workers):
    pool = workers(says_done_late, count=1)
    pool.submit("a")
    pool.until(lambda: pool.done == ["a"])
    pool.pool.retry(Task(Path("a"), "frames of a"), "was wrong")
    pool.until(lambda: pool.done == ["a", "a"])


def test_an_unusable_model_is_bad_input(workers):
    pool = workers(finds_its_model_unusable)
    with pytest.raises(InputError, match="the weights are none"):
        pool.until(lambda: False)


def test_a_failure_for_good_ends_the_run_unless_the_work_was_dropped(workers):
    pool = workers(fails_for_good)
    pool.submit("a")
    with pytest.raises(WorkerError, match="damaged"):
        pool.until(lambda: False)
    pool = workers(fails_for_good, count=1)
    pool.submit("a")
    pool.until(lambda: pool.pool.workers[0].outstanding)
    pool.pool.discard_tasks()
    for _ in range(10):
        assert pool.pool.wait(0.1) == []


def test_one_that_can_not_start_is_done_without(workers):
    pool = workers(only_the_first_starts)
    pool.submit(*"abcdef")
    pool.until(lambda: len(pool.done) == 6 and len(pool.lost) == 3)
    assert [lost.replaced for lost in pool.lost] == [True, True, False]
    assert {lost.reason for lost in pool.lost} == {"ended with exit status 3"}


def test_silence_is_noticed_where_there_is_work(workers):
    pool = workers(hangs_in_c, count=1, stall_timeout=0.5)
    for _ in range(10):
        assert pool.pool.wait(0.1) == []  # it has nothing to do
    pool.submit("a")
    pool.until(lambda: pool.lost)
    assert pool.lost[0].reason.startswith("sent no heartbeat for ")


def test_nothing_is_left_of_a_crew(tmp_path):
    """No process, no descriptor; a first crew opens what a process keeps for good (the resource tracker's pipe)."""
    open_after = []
    for _ in range(2):
        one = Workers(hangs_in_c, tmp_path)
        one.until(lambda one=one: all(worker.state is State.READY for worker in one.pool.workers))
        server = one.pool.server.pid
        pids = [server, *(worker.channels.process.pid for worker in one.pool.workers)]
        about = dict(line.split(":", 1) for line in Path(f"/proc/{server}/status").read_text().splitlines())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            assert int(about["SigBlk"], 16) >> (number - 1) & 1  # what a terminal sends to all must not end the server
        one.pool.stop()
        del one
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{pid}").exists() for pid in pids):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        open_after.append(sorted(os.listdir("/proc/self/fd")))
    assert open_after[0] == open_after[1] and list(tmp_path.iterdir()) == []


def test_a_worker_takes_no_manifest_that_names_anything_outside_its_job(tmp_path):
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
