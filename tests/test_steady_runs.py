"""`--steady` through the command: the same frames to the bit however the job is cut, resumed or disturbed."""

import os
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import nets
import numpy as np
import pytest
from runs import ROOT, Run, frames_of, records, wait_until

from upscaling.cli import run as cli
from upscaling.common.errors import InputError
from upscaling.job.options import make_options
from upscaling.pipeline.checks import check_opencv
from upscaling.pipeline.plan import make_plan
from upscaling.pipeline.steady_schedule import MAX_STILL, SteadySchedule
from upscaling.terminal.progress import Progress
from upscaling.terminal.signals import Signals
from upscaling.workers.pool_cache import PoolCache

FAULTY = ROOT / "tests" / "faulty.py"
WIDTH, HEIGHT = 64, 48
STILL = range(16, 41)  # frames, from 0, with the same picture: more than MAX_STILL
CUT = 50  # the first frame of another scene
# The number of the picture that each frame shows: movement, a picture of 3 frames, a long still, a cut.
SHOWN = [*range(8), 8, 8, 8, *range(11, 16), *[16] * len(STILL), *range(17, 26), *range(100, 114), 114, 114]


def picture(number: int) -> np.ndarray:
    """A texture that moves by a pixel and a half a frame, (HEIGHT * 3 / 2, WIDTH); from 100 on another one."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    x += 1.5 * number
    luma = 128 + 45 * np.sin(x / 3) * np.cos(y / 4) + 25 * np.sin((x + y) / 2)
    luma = 255 - luma / 3 if number >= 100 else luma
    return np.concatenate([luma, np.full((HEIGHT // 2, WIDTH), 120.0 + number % 7)]).round().astype(np.uint8)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "in.mkv"
    options = {"qp": "0", "g": "10", "keyint_min": "10", "sc_threshold": "0", "bf": "2"}
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number, shown in enumerate(SHOWN):
            frame = av.VideoFrame.from_ndarray(picture(shown), format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small network whose detail changes with the position: it flickers."""
    return nets.save_pth(nets.compact(scale=2), tmp_path_factory.mktemp("model") / "net.pth")


@pytest.fixture(scope="module")
def run(clip, model):
    """Runs jobs in this process, with workers that outlive them; returns [(time, digest)] of the frames."""
    with PoolCache(keep=True) as pools:

        def run(output: Path, **more) -> list[tuple[Fraction, str]]:
            options = make_options(**{"input": clip, "output": output, "model": str(model), "workers": 2,
                                      "codec": "ffv1", "device": "cpu", "steady": True, **more})  # fmt: skip
            (cli.join if options.join else cli.run)(options, Progress(), *(() if options.join else (Signals(), pools)))
            return frames_of(output) if output.exists() else []

        yield run


@pytest.fixture(scope="module")
def expected(run, tmp_path_factory):
    return run(tmp_path_factory.mktemp("expected") / "out.mkv")


def test_what_changes_and_what_does_not(run, expected, tmp_path):
    plain = run(tmp_path / "plain.mkv", steady=False)
    assert [time for time, _ in plain] == [time for time, _ in expected] and len(expected) == len(SHOWN)
    same = [a == b for a, b in zip(plain, expected, strict=True)]
    assert all(same[number] for number in STILL) and sum(same) < len(STILL) + 8
    assert len({digest for _, digest in expected}) == len(set(SHOWN))  # a picture of several frames has one result


@pytest.mark.parametrize(
    "how",
    [
        {"batch_size": 1, "workers": 1},
        {"batch_size": 3, "work_space": "150K"},
        {"batch_size": 5, "segment_frames": 7},
        {"batch_size": 16},
    ],
)
def test_the_same_bits_whatever_the_batches(run, expected, tmp_path, how):
    assert run(tmp_path / "out.mkv", **how) == expected


@pytest.mark.parametrize("parts", [2, 5])
def test_parts_are_the_whole(run, expected, tmp_path, parts):
    for number in range(1, parts + 1):
        run(tmp_path / "out.mkv", part=f"{number}/{parts}", batch_size=4)
    assert run(tmp_path / "out.mkv", join=parts) == expected


def test_animations_and_numbered_pictures_have_neighbours_and_a_picture_has_none(run, expected, clip, tmp_path):
    with av.open(str(clip)) as video:
        for number, frame in enumerate(video.decode(video=0)):
            if number < 4:
                frame.to_image().save(tmp_path / f"f_{number:03d}.png")
    numbered = {"input": tmp_path / "f_%03d.png", "pix_fmt": "yuv444p"}
    assert run(tmp_path / "moving.mkv", **numbered) != run(tmp_path / "plain.mkv", **numbered, steady=False)
    run(tmp_path / "one.png", input=tmp_path / "f_000.png", codec="auto")
    assert (tmp_path / "one.png").exists()


def command(clip, model, output, *more):
    return (clip, output, "2", "--model", model, "--codec", "ffv1", "--device", "cpu", "--workers", "2", "--batch-size",
            "4", "--segment-frames", "5", "--progress", "plain", "--steady", *more)  # fmt: skip


def test_a_killed_run_is_resumed(clip, model, expected, tmp_path):
    """Killed after 10 frames or so, in a picture of three frames, and after 25 or so, in the still."""
    (tmp_path / "fault").mkdir()
    output, work = tmp_path / "out.mkv", tmp_path / "out.mkv.work"
    arguments = command(clip, model, output)
    for closed in (2, 5):
        slow = Run(tmp_path, *arguments, script=FAULTY, env={"FAULT": f"slow:0:{tmp_path / 'fault'}"})
        wait_until(lambda least=closed: records(work) >= least, "segments")
        slow.signal(signal.SIGKILL)
        slow.wait()
    refused = Run(tmp_path, *(word for word in arguments if word != "--steady")).fail(2)
    assert "finished frames made with --steady;" in refused
    assert "resuming: " in Run(tmp_path, *arguments).succeed().errors
    assert frames_of(output) == expected
    assert not work.exists()


