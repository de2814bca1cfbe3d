"""Animations in GIF, PNG (APNG) and WebP files: times and loops from the file, frames composed.

A frame shown for 10 ms or less is shown for 100 ms, as all browsers do.
"""

import contextlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from upscaling.common.errors import InputError
from upscaling.common.memory_limits import check_memory
from upscaling.common.text import display_name
from upscaling.pictures.apng import Apng
from upscaling.pictures.formats import HEAD, PNG_MARK, format_of, format_of_head
from upscaling.pictures.reading import DAMAGE, opened, read_bytes, reason

FORMATS = ("gif", "png", "webp")
SHORTEST, BROWSERS = Fraction(1, 100), Fraction(1, 10)  # seconds
_MAX_TICKS = 1_000_000  # per second of the common time base


@dataclass(frozen=True)
class Animation:
    """An animation: how long each frame is shown, in seconds, and how often all are; 0 is for ever."""

    path: Path
    format: str
    width: int
    height: int
    durations: tuple[Fraction, ...]
    loops: int
    alpha: bool  # some pixel of some frame is not opaque

    @property
    def time_base(self) -> Fraction:
        """Seconds per tick: every frame is a whole number of ticks, if that is not too small."""
        ticks = math.lcm(*(duration.denominator for duration in self.durations))
        if ticks > _MAX_TICKS:
            return Fraction(1, 90000)
        return Fraction(math.gcd(*(round(duration * ticks) for duration in self.durations)), ticks)

    @property
    def pts(self) -> tuple[int, ...]:
        """When each frame is shown, in ticks, strictly increasing."""
        times = itertools.accumulate(self.durations[:-1], initial=Fraction(0))
        return tuple(round(time / self.time_base) for time in times)


def read_animation(path: Path) -> Animation | None:
    """The animation in a file; None if it holds one picture. InputError, one line, if it is damaged."""
    if not path.is_file() or (found := format_of(path)) not in FORMATS:
        return None
    data = read_bytes(path)
    if format_of_head(data[:HEAD]) != found:
        return None
    with _one_line(path):
        durations, loops, transparent = {"gif": _gif, "png": _apng, "webp": _webp}[found](data)
    if len(durations) < 2:
        return None
    durations = tuple(duration if duration > SHORTEST else BROWSERS for duration in durations)
    alpha, size = False, (0, 0)
    for frame in _frames(path, data):  # all of them: what is damaged shows before the work starts
        size = (frame.shape[1], frame.shape[0])
        alpha = alpha or bool(transparent and (frame[..., 3] < np.iinfo(frame.dtype).max).any())
    return Animation(path, found, *size, durations, loops, alpha)


def animation_frames(animation: Animation, first: int = 0) -> Iterator[np.ndarray]:
    """The composed frames from index `first` on: (height, width, 3) RGB or, if the animation has alpha, (height,
    width, 4) RGBA, uint8, or uint16 of an APNG of 16 bits. InputError if the file is damaged.
    """
    channels = 4 if animation.alpha else 3
    frames = _frames(animation.path, read_bytes(animation.path))
    for frame in itertools.islice(frames, first, len(animation.durations)):
        yield np.ascontiguousarray(frame[..., :channels])


def _frames(path: Path, data: bytes) -> Iterator[np.ndarray]:
    """All composed frames, RGBA (height, width, 4), uint8 or uint16."""
    with _one_line(path), opened(data) as picture:
        if data.startswith(PNG_MARK):
            yield from Apng(data).composed()
            return
        for index in range(getattr(picture, "n_frames", 1)):
            picture.seek(index)
            yield np.asarray(picture.convert("RGBA"))


@contextlib.contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """What is wrong with a file as an InputError."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{display_name(path)}: {error}") from error
    except DAMAGE as error:
        check_memory(error)
        raise InputError(f"{display_name(path)} is damaged: {reason(error)}; replace it") from error


# What the files say: (seconds of each frame, loops, whether a pixel may be transparent)

_Times = tuple[tuple[Fraction, ...], int, bool]


def _gif(data: bytes) -> _Times:
    """GIF89a, sections 18 to 26; loops by the application extension NETSCAPE2.0, which plays once more than it says."""
    durations, loops, transparent = [], 1, False
    delay = 0
    at = 13 + _gif_table(data[10:11])
    while at < len(data):
        block = data[at]
        if block == 0x2C:
            durations.append(Fraction(delay, 100))
            x, y, width, height = (int.from_bytes(data[at + n : at + n + 2], "little") for n in (1, 3, 5, 7))
            covered = x == y == 0 and width >= int.from_bytes(data[6:8], "little")
            transparent |= len(durations) == 1 and not (covered and height >= int.from_bytes(data[8:10], "little"))
            at, delay = at + 11 + _gif_table(data[at + 9 : at + 10]), 0
        elif block == 0x21:
            if data[at + 1 : at + 3] == b"\xf9\x04":
                flags, delay = data[at + 3], int.from_bytes(data[at + 4 : at + 6], "little")
                transparent |= bool(flags & 1) or flags >> 2 & 7 == 2
            elif data[at + 3 : at + 14] in (b"NETSCAPE2.0", b"ANIMEXTS1.0") and data[at + 14 : at + 16] == b"\3\1":
                count = int.from_bytes(data[at + 16 : at + 18], "little")
                loops = count + 1 if count else 0
            at += 2
        else:
            break
        while at < len(data) and data[at]:  # data in sub-blocks
            at += 1 + data[at]
        at += 1
    return tuple(durations), loops, transparent


def _gif_table(flags: bytes) -> int:
    """Bytes of the colour table that a byte of flags announces."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _apng(data: bytes) -> _Times:
    file = Apng(data)
    return file.durations, file.loops, file.may_be_transparent


def _webp(data: bytes) -> _Times:
    """WebP container specification: VP8X, ANIM and ANMF."""
    durations, loops, transparent = [], 0, False
    at = 12
    while at + 8 <= len(data):
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        content = data[at + 8 : at + 8 + min(size, 24)]
        if kind == b"VP8X" and content:
            transparent = True  # frames may leave the canvas free without the flag
        elif kind == b"ANIM":
            loops = int.from_bytes(content[4:6], "little")
        elif kind == b"ANMF":
            durations.append(Fraction(int.from_bytes(content[12:15], "little"), 1000))
        at += 8 + size + size % 2
    return tuple(durations), loops, transparent
