"""The claim directory, both ends: races, stale claims, torn files, lost answers; the crew over a Slurm that is none."""

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from upscaling.cluster import claims, roster, slurm, slurm_crew, task, terms
from upscaling.common.errors import BusyError, InputError, UpscaleError
from upscaling.frames.settings import LANCZOS, ModelSettings
from upscaling.job.work_dir import Job
from upscaling.workers import status
from upscaling.workers.manifest import Manifest, write_manifest
from upscaling.workers.pool import BatchDone, Work, WorkerError, WorkerLost

ROOT = Path(__file__).parent.parent
TERMS = terms.Terms({"model": LANCZOS}, beat=0.01, patience=0.3)


@pytest.fixture
def job(tmp_path):
    """A job's directory with the claim directory in it."""
    for name in ("input_frames", "output_frames", "manifests", "status", "logs"):
        (tmp_path / name).mkdir()
    claims.make_folders(tmp_path)
    claims.put(tmp_path / claims.TASKS / claims.TOKEN, "t0\n")
    return tmp_path


def manifest_of(job, number, store=True):
    """(path, output files) of a manifest of one batch of two frames, written as the coordinator does."""
    names = tuple(f"frame_{2 * number + n:06d}.npy" for n in (1, 2))
    if store:
        for name in names:
            np.save(job / "input_frames" / name, np.full(24 * 16 * 3 // 2, number, np.uint8))
    manifest = Manifest(0, job / "input_frames", job / "output_frames", Fraction(2), 2, 0, "yuv420p", "bt709 limited",
                        2, {number: names}, frame_size=(24, 16))  # fmt: skip
    path = write_manifest(manifest, job / "manifests" / f"manifest_{number:06d}.txt")
    return path, [job / "output_frames" / name for name in names]


def published(job, number):
    path, outputs = manifest_of(job, number)
    claims.publish(job, path)
    return path.name, outputs


def until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.005)
    return value


# The moves


def test_every_manifest_is_claimed_by_exactly_one(job):
    for number in range(40):
        (job / claims.QUEUE / f"manifest_{number:06d}.txt").write_text("x")
    start = threading.Barrier(8)

    def take(index):
        claimant, mine = claims.new_claimant(index), []
        start.wait()
        while names := claims.waiting(job):
            mine += [path for name in names if (path := claims.claim(job, name, claimant))]
        return mine

    with ThreadPoolExecutor(8) as pool:
        taken = [path for mine in pool.map(take, range(8)) for path in mine]
    assert sorted(claims.split_claim(path.name)[0] for path in taken) == [f"manifest_{n:06d}.txt" for n in range(40)]
    assert all(path.exists() for path in taken)


def test_of_the_task_and_the_coordinator_only_one_moves_a_claim(job):
    def move(how, claimed, start):
        start.wait()
        return how(claimed)

    for number in range(60):
        name = f"manifest_{number:06d}.txt"
        (job / claims.QUEUE / name).write_text("x")
        claimed, start = claims.claim(job, name, "3-0123abcd"), threading.Barrier(2)
        with ThreadPoolExecutor(2) as pool:
            both = [pool.submit(move, how, claimed, start) for how in (claims.finish, claims.give_back)]
        done, back = (future.result() for future in both)
        assert done != back
        assert (job / claims.RESULTS / claimed.name).exists() == done
        assert (job / claims.QUEUE / name).exists() == back


def test_the_queue_is_in_the_order_of_the_frames_and_of_manifests_alone(job):
    for name in ("manifest_1000000.txt", "manifest_000002.txt", "manifest_000010.txt", "manifest_1.tmp", "x.txt"):
        (job / claims.QUEUE / name).touch()
    assert claims.waiting(job) == ["manifest_000002.txt", "manifest_000010.txt", "manifest_1000000.txt"]


def test_a_claim_that_was_taken_back_is_nobodys_to_report(job):
    name, _ = published(job, 0)
    claimed = claims.claim(job, name, "3-0123abcd")
    assert claims.give_back(claimed) and claims.waiting(job) == [name]
    assert not claims.finish(claimed) and not claims.fail(claimed, "why") and not claims.give_back(claimed)
    assert not claims.results(job) and not claims.listed(job / claims.RESULTS)


def test_what_came_back_says_why(job):
    for number, claimant in enumerate(("0-00000000", "1-11111111", "2-22222222")):
        name, _ = published(job, number)
        claims.claim(job, name, claimant)
    done, failed, final = (path for paths in claims.claims_of(job).values() for path in paths)
    claims.finish(done)
    claims.fail(failed, "out of memory")
    claims.fail(final, "disk full", final=True)
    back = claims.results(job)
    assert [(r.claimant, r.why, r.final) for r in back] == [
        ("0-00000000", "", False), ("1-11111111", "out of memory", False), ("2-22222222", "disk full", True),
    ]  # fmt: skip
    claims.hear(back[0].path)
    claims.hear(back[1].path, job / claims.QUEUE / back[1].manifest)
    assert [r.final for r in claims.results(job)] == [True] and claims.waiting(job) == [back[1].manifest]


def test_a_move_whose_answer_got_lost_is_done(job, monkeypatch):
    name, _ = published(job, 0)
    rename = os.rename

    def loses_the_answer(source, target):
        rename(source, target)
        raise FileNotFoundError(2, "No such file or directory")  # what the repeated request is told

    monkeypatch.setattr(os, "rename", loses_the_answer)
    claimed = claims.claim(job, name, "3-0123abcd")
    assert claimed is not None and claims.finish(claimed)
    assert claims.claim(job, name, "4-0123abcd") is None


def test_a_manifest_is_on_the_disk_before_it_is_in_sight(job, monkeypatch):
    path, _ = manifest_of(job, 0)
    order = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    monkeypatch.setattr(os, "rename", lambda a, b: (order.append("rename"), rename(a, b)))
    claims.publish(job, path)
    assert order == [str(path), "rename", str(job / claims.QUEUE)]


def test_files_that_show_late_are_waited_for(job):
    late, never = job / "output_frames" / "late", job / "output_frames" / "never"
    threading.Timer(0.2, late.touch).start()
    assert claims.wait_until_seen([late, never], 1.0) == [never]


# Files of others


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_any_bytes_are_read_as_an_object_or_as_nothing(job, data):
    (job / claims.TASKS / "task_0.json").write_bytes(data)
    (job / claims.TASKS / claims.TOKEN).write_bytes(data)
    assert isinstance(claims.read_json(job / claims.TASKS / "task_0.json"), dict)
    assert isinstance(claims.read_token(job), str)


@given(st.text(max_size=60))
def test_only_names_that_are_claims_are_taken_for_claims(name):
    parts = claims.split_claim(name)
    assert parts is None or name == f"{parts[0].removesuffix('.txt')}.{parts[1]}.txt"


@given(st.text(max_size=300))
def test_anything_that_squeue_prints_is_read(text):
    assert all(index >= 0 and state.state for index, state in slurm.parse_states(text).items())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=6,
)  # fmt: skip
FIELDS = ("id", "task", "count", "state", "error", "final", "node", "row")
ROW = ("state", "batch", "frames_done", "start", "manifest", "error", "device", "heartbeat")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(FIELDS), JSON), st.dictionaries(st.sampled_from(ROW), JSON))
def test_a_status_of_any_content_does_not_hurt_the_coordinator(job, content, row):
    found = roster.Roster(job, "t0", np.zeros(2, status.row_dtype()))
    (job / claims.TASKS / "task_1.json").write_text(json.dumps({"row": row, **content, "token": "t0"}))
    for now in range(3):
        found.look(now, 0.5)
    status.picture(found.rows[1], 1, job)


