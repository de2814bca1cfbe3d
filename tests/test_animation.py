"""animation.py and animation_writer.py: times, loops and composed frames, read and written."""

import struct
import zlib
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from upscaling.common.errors import InputError
from upscaling.pictures.animation import animation_frames, read_animation
from upscaling.pictures.animation_writer import Timing, write_animation
from upscaling.pictures.formats import PNG_MARK
from upscaling.pictures.metadata import is_own_picture

WIDTH, HEIGHT = 20, 12


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def coded(samples: np.ndarray) -> bytes:
    """Rows of RGBA samples, deflated, without filters."""
    rows = samples.astype(">u2") if samples.dtype == np.uint16 else samples
    return zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))


def write_apng(path, frames, dispose: int, blend: int, hidden: bool) -> None:
    """`frames` are (samples, x, y), shown for (n + 1)/24 s each; the first covers all (PNG 3.0, 11.3.6)."""
    deep = frames[0][0].dtype == np.uint16
    data = PNG_MARK + chunk(b"IHDR", struct.pack(">2I5B", WIDTH, HEIGHT, 16 if deep else 8, 6, 0, 0, 0))
    data += chunk(b"acTL", struct.pack(">2I", len(frames), 3))
    if hidden:
        data += chunk(b"IDAT", coded(np.full_like(frames[0][0], 77)))
    sequence = 0
    for number, (samples, x, y) in enumerate(frames):
        height, width = samples.shape[:2]
        control = struct.pack(">5I2H2B", sequence, width, height, x, y, number + 1, 24, dispose, blend)
        data += chunk(b"fcTL", control)
        sequence += 1
        if number == 0 and not hidden:
            data += chunk(b"IDAT", coded(samples))
        else:
            data += chunk(b"fdAT", struct.pack(">I", sequence) + coded(samples))
            sequence += 1
    path.write_bytes(data + chunk(b"IEND", b""))


def composed(frames, dispose: int, blend: int) -> list[np.ndarray]:
    """What a browser shows; alpha is nothing or all here."""
    canvas = np.zeros_like(frames[0][0])
    shown = []
    for number, (samples, x, y) in enumerate(frames):
        before = canvas.copy()
        part = canvas[y : y + samples.shape[0], x : x + samples.shape[1]]
        part[...] = np.where(samples[..., 3:] > 0, samples, part) if blend else samples
        shown.append(canvas.copy())
        if dispose == 1 or (dispose == 2 and number == 0):
            part[...] = 0
        elif dispose == 2:
            canvas = before
    return shown


@pytest.mark.parametrize("dispose", [0, 1, 2])
@pytest.mark.parametrize("blend", [0, 1])
@pytest.mark.parametrize(("hidden", "dtype"), [(False, np.uint8), (True, np.uint8), (False, np.uint16)])
def test_apng_is_composed_as_the_standard_says(tmp_path, dispose, blend, hidden, dtype):
    frames = []
    for number in range(4):
        width, height = (WIDTH, HEIGHT) if number == 0 else (8, 6)
        samples = np.zeros((height, width, 4), dtype)
        samples[1:5, 2:7] = [np.iinfo(dtype).max - 10 * number, 40 * number, 7, np.iinfo(dtype).max]
        frames.append((samples, 3 * number, number))
    write_apng(tmp_path / "a.png", frames, dispose, blend, hidden)
    animation = read_animation(tmp_path / "a.png")
    assert animation is not None and animation.loops == 3 and animation.alpha
    assert animation.durations == tuple(Fraction(n + 1, 24) for n in range(4)) and animation.time_base == Fraction(
        1, 24
    )
    assert animation.pts == (0, 1, 3, 6)
    for found, wanted in zip(animation_frames(animation), composed(frames, dispose, blend), strict=True):
        seen = (found[..., 3] > 0) | (wanted[..., 3] > 0)
        assert np.array_equal(found[seen], wanted[seen])


def test_times_of_browsers(tmp_path):
    """10 ms or less is 100 ms; a GIF plays once more than it says, and once if it says nothing."""
    frames = [Image.new("RGB", (6, 4), (40 * number, 0, 0)) for number in range(4)]
    wanted = (Fraction(1, 10), Fraction(1, 10), Fraction(1, 50), Fraction(3))
    for name, options, loops in (
        ("a.gif", {"loop": 2}, 3), ("b.gif", {}, 1), ("c.gif", {"loop": 0}, 0), ("d.webp", {"loop": 2}, 2),
    ):  # fmt: skip
        path = tmp_path / name
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=[0, 10, 20, 3000], **options)
        animation = read_animation(path)
        assert animation is not None and (animation.durations, animation.loops) == (wanted, loops), name
        assert not animation.alpha and next(animation_frames(animation, 3)).shape == (4, 6, 3)
    frames[0].save(tmp_path / "one.gif")
    assert read_animation(tmp_path / "one.gif") is None


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.apng"])
@pytest.mark.parametrize("loops", [0, 1, 4])
def test_what_is_written_is_read_again(tmp_path, name, loops):
    starts = [Fraction(n * 1001, 24000) for n in (0, 1, 2, 7)]
    timing = Timing(starts, Fraction(1, 4), loops)
    frames = [np.full((HEIGHT, WIDTH, 3), 60 * number + 20, np.uint8) for number in range(4)]
    write_animation(tmp_path / name, iter(frames), timing)
    assert is_own_picture(tmp_path / name)
    animation = read_animation(tmp_path / name)
    assert animation is not None and animation.loops == loops and not animation.alpha
    unit = {"a.gif": 100, "a.webp": 1000}.get(name)
    ends = [*starts[1:], starts[-1] + Fraction(1, 4)]
    if unit:
        rounded = [round(time * unit) for time in (*starts, ends[-1])]
        assert animation.durations == tuple(Fraction(b - a, unit) for a, b in pairwise(rounded))
    else:
        assert animation.durations == tuple(b - a for a, b in zip(starts, ends, strict=True))
    for found, wanted in zip(animation_frames(animation), frames, strict=True):
        assert np.abs(found.astype(int) - wanted).max() <= 2


def test_frames_too_short_for_browsers_are_left_out(tmp_path):
    timing = Timing([Fraction(n, 120) for n in range(24)], Fraction(1, 120))
    frames = [np.full((4, 6, 3), 10 * number, np.uint8) for number in range(24)]
    write_animation(tmp_path / "a.gif", iter(frames), timing)
    animation = read_animation(tmp_path / "a.gif")
    assert (
        animation is not None
        and set(animation.durations) == {Fraction(1, 50)}
        and sum(animation.durations) == Fraction(1, 5)
    )


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.apng"])
def test_a_truncated_animation_is_one_line(tmp_path, name):
    noise = np.random.default_rng(1).integers(0, 255, (6, 40, 60, 3)).astype(np.uint8)
    write_animation(tmp_path / name, iter(noise), Timing([Fraction(n, 10) for n in range(6)], Fraction(1, 10)))
    data = (tmp_path / name).read_bytes()
    for size in (len(data) // 2, len(data) - 200):
        (tmp_path / name).write_bytes(data[:size])
        with pytest.raises(InputError, match=rf"{name} is damaged: .*; replace it") as caught:
            read_animation(tmp_path / name)
        assert "\n" not in str(caught.value)
