"""window.py, segments.py and the job's holds: what is kept when something goes wrong in the middle of it."""

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from clips import make_clip

from upscaling.cli.signals import resume_command, stopped_line
from upscaling.common.errors import BusyError, Stopped
from upscaling.common.locks import claim_name
from upscaling.encode.segment_writer import SegmentWriter
from upscaling.frames.conversion import FrameConversion
from upscaling.frames.layout import FrameLayout
from upscaling.inference.settings import ModelSettings
from upscaling.job import work_dir as jobs
from upscaling.job.notation import parse_scale
from upscaling.job.options import Options
from upscaling.job.plan import make_plan, window_frames
from upscaling.job.segments import OpenSegment, verify
from upscaling.job.stages import next_batch_size
from upscaling.job.window import ENTRIES_PER_FRAME, Entry, StopToken, Window
from upscaling.job.work_dir import open_work_dir

# The window


def entry(number, repeated=False, complete=False):
    return Entry(number, number * 10, repeated, repeated or complete)


def has_room(window):
    """Whether a frame may be stored now, without waiting."""
    with window.stop.changed:
        return window._has_room()


def test_the_window_holds_so_many_frames_and_held_ones_do_not_count():
    window = Window(3, StopToken())
    for number in (1, 2):
        window.add(entry(number))
    for number in (3, 4, 5):
        window.add(entry(number, repeated=True))
    assert has_room(window)
    window.add(entry(6))
    assert not has_room(window)
    window.complete([1])
    window.release(window.take())
    assert has_room(window)


def test_a_still_of_hours_does_not_fill_the_memory():
    window = Window(2, StopToken())
    window.add(entry(1))
    for number in range(2, 2 * ENTRIES_PER_FRAME + 1):
        assert has_room(window)
        window.add(entry(number, repeated=True))
    assert not has_room(window)


def test_frames_come_in_order_whatever_order_they_are_done_in():
    window = Window(9, StopToken())
    taken = []

    def encode():
        while (one := window.take()) is not None:
            taken.append(one.number)
            window.release(one)

    thread = threading.Thread(target=encode)
    thread.start()
    for number in (1, 2, 3, 4):
        window.add(entry(number, repeated=number == 3))
    window.end()
    for number in (4, 2, 1):
        window.complete([number])
    thread.join(30)
    assert not thread.is_alive() and taken == [1, 2, 3, 4]


def test_after_a_stop_what_is_complete_is_still_taken_and_nothing_more():
    window = Window(9, StopToken())
    for number in (1, 2):
        window.add(entry(number, complete=number == 1))
    window.stop.set(30)
    window.release(window.take())
    assert window.take() is None and not window.wait_for_room()
    late = Window(9, StopToken())
    late.add(entry(1, complete=True))
    late.stop.set(-1)
    assert late.take() is None


# Segments


@pytest.fixture
def plan(tmp_path):
    source = make_clip(tmp_path / "in.mp4", 3)
    return make_plan(Options(source, tmp_path / "out.mkv", parse_scale("2"), model="lanczos", preset="ultrafast"))


@pytest.fixture
def work_dir(plan):
    work_dir = open_work_dir(plan.work_dir, plan.identity, plan.output)
    yield work_dir
    work_dir.close()


def planes(number):
    """A frame of 128x96 in yuv420p."""
    return [np.full(shape, 40 + number, np.uint8) for shape in ((96, 128), (48, 64), (48, 64))]


def add_segments(plan, work_dir, count):
    for _ in range(count):
        with OpenSegment(work_dir, plan) as segment:
            for number in range(3):
                segment.write(planes(number), work_dir.frames_done + number)


def test_an_error_between_two_frames_costs_none(plan, work_dir):
    with pytest.raises(ZeroDivisionError), OpenSegment(work_dir, plan) as segment:
        segment.write(planes(1), 0)
        segment.write(planes(2), 1)
        raise ZeroDivisionError
    assert work_dir.frames_done == 2
    verify(work_dir, pytest.fail, lambda: None)
    assert work_dir.frames_done == 2


def test_an_error_in_the_encoder_costs_the_segment_and_leaves_no_file(plan, work_dir, monkeypatch):
    add_segments(plan, work_dir, 1)
    real = SegmentWriter.write

    def write(self, planes, pts):
        if pts == 4:
            raise OSError(28, "No space left on device")
        real(self, planes, pts)

    monkeypatch.setattr(SegmentWriter, "write", write)
    with pytest.raises(OSError, match="No space"), OpenSegment(work_dir, plan) as segment:
        segment.write(planes(1), 3)
        segment.write(planes(2), 4)
    assert work_dir.frames_done == 3 and os.listdir(work_dir.folder("segments")) == ["segment_000000.mkv"]


def test_segments_up_to_the_first_damaged_one_are_kept(plan, work_dir):
    add_segments(plan, work_dir, 4)
    path = work_dir.folder("segments") / "segment_000002.mkv"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    said = []
    verify(work_dir, said.append, lambda: None)
    assert work_dir.frames_done == 6 and said == [
        "dropping 2 segments of the earlier run: damaged, or after a damaged one"
    ]
    assert sorted(os.listdir(work_dir.folder("segments"))) == ["segment_000000.mkv", "segment_000001.mkv"]


def test_a_segment_that_is_a_link_is_not_trusted(plan, work_dir, tmp_path):
    add_segments(plan, work_dir, 1)
    path = work_dir.folder("segments") / "segment_000000.mkv"
    path.rename(tmp_path / "elsewhere.mkv")
    path.symlink_to(tmp_path / "elsewhere.mkv")
    verify(work_dir, lambda line: None, lambda: None)
    assert work_dir.frames_done == 0 and (tmp_path / "elsewhere.mkv").exists()


