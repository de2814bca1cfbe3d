"""`python worker.py MANIFEST`: with real weights, frames as .npy and as .png; what it skips and refuses."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import cv2
import nets
import numpy as np
import pytest
from realesrgan_reference import enhancer

from upscaling.cli import manifest_command
from upscaling.frames.frame_files import npy_bytes
from upscaling.frames.layout import FrameLayout
from upscaling.models import weights
from upscaling.workers.manifest_reader import read_manifest
from upscaling.workers.worker import frame_conversion, read_frame, write_frame

ROOT = Path(__file__).parent.parent


def picture(number, width=48, height=32):
    """(height, width, 3) uint8 RGB: slopes and a bar that moves with the number."""
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([x * 3 + 50, y * 4 + 50, (x + y) * 2 + 60], axis=-1).astype(np.uint8)  # no code near 0 or 255
    rgb[:, number * 4 : number * 4 + 4] = (180, 70, 70)
    return rgb


def enhanced(rgb):
    """What the realesrgan package makes of it: x4 by RealESRGANer.enhance, then the mean of each 2x2 block."""
    upsampler = enhancer(weights.load("realesr-animevideov3"))
    bgr = upsampler.enhance(rgb[..., ::-1], outscale=4)[0]  # (4H, 4W, 3), as OpenCV has it
    height, width, _ = rgb.shape
    return bgr[..., ::-1].reshape(2 * height, 2, 2 * width, 2, 3).mean((1, 3))  # (2H, 2, 2W, 2, 3)


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, arguments)], capture_output=True, text=True, check=False
    )


def manifests_of(tmp_path, kind, count=5, workers=2, **options):
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(1, count + 1):
        write_frame(frames / f"frame_{number:06d}.{kind}", picture(number))
    return manifest_command.write_directory(frames, tmp_path / "out", workers, 2, Fraction(2), **options)


@pytest.mark.parametrize("kind", ["npy", "png"])
def test_one_manifest_by_itself_with_the_real_network(tmp_path, kind):
    paths = manifests_of(tmp_path, kind)
    done = run("worker.py", paths[0], "--device", "cpu", "--precision", "fp32")
    assert done.returncode == 0, done.stderr
    results = sorted((tmp_path / "out" / "output_frames").iterdir())
    assert [path.name for path in results] == [f"frame_{n:06d}.{kind}" for n in (1, 2, 5)]  # batches 0 and 2
    for path, number in zip(results, (1, 2, 5), strict=True):
        result = read_frame(path)
        assert result.shape == (64, 96, 3) and result.dtype == np.uint8
        assert np.abs(result - enhanced(picture(number))).max() <= 1


def test_npy_and_png_give_the_same_picture(tmp_path):
    results = []
    for kind in ("npy", "png"):
        (tmp_path / kind).mkdir()
        path = manifests_of(tmp_path / kind, kind, count=1, workers=1)[0]
        assert run("worker.py", path, "--device", "cpu").returncode == 0
        results.append(read_frame(tmp_path / kind / "out" / "output_frames" / f"frame_000001.{kind}"))
    assert np.array_equal(*results)


def test_frames_whose_output_is_complete_are_skipped(tmp_path):
    path = manifests_of(tmp_path, "npy", workers=1)[0]
    complete = tmp_path / "out" / "output_frames" / "frame_000002.npy"
    np.save(complete, np.zeros((1,), np.uint8))
    done = run("worker.py", path, "--model", "lanczos")
    assert done.returncode == 0, done.stderr
    assert np.load(complete).size == 1
    assert len(list(complete.parent.iterdir())) == 5
    assert run("worker.py", path, "--model", "lanczos").returncode == 0  # all of it is done already


def test_a_missing_frame_is_one_line(tmp_path):
    path = manifests_of(tmp_path, "npy", workers=1)[0]
    (tmp_path / "frames" / "frame_000003.npy").unlink()
    done = run("worker.py", path, "--model", "lanczos")
    assert done.returncode == 1 and "frame_000003.npy" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr.splitlines()[-1]


def test_wrong_manifest_and_wrong_model_are_one_line(tmp_path):
    path = manifests_of(tmp_path, "npy", workers=1)[0]
    for arguments in ([tmp_path / "none.txt"], [path, "--model", "none"]):
        done = run("worker.py", *arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("worker: error: ") and done.stderr.count("\n") == 1


def test_half_a_frame_is_never_visible(tmp_path, monkeypatch):
    def torn(file, *_, **__):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("upscaling.frames.frame_files.write_npy", torn)
    with pytest.raises(OSError, match="No space"):
        write_frame(tmp_path / "frame_000001.npy", picture(1))
    assert not (tmp_path / "frame_000001.npy").exists()


@pytest.mark.parametrize(("name", "size"), [("yuv420p", (2560, 1440)), ("yuv420p10le", (33, 21)), ("rgb24", (5, 7))])
def test_a_frames_file_is_as_long_as_it_is_expected_to_be(tmp_path, name, size):
    layout = FrameLayout(*size, name)
    write_frame(tmp_path / "frame_000001.npy", np.zeros(layout.stored_shape, layout.format.dtype))
    assert (tmp_path / "frame_000001.npy").stat().st_size == npy_bytes(layout)


def test_16_bit_png_keeps_its_depth(tmp_path):
    deep = picture(1).astype(np.uint16) * 257
    write_frame(tmp_path / "frame_000001.png", deep)
    assert np.array_equal(read_frame(tmp_path / "frame_000001.png"), deep)
    assert cv2.imread(str(tmp_path / "frame_000001.png"), cv2.IMREAD_UNCHANGED).dtype == np.uint16


def test_sizes_follow_from_the_frames_where_the_manifest_has_none(tmp_path):
    path = manifests_of(tmp_path, "npy", workers=1)[0]
    conversion = frame_conversion(read_manifest(path), picture(1))
    assert (conversion.source.width, conversion.source.height) == (48, 32)
    assert (conversion.target.width, conversion.target.height) == (96, 64)
    assert conversion.target.format.rgb


@pytest.mark.parametrize(("value", "scale"), [(float("nan"), 2), (float("inf"), 4)])
def test_a_network_without_finite_values_is_named(tmp_path, value, scale):
    """At scale 4 the result is reduced, which must not hide infinities."""
    state = nets.rrdb(scale=4) if scale == 4 else nets.compact(scale=2)
    state["conv_last.bias" if scale == 4 else "body.6.bias"][0] = value
    model = nets.save_pth(state, tmp_path / "broken.pth")
    path = manifests_of(tmp_path, "npy", count=1, workers=1)[0]
    done = run("worker.py", path, "--model", model, "--device", "cpu")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "broken.pth returns NaN or infinite values, also in fp32; use another model"
    )
    assert not list((tmp_path / "out" / "output_frames").iterdir())


@pytest.mark.parametrize(
    ("model", "channels", "deep"),
    [
        *(("lanczos", *kind) for kind in ((1, False), (4, False), (1, True), (3, True), (4, True))),
        ("realesr-animevideov3", 1, False),
        ("realesr-animevideov3", 4, True),
    ],
)
def test_gray_rgba_and_16_bit_png_frames(tmp_path, model, channels, deep):
    samples = np.dstack([picture(1), picture(2)[..., :1]])[..., :channels]
    samples = samples.astype(np.uint16) * 257 if deep else samples
    samples = samples[..., 0] if channels == 1 else samples
    (tmp_path / "frames").mkdir()
    write_frame(tmp_path / "frames" / "frame_000001.png", samples)
    assert run("manifest.py", tmp_path / "frames", "--output-dir", tmp_path / "out").returncode == 0
    path = tmp_path / "out" / "manifests" / "worker_0_manifest.txt"
    done = run("worker.py", path, "--model", model, "--device", "cpu", "--precision", "fp32")
    assert done.returncode == 0, done.stderr
    result = read_frame(tmp_path / "out" / "output_frames" / "frame_000001.png")
    assert result.dtype == samples.dtype and result.shape == (64, 96, *samples.shape[2:])
    means = result.reshape(32, 2, 48, 2, -1).mean((1, 3))
    assert np.abs(means - samples.reshape(32, 48, -1)).mean() < (2000 if deep else 8)


def test_a_png_with_a_transparent_colour_or_a_palette(tmp_path):
    from PIL import Image

    Image.fromarray(picture(1)).save(tmp_path / "frame_000001.png", transparency=(1, 2, 3))
    Image.fromarray(picture(1)).quantize(16).save(tmp_path / "frame_000002.png")
    for number, expected in ((1, "rgba"), (2, "rgb24")):
        path = tmp_path / f"frame_{number:06d}.png"
        assert manifest_command.guess_pixel_format(path) == expected
        assert read_frame(path).shape[2] == len(expected.removesuffix("24"))
