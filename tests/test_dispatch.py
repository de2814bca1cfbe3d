"""dispatch.py and processes.py: who gets which manifest, what is heard, who is to blame, and what is left behind."""

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
from upscaling.workers.forkserver import tie_to_main
from upscaling.workers.manifest import Manifest, write_manifest
from upscaling.workers.pool import BatchDone, Work, WorkerError, WorkerLost, WorkerPool
from upscaling.workers.worker import run_worker


class Workers:
    """A crew with a target of this file, driven until a condition holds."""

    def __init__(self, target, scratch, count=2, stall_timeout=30.0):
        self.pool = WorkerPool([ModelSettings("lanczos")] * count, target, scratch, stall_timeout)
        self.done: list[str] = []
        self.lost: list[WorkerLost] = []
        self.pool.start()

    def give(self, *names: str) -> None:
        for name in names:
            self.pool.give(Work(Path(name), f"frames of {name}"))

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


def begin(results):
    tie_to_main()
    results.send(("ready",))


def obedient(index, array, tasks, results, settings, log_folder):
    begin(results)
    while True:
        path = tasks.recv()
        results.send(("batch", path, 0))
        results.send(("done", path))


def dies_after_every_message(index, array, tasks, results, settings, log_folder):
    begin(results)
    results.send(("batch", tasks.recv(), 0))
    os.kill(os.getpid(), signal.SIGKILL)


def dies_in_the_middle_of_a_message(index, array, tasks, results, settings, log_folder):
    begin(results)
    if tasks.recv() == "a":
        os.write(results.fileno(), struct.pack("!i", 100) + b"half")
        os.kill(os.getpid(), signal.SIGKILL)


def closes_its_pipe_and_stays(index, array, tasks, results, settings, log_folder):
    begin(results)
    if tasks.recv() == "a":
        results.close()
        time.sleep(1000)


def has_two_in_flight_and_dies_of_poison(index, array, tasks, results, settings, log_folder):
    """As on a GPU: what kills may be the second of the two that it was given."""
    begin(results)
    while True:
        paths = [tasks.recv()]
        if tasks.poll(0.3):
            paths.append(tasks.recv())
        if "poison" in paths:
            os.kill(os.getpid(), signal.SIGKILL)
        for path in paths:
            results.send(("batch", path, 0))


def says_done_late(index, array, tasks, results, settings, log_folder):
    begin(results)
    path = tasks.recv()
    results.send(("batch", path, 0))
    again = tasks.recv()
    results.send(("done", path))
    time.sleep(0.3)
    results.send(("batch", again, 0))
    time.sleep(1000)


def counts_what_it_has(index, array, tasks, results, settings, log_folder):
    begin(results)
    time.sleep(0.5)
    number = 0
    while tasks.poll():
        tasks.recv()
        number += 1
    results.send(("failed", "", f"{number} outstanding"))
    time.sleep(1000)


def finds_its_model_unusable(index, array, tasks, results, settings, log_folder):
    tie_to_main()
    results.send(("unusable", "", "the weights are none"))
    time.sleep(1000)


def fails_for_good(index, array, tasks, results, settings, log_folder):
    begin(results)
    path = tasks.recv()
    time.sleep(0.5)  # so that the work can be dropped before it is told
    results.send(("fatal", path, "damaged"))
    time.sleep(1000)


def only_the_first_starts(index, array, tasks, results, settings, log_folder):
    if index:
        os._exit(3)
    obedient(index, array, tasks, results, settings, log_folder)


def hangs_in_c(index, array, tasks, results, settings, log_folder):
    begin(results)
    ctypes.PyDLL(None).sleep(1000)  # with the interpreter's lock held


def test_every_manifest_is_reported_once(workers):
    names = [f"m{n}" for n in range(40)]
    pool = workers(obedient)
    pool.give(*names)
    pool.until(lambda: len(pool.done) == len(names))
    assert sorted(pool.done) == sorted(names) and not pool.lost


