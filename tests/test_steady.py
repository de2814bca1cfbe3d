"""What --steady does to frames: made-up networks and motions whose right result is known."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from upscaling.frames.conversion import FrameConversion
from upscaling.frames.layout import FrameLayout
from upscaling.frames.pixel_formats import FORMATS
from upscaling.inference.steady import steady_frames

WIDTH, HEIGHT = 96, 72


def scene(width: int = WIDTH, height: int = HEIGHT, left: float = 0, top: float = 0, seed: int = 1) -> np.ndarray:
    """A smooth picture with much to hold on to, seen from (left, top): (height, width) float32 in 50 to 200."""
    x, y = np.meshgrid(np.arange(width) + left, np.arange(height) + top)
    waves = np.random.default_rng(seed).uniform(0.05, 0.45, (12, 2)) * ([[1, 1], [1, -1]] * 6)
    shift = np.random.default_rng(seed + 1).uniform(0, 6.28, 12)
    total = sum(np.sin(a * x + b * y + s) for (a, b), s in zip(waves, shift, strict=True))
    return (125 + 75 * np.clip(total / 6, -1, 1)).astype(np.float32)


def conversion(pixel_format: str = "gray", across: float = 2, down: float = 2, full_range: bool = True, **size: int):
    width, height = size.get("width", WIDTH), size.get("height", HEIGHT)
    source = FrameLayout(width, height, pixel_format, full_range=full_range)
    return FrameConversion(
        source, FrameLayout(round(width * across), round(height * down), pixel_format, full_range=full_range)
    )


def samples(picture: np.ndarray) -> np.ndarray:
    return picture.round().clip(0, 255).astype(np.uint8).reshape(-1)


def steadied(frames: list, upscaled: list, way: FrameConversion, wanted: range | None = None) -> list[np.ndarray]:
    return list(steady_frames(frames, upscaled, wanted or range(len(frames)), way, lambda: None))


def enlarged(picture: np.ndarray, way: FrameConversion) -> np.ndarray:
    return cv2.resize(picture, (way.target.width, way.target.height), interpolation=cv2.INTER_LANCZOS4)


def flickering(count: int, way: FrameConversion, picture: np.ndarray | None = None) -> tuple[list, list]:
    """A scene that stands still, and a network that adds other noise to each frame."""
    picture = scene() if picture is None else picture
    noise = np.random.default_rng(5).normal(0, 6, (count, way.target.height, way.target.width))
    return [samples(picture)] * count, [samples(enlarged(picture, way) + n) for n in noise]


def test_what_flickers_on_a_still_scene_holds_stiller():
    way, calls = conversion(), []
    frames, upscaled = flickering(5, way)
    steady = list(steady_frames(frames, upscaled, range(5), way, lambda: calls.append(1)))
    before, after = (np.diff(np.stack(s).astype(float), axis=0).std() for s in (upscaled, steady))
    assert after < 0.6 * before  # the mean of three, less what the clamp keeps out: differences would be 1/3 without it
    truth = enlarged(scene(), way).reshape(-1)
    assert np.abs(steady[2] - truth).mean() < 0.75 * np.abs(upscaled[2] - truth).mean()
    assert len(calls) == 5


def test_a_cut_leaves_both_sides_as_they_were():
    way = conversion()
    frames, upscaled = flickering(2, way)
    other = scene(seed=9)
    others, after = flickering(2, way, 255 - other)
    steady = steadied([frames[0], others[0]], [upscaled[0], after[1]], way)
    assert np.array_equal(steady[0], upscaled[0])
    assert np.array_equal(steady[1], after[1])
    whole = steadied([*frames, *others], [*upscaled, *after], way)
    alone = steadied(frames, upscaled, way)
    assert np.array_equal(whole[1], alone[1])


def test_a_passing_object_leaves_no_ghost():
    """Nothing goes beyond the detail that the network gave the neighbouring pixels of the same frame."""
    way = conversion()
    frames, upscaled = [], []
    for step in range(3):
        picture = scene(left=0.0)
        detail = np.zeros((HEIGHT * 2, WIDTH * 2), np.float32)
        left = 10 + 25 * step  # pixels of the input: far more than it is wide
        picture[20:40, left : left + 12] = 250 * (np.indices((20, 12)).sum(0) // 3 % 2)
        detail[40:80, 2 * left : 2 * left + 24] = 20
        frames.append(samples(picture))
        upscaled.append(samples(enlarged(picture, way).clip(25, 225) + detail))
    result = steadied(frames, upscaled, way)[1].reshape(HEIGHT * 2, WIDTH * 2).astype(int)
    plain = enlarged(frames[1].reshape(HEIGHT, WIDTH).astype(np.float32), way)
    own = upscaled[1].reshape(result.shape) - plain
    box = np.ones((3, 3), np.uint8)
    assert np.all(result >= plain + cv2.erode(own, box) - 1)
    assert np.all(result <= plain + cv2.dilate(own, box) + 1)


@pytest.mark.parametrize(("across", "down"), [(2, 2), (3, 1), (1.5, 2.25)])
def test_moved_detail_lies_where_it_belongs(across: float, down: float):
    """A network that adds true detail to a scene that moves by less than a pixel of the output, in both axes."""
    way = conversion(across=across, down=down)
    x, y = np.meshgrid((np.arange(way.target.width) + 0.5) / across, (np.arange(way.target.height) + 0.5) / down)
    frames, upscaled, truth = [], [], []
    for step in range(3):
        left, top = 0.7 * step, 0.4 * step
        frames.append(samples(scene(left=left, top=top)))
        fine = 12 * np.sin(1.1 * (x + left)) * np.sin(0.9 * (y + top))  # fixed to the scene
        truth.append(enlarged(scene(left=left, top=top), way) + fine)
        sign = 1 if step == 1 else 0  # only the frame in the middle is wrong
        upscaled.append(samples(truth[-1] + sign * np.random.default_rng(2).normal(0, 8, fine.shape)))
    inner = (slice(8, -8), slice(8, -8))

    def error(picture: np.ndarray) -> float:
        return float(np.abs(picture.reshape(fine.shape) - truth[1])[inner].mean())

    assert error(steadied(frames, upscaled, way)[1]) < 0.62 * error(upscaled[1])


def test_each_frame_depends_on_its_neighbours_alone():
    way = conversion()
    frames = [samples(scene(left=1.3 * step)) for step in range(6)]
    noise = np.random.default_rng(3).normal(0, 5, (6, HEIGHT * 2, WIDTH * 2))
    upscaled = [samples(enlarged(scene(left=1.3 * s), way) + n) for s, n in enumerate(noise)]
    whole = steadied(frames, upscaled, way)
    for index in range(1, 5):
        near = slice(index - 1, index + 2)
        (alone,) = steadied(frames[near], upscaled[near], way, range(1, 2))
        assert np.array_equal(alone, whole[index])
    for frame in (*frames, *upscaled):
        frame.flags.writeable = False
    assert np.array_equal(steadied(frames, upscaled, way, range(4, 6))[0], whole[4])


IN_A_PROCESS = """
import hashlib, sys
import cv2
cv2.setNumThreads(int(sys.argv[1]))
sys.path.insert(0, sys.argv[2])
import test_steady as t
way = t.conversion("yuv420p", 2, 2)
frames, upscaled = t.coloured(way, 3)
print(hashlib.sha256(b"".join(f.tobytes() for f in t.steadied(frames, upscaled, way))).hexdigest())
"""


def test_another_process_with_other_threads_gives_the_same_bits():
    folder = __file__.rpartition("/")[0]
    found = {
        subprocess.run(
            [sys.executable, "-c", IN_A_PROCESS, threads, folder], capture_output=True, text=True, check=True
        ).stdout
        for threads in ("1", "7")
    }
    assert len(found) == 1


def coloured(way: FrameConversion, count: int) -> tuple[list, list]:
    """Frames of any format: a still scene in luma or all channels, random chroma and alpha, a flickering network."""
    random = np.random.default_rng(4)
    made = []
    for layout, noise in ((way.source, 0), (way.target.padded, 6)):
        unit, black = layout.peak / 255, 0.0
        if not (layout.full_range or layout.format.rgb):
            unit, black = 219 * (1 << (layout.format.depth - 8)) / 255, 16.0 * (1 << (layout.format.depth - 8))
        picture = cv2.resize(scene(way.source.width, way.source.height), (layout.width, layout.height))
        flats = []
        for _ in range(count):
            flat = random.integers(0, layout.peak, layout.sample_count, endpoint=True).astype(layout.format.dtype)
            plane = layout.planes(flat)[0]
            luma = black + unit * (picture + random.normal(0, noise, picture.shape))
            if layout.format.rgb:
                plane[..., :3] = luma.round().clip(0, layout.peak)[..., None]
            else:
                plane[...] = luma.round().clip(0, layout.peak)
            flats.append(flat)
        made.append(flats)
    return made[0], made[1]


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_changes_in_luma_only(name: str, full_range: bool):
    way = conversion(name, 2.1, 1.4, full_range, width=47, height=37)
    frames, upscaled = coloured(way, 3)
    result = steadied(frames, upscaled, way, range(1, 2))[0]
    assert result.dtype == upscaled[1].dtype and result.shape == upscaled[1].shape
    layout = way.target.padded
    (before, *rest_before), (after, *rest_after) = layout.planes(upscaled[1]), layout.planes(result)
    assert all(np.array_equal(a, b) for a, b in zip(rest_before, rest_after, strict=True))
    change = after.astype(float) - before
    if layout.format.rgb:
        assert not change[..., 3:].any()
        assert np.all(change[..., :3] == change[..., :1])
        change = change[..., 0]
    assert 1 < change.std() * 255 / layout.peak < 6  # the same strength at every depth and range


def test_whiter_than_white_stays():
    way = conversion("yuv420p", full_range=False)
    frames, upscaled = coloured(way, 3)
    for layout, flats in ((way.source, frames), (way.target, upscaled)):
        for flat in flats:
            layout.planes(flat)[0][:20, :20] = 254
    (result,) = steadied(frames, upscaled, way, range(1, 2))
    assert np.all(way.target.planes(result)[0][2:16, 2:16] == 254)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (15, 200), (16, 16), (40, 90), (91, 33), (128, 31), (300, 17)])
def test_small_frames_of_any_shape(width: int, height: int):
    way = conversion(width=width, height=height)
    frames, upscaled = flickering(3, way, scene(width, height))
    result = steadied(frames, upscaled, way)
    if min(width, height) < 16:
        assert all(np.array_equal(a, b) for a, b in zip(result, upscaled, strict=True))
    else:
        assert (
            np.diff(np.stack(result).astype(float), axis=0).std()
            < 0.8 * np.diff(np.stack(upscaled).astype(float), axis=0).std()
        )
