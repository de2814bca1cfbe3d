"""The clock of a transport or program stream made continuous: what to add to the times of every packet.

All times are ticks of 1/90000 s, which these files count in 33 bits (ISO/IEC 13818-1 2.4.3.7).
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from upscaling.common import text

SECOND = 90_000
WRAP = 1 << 33
OVERLAP = Fraction(1, 20)  # seconds of sound that may overlap at a break: two packets of AAC
NONE = -(1 << 63)
_MOST_LISTED = 5  # places in a message


class PacketTimes:
    """The times of packets in file order: columns `stream` (index), `dts` and `pts` in ticks, NONE if unknown."""

    def __init__(self, packets: Iterable[tuple[int, int | None, int | None]] = ()):
        self.stream, self.dts, self.pts = array("h"), array("q"), array("q")
        for packet in packets:
            self.add(*packet)

    def add(self, stream: int, dts: int | None, pts: int | None) -> None:
        self.stream.append(stream)
        self.dts.append(NONE if dts is None else dts)
        self.pts.append(NONE if pts is None else pts)


@dataclass(frozen=True)
class Break:
    """A break of the clock that is closed: `at` seconds after the first frame, for one `stream` or for all (None)."""

    at: Fraction
    stream: int | None


@dataclass(frozen=True)
class Clock:
    """What to add to the times of every packet of a file."""

    breaks: tuple[Break, ...] = ()
    # stream → (numbers of packets of the stream, from 0, from which on a shift holds; the shifts in ticks)
    shifts: Mapping[int, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    packets: int = 0  # of the main stream
    span: tuple[int, int] | None = None  # the main stream's first time and its end, shifted

    @property
    def is_continuous(self) -> bool:
        """Whether no time is changed."""
        return not self.shifts

    def shift(self, stream: int, number: int) -> int:
        """The ticks to add to the times of packet `number` of a stream."""
        if stream not in self.shifts:
            return 0
        numbers, shifts = self.shifts[stream]
        return shifts[max(bisect_right(numbers, number) - 1, 0)]

    def times(self, stream: int, number: int, dts: int | None, pts: int | None) -> tuple[int | None, int | None]:
        """(dts, pts) of packet `number` of a stream, shifted."""
        shift = self.shift(stream, number)
        dts = None if dts is None else dts + shift
        pts = None if pts is None else pts + shift
        if dts is not None and pts is not None:
            pts = near(pts, dts)  # one of them may have wrapped before the other
        return dts, pts


def clock_lines(clock: Clock) -> list[str]:
    """One line for the user about the breaks of all streams, and one for each stream that was moved alone."""
    lines = []
    for stream in sorted({each.stream for each in clock.breaks}, key=lambda stream: -1 if stream is None else stream):
        places = [each.at for each in clock.breaks if each.stream == stream]
        listed = ", ".join(text.clock(float(at)) for at in places[:_MOST_LISTED]) + (
            ", …" if places[_MOST_LISTED:] else ""
        )
        if stream is None:
            lines.append(f"its clock starts again or jumps at {listed}: all its streams go on there without a gap")
        else:
            lines.append(
                f"the times of stream {stream} alone jump at {listed}: that stream goes on there without a gap"
            )
    return lines


def near(time: int, other: int) -> int:
    """A 33-bit time as near to another as wraps allow."""
    return time + round(Fraction(other - time, WRAP)) * WRAP if abs(other - time) > WRAP // 2 else time