def test_a_status_of_an_earlier_run_is_not_heard(job):
    found = roster.Roster(job, "t0", np.zeros(1, status.row_dtype()))
    claims.put_json(job / claims.TASKS / "task_0.json", {"token": "old", "id": "0-0123abcd", "state": "ready"})
    found.look(0.0, 0.5)
    assert not found.shown_up


def test_time_is_the_watchers_own():
    pulse = claims.Pulse()
    pulse.see("a", 5, now=100.0)
    pulse.see("a", 5, now=103.0)
    assert pulse.silent("a", now=104.0) == 4.0
    pulse.see("a", 4, now=105.0)  # its counter began anew, or its clock goes backward: a sign of life
    assert pulse.silent("a", now=105.5) == 0.5
    assert pulse.silent("never seen", now=7.0) == 0.0 and pulse.silent("never seen", now=9.0) == 2.0


def test_the_health_of_a_task_on_another_node_is_its_silence(job):
    found = roster.Roster(job, "t0", np.zeros(1, status.row_dtype()))
    row = {"state": status.PROCESSING, "device": "cuda:0", "frames_done": 3}
    about = {"token": "t0", "id": "0-0123abcd", "state": "ready", "node": "n7", "count": 1, "row": row}
    claims.put_json(job / claims.TASKS / "task_0.json", about)
    found.look(0.0, 0.5)
    seen = asdict(status.picture(found.rows[0], 0, job))
    assert (seen["device"], seen["frames_done"], status.health(seen)) == ("cuda:0@n7", 3, "alive")
    assert status.health(seen, time.time() + 31) == "stalled"


