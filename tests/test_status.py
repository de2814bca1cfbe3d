"""`upscale --status`: a worker's row, its health, and the table of runs that go on, were killed or do not exist."""

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from clips import make_clip

from upscaling.cli import status_command
from upscaling.workers import status

ROOT = Path(__file__).parent.parent


@pytest.fixture
def job(tmp_path):
    """A work directory with the files that a run writes for one worker at work, this process."""
    directory = tmp_path / "out.mp4.work"
    (directory / "status").mkdir(parents=True)
    (directory / "job.json").write_text("{}")
    rows = np.zeros(2, status.row_dtype())
    row = rows[0]
    row["state"], row["pid"], row["batch"], row["device"] = status.PROCESSING, os.getpid(), 7, b"cuda:1"
    row["total_batches"], row["batches_done"], row["frames_done"] = 8, 6, 48
    row["heartbeat"] = row["start"] = time.time()
    row["manifest"], row["restarts"] = b"manifest_000007.txt", 3
    run = {"frames_done": 48, "frames_total": 192, "frames_per_second": 6.0, "seconds": 8.0, "seconds_left": 24}
    status.write_json(rows, directory, run)
    return directory


def look(job, *options):
    return subprocess.run(
        [sys.executable, str(ROOT / "upscale.py"), "--status", str(job), *options],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


class Held:
    """Holds a job's lock as its main process does."""

    def __init__(self, job):
        self.file = (job / "lock").open("w")

    def __enter__(self):
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *_):
        self.file.close()


def test_the_json_of_a_worker(job):
    found = json.loads((job / "status" / "worker_0_status.json").read_text())
    assert found["status"] == "processing" and found["current_batch"] == 7 and found["progress_percent"] == 75.0
    assert found["frames_done"] == 48 and found["device"] == "cuda:1" and found["restarts"] == 3
    assert found["manifest_path"] == str(job / "manifests" / "manifest_000007.txt")
    assert found["end_time"] is None and found["error"] is None and found["heartbeat"].endswith("+00:00")


def test_a_run_at_work(job):
    with Held(job):
        done, found = look(job), look(job, "--json")
    assert done.returncode == found.returncode == 0
    assert "alive" in done.stdout and "cuda:1" in done.stdout and done.stdout.splitlines()[-2] == "running"
    found = json.loads(found.stdout)
    assert found["running"] and [worker["health"] for worker in found["workers"]] == ["alive", "starting"]
    assert [worker["status"] for worker in found["workers"]] == ["processing", "starting"]
    assert "48 of 192 frames (25.0 %), 6.00 frames/s, 0:00:24 left" in done.stdout.splitlines()
    assert (found["percent"], found["frames_total"], found["seconds_left"]) == (25.0, 192, 24)


def test_a_run_that_was_killed(job):
    done = look(job)  # the lock went with its process; that a pid is there means nothing any more
    assert done.returncode == 1 and "not running" in done.stdout and "alive" not in done.stdout
    assert f"logs: {job / 'logs'}" in done.stdout


def test_no_such_job(tmp_path):
    done = look(tmp_path)
    assert done.returncode == 3 and done.stderr.count("\n") == 1 and done.stdout == ""


def test_a_real_run_by_its_output(tmp_path):
    """The work directory that a run keeps is found by the output's name, and a rerun says that all is done."""
    clip, output = make_clip(tmp_path / "in.mp4", 9), tmp_path / "out.mkv"
    command = [sys.executable, str(ROOT / "upscale.py"), str(clip), str(output), "2", "--model", "lanczos"]
    for _ in range(2):
        done = subprocess.run([*command, "--keep-work", "--workers", "1"], capture_output=True, text=True, check=True)
    assert "resuming: all 9 frames are done, only the output is written again" in done.stderr
    found = look(output)
    assert found.returncode == 1 and "9 frames in closed segments of 9" in found.stdout
    assert json.loads(look(output, "--json").stdout)["frames_kept"] == 9
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    gone = look(output)
    assert gone.returncode == 3 and "no such job; the output exists: its run has ended" in gone.stderr


def test_torn_and_foreign_files_are_left_out(job):
    (job / "status" / "worker_1_status.json").write_text('{"worker": 1, "sta')
    (job / "status" / "worker_2_status.json").write_text("[]")
    assert [worker["worker"] for worker in status_command.read_statuses(job)] == [0]


def test_watching_until_the_run_ends(job):
    def end():
        time.sleep(1.5)
        (job / "job.json").unlink()  # a run that is done takes its directory along

    with Held(job):
        ending = threading.Thread(target=end)
        ending.start()
        done = look(job, "--watch")
        ending.join()
    assert done.returncode == 0 and done.stdout.count("worker  health") >= 1
    assert done.stdout.splitlines()[-1] == "done: the work directory is gone"


def test_health():
    heartbeat = "2026-01-01T00:00:00.000+00:00"
    at = 1767225600.0  # seconds since the epoch of that moment
    worker = {"pid": os.getpid(), "status": "processing", "heartbeat": heartbeat}
    assert status_command.health(worker, at + 29) == "alive" and status_command.health(worker, at + 31) == "stalled"
    assert status_command.health({**worker, "status": "idle"}, at + 999) == "alive"
    assert status_command.health({**worker, "pid": 0}) == status_command.health({**worker, "pid": 2**22 + 1}) == "gone"
