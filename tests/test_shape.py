"""The shape of the result: SCALE as a size, --fit, square pixels; sizes announced are the sizes written."""

import json
import re
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import make_clip
from PIL import Image
from runs import ROOT

from upscaling import upscale_video
from upscaling.common.errors import InputError
from upscaling.common.notation import parse_scale
from upscaling.frames.placement import Placement
from upscaling.pipeline.shape import output_shape

QUICK = ("--model", "lanczos", "--workers", "1", "--progress", "json")
LOSSLESS = ("--crf", "0", "--preset", "ultrafast")
SAMPLES = {8: (16, 128), 10: (64, 512)}  # black in limited range: luma and chroma by depth


def run(*arguments, status=0):
    command = [sys.executable, ROOT / "upscale.py", *arguments, *QUICK]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == status, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def start(events):
    return next(event for event in events if event["event"] == "start")


def planes(path) -> list[list[np.ndarray]]:
    """Y, U and V of every frame of a 4:2:0 video."""
    found = []
    with av.open(str(path)) as video:
        for frame in video.decode(video=0):
            whole = frame.to_ndarray()  # (rows of Y, U and V, width)
            y, u, v = np.split(whole.reshape(-1), [frame.width * frame.height, frame.width * frame.height * 5 // 4])
            half = (frame.height // 2, frame.width // 2)
            found.append([y.reshape(frame.height, frame.width), u.reshape(half), v.reshape(half)])
    return found


def shown(path) -> tuple[tuple[int, int], Fraction]:
    """((width, height), the shape of the picture on a screen)."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        pixel = stream.sample_aspect_ratio or Fraction(1)
        return (stream.width, stream.height), pixel * stream.width / stream.height


def pixels(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


# Sizes


@pytest.mark.parametrize(
    ("scale", "fit", "size", "pixel", "multiple", "picture", "frame"),
    [
        ("2", "inside", (160, 90), "1", (2, 2), (320, 180), (320, 180)),
        ("2x", "inside", (160, 90), "1", (2, 2), (320, 180), (320, 180)),
        ("X2", "inside", (160, 90), "1", (2, 2), (320, 180), (320, 180)),
        ("1.5", "inside", (160, 90), "1", (2, 2), (240, 135), (240, 136)),  # the last row is repeated
        ("1.5", "inside", (160, 90), "1", (1, 1), (240, 135), (240, 135)),
        ("1.5", "inside", (160, 90), "16/15", (2, 1), (240, 135), (240, 135)),
        ("1", "inside", (5, 7), "1", (1, 1), (5, 7), (5, 7)),
        ("1.5", "inside", (853, 480), "1", (2, 2), (1280, 720), (1280, 720)),
        ("640x480", "inside", (160, 90), "1", (2, 2), (640, 360), (640, 360)),
        ("640x480", "pad", (160, 90), "1", (2, 2), (640, 360), (640, 480)),
        ("640x480", "crop", (160, 90), "1", (2, 2), (854, 480), (640, 480)),
        ("640x480", "stretch", (160, 90), "1", (2, 2), (640, 480), (640, 480)),
        ("641x361", "inside", (160, 90), "1", (2, 2), (640, 360), (640, 360)),  # never larger than asked
        ("641x361", "pad", (90, 160), "1", (2, 2), (202, 360), (640, 360)),
        ("641x361", "pad", (90, 160), "1", (1, 1), (203, 361), (641, 361)),
        ("161x91", "inside", (161, 91), "1", (2, 2), (160, 90), (160, 90)),
        ("x1080", "inside", (640, 480), "1", (2, 2), (1440, 1080), (1440, 1080)),
        ("1280x", "inside", (640, 480), "1", (2, 2), (1280, 960), (1280, 960)),
        ("4k", "inside", (1440, 1080), "1", (2, 2), (2880, 2160), (2880, 2160)),
        ("4k", "pad", (1440, 1080), "1", (2, 2), (2880, 2160), (3840, 2160)),
        ("1080p", "inside", (320, 640), "1", (2, 2), (540, 1080), (540, 1080)),
        ("1920x1080", "inside", (720, 576), "64/45", (2, 2), (1920, 1080), (1920, 1080)),  # a DVD in 16:9
        ("1920x1080", "inside", (720, 576), "16/15", (2, 2), (1440, 1080), (1440, 1080)),  # and in 4:3
        ("x576", "inside", (720, 576), "16/15", (2, 2), (768, 576), (768, 576)),
        ("640x480", "inside", (720, 480), "8/9", (2, 2), (640, 480), (640, 480)),
        ("4k", "crop", (720, 576), "16/15", (2, 2), (3840, 2880), (3840, 2160)),
    ],
)
def test_sizes(scale, fit, size, pixel, multiple, picture, frame):
    shape = output_shape(parse_scale(scale), fit, size, Fraction(pixel), multiple)
    assert (shape.picture, shape.frame) == (picture, frame)
    assert shape.square == (parse_scale(scale).factor is None)
    if fit in ("pad", "crop"):
        left, top = shape.placement.left, shape.placement.top
        for start_, side, inner, step in zip((left, top), frame, picture, multiple, strict=True):
            assert start_ % step == 0 and abs(2 * start_ - (side - inner)) <= 2 * step
    else:
        assert shape.placement is None


@pytest.mark.parametrize(
    ("scale", "fit", "size"),
    [("4k", "inside", (400, 5000)), ("x720", "inside", (400, 800)), ("640x200", "inside", (400, 800)),
     ("640x480", "stretch", (400, 800)), ("640x480", "crop", (1280, 720)), ("640x480", "pad", (64, 64 * 9))],
)  # fmt: skip
def test_size_outside_the_range(scale, fit, size):
    with pytest.raises(InputError, match="is not 1 to 8 times"):
        output_shape(parse_scale(scale), fit, size, Fraction(1), (2, 2))


@pytest.mark.parametrize("scale", ["2", "x480", "640x"])
def test_a_fit_that_means_nothing_is_refused(scale):
    with pytest.raises(InputError, match=r"--fit crop needs a SCALE with width and height"):
        output_shape(parse_scale(scale), "crop", (160, 90), Fraction(1), (2, 2))


def test_what_is_seen_of_a_placed_picture():
    assert Placement(10, 4, 2, -2).visible(14, 2) == ((slice(0, 2), slice(2, 12)), (slice(2, 4), slice(0, 10)))


# Through the command


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The folder of a clip of 64x36 and of its results at 96x72 with each fit."""
    folder = tmp_path_factory.mktemp("shape")
    clip = make_clip(folder / "clip.mp4", 4, width=64, height=36)
    for fit in ("inside", "pad", "crop", "stretch"):
        found = run(clip, folder / f"{fit}.mkv", "96x72", "--fit", fit, *LOSSLESS)
        size, _ = shown(folder / f"{fit}.mkv")
        assert start(found)["output_size"] == f"{size[0]}x{size[1]}"
    return folder


def test_a_size_keeps_the_shape(results):
    assert shown(results / "inside.mkv") == ((96, 54), Fraction(16, 9))
    assert shown(results / "stretch.mkv") == ((96, 72), Fraction(4, 3))


def test_pad_adds_black_and_changes_no_sample_of_the_picture(results):
    inside, padded = planes(results / "inside.mkv"), planes(results / "pad.mkv")
    assert len(inside) == len(padded) == 4
    for picture, frame in zip(inside, padded, strict=True):
        for plane, whole, black, down in zip(picture, frame, (16, 128, 128), (1, 2, 2), strict=True):
            top = 8 // down  # (72 - 54) / 2 = 9, and even
            assert np.array_equal(whole[top : top + len(plane)], plane)
            assert (whole[:top] == black).all() and (whole[top + len(plane) :] == black).all()


def test_crop_cuts_equally_off_both_sides(results):
    run(results / "clip.mp4", results / "whole.mkv", "x72", *LOSSLESS)
    assert shown(results / "whole.mkv")[0] == (128, 72)
    for picture, frame in zip(planes(results / "whole.mkv"), planes(results / "crop.mkv"), strict=True):
        for plane, part, across in zip(picture, frame, (1, 2, 2), strict=True):
            assert np.array_equal(part, plane[:, 16 // across : 112 // across])


def test_pixels_that_are_not_square(tmp_path):
    def anamorphic(_, stream):
        stream.codec_context.sample_aspect_ratio = stream.sample_aspect_ratio = Fraction(4, 3)

    clip = make_clip(tmp_path / "clip.mkv", 2, width=64, height=48, setup=anamorphic)
    for scale, size in (("320x180", (320, 180)), ("2", (128, 96))):
        event = start(run(clip, tmp_path / "out.mkv", scale, *LOSSLESS))
        found, shape = shown(tmp_path / "out.mkv")
        assert found == size and abs(float(shape) / (16 / 9) - 1) < 0.005
        assert ("square pixels" in event["shape"]) == (scale != "2")


def test_the_size_announced_is_the_size_written(tmp_path):
    clip = make_clip(tmp_path / "clip.mkv", 2, width=64, height=36)
    for scale, codec, size in (("5/4", "libx264", "80x46"), ("x55", "libx264", "96x54")):
        output = tmp_path / f"{codec}.mkv"
        options = (clip, output, scale, "--codec", codec, "--restart")
        (plan,) = run(*options, "--dry-run")
        assert plan["output_size"] == start(run(*options))["output_size"] == size
        assert "x".join(map(str, shown(output)[0])) == size


def test_a_deep_video_in_parts_on_black(tmp_path):
    """Parts, the join, 10 bit, and --fit as a part of the identity."""
    clip = make_clip(tmp_path / "clip.mkv", 12, width=48, height=48, pix_fmt="yuv420p10le",
                     options={"crf": "10", "preset": "ultrafast", "g": "6"})  # fmt: skip
    whole = (clip, tmp_path / "out.mkv", "160x96", "--codec", "ffv1")
    for number in (1, 2):
        run(*whole, "--part", f"{number}/2", "--fit", "pad")
    refused = run(*whole, "--join", "2", "--fit", "stretch", status=1)
    assert "encoding.placement" in refused[-1]["message"]
    run(*whole, "--join", "2", "--fit", "pad")
    frames = planes(tmp_path / "out.mkv")
    assert len(frames) == 12
    luma, chroma = SAMPLES[10]
    for y, u, v in frames:
        assert y.shape == (96, 160) and (y[:, :32] == luma).all() and (y[:, 128:] == luma).all()
        assert (u[:, :16] == chroma).all() and (v[:, 64:] == chroma).all() and y[:, 32:128].std() > 9


def test_pictures_on_transparent_ground_and_a_folder_of_them(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    noise = np.random.default_rng(1).integers(0, 256, (12, 20, 4), np.uint8)
    noise[..., 3] |= 128
    Image.fromarray(noise).save(folder / "alpha.png")
    Image.fromarray(noise[..., :3]).save(folder / "opaque.png")
    make_clip(folder / "clip.mkv", 2, width=64, height=36)
    run(folder, tmp_path / "done", "65x61", "--fit", "pad", "--settle", "0", *LOSSLESS)
    found = pixels(tmp_path / "done" / "alpha.png")
    assert found.shape == (61, 65, 4)
    assert not found[:11].any() and not found[50:].any() and found[11:50, :, 3].all()  # 65x39, exactly in the middle
    assert pixels(tmp_path / "done" / "opaque.png").shape == (61, 65, 3)
    assert shown(tmp_path / "done" / "clip.mkv")[0] == (64, 60)
    assert not [e for e in run(folder, tmp_path / "done", "65x61", "--fit", "pad", "--settle", "0", *LOSSLESS)
                if e["event"] == "start"]  # fmt: skip
    refused = run(folder, tmp_path / "done", "2", "--fit", "pad", status=2)
    assert "--fit pad needs a SCALE" in refused[-1]["message"]


def test_numbered_pictures_a_comparison_and_the_python_function(results, tmp_path):
    result = upscale_video(results / "clip.mp4", tmp_path / "f_%d.png", "96x72", fit="crop", model="lanczos",
                           workers=1, compare=tmp_path / "compare.png")  # fmt: skip
    assert result.frames == 4
    assert [pixels(tmp_path / f"f_{number}.png").shape for number in (1, 2, 3, 4)] == [(72, 96, 3)] * 4
    left, right = np.split(pixels(tmp_path / "compare.png").astype(np.int16), 2, axis=1)
    assert left.shape[1] - 8 * (96 * (800 // 96)) // 8 < 16  # panels of the frame's size, without what was cut off
    assert np.abs(left[40:600, :760] - right[40:600, 8:768]).mean() < 12  # the same part of the picture on both
    with pytest.raises(InputError, match="fit"):
        upscale_video(results / "clip.mp4", tmp_path / "o.mp4", "96x72", fit="squeeze")


def test_the_first_line_says_which_size_came_out(results, tmp_path):
    shutil.copy(results / "clip.mp4", tmp_path / "clip.mp4")
    command = [
        sys.executable,
        ROOT / "upscale.py",
        "clip.mp4",
        "o.mp4",
        "96x72",
        "--model",
        "lanczos",
        "--workers",
        "1",
    ]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    assert re.match(r"upscale: clip\.mp4: 4 frames of 64x36 to 96x54 \(inside 96x72\), lanczos", done.stderr)
    assert Path(tmp_path / "o.mp4").is_file()
