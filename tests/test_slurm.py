"""Workers as tasks of a real Slurm, a controller and two nodes here: results equal the local ones, to the bit."""

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest
from clips import make_clip

from upscaling.cluster import claims

ROOT = Path(__file__).parent.parent
FRAMES = 32
QUICK = ("--model", "lanczos", "--codec", "libx264", "--crf", "0", "--preset", "ultrafast", "--batch-size", "2",
         "--segment-frames", "8", "--stall-timeout", "4", "--progress", "plain")  # fmt: skip
pytestmark = [pytest.mark.slurm, pytest.mark.timeout(90)]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The directory of a Slurm of our own, for as long as these tests run."""
    place = tmp_path_factory.mktemp("slurm")
    started = subprocess.run(
        [str(ROOT / "tests/slurm/start.sh"), str(place)], capture_output=True, text=True, check=False, timeout=60
    )
    if started.returncode == 77:
        pytest.skip(f"no Slurm: {started.stderr.strip().splitlines()[-1]}")
    assert started.returncode == 0, started.stderr
    os.environ["SLURM_CONF"] = str(place / "slurm.conf")
    yield place
    del os.environ["SLURM_CONF"]
    subprocess.run([str(ROOT / "tests/slurm/stop.sh"), str(place)], check=True, timeout=60)


@pytest.fixture
def nobody_there(slurm):
    """Each test begins and ends with an empty queue."""
    yield
    assert until(lambda: not queue()), queue()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip") / "in.mkv", FRAMES, width=320, height=240, sound=True)


@pytest.fixture(scope="module")
def expected(clip, tmp_path_factory):
    """What the job gives on one machine: times, sums of the frames, packets of the sound."""
    output = tmp_path_factory.mktemp("local") / "out.mkv"
    run = Run(clip, output, "--workers", 2, slurm=False)
    assert run.end() == 0, run.said
    return content(output)


def content(path):
    """[(time, SHA-256 of the planes)] of all frames, and the sound's packets."""
    with av.open(str(path)) as container:
        frames = [
            (f.pts * f.time_base, hashlib.sha256(b"".join(map(bytes, f.planes))).hexdigest())
            for f in container.decode(video=0)
        ]
    with av.open(str(path)) as container:
        sound = [(p.pts, bytes(p)) for p in container.demux(audio=0) if p.size]
    assert len(frames) == FRAMES
    return frames, sound


