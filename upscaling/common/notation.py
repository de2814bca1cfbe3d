"""Parsers of option values: scales, sizes in bytes, frame rates, ranges, parts. Standard library only."""

import numbers
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from upscaling.common.errors import InputError
from upscaling.common.text import did_you_mean

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
NAMED_SIZES = {"720p": (1280, 720), "1080p": (1920, 1080), "1440p": (2560, 1440), "2160p": (3840, 2160),
               "4k": (3840, 2160), "8k": (7680, 4320)}  # fmt: skip
MAX_RATE = 1000  # frames/s
MAX_PARTS = 1000  # of one video
MIN_BIT_RATE, MAX_BIT_RATE = 1000, 10**7  # bits/s, of one stream of sound


@dataclass(frozen=True)
class Scale:
    """What SCALE asks for: a `factor`, or a size in pixels; a side that is None follows from the other."""

    factor: Fraction | None = None
    width: int | None = None
    height: int | None = None

    def __str__(self) -> str:
        """The notation that `parse_scale` takes."""
        if self.factor is not None:
            return str(self.factor)
        return f"{self.width or ''}x{self.height or ''}"


@dataclass(frozen=True)
class FrameRange:
    """Frames `first` to `last`, both included, counted from 1 in presentation order; None is the end of the video."""

    first: int = 1
    last: int | None = None

    def __str__(self) -> str:
        """The notation that `parse_frames` takes."""
        return str(self.first) if self.first == self.last else f"{self.first}:{self.last or ''}"


@dataclass(frozen=True)
class TimeRange:
    """From `start` up to, but not including, `end`: seconds after the first frame; None is the end of the video."""

    start: Fraction = Fraction(0)
    end: Fraction | None = None

    def __str__(self) -> str:
        """The notation that `parse_time` takes, in seconds."""
        start, end = ("" if at is None else f"{float(at):.9f}".rstrip("0").rstrip(".") for at in (self.start, self.end))
        return f"{start}-{end}"


def round_half_up(number: Fraction) -> int:
    """The nearest integer; halves are rounded up."""
    return int(number + Fraction(1, 2))


def exact(number: numbers.Real) -> Fraction:
    """A number as the fraction that it stands for: 4/3 for the float 1.3333333333333333, 2997/125 for 23.976.

    A float is within 1e-16 of the number that was meant, and two fractions with denominators up to a million differ
    by 1e-12 or more. Raises InputError for infinity and NaN.
    """
    try:
        if isinstance(number, numbers.Rational):
            return Fraction(number)
        return Fraction(float(number)).limit_denominator(1_000_000)
    except (ValueError, OverflowError):
        raise InputError(f"invalid value {number} (choose a finite number)") from None


def parse_scale(value: str | Fraction) -> Scale:
    """`2`, `2x`, `x2`, `1.5`, `3/2`, `1920x1080`, `x1080` (height), `1920x` (width) or `4k`.

    InputError for anything else.
    """
    if isinstance(value, Fraction) and 1 <= value <= 8:
        return Scale(factor=value)
    text = str(value)
    low = text.strip().lower()
    if low in NAMED_SIZES:
        width, height = NAMED_SIZES[low]
        return Scale(width=width, height=height)
    if match := re.fullmatch(r"x?([1-8](\.[0-9]{1,9})?)x?", low, re.ASCII):  # before sizes: nobody wants 2 pixels
        factor = Fraction(match[1])
        if 1 <= factor <= 8:
            return Scale(factor=factor)
    if match := re.fullmatch(r"(?=.*[0-9])([1-9][0-9]{0,4})?x([1-9][0-9]{0,4})?", low, re.ASCII):
        return Scale(width=int(match[1]) if match[1] else None, height=int(match[2]) if match[2] else None)
    if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,9}|/[1-9][0-9]{0,5})?", low, re.ASCII):
        factor = Fraction(low)
        if 1 <= factor <= 8:
            return Scale(factor=factor)
    raise InputError(f"invalid value {text!r} (choose a SCALE from 1 to 8, or a size such as 1920x1080, x1080 or 4k)")


def parse_bytes(text: str) -> int:
    """`500M`, `2G`, `1048576`: bytes, in powers of 1024."""
    match = re.fullmatch(r"([0-9]{1,12})(\.[0-9]{1,3})?\s*([kmgt]?)i?b?", text.strip(), re.ASCII | re.IGNORECASE)
    if not match:
        raise InputError(f"invalid value {text!r} (choose a size in bytes such as 500M or 2G)")
    return int(Fraction(match[1] + (match[2] or "")) * UNITS[match[3].upper()])


