"""Parts as tasks of a real Slurm, a controller and two nodes here: whatever happens, the result is the local run's."""

import contextlib
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import av
import pytest
from clips import make_clip

from upscaling.cluster.coordinator import task_arguments
from upscaling.cluster.slurm import Jobs, Work, check_options, parse_tasks
from upscaling.cluster.watch import PartsFailed, Watch
from upscaling.common.errors import InputError

ROOT = Path(__file__).parent.parent
FRAMES, PARTS = 96, 3
QUICK = ("2", "--model", "lanczos", "--codec", "ffv1", "--workers", "1", "--batch-size", "2", "--segment-frames", "4")
pytestmark = pytest.mark.timeout(90)


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
def place(slurm, tmp_path, monkeypatch):
    """A directory on shared storage; in the end nothing is left in the queue, and no frame was ever seen in it."""
    disk = tmp_path / "disk"  # the nodes' own: TMPDIR goes with the job
    disk.mkdir()
    monkeypatch.setenv("TMPDIR", str(disk))
    shared = tmp_path / "shared"
    shared.mkdir()
    yield shared
    Run.kill_all()
    left = until(lambda: not queue(), 20) or queue()
    command("scancel", f"--user={os.getuid()}")
    assert left is True, left
    assert until(lambda: not list(disk.iterdir())), list(disk.rglob("*"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    options = {"g": "8", "crf": "10", "preset": "ultrafast"}
    path = tmp_path_factory.mktemp("clip") / "in.mkv"
    return make_clip(path, FRAMES, width=160, height=120, options=options, sound=True)


@pytest.fixture(scope="module")
def expected(clip, tmp_path_factory):
    """What the job gives on one machine."""
    output = tmp_path_factory.mktemp("local") / "out.mkv"
    done = subprocess.run([sys.executable, str(ROOT / "upscale.py"), str(clip), str(output), *QUICK], check=False)
    assert done.returncode == 0
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


def command(*words):
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def queue(*arguments):
    """What squeue prints: a line for each task that waits or runs."""
    return command("squeue", "--noheader", "--array", "--format=%i %t", *arguments).splitlines()


def until(condition, seconds=40.0):
    """Wait for something; its value, or the last one that was none."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return value


class Run:
    """A coordinator that a test looks into and disturbs."""

    started: ClassVar[list["Run"]] = []

    def __init__(self, clip, output, *more):
        self.output, self.parts = output, output.with_name(output.name + ".parts")
        words = [sys.executable, str(ROOT / "upscale.py"), str(clip), str(output), *QUICK, "--slurm", "--parts", PARTS]
        self.process = subprocess.Popen(
            [*map(str, words), *map(str, more)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.said = ""
        Run.started.append(self)

    @classmethod
    def kill_all(cls):
        """For the end of a test that failed."""
        for run in cls.started:
            if run.process.poll() is None:
                run.stop()
        cls.started.clear()

    def end(self):
        """Its exit status; everything it printed is in `said`."""
        with contextlib.suppress(ValueError):
            self.said += self.process.communicate(timeout=45)[0]
        return self.process.wait()

    def job(self):
        """The number of the array job."""
        found = until(lambda: [line for line in queue() if "_" in line])
        assert found, self.stop()
        return found[0].partition("_")[0]

    def stop(self):
        self.process.kill()
        self.end()
        return self.said

    def freeze(self, part):
        """Stop a part's main process after its first closed segment, before its last; its pid."""
        place = self.parts / f"part_{part:04d}_of_{PARTS:04d}"
        pid = until(lambda: task_process(part))
        assert pid, self.stop()
        while not list(place.glob("run_*/segment_*.mkv")):  # a little further each time
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.02)
            os.kill(pid, signal.SIGSTOP)
        assert not list(place.glob("run_*/part.json")), "the task was too quick"
        return pid

    def frames_on_shared_storage(self):
        return list(self.output.parent.rglob("frame_*"))


def task_process(part):
    """The pid of the upscale.py that makes a part."""
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            shell = Path(f"/proc/{parent}/cmdline").read_bytes()
            if f"{part}/{PARTS}".encode() in words and b"--part" in words and b"slurm_script" in shell:
                return int(pid)
    return None


def parents(pid):
    """A process and those that started it, up to Slurm's step."""
    found = [pid]
    while "slurmstepd" not in Path(f"/proc/{found[-1]}/cmdline").read_text():
        found.append(int(Path(f"/proc/{found[-1]}/stat").read_text().rpartition(")")[2].split()[1]))
    return found


@pytest.mark.slurm
def test_plain(place, clip, expected):
    run = Run(clip, place / "out.mkv")
    seen = []
    while run.process.poll() is None:
        seen += run.frames_on_shared_storage()
        time.sleep(0.02)
    assert run.end() == 0, run.said
    assert content(run.output) == expected and not seen
    assert [path.name for path in place.iterdir()] == ["out.mkv"]
    assert re.search(r"parts: 3 done; joined", run.said) and f"{FRAMES} frames" in run.said, run.said


def node_of(task):
    return command("squeue", "--noheader", f"--jobs={task}", "--format=%N")


def start_on_another_node(job, part, node):
    """Have requeued tasks start: Slurm waits for two minutes, in which their old node would refuse them."""
    assert until(lambda: f"{job}_{part} PD" in queue()), queue()
    other = {"n0": "n1", "n1": "n0"}[node]
    for line in queue(f"--jobs={job}"):
        task, state = line.split()
        if state == "PD":
            command("scontrol", "update", f"JobId={task}", f"ReqNodeList={other}", "StartTime=now")


@pytest.mark.slurm
def test_a_requeued_task_and_a_killed_coordinator(place, clip, expected):
    run = Run(clip, place / "out.mkv", "--keep-work")
    job = run.job()
    pid, node = run.freeze(2), node_of(f"{job}_2")
    run.process.kill()
    run.end()
    command("scancel", "--batch", "--signal=TERM", f"{job}_2")  # as --signal does before the time limit
    os.kill(pid, signal.SIGCONT)
    start_on_another_node(job, 2, node)
    again = Run(clip, place / "out.mkv")
    assert again.end() == 0, again.said
    assert content(again.output) == expected and f"found array job {job}" in again.said
    first, second = sorted((again.parts / "part_0002_of_0003").glob(f"task_{job}_*.log"))
    assert "stopped by SIGTERM" in first.read_text() and "resuming:" in second.read_text()
    assert len(list(again.parts.glob("part_0002_of_0003/run_*"))) == 2


@pytest.mark.slurm
def test_a_node_is_lost_with_its_step(place, clip, expected):
    run = Run(clip, place / "out.mkv", "--keep-work")
    job = run.job()
    pid, node = run.freeze(1), node_of(f"{job}_1")
    for each in reversed(parents(pid)):
        os.kill(each, signal.SIGKILL)
    # What the controller finds out by itself, but only after SlurmdTimeout.
    command("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    start_on_another_node(job, 1, node)
    assert run.end() == 0, run.said
    assert content(run.output) == expected
    assert "resuming:" in (run.parts / "part_0001_of_0003" / f"task_{job}_1.log").read_text()


@pytest.mark.slurm
def test_a_cancelled_task_is_done_by_the_same_command(place, clip, expected):
    run = Run(clip, place / "out.mkv")
    job = run.job()
    pid = run.freeze(3)
    command("scancel", f"{job}_3")
    os.kill(pid, signal.SIGCONT)
    assert run.end() == 1, run.said
    assert "part 3: CANCELLED" in run.said and "run the same command" in run.said, run.said
    again = Run(clip, place / "out.mkv", "--keep-work")
    assert again.end() == 0 and "(1 of 3 parts to do)" in again.said, again.said
    assert content(again.output) == expected
    assert "resuming:" in "".join(p.read_text() for p in again.parts.glob("part_0003_of_0003/task_*.log"))


@pytest.mark.slurm
def test_ctrl_c_cancels_and_the_same_command_goes_on(place, clip, expected):
    run = Run(clip, place / "out.mkv", "--at-once", "1")
    run.job()
    pid = run.freeze(1)
    run.process.send_signal(signal.SIGINT)
    os.kill(pid, signal.SIGCONT)
    assert run.end() == 130, run.said
    assert "cancelled Slurm jobs" in run.said and until(lambda: not queue()), run.said
    again = Run(clip, place / "out.mkv", "--detach")
    assert again.end() == 0 and re.search(r"^array job \d+, join job \d+$", again.said, re.M), again.said
    assert until(lambda: not queue()), queue()
    assert content(again.output) == expected


@pytest.mark.slurm
def test_what_fails_is_one_line(place, slurm, clip):
    run = Run(clip, place / "out.mkv", "--sbatch", "--partition=none")
    assert run.end() == 1
    assert re.match(r"upscale: error: sbatch failed and said: .*partition", run.said.splitlines()[-1]), run.said
    if not (slurm / "no_island").exists():
        run = Run(clip, slurm / "island" / "out.mkv")
        assert run.end() == 1
        assert "its node does not see" in run.said.splitlines()[-1], run.said


# Without Slurm


@pytest.mark.parametrize("words", ["--array=0-9", "gpu", "--output=x", "'", "-J name", "--dependency=afterok:1"])
def test_options_of_sbatch_that_are_refused(words, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: name)
    with pytest.raises(InputError, match="--sbatch"):
        check_options(words)


def line(job, index, state, code=0, reason="None"):
    return f"{job:<20}{index:<16}{state:<24}{code:<16}{reason:<64}\n"


def test_what_squeue_prints_is_read():
    text = (
        line(7, 1, "RUNNING") + line(7, 2, "FAILED", 2 << 8) + line(8, "N/A", "PENDING", 0, "Dependency") + "\njunk\n"
    )
    found = [(task.job, task.index, task.state, task.exit_status) for task in parse_tasks(text)]
    assert found == [("7", 1, "RUNNING", 0), ("7", 2, "FAILED", 2), ("8", 0, "PENDING", 0)]
    assert parse_tasks(line(7, 1, "FAILED", 9))[0].exit_status == -9


def test_a_tasks_command_has_no_words_for_slurm():
    words = ["in.mkv", "out.mkv", "2", "--slurm", "--parts", "60", "--at-once=4", "--sbatch", "--time=5", "--crf", "20"]
    words += ["--work-dir", "/x", "--restart", "--audio", "opus", "--audio-language=de"]
    kept = ["in.mkv", "out.mkv", "2", "--crf", "20", "--audio", "opus", "--audio-language=de"]
    assert task_arguments(words) == kept
    assert task_arguments(["--slurm", "--", "--slurm", "out.mkv"]) == ["--", "--slurm", "out.mkv"]


def test_jobs_with_other_sound_are_other_jobs(tmp_path):
    works = [Work(tmp_path / "out.mkv", {}, 4, None, (), (), (), "/tmp", streams) for streams in ("", "opus", "flac")]
    assert len({work.comment for work in works}) == 3 and len({work.name for work in works}) == 1


def test_parts_are_counted_and_a_failed_one_is_named(tmp_path, monkeypatch):
    work = Work(tmp_path / "out.mkv", {}, 4, None, (), (), (), "/tmp")
    answers = [
        line(7, 2, "RUNNING") + line(7, 3, "PENDING") + line(7, 4, "COMPLETED") + line(8, "N/A", "PENDING"),
        line(7, 2, "COMPLETED") + line(7, 3, "OUT_OF_MEMORY", 9) + line(8, "N/A", "PENDING"),
    ]
    said = []
    monkeypatch.setattr(
        "upscaling.cluster.slurm._run", lambda words, _=None: answers.pop(0) if words[0] == "squeue" else ""
    )
    monkeypatch.setattr("upscaling.cluster.watch.POLL_SECONDS", (0, 0))
    with pytest.raises(PartsFailed, match=r"part 3: OUT_OF_MEMORY, exit status -9 .*task_7_0.log"):
        Watch(work, Jobs("7", "8"), {1: 10}, said.append).run()
    assert said[0] == "parts: 2 done, 1 running, 1 waiting, 0 failed"
