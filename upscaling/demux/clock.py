"""The clock of a transport or program stream made continuous: what to add to the times of every packet.

All times are ticks of 1/90000 s, which these files count in 33 bits (ISO/IEC 13818-1 2.4.3.7); "shifted" ones are
those that a packet has after its piece's shift is added.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise

from upscaling.common import text

SECOND = 90_000
WRAP = 1 << 33
OVERLAP = Fraction(1, 20)  # seconds of sound that may overlap at a break: two packets of AAC
NONE = -(1 << 63)
EDGE = 64  # packets on either side of a break, of which the first or last time is taken
_DELAY = 3 * SECOND  # from decoding to presentation; more is damage
_STEPS = 500  # packets on which the usual distance of two is measured
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


# What the search works on: a file's packets, stream by stream, with wraps undone, cut into pieces by the breaks


@dataclass
class Piece:
    """Packets of a stream, from number `first` up to the next piece, all shifted alike."""

    first: int
    epoch: int
    alone: bool = False  # its shift is its own, not the epoch's
    shift: int = 0  # approximate while breaks are searched, then final
    end: int | None = None  # the number after its last packet; None: there is no more


class Track:
    """One stream. Its packets have numbers, from 0.

    `clocks` are the times that grow from packet to packet, or NONE: dts, or pts if the stream has no dts. `step` is
    their usual distance, `damaged` are numbers of packets whose time is wrong.
    """

    def __init__(self, index: int, is_dense: bool) -> None:
        self.index = index
        self.is_dense = is_dense  # picture or sound: it has packets all the time
        self.clocks, self._raw, self._pts = array("q"), array("q"), array("q")
        self.step = 0
        self.number = -1  # of the packet that was looked at last
        self.pieces = [Piece(0, 0)]
        self.expected: int | None = None  # when the next packet begins, shifted
        self.damaged: set[int] = set()

    def add(self, clock: int, raw: int, pts: int) -> None:
        """Adds a packet; `raw` is its clock with wraps."""
        self.clocks.append(clock)
        self._raw.append(raw)
        self._pts.append(pts)

    def measure_step(self) -> None:
        """Sets `step` to the median of the first packets, without gaps and what goes back."""
        known = [clock for clock in self.clocks[:_STEPS] if clock != NONE]
        steps = sorted(after - before for before, after in pairwise(known) if 0 < after - before < SECOND)
        self.step = steps[len(steps) // 2] if steps else 0

    @property
    def piece(self) -> Piece:
        """The one that the packet looked at last is in."""
        return self.pieces[-1]

    def cut(self, epoch: int, shift: int, alone: bool = False) -> None:
        """Begins a new piece with the packet looked at last."""
        self.piece.end = self.number
        self.pieces.append(Piece(self.number, epoch, alone, shift))

    def known(self, first: int, end: int) -> list[int]:
        """The clocks of packets `first` to `end`, as far as they exist."""
        return [clock for clock in self.clocks[max(first, 0) : end] if clock != NONE]

    def start(self, piece: Piece) -> int:
        """The earliest presentation time of a piece, not shifted."""
        end = self._end_number(piece)
        return min(self._shown(piece.first, min(piece.first + EDGE, end)) or self._shown(piece.first, end) or [0])

    def end(self, piece: Piece) -> int:
        """Where the last frame of a piece ends, shifted, if it is as long as the usual step (durations are guesses)."""
        end = self._end_number(piece)
        shown = self._shown(max(piece.first, end - EDGE), end) or self._shown(piece.first, end) or [0]
        return piece.shift + max(shown) + self.step

    def _end_number(self, piece: Piece) -> int:
        return len(self.clocks) if piece.end is None else piece.end

    def _shown(self, first: int, end: int) -> list[int]:
        """Presentation times, not shifted, without damaged ones."""
        found = []
        for number in range(first, end):
            clock, pts = self.clocks[number], self._pts[number]
            if clock != NONE and number not in self.damaged:
                pts = clock if pts == NONE else near(pts, clock)
                found.append(pts if abs(pts - clock) < _DELAY else clock)
        return found

    def shifts(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(numbers, what to add to the times of packets from each of them on)."""
        numbers, shifts = [], []
        wrap = 0
        for piece in self.pieces:
            for number in range(piece.first, self._end_number(piece)):
                if self.clocks[number] != NONE:
                    wrap = self.clocks[number] - self._raw[number]
                if not shifts or piece.shift + wrap != shifts[-1]:
                    numbers.append(number)
                    shifts.append(piece.shift + wrap)
        return tuple(numbers), tuple(shifts)


def tracks_of(packets: PacketTimes, dense: set[int]) -> dict[int, Track]:
    """Stream index → its track."""
    by_dts = _streams_with_dts(packets)
    tracks: dict[int, Track] = {}
    for stream, raw, pts, clock in _unwrapped(packets, by_dts):
        if stream not in tracks:
            tracks[stream] = Track(stream, stream in dense)
        tracks[stream].add(clock, raw, pts)
    for track in tracks.values():
        track.measure_step()
    return tracks


def _streams_with_dts(packets: PacketTimes) -> set[int]:
    return {stream for stream, dts in zip(packets.stream, packets.dts, strict=True) if dts != NONE}


def _unwrapped(packets: PacketTimes, by_dts: set[int]) -> Iterator[tuple[int, int, int, int]]:
    """(stream, raw, pts, clock): each time as near as 33 bits allow to the one before it in its stream."""
    last: dict[int, int] = {}
    latest: int | None = None
    for stream, dts, pts in zip(packets.stream, packets.dts, packets.pts, strict=True):
        raw = clock = dts if stream in by_dts else pts
        before = last.get(stream, latest)
        if raw != NONE:
            clock = raw if before is None else near(raw, before)
            last[stream] = latest = clock
        yield stream, raw, pts, clock