def parse_bit_rate(text: str) -> int:
    """`128k`, `1.5M`, `96000`: bits/s, in powers of 1000."""
    match = re.fullmatch(r"([0-9]{1,9})(\.[0-9]{1,3})?\s*([km]?)", text.strip(), re.ASCII | re.IGNORECASE)
    rate = int(Fraction(match[1] + (match[2] or "")) * {"": 1, "k": 1000, "m": 10**6}[match[3].lower()]) if match else 0
    if not MIN_BIT_RATE <= rate <= MAX_BIT_RATE:
        raise InputError(f"invalid value {text!r} (choose bits/s such as 128k or 96000)")
    return rate


def parse_part(text: str) -> tuple[int, int]:
    """`2/4`: part 2 of 4; InputError for anything else."""
    match = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", text.strip(), re.ASCII)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= count or not 2 <= count <= MAX_PARTS:
        raise InputError(f"invalid value {text!r} (choose a part such as 2/4, of 2 to {MAX_PARTS} parts)")
    return number, count


def parse_frames(text: str) -> FrameRange:
    """`10:20`, `10:`, `:20` or `10` (that one frame); InputError for anything else."""
    match = re.fullmatch(r"([0-9]{1,9})?(:)?([0-9]{1,9})?", text.strip(), re.ASCII)
    if match and (match[1] or match[3]):
        first = int(match[1] or 1)
        last = int(match[3]) if match[3] else None if match[2] else first
        if first >= 1 and (last is None or last >= first):
            return FrameRange(first, last)
    raise InputError(f"invalid value {text!r} (choose a range of frames such as 100:200, 100: or :200)")


def parse_time(text: str) -> TimeRange:
    """`00:10-00:20`, `90-`, `-1:02:03.5`: start included, end excluded; InputError for anything else."""
    start_text, dash, end_text = text.strip().partition("-")
    start = _seconds(start_text) if start_text else Fraction(0)
    end = _seconds(end_text) if end_text else None
    if dash and start is not None and (end is not None if end_text else start_text) and (end is None or end > start):
        return TimeRange(start, end)
    raise InputError(
        f"invalid value {text!r} (choose a time range such as 00:10-00:20, 90- or -1:02:03.5, "
        "with [[hours:]minutes:]seconds)"
    )


def _seconds(text: str) -> Fraction | None:
    match = re.fullmatch(r"(?:(?:([0-9]{1,4}):)?([0-9]{1,5}):)?([0-9]{1,6}(?:\.[0-9]{1,9})?)", text.strip(), re.ASCII)
    return int(match[1] or 0) * 3600 + int(match[2] or 0) * 60 + Fraction(match[3]) if match else None


def parse_rate(value: str | Fraction) -> Fraction:
    """`25`, `23.976` or `30000/1001`: frames per second; InputError for anything else."""
    if isinstance(value, Fraction) and 0 < value <= MAX_RATE:
        return value
    text = str(value)
    if re.fullmatch(r"[0-9]{1,7}(\.[0-9]{1,6}|/[1-9][0-9]{0,6})?", text.strip(), re.ASCII):
        rate = Fraction(text.strip())
        if 0 < rate <= MAX_RATE:
            return rate
    raise InputError(
        f"invalid value {text!r} (choose a frame rate such as 25, 23.976 or 30000/1001, at most {MAX_RATE})"
    )


def integer(low: int, high: int, *also: int | str) -> Callable[[str], int | str]:
    """A parser of integers from `low` to `high`; values of `also` are allowed too."""

    def parse(text: str) -> int | str:
        for value in also:
            if text == str(value):
                return value
        parsed = int(text) if re.fullmatch(r"-?[0-9]{1,9}", text, re.ASCII) else None
        if parsed is None or not low <= parsed <= high:
            extra = "".join(f", or {value}" for value in also)
            raise InputError(f"invalid value {text!r} (choose an integer from {low} to {high}{extra})")
        return parsed

    return parse


def number(low: float, high: float) -> Callable[[str], float]:
    """A parser of numbers from `low` to `high`."""

    def parse(text: str) -> float:
        try:
            parsed = float(text)
        except ValueError:
            parsed = float("nan")
        if not low <= parsed <= high:
            raise InputError(f"invalid value {text!r} (choose a number from {low:g} to {high:g})")
        return parsed

    return parse


def choice(*words: str) -> Callable[[str], str]:
    """A parser of one of these words; the error names the nearest one."""

    def parse(text: str) -> str:
        if text not in words:
            raise InputError(f"invalid value {text!r} (choose from {', '.join(words)}){did_you_mean(text, words)}")
        return text

    return parse