# A task


def life_of(job, **more):
    left = []
    life = task.Life(job, 3, TERMS, "t0", lambda: {"frames_done": 7}, leave=left.append, **more)
    return life, left


def coordinator_says(job, **content):
    claims.put_json(job / claims.TASKS / claims.COORDINATOR, {"token": "t0", "count": 1, "over": ""} | content)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"over": "done"}, "the job is over"),
        ({"token": "other"}, "another run"),
        ({}, "nothing heard of the main process"),
    ],
)
def test_a_task_ends_with_its_job_and_gives_back_what_it_has(job, content, why):
    name, _ = published(job, 0)
    coordinator_says(job)
    life, left = life_of(job)
    tasks = task.Tasks(job, life)
    assert tasks.poll() and not claims.waiting(job)
    life.start()
    time.sleep(0.05)
    assert not left
    coordinator_says(job, **content)  # {}: the same once more, its counter stands still
    life.join(5)
    assert left == [0] and claims.waiting(job) == [name] and not claims.claims_of(job)
    said = claims.read_json(job / claims.TASKS / "task_3.json")
    assert said["state"] == "ended" and why in said["error"] and said["row"] == {"frames_done": 7}
    with pytest.raises(EOFError):
        tasks.held.clear()
        tasks.recv()


def test_a_task_of_an_earlier_run_takes_no_manifest_of_this_one(job):
    name, _ = published(job, 0)
    life, _ = life_of(job)
    claims.put(job / claims.TASKS / claims.TOKEN, "t1\n")
    assert not task.Tasks(job, life).poll()
    assert claims.waiting(job) == [name]


def test_a_manifest_whose_frames_are_not_seen_here_is_given_up(job):
    path, _ = manifest_of(job, 0, store=False)
    claims.publish(job, path)
    life, _ = life_of(job)
    assert not task.Tasks(job, life, seen_seconds=0.1).poll()
    (back,) = claims.results(job)
    assert "frame_000001.npy was not seen" in back.why and not back.final


def test_what_a_worker_says_becomes_renames(job):
    life, _ = life_of(job)
    results = task.Results(job, life)
    for number in range(3):
        published(job, number)
    done, failed, lost = (claims.claim(job, name, life.claimant) for name in claims.waiting(job))
    results.send(("ready",))
    assert claims.read_json(job / claims.TASKS / "task_3.json")["state"] == "ready"
    results.send(("batch", str(done), 0))
    assert done.exists()  # one batch is not yet all of them
    results.send(("done", str(done)))
    results.send(("failed", str(failed), "cudnn"))
    claims.give_back(lost)
    results.send(("batch", str(lost), 2))  # its frames are encoded and gone, and so is the claim
    results.send(("done", str(lost)))
    results.send(("failed", str(lost), "no such file"))
    assert [(r.manifest, r.why) for r in claims.results(job)] == [
        ("manifest_000000.txt", ""), ("manifest_000001.txt", "cudnn"),
    ]  # fmt: skip