def test_a_signal_while_segments_are_verified_costs_none(plan, work_dir):
    add_segments(plan, work_dir, 3)
    looks = iter([None, None])

    def check():
        if next(looks, "stop"):
            raise Stopped(15)

    with pytest.raises(Stopped):
        verify(work_dir, pytest.fail, check)
    assert work_dir.frames_done == 9 and len(os.listdir(work_dir.folder("segments"))) == 3


def test_a_job_that_was_given_up_takes_no_segment(plan, work_dir):
    with OpenSegment(work_dir, plan) as segment:
        segment.write(planes(1), 0)
        work_dir.close()
    assert work_dir.frames_done == 0 and os.listdir(work_dir.folder("segments")) == []


# Holds


def test_an_output_is_claimed_once_by_whatever_name(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "out.mp4").symlink_to("real/out.mp4")
    claim = claim_name(tmp_path / "real" / "out.mp4")
    for name in ("real/out.mp4", "link/out.mp4", "out.mp4", "real/../link/out.mp4"):
        with pytest.raises(BusyError, match=f"pid {os.getpid()}\\)"):
            claim_name(tmp_path / name)
    os.close(claim_name(tmp_path / "real" / "other.mp4"))
    os.close(claim)
    os.close(claim_name(tmp_path / "out.mp4"))
    assert os.listdir(tmp_path / "real") == []


def test_a_rerun_waits_for_the_workers_of_a_killed_run(plan, monkeypatch):
    """They might still move frames of the old parameters into place."""
    plan.work_dir.mkdir(mode=0o700)
    worker = os.open(plan.work_dir, os.O_RDONLY)
    fcntl.flock(worker, fcntl.LOCK_SH)
    threading.Timer(0.5, os.close, [worker]).start()
    started = time.monotonic()
    open_work_dir(plan.work_dir, plan.identity, plan.output).close()
    assert time.monotonic() - started >= 0.4
    worker = os.open(plan.work_dir, os.O_RDONLY)
    fcntl.flock(worker, fcntl.LOCK_SH)
    monkeypatch.setattr(jobs, "WORKER_SECONDS", 0.1)
    with pytest.raises(BusyError, match="workers of an earlier run"):
        open_work_dir(plan.work_dir, plan.identity, plan.output)
    os.close(worker)
    open_work_dir(plan.work_dir, plan.identity, plan.output).close()


# The command that resumes


def test_the_command_to_resume_is_the_same_to_a_shell(tmp_path, monkeypatch):
    script = tmp_path / "it's $HOME.py"
    script.write_text("import json, os, sys\nprint(json.dumps([os.getcwd(), *sys.argv[1:]]))\n")
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.chdir(tmp_path)
    words = ["é it's.mp4", "a  b", "$x`y`", '"', "\\", "*", "--restart", "-q", "--", "--restart"]
    done = subprocess.run(["sh", "-c", resume_command(words)], cwd="/", capture_output=True, check=True)
    words.remove("--restart")  # it would discard what is done; behind -- it is a file's name
    assert json.loads(done.stdout) == [str(tmp_path), *words]


@pytest.mark.parametrize("name", ["a\nb.mp4", "\udcff.mp4"])
def test_a_command_that_cannot_be_printed_is_not_printed(name):
    assert stopped_line(15, [name, "out.mp4"]) == "stopped by SIGTERM; everything done is kept; run it again to resume"


@pytest.mark.parametrize(
    ("model", "size", "expected"),
    [
        ("lanczos", (1280, 720), (2, 36)),  # 6.6 MiB a frame, in and out
        ("lanczos", (64, 48), (8, 144)),
        ("lanczos", (7680, 4320), (1, 18)),
        ("realesr-animevideov3", (1280, 720), (8, 144)),
    ],
)
def test_where_a_frame_is_little_work_a_batch_has_few_bytes(tmp_path, monkeypatch, model, size, expected):
    monkeypatch.setattr("upscaling.job.plan.available_memory", lambda: 1 << 40)
    monkeypatch.setattr("os.statvfs", lambda _: SimpleNamespace(f_bavail=1 << 30, f_frsize=4096))
    source = FrameLayout(*size, "yuv420p")
    conversion = FrameConversion(source=source, target=FrameLayout(2 * size[0], 2 * size[1], "yuv420p"))
    assert window_frames(Options("a.mp4", "b.mp4", 2, model=model), conversion, tmp_path) == expected


@pytest.mark.parametrize(
    ("frames", "changes", "sizes"),
    [
        (60, {}, [8, 8, 8, 6, 5, 5, 4, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1]),
        (16, {}, [3, 3, 2, 2, 1, 1, 1, 1, 1, 1]),
        (None, {}, [8, 8, 8, 8, 8, 8, 8, 4]),
        (56, {}, [8, 8, 7, 6, 5, 4, 3, 3, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),  # the container counts too few
        (6, {}, [1] * 55 + [5]),
        (3, {}, [1] * 52 + [8]),  # nothing that it says can be true
        (60, {"model": "lanczos"}, [8, 8, 8, 8, 8, 8, 8, 4]),
        (60, {"device": "cuda:0"}, [8, 8, 8, 8, 8, 8, 8, 4]),
    ],
)
def test_batches_are_smaller_near_the_end_where_a_network_runs_on_a_cpu(frames, changes, sizes):
    model = ModelSettings(model=changes.get("model", "net"), device=changes.get("device", "cpu"))
    plan = SimpleNamespace(
        info=SimpleNamespace(frame_count=frames), batch_size=8, models=(model,) * 6,
    )  # fmt: skip
    found, there = [], 16 if frames == 16 else 60
    while sum(found) < there:
        size = next_batch_size(plan, sum(found))
        found.append(min(size, there - sum(found)))
    assert found == sizes
