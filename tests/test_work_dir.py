"""The work directory: whose it is, its lock, what an earlier run left, and a clean-up that takes only its own files."""

import fcntl
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from upscaling.common.errors import BusyError, InputError
from upscaling.job.identity import ANY, what_changed
from upscaling.job.work_dir import Earlier, WorkDir, open_work_dir

ROOT = Path(__file__).parent.parent
IDENTITY = {"input": {"size": 1}, "model": "lanczos", "size": [2, 4]}


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "out.mp4.work"


def opened(directory, identity=IDENTITY, **options):
    return open_work_dir(directory, identity, directory.with_suffix(""), **options)


def add_segments(work_dir, counts):
    for number, count in enumerate(counts):
        path = work_dir.folder("segments") / f"segment_{number:06d}.mkv.tmp"
        path.write_bytes(b"segment %d" % number)
        work_dir.add_segment(path, [work_dir.frames_done * 10 + i * 10 for i in range(count)])


def test_creates_a_private_directory_and_removes_it(directory):
    work_dir = opened(directory)
    assert directory.stat().st_mode & 0o777 == 0o700
    add_segments(work_dir, [3])
    (work_dir.folder("input_frames") / "frame_000001.npy").touch()
    (work_dir.folder("logs") / "worker_0.log").touch()
    assert work_dir.remove() and not directory.exists()


def test_closed_segments_are_resumed(directory):
    work_dir = opened(directory)
    add_segments(work_dir, [3, 2])
    (work_dir.folder("output_frames") / "frame_000006.npy").touch()
    work_dir.close()
    again = opened(directory)
    assert [record.first for record in again.records] == [1, 4] and again.frames_done == 5
    assert again.records == work_dir.records and not again.discarded
    assert list(again.folder("output_frames").iterdir()) == []  # frames are not kept, only segments
    again.keep_segments(again.records[:1])
    assert [p.name for p in again.folder("segments").iterdir()] == ["segment_000000.mkv"]
    again.close()
    assert opened(directory).frames_done == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "other"}, "holds 3 finished frames made with --model lanczos; repeat that, or add --restart"),
        ({"input": {"size": 2}}, "holds 3 finished frames of the input as it was before it changed; to discard"),
        ({"new": 1}, "holds 3 finished frames made with another new; repeat"),
    ],
)
def test_finished_frames_of_other_parameters_are_refused_and_kept(directory, change, words):
    work_dir = opened(directory, asked={"model": "lanczos", "scale": "2"})
    add_segments(work_dir, [3])
    work_dir.close()
    with pytest.raises(InputError, match=re.escape(words)):
        opened(directory, {**IDENTITY, **change}, asked={"model": "other", "scale": "2"})
    assert opened(directory).frames_done == 3


def test_without_finished_frames_it_starts_over_in_silence(directory):
    opened(directory).close()
    again = opened(directory, {**IDENTITY, "model": "other"})
    assert not again.discarded and again.frames_done == 0


def test_another_version_of_the_program_is_refused(directory):
    work_dir = opened(directory)
    add_segments(work_dir, [3])
    work_dir.close()
    job = directory / "job.json"
    job.write_text(job.read_text().replace('"version": 2', '"version": 1'))
    with pytest.raises(InputError, match="3 finished frames made by another version of this program; to discard them"):
        opened(directory)
    assert opened(directory, restart=True).discarded == "--restart"


@pytest.mark.parametrize(
    ("old", "new", "then", "now", "words"),
    [
        ({"encoding": {"options": {"crf": "18"}}}, {"encoding": {"options": {"crf": "20"}}},
         {}, {"crf": "20"}, "made without --crf"),
        ({"encoding": {"options": {"crf": "18"}}}, {"encoding": {"options": {"crf": "20"}}},
         {}, {}, "made with --crf 18"),  # another default
        ({"model": {"device": "cuda", "precision": "fp16"}}, {"model": {"device": "cpu", "precision": "bf16"}},
         {}, {}, "made with --device cuda --precision fp16"),  # auto, on a machine that has lost its GPU
        ({"model": {"device": "cpu"}}, {"model": {"device": "cpu"}}, {}, {"device": "cpu"}, ""),
        ({"model": {"device": "cuda"}}, {"model": {"device": ANY}}, {}, {}, ""),
        ({"part": ["1", "80"]}, {"part": None}, {"frames": "1:80"}, {}, "made with --frames 1:80"),
        ({"model": {"sha256": ["a"]}}, {"model": {"sha256": ["b"]}},
         {"model": "my model.pth", "crf": "3"}, {"crf": "4"}, "made with --model 'my model.pth'"),
    ],
)  # fmt: skip
def test_what_changed_is_said_in_the_words_of_the_command(old, new, then, now, words):
    assert what_changed(old, new, then, now) == words