def test_terms_are_read_where_the_coordinator_wrote_them_only(job, tmp_path):
    with pytest.raises(terms.NotSharedError, match="does not see"):
        terms.take_terms(tmp_path / "elsewhere", "t0", 0.1)
    claims.put_json(job / claims.TASKS / claims.SETTINGS, {"model": {"model": LANCZOS}, "beat": 1, "patience": 2})
    assert terms.take_terms(job, "t0", 0.1) == (terms.Terms({"model": LANCZOS}, 1.0, 2.0), "t0")
    with pytest.raises(terms.NotSharedError, match="sees another"):
        terms.take_terms(job, "t9", 0.1)
    claims.put(job / claims.TASKS / claims.SETTINGS, "{}")
    with pytest.raises(UpscaleError, match="damaged"):
        terms.take_terms(job, "t0", 0.1)


def test_the_device_is_the_tasks_own(monkeypatch):
    def of(gpus, **model):
        monkeypatch.setattr(terms, "cuda_device_count", lambda: gpus)
        return terms.task_settings(terms.Terms(model, 1, 2))

    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert of(1, device="auto").device == "cuda:0" and of(0, device="auto").device == "cpu"
    assert of(1, device="cpu").device == "cpu" and of(1, device="auto", model=LANCZOS).device == "cpu"
    assert of(0, device="auto").threads == 1
    with pytest.raises(InputError, match="sees no GPU"):
        of(0, device="cuda")
    with pytest.raises(UpscaleError, match="another version"):
        of(0, speed=3)


# The crew, with a Slurm that only says what it is told


class FakeSlurm:
    """Takes the place of Slurm's commands."""

    def __init__(self, monkeypatch):
        self.states, self.said, self.scripts = {}, [], []
        monkeypatch.setattr(slurm, "submit", self.submit)
        monkeypatch.setattr(slurm, "states", lambda number: dict(self.states))
        monkeypatch.setattr(slurm, "requeue", lambda number, index: self.said.append(("requeue", index)))
        monkeypatch.setattr(slurm, "cancel", lambda number: self.said.append(("cancel", number)))
        monkeypatch.setattr(slurm, "LOOK_AGAIN_SECONDS", 0.02)
        monkeypatch.setattr(slurm, "LOOK_SECONDS", 0.05)

    def submit(self, text, tasks, name, extra=()):
        self.scripts.append(text)
        return "77"

    def all_run(self, tasks):
        self.states = {index: slurm.TaskState("RUNNING", "None", 0) for index in range(tasks)}


@pytest.fixture
def fake(monkeypatch):
    return FakeSlurm(monkeypatch)


@pytest.fixture
def crew(job, fake, monkeypatch):
    monkeypatch.setattr(slurm_crew, "CLAIM_SECONDS", 0.02)
    monkeypatch.setattr(slurm_crew, "LONGEST_WAIT", 0.01)
    monkeypatch.setattr(slurm_crew, "BEAT_SECONDS", 0.05)
    crew = slurm_crew.SlurmCrew([ModelSettings(LANCZOS, "auto")] * 2, job)
    fake.all_run(2)
    crew.start()
    yield crew
    fake.states = {}
    crew.stop()


def speaks(crew, index, life, count, **more):
    """A task's status file."""
    content = {
        "id": life,
        "task": index,
        "token": crew.token,
        "count": count,
        "state": "ready",
        "node": "n7",
        "row": {},
    }
    claims.put_json(crew.job / claims.TASKS / f"task_{index}.json", content | more)


def hear(crew, condition, seconds=5.0):
    """Events of the crew until one of them is what is waited for."""
    events = []
    assert until(lambda: events.extend(crew.wait(0.01)) or condition(events), seconds), events
    return events


def give(crew, number):
    path, outputs = manifest_of(crew.job, number)
    work = Work(path, f"frames {2 * number + 1} to {2 * number + 2}")
    crew.give(work)
    return work, outputs


def test_a_batch_counts_when_its_frames_are_seen(crew):
    work, outputs = give(crew, 0)
    speaks(crew, 0, "0-00000000", 1)
    claims.finish(claims.claim(crew.job, work.path.name, "0-00000000"))
    assert not [event for _ in range(5) for event in crew.wait(0.01)]
    for path in outputs:
        path.touch()
    assert hear(crew, len) == [BatchDone(work.path, 0)]
    assert work.path.exists()  # where the pipeline removes it, or has it done again
    crew.redo(work, "left a damaged frame")
    assert claims.waiting(crew.job) == [work.path.name]


