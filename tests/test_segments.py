"""Segments: which frames an error or damage costs, and which segments of an earlier run are kept."""

import os

import numpy as np
import pytest
from clips import make_clip

from upscaling.common.errors import Stopped
from upscaling.common.notation import parse_scale
from upscaling.encode.segment_writer import SegmentWriter
from upscaling.job.options import Options
from upscaling.job.work_dir import open_work_dir
from upscaling.pipeline.plan import make_plan
from upscaling.pipeline.segments import OpenSegment, verify


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


def test_an_error_between_two_frames_loses_none(plan, work_dir):
    with pytest.raises(ZeroDivisionError), OpenSegment(work_dir, plan) as segment:
        segment.write(planes(1), 0)
        segment.write(planes(2), 1)
        raise ZeroDivisionError
    assert work_dir.frames_done == 2
    verify(work_dir, pytest.fail, lambda: None)
    assert work_dir.frames_done == 2


def test_an_error_in_the_encoder_loses_the_segment_and_leaves_no_file(plan, work_dir, monkeypatch):
    add_segments(plan, work_dir, 1)
    real = SegmentWriter.write

    def write(self, planes, pts, messages):
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


def test_a_signal_during_verification_loses_no_segment(plan, work_dir):
    add_segments(plan, work_dir, 3)
    looks = iter([None, None])

    def check():
        if next(looks, "stop"):
            raise Stopped(15)

    with pytest.raises(Stopped):
        verify(work_dir, pytest.fail, check)
    assert work_dir.frames_done == 9 and len(os.listdir(work_dir.folder("segments"))) == 3


def test_a_closed_work_directory_takes_no_segment(plan, work_dir):
    with OpenSegment(work_dir, plan) as segment:
        segment.write(planes(1), 0)
        work_dir.close()
    assert work_dir.frames_done == 0 and os.listdir(work_dir.folder("segments")) == []