def test_workers_that_die_while_they_steady_and_frames_that_are_damaged(clip, model, expected, tmp_path):
    (tmp_path / "fault").mkdir()
    output = tmp_path / "out.mkv"
    env = {"FAULT": f"steadying:2:{tmp_path / 'fault'}"}
    done = Run(tmp_path, *command(clip, model, output, "--keep-work"), script=FAULTY, env=env).succeed()
    assert "was killed by SIGKILL" in done.errors and "are steadied again" in done.errors
    assert frames_of(output) == expected
    for folder in ("input_frames", "upscaled_frames", "output_frames", "manifests"):
        assert not list((tmp_path / "out.mkv.work" / folder).iterdir())


def test_what_it_cannot_do_is_one_line_before_the_work(clip, model, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="--model lanczos adds nothing; remove one of them"):
        make_plan(make_options(input=clip, output=tmp_path / "o.mkv", model="lanczos", steady=True))
    check_opencv.cache_clear()
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "cv2.py").write_text('raise ImportError("libGL.so.1: cannot open shared object file")\n')
    monkeypatch.setenv("PYTHONPATH", str(hidden))
    with pytest.raises(InputError, match=r"cannot be loaded \(ImportError: libGL.so.1: .*opencv-python-headless"):
        make_plan(make_options(input=clip, output=tmp_path / "o.mkv", model=str(model), steady=True))


def test_the_estimate_of_disk_space_counts_the_steadied_frames(clip, model, tmp_path):
    plans = [
        make_plan(make_options(input=clip, output=tmp_path / "o.mkv", model=str(model), steady=steady))
        for steady in (False, True)
    ]
    assert plans[1].frame_bytes - plans[0].frame_bytes == WIDTH * 2 * HEIGHT * 2 * 3 // 2


def test_a_manifest_is_steadied_by_hand_without_a_network(clip, tmp_path):
    """worker.py with a manifest that has upscaled frames."""
    for folder in ("in", "up"):
        (tmp_path / folder).mkdir()
    noise = np.random.default_rng(0)
    for number in range(1, 5):
        frame = picture(number)
        np.save(tmp_path / "in" / f"frame_{number:06d}.npy", frame)
        twice = np.repeat(np.repeat(frame, 2, 0), 2, 1)
        np.save(tmp_path / "up" / f"frame_{number:06d}.npy", twice + noise.integers(0, 9, twice.shape, np.uint8))
    (tmp_path / "m.txt").write_text(
        "# Worker 0 Manifest\n# Input Dir: in\n# Output Dir: out\n# Scale: 2x\n# Batch Size: 8\n# Patch Size: 512\n"
        "# Pixel Format: yuv420p\n# Colour: bt709 limited\n# Upscaled Dir: up\n"
        "# Context Frames: frame_000001.npy,frame_000004.npy\n# Total Frames: 2\n# Worker Batches: [0]\n"
        "# Total Batches: 1\n\nbatch_0,frame_000002.npy,frame_000003.npy\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "worker.py"), str(tmp_path / "m.txt")],
        capture_output=True, text=True, check=False, env=os.environ, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0 and "2 frames done" in done.stderr and "| torch\n" not in done.stderr
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["frame_000002.npy", "frame_000003.npy"]
    for name in names:
        before, after = (np.load(tmp_path / folder / name) for folder in ("up", "out"))
        assert before.shape == after.shape and not np.array_equal(before[: 2 * HEIGHT], after[: 2 * HEIGHT])
        assert np.array_equal(before[2 * HEIGHT :], after[2 * HEIGHT :])  # chroma


# The schedule


def test_a_batch_waits_for_the_frames_around_it():
    schedule = SteadySchedule()
    schedule.add([1, 2], False)
    schedule.upscaled([1, 2])
    assert schedule.take_ready() == [] and schedule.take_unneeded() == []
    schedule.add([3, 5], False)
    schedule.add([9], False)
    schedule.upscaled([9])
    assert schedule.take_ready() == []
    schedule.upscaled([3, 5])
    first, second = schedule.take_ready()
    assert (first.moving, first.context) == ((1, 2), (3,)) and (second.moving, second.context) == ((3, 5), (2, 9))
    schedule.finish([3, 5])
    assert schedule.take_unneeded() == [] and schedule.take_ready() == []  # 5 is the context of 9
    schedule.finish([1, 2])
    assert schedule.take_unneeded() == [1, 2, 3]
    schedule.end()
    (last,) = schedule.take_ready()
    assert (last.moving, last.context) == ((9,), (5,))


def test_nothing_waits_for_the_end_of_a_still():
    schedule = SteadySchedule()
    schedule.add([1, 2], False)
    schedule.upscaled([1, 2])
    schedule.mark_still(2)
    (only,) = schedule.take_ready()
    assert (only.moving, only.stills, only.context) == ((1,), {2}, ())
    schedule.finish([1, 2])
    assert schedule.take_unneeded() == [1]  # the next batch may need the still
    schedule.add([MAX_STILL + 9], False)
    schedule.upscaled([MAX_STILL + 9])
    schedule.end()
    (last,) = schedule.take_ready()
    assert last.context == (2,)
    schedule.finish(last.numbers)
    assert schedule.take_unneeded() == [2, MAX_STILL + 9]