def test_a_silent_tasks_claim_goes_back_and_the_third_ends_the_job(crew):
    crew.lost_after = 0.3
    work, _ = give(crew, 0)
    speaks(crew, 0, "0-00000000", 1)
    for strike in range(3):
        claims.claim(crew.job, work.path.name, "0-00000000")
        speaks(crew, 0, "0-00000000", 10 + strike)
        if strike < 2:
            (event,) = hear(crew, len)
            assert isinstance(event, WorkerLost) and "no sign of life" in event.why and event.replaced
            assert claims.waiting(crew.job) == [work.path.name]
            crew.tasks[0].gone = False  # it came back
    with pytest.raises(WorkerError, match=r"frames 1 to 2: given up after 3 tries; the last worker gave no sign"):
        hear(crew, lambda events: False)


def test_a_living_task_keeps_its_claim_whatever_its_clock_says(crew):
    crew.lost_after = 0.5
    work, _ = give(crew, 0)
    claims.claim(crew.job, work.path.name, "0-00000000")
    deadline = time.monotonic() + 1.2  # more than twice what silence may last
    count = 0
    while time.monotonic() < deadline:
        count += 1
        speaks(crew, 0, "0-00000000", count, row={"heartbeat": 3e9 - count})  # decades ahead, and going backward
        assert not crew.wait(0.01)
    assert "0-00000000" in claims.claims_of(crew.job)
    assert abs(float(crew.rows[0]["heartbeat"]) - time.time()) < 5


def test_a_task_whose_worker_hangs_is_started_again(crew, fake):
    crew.stall_timeout = 0.3
    work, _ = give(crew, 0)
    claims.claim(crew.job, work.path.name, "0-00000000")
    count = iter(range(10**6))

    def beat(events):
        speaks(crew, 0, "0-00000000", next(count), row={"heartbeat": 5.0})
        return events

    (event,) = hear(crew, beat)
    assert "hangs" in event.why and ("requeue", 0) in fake.said
    assert claims.waiting(crew.job) == [work.path.name]


def test_a_new_life_of_a_task_frees_what_the_old_one_held(crew):
    work, _ = give(crew, 0)
    speaks(crew, 0, "0-00000000", 1)
    hear(crew, lambda _: crew.tasks[0].life)
    claims.claim(crew.job, work.path.name, "0-00000000")
    speaks(crew, 0, "0-11111111", 1)
    (event,) = hear(crew, len)
    assert event.why.startswith("was started anew")
    assert until(lambda: crew.wait(0.01) or claims.waiting(crew.job)) == [work.path.name]
    assert crew.rows[0]["restarts"] == 1


def test_what_every_try_would_meet_ends_the_job_at_once(crew):
    work, _ = give(crew, 0)
    claims.fail(claims.claim(crew.job, work.path.name, "0-00000000"), "no space left to write to", final=True)
    with pytest.raises(WorkerError, match="no space left"):
        hear(crew, lambda events: False)


def test_a_worker_that_can_not_start_anywhere_ends_the_job(crew):
    speaks(crew, 1, "1-00000000", 1, state="error", error="weights.pth: no such file", final=True)
    with pytest.raises(WorkerError, match=r"can't start on n7: weights\.pth"):
        hear(crew, lambda events: False)


def test_tasks_that_end_without_a_word_end_the_job(crew, fake):
    fake.states = {index: slurm.TaskState("FAILED", "NonZeroExitCode", 127) for index in range(2)}
    with pytest.raises(WorkerError, match=r"end before they can start \(FAILED, exit status 127\); see .*worker_1.log"):
        hear(crew, lambda events: False)


def test_a_node_that_does_not_see_the_storage(crew, fake):
    fake.states[1] = slurm.TaskState("FAILED", "NonZeroExitCode", terms.NOT_SHARED)
    speaks(crew, 0, "0-00000000", 1)
    crew.roster.look(0, 0)
    events = hear(crew, len)
    assert events == [WorkerLost(1, "is on a node that does not see the work directory", False)]