def queue(*arguments):
    """What squeue prints: a line for each task that waits or runs."""
    command = ["squeue", "--noheader", "--array", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def until(condition, seconds=30.0):
    """Wait for something; its value, or the last one that was none."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return value


class Run:
    """A run of upscale.py that a test looks into and disturbs."""

    def __init__(self, clip, output, *arguments, slurm=True, scale="4"):
        self.output, self.work = output, output.with_name(output.name + ".work")
        command = [sys.executable, str(ROOT / "upscale.py"), str(clip), str(output), scale, *QUICK]
        command += ["--slurm"] if slurm else []
        self.process = subprocess.Popen(
            [*command, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.said = ""

    def end(self):
        """Its exit status; everything it printed is in `said`."""
        self.said, _ = self.process.communicate(timeout=60)
        return self.process.returncode

    def job(self):
        """The number of its Slurm job."""
        path = self.work / claims.TASKS / claims.SLURM_JOBS
        assert until(path.exists), self.stopped()
        return path.read_text().strip()

    def stopped(self):
        self.process.kill()
        self.end()
        return self.said

    def status(self, task):
        return claims.read_json(self.work / claims.TASKS / f"task_{task}.json")

    def freeze(self, task):
        """Stop a task's worker while it holds a manifest: (its process, its life)."""

        def holding():
            about = self.status(task)
            pid, life = about.get("row", {}).get("pid"), about.get("id")
            if not pid or about["state"] != "ready":
                return None
            os.kill(pid, signal.SIGSTOP)
            if life in claims.claims_of(self.work):
                return pid, life
            os.kill(pid, signal.SIGCONT)
            return None

        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                if found := until(holding, 1):
                    return found
        raise AssertionError(self.stopped())

    def segments(self):
        """How many are in the ledger."""
        with contextlib.suppress(FileNotFoundError):
            return (self.work / "ledger.jsonl").read_bytes().count(b"\n")
        return 0


def parents(pid):
    """A process and those that started it, up to Slurm's step."""
    found = [pid]
    while True:
        stat = Path(f"/proc/{pid}/stat").read_text()
        pid = int(stat.rpartition(")")[2].split()[1])
        found.append(pid)
        if "slurmstepd" in Path(f"/proc/{pid}/cmdline").read_text():
            return found


def test_the_result_is_the_single_machines_and_nothing_is_left(nobody_there, clip, expected, tmp_path):
    run = Run(clip, tmp_path / "out.mkv", "--slurm-workers", 3, "--keep-work")
    assert run.end() == 0, run.said
    assert content(run.output) == expected
    statuses = [json.loads(path.read_text()) for path in sorted((run.work / "status").iterdir())]
    assert sum(status["frames_done"] for status in statuses) == FRAMES
    assert len(statuses) == 3 and all(re.match(r"cpu@", s["device"]) for s in statuses if s["frames_done"])
    assert not any(list((run.work / name).iterdir()) for name in ("queue", "claims", "results", "manifests"))
    assert not queue()
    again = Run(clip, tmp_path / "out.mkv", "--slurm-workers", 3)
    assert again.end() == 0 and f"resuming: {FRAMES} frames kept" in again.said, again.said
    assert [path.name for path in tmp_path.iterdir()] == ["out.mkv"]


def test_one_task_cancelled_and_one_preempted(nobody_there, clip, expected, tmp_path):
    run = Run(clip, tmp_path / "out.mkv", "--slurm-workers", 3, "--keep-work")
    job = run.job()
    for task, command in ((0, ["scancel"]), (1, ["scontrol", "requeue"])):
        pid, _ = run.freeze(task)
        subprocess.run([*command, f"{job}_{task}"], check=True)
        os.kill(pid, signal.SIGCONT)
    assert run.end() == 0, run.said
    assert content(run.output) == expected
    # Each has put its manifest back by itself: nobody had to wait for its silence.
    logs = [(run.work / "logs" / f"worker_{task}.log").read_text() for task in (0, 1)]
    assert all("got SIGTERM" in log for log in logs) and "no sign of life" not in run.said, run.said


def test_a_step_of_a_node_daemon_is_killed(nobody_there, clip, expected, tmp_path):
    run = Run(clip, tmp_path / "out.mkv", "--slurm-workers", 2)
    pid, life = run.freeze(0)
    for each in reversed(parents(pid)):
        os.kill(each, signal.SIGKILL)
    assert run.end() == 0, run.said
    assert content(run.output) == expected
    assert "worker 0 " in run.said and life.startswith("0-")


def test_a_worker_alone_is_killed_and_its_script_starts_another(nobody_there, clip, expected, tmp_path):
    run = Run(clip, tmp_path / "out.mkv", "--slurm-workers", 1, "--keep-work")
    pid, life = run.freeze(0)
    os.kill(pid, signal.SIGKILL)
    assert until(lambda: run.status(0)["id"] != life), run.stopped()
    assert run.end() == 0, run.said
    assert content(run.output) == expected
    assert "worker 0 was started anew" in run.said


def test_a_task_starts_late_and_one_comes_back_from_the_dead(nobody_there, clip, expected, tmp_path):
    blocker = subprocess.run(
        ["sbatch", "--parsable", "--nodelist=n1", "--exclusive", "--output=/dev/null", "--wrap=sleep 60"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    assert until(lambda: "R" in "".join(queue("--jobs=" + blocker, "--format=%t")))
    run = Run(clip, tmp_path / "out.mkv", "--slurm-workers", 2, "--sbatch", "--cpus-per-task=2", "--keep-work")
    early = next(t for t in until(lambda: [t for t in (0, 1) if run.status(t).get("state") == "ready"]))
    pid, life = run.freeze(early)
    assert not run.status(1 - early)
    subprocess.run(["scancel", blocker], check=True)
    assert until(lambda: life not in claims.claims_of(run.work)), run.stopped()  # taken back, for the late one
    assert until(lambda: run.status(1 - early).get("row", {}).get("frames_done", 0) > 0), run.stopped()
    os.kill(pid, signal.SIGCONT)
    assert run.end() == 0, run.said
    assert content(run.output) == expected
    assert "gave no sign of life" in run.said


def test_a_cancelled_run_cancels_the_array_and_is_resumed(nobody_there, clip, expected, tmp_path):
    run = Run(clip, tmp_path / "out.mkv", "--slurm-workers", 2)
    assert until(lambda: run.segments() > 0), run.stopped()
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 130, run.said
    assert not queue()
    again = Run(clip, tmp_path / "out.mkv", "--slurm-workers", 2)
    assert again.end() == 0 and "resuming" in again.said, again.said
    assert content(again.output) == expected


def test_tasks_end_when_the_main_process_is_killed(nobody_there, clip, expected, tmp_path):
    run = Run(clip, tmp_path / "out.mkv", "--slurm-workers", 2, "--stall-timeout", "2")
    assert until(lambda: run.segments() > 0), run.stopped()
    run.process.kill()
    run.end()
    assert queue()
    assert until(lambda: not queue()), queue()  # nobody cancelled them
    local = Run(clip, tmp_path / "out.mkv", "--workers", 2, slurm=False)
    assert local.end() == 0 and "resuming" in local.said, local.said
    assert content(local.output) == expected


def test_a_rerun_ends_the_tasks_that_a_killed_run_left(nobody_there, clip, expected, tmp_path):
    run = Run(clip, tmp_path / "out.mkv", "--slurm-workers", 2, "--stall-timeout", "600")
    job = run.job()
    assert until(lambda: run.segments() > 0), run.stopped()
    run.process.kill()
    run.end()
    local = Run(clip, tmp_path / "out.mkv", "--workers", 2, slurm=False)
    assert local.end() == 0, local.said
    assert not queue("--jobs=" + job)
    assert content(local.output) == expected


def test_storage_that_is_not_shared_is_one_line(nobody_there, slurm, clip):
    if (slurm / "no_island").exists():
        pytest.skip("no mount namespaces here, so nodes can't have storage of their own")
    run = Run(clip, slurm / "island" / "out.mkv", "--slurm-workers", 2, "--stall-timeout", "1")
    assert run.end() == 1
    assert run.said.splitlines()[-1].startswith("upscale: error: the nodes do not see"), run.said
    assert "storage that all nodes share" in run.said


def test_what_slurm_refuses_is_one_line(nobody_there, clip, tmp_path):
    run = Run(clip, tmp_path / "out.mkv", "--sbatch", "--partition=none")
    assert run.end() == 1
    assert re.match(r"upscale: error: sbatch failed and said: .*partition", run.said.splitlines()[-1]), run.said
    for wrong in ("--array=0-9", "gpu", "--output=x", "'"):
        run = Run(clip, tmp_path / "out.mkv", "--sbatch", wrong)
        assert run.end() == 2 and "--sbatch" in run.said, run.said