def test_nobody_has_more_than_two(workers):
    pool = workers(counts_what_it_has, count=1)
    pool.give(*"abcdefgh")
    pool.until(lambda: pool.pool.slots[0].exit_reason)
    assert pool.pool.slots[0].exit_reason == "failed (2 outstanding)" and len(pool.pool.backlog) == 6


def test_what_a_worker_said_before_it_died_counts(workers):
    names = [f"m{n}" for n in range(8)]
    pool = workers(dies_after_every_message)
    pool.give(*names)
    pool.until(lambda: len(pool.done) == len(names))
    assert sorted(pool.done) == sorted(names)


@pytest.mark.parametrize("target", [dies_in_the_middle_of_a_message, closes_its_pipe_and_stays])
def test_half_a_message_and_a_closed_pipe_hang_nobody(workers, target):
    pool = workers(target, count=1)
    pool.give("a")
    pool.until(lambda: pool.lost)
    assert pool.lost[0].replaced and pool.lost[0].why in ("was killed by SIGKILL", "closed its pipe")
    # The fresh one has it, or has died of it already and it waits for the next.
    assert [work.path.name for work in (*pool.pool.slots[0].given, *pool.pool.backlog)] == ["a"]


def test_the_manifest_that_kills_is_named_and_no_other(workers):
    pool = workers(has_two_in_flight_and_dies_of_poison)
    pool.give("a", "b", "c", "poison", "d", "e", "f", "g")
    with pytest.raises(WorkerError, match=r"^frames of poison: given up after 3 tries; the last worker was killed"):
        pool.until(lambda: False)
    assert Counter(pool.done).most_common(1)[0][1] == 1


def test_a_manifest_given_out_again_is_not_lost_to_a_late_done(workers):
    pool = workers(says_done_late, count=1)
    pool.give("a")
    pool.until(lambda: pool.done == ["a"])
    pool.pool.retry(Work(Path("a"), "frames of a"), "was wrong")
    pool.until(lambda: pool.done == ["a", "a"])


def test_an_unusable_model_is_bad_input(workers):
    pool = workers(finds_its_model_unusable)
    with pytest.raises(InputError, match="the weights are none"):
        pool.until(lambda: False)


def test_a_failure_for_good_ends_the_run_unless_the_work_was_dropped(workers):
    pool = workers(fails_for_good)
    pool.give("a")
    with pytest.raises(WorkerError, match="damaged"):
        pool.until(lambda: False)
    pool = workers(fails_for_good, count=1)
    pool.give("a")
    pool.until(lambda: pool.pool.slots[0].given)
    pool.pool.drop_work()
    for _ in range(10):
        assert pool.pool.wait(0.1) == []


def test_one_that_can_not_start_is_done_without(workers):
    pool = workers(only_the_first_starts)
    pool.give(*"abcdef")
    pool.until(lambda: len(pool.done) == 6 and len(pool.lost) == 3)
    assert [lost.replaced for lost in pool.lost] == [True, True, False]
    assert {lost.why for lost in pool.lost} == {"ended with exit status 3"}


def test_silence_is_noticed_where_there_is_work(workers):
    pool = workers(hangs_in_c, count=1, stall_timeout=0.5)
    for _ in range(10):
        assert pool.pool.wait(0.1) == []  # it has nothing to do
    pool.give("a")
    pool.until(lambda: pool.lost)
    assert pool.lost[0].why.startswith("gave no sign of life for ")


def test_nothing_is_left_of_a_crew(tmp_path):
    """No process, no descriptor; a first crew opens what a process keeps for good (the resource tracker's pipe)."""
    open_after = []
    for _ in range(2):
        one = Workers(hangs_in_c, tmp_path)
        one.until(lambda one=one: all(slot.ready for slot in one.pool.slots))
        server = one.pool.starter._server._forkserver_pid
        pids = [server, *(slot.process.pid for slot in one.pool.slots)]
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
        pool.give(str(write_manifest(manifest, job / "manifests" / "manifest_000000.txt")))
        with pytest.raises(WorkerError, match=r"line 2: Input Dir .*outside"):
            pool.until(lambda: False)
    finally:
        pool.pool.stop()