def test_cancelled_tasks_are_not_started_again_timed_out_ones_are(crew, fake):
    for index in range(2):
        speaks(crew, index, f"{index}-00000000", 1)
    fake.states = {0: slurm.TaskState("CANCELLED", "None", -15), 1: slurm.TaskState("TIMEOUT", "TimeLimit", 0)}
    hear(crew, lambda events: ("requeue", 1) in fake.said)
    assert ("requeue", 0) not in fake.said
    fake.states = {0: fake.states[0], 1: slurm.TaskState("CANCELLED", "None", -15)}
    with pytest.raises(WorkerError, match="no task of Slurm job 77 is left"):
        hear(crew, lambda events: False)


def test_waiting_for_slurm_is_said_once(crew, fake):
    fake.states = {index: slurm.TaskState("PENDING", "Priority", 0) for index in range(2)}
    events = hear(crew, len) + [event for _ in range(20) for event in crew.wait(0.01)]
    assert events == ["all 2 tasks wait for Slurm (Priority)"]


def test_tasks_of_an_earlier_run_are_ended_first(job, fake, monkeypatch):
    slurm.end_earlier_tasks(job)  # none
    claims.put(job / claims.TASKS / claims.SLURM_JOBS, "12\nnonsense\n")
    slurm.end_earlier_tasks(job)
    assert fake.said == [("cancel", "12")]
    fake.all_run(1)
    monkeypatch.setattr(slurm, "STOP_SECONDS", 0.1)
    with pytest.raises(BusyError, match="scancel 12"):
        slurm.end_earlier_tasks(job)


def test_a_run_on_another_node_is_left_alone(job, fake, monkeypatch):
    monkeypatch.setattr(slurm, "OTHER_NODE_SECONDS", 0.3)
    claims.put(job / claims.TASKS / claims.SLURM_JOBS, "12\n")
    coordinator_says(job, node="login2")
    slurm.end_earlier_tasks(job)  # its heart stands still
    assert fake.said.pop() == ("cancel", "12")
    threading.Timer(0.1, coordinator_says, (job,), {"node": "login2", "count": 2}).start()
    with pytest.raises(BusyError, match="on login2"):
        slurm.end_earlier_tasks(job)
    assert not fake.said


def test_a_second_run_does_not_end_the_tasks_of_the_first(job, fake):
    place = job / "out.mkv.work"
    first = Job(place).open({}, job / "out.mkv")
    claims.make_folders(place)
    claims.put(place / claims.TASKS / claims.SLURM_JOBS, "12\n")
    with pytest.raises(BusyError):
        Job(place).open({}, job / "out.mkv")
    assert not fake.said
    first.close()
    Job(place).open({}, job / "out.mkv").close()
    assert fake.said == [("cancel", "12")] and not claims.listed(place / claims.TASKS)


def test_the_script_survives_any_name(tmp_path):
    job = tmp_path / 'it\'s $(touch x) "here".work'
    (job / "logs").mkdir(parents=True)
    text = slurm.script(job, "t0", 1.0).replace(str(ROOT / "worker.py"), "none.py")
    done = subprocess.run(
        ["sh", "-c", text], env={"SLURM_ARRAY_TASK_ID": "4"}, check=False, cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 2 and "none.py" in (job / "logs" / "worker_4.log").read_text()
    assert [path.name for path in tmp_path.iterdir()] == [job.name]
    gone = subprocess.run(["sh", "-c", slurm.script(tmp_path / "none", "t0", 1.0)], check=False, capture_output=True)
    assert gone.returncode == terms.NOT_SHARED


def test_workers_by_hand_serve_a_job_on_any_machine(crew, fake):
    """No Slurm at all: whoever starts `worker.py --job` helps."""
    works = [give(crew, number) for number in range(3)]
    helper = subprocess.Popen(
        [sys.executable, str(ROOT / "worker.py"), "--job", str(crew.job)],
        env=os.environ | {"SLURM_ARRAY_TASK_ID": "1"}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    events = hear(crew, lambda events: len([e for e in events if isinstance(e, BatchDone)]) == 3, 60)
    assert [event.path for event in events] == [work.path for work, _ in works]
    for number, (_, outputs) in enumerate(works):
        for path in outputs:
            frame = np.load(path)
            assert frame.size == 48 * 32 * 3 // 2 and np.all(frame == number)  # a plain picture stays one
    fake.states = {}
    crew.stop()
    assert helper.wait(30) == 0
    helper.stderr.close()