def test_restart_and_damaged_job_start_over(directory):
    work_dir = opened(directory)
    add_segments(work_dir, [3])
    work_dir.close()
    (directory / "job.json").write_text("{")
    damaged = opened(directory)
    assert "damaged" in damaged.discarded and damaged.frames_done == 0
    add_segments(damaged, [3])
    damaged.close()
    assert opened(directory, restart=True).discarded == "--restart"


def test_opening_tells_what_an_earlier_run_left_and_touches_nothing(directory):
    work_dir = opened(directory)
    add_segments(work_dir, [3])
    work_dir.close()
    output = directory.with_suffix("")

    def contents():
        return {path: path.is_file() and path.read_bytes() for path in directory.rglob("*") if path.name != "lock"}

    def found(identity, output):
        work_dir = WorkDir(directory)
        earlier = work_dir.open(identity, output)
        work_dir.close()
        return earlier.state

    before = contents()
    assert found(IDENTITY, output) is Earlier.RESUMABLE
    assert found({**IDENTITY, "model": "other"}, output) is Earlier.OTHER_PARAMETERS
    assert found(IDENTITY, output.with_name("other.mp4")) is Earlier.OTHER_OUTPUT
    assert contents() == before
    for damaged in (b"{", b"[]", b'{"output": 1}', b'{"identity": 1}', b'{"output": "zz"}', b'{"version": 0}', b"\xff"):
        (directory / "job.json").write_bytes(damaged)
        expected = Earlier.OTHER_PARAMETERS if b"version" in damaged else Earlier.UNREADABLE
        assert found(IDENTITY, output) is expected
    (directory / "job.json").unlink()
    assert found(IDENTITY, output) is Earlier.NOTHING


def test_second_run_is_refused_and_told_the_pid(directory):
    work_dir = opened(directory)
    with pytest.raises(BusyError, match=f"pid {os.getpid()}\\b"):
        opened(directory)
    work_dir.close()
    opened(directory).close()


def test_the_lock_of_a_killed_run_does_not_block(directory):
    code = (
        "import sys, os, signal; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "from upscaling.job.work_dir import open_work_dir\n"
        "open_work_dir(Path(sys.argv[2]), {}, Path(sys.argv[2])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(ROOT), str(directory)], check=False)
    assert done.returncode == -9
    open_work_dir(directory, {}, directory).close()


def test_another_outputs_directory_is_not_taken_over(directory):
    opened(directory).close()
    with pytest.raises(InputError, match="belongs to another output"):
        open_work_dir(directory, IDENTITY, Path("/elsewhere/out.mp4"))


def test_a_link_a_file_and_a_foreign_directory_are_refused(directory, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    directory.symlink_to(other)
    with pytest.raises(InputError, match="is a link"):
        opened(directory)
    directory.unlink()
    directory.touch()
    with pytest.raises(InputError, match="not a directory"):
        opened(directory)
    directory.unlink()
    directory.mkdir(mode=0o700)
    (directory / "thesis.txt").touch()
    with pytest.raises(InputError, match=r"contains 'thesis\.txt'"):
        opened(directory)


def test_a_directory_that_others_may_write_to_is_refused(directory):
    directory.mkdir()
    directory.chmod(0o777)
    with pytest.raises(InputError, match="others may write"):
        opened(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a directory belong to somebody else")
def test_somebody_elses_directory_is_refused(directory):
    directory.mkdir(mode=0o700)
    os.chown(directory, 65534, 65534)
    with pytest.raises(InputError, match="belongs to another user"):
        opened(directory)


def test_clean_up_follows_no_link_and_takes_no_foreign_file(directory, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    for name in ("frame_000001.npy", "worker_0.log"):
        (precious / name).write_text("keep")
    work_dir = opened(directory)
    (work_dir.folder("input_frames") / "frame_000001.npy").symlink_to(precious / "frame_000001.npy")
    work_dir.folder("logs").rmdir()
    work_dir.folder("logs").symlink_to(precious)
    (work_dir.folder("segments") / "mine.txt").touch()
    assert not work_dir.remove()
    assert sorted(p.name for p in precious.iterdir()) == ["frame_000001.npy", "worker_0.log"]
    assert (directory / "segments" / "mine.txt").exists()
    assert not (directory / "job.json").exists()


def test_a_rerun_waits_for_the_workers_of_a_killed_run(directory, monkeypatch):
    """They might still move frames of the old parameters into place."""
    directory.mkdir(mode=0o700)
    worker = os.open(directory, os.O_RDONLY)
    fcntl.flock(worker, fcntl.LOCK_SH)
    threading.Timer(0.5, os.close, [worker]).start()
    started = time.monotonic()
    opened(directory).close()
    assert time.monotonic() - started >= 0.4
    worker = os.open(directory, os.O_RDONLY)
    fcntl.flock(worker, fcntl.LOCK_SH)
    monkeypatch.setattr("upscaling.job.work_dir.WORKER_SECONDS", 0.1)
    with pytest.raises(BusyError, match="workers of an earlier run"):
        opened(directory)
    os.close(worker)
    opened(directory).close()
