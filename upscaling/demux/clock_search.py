"""Breaks in the clock of a transport or program stream found, and closed by common shifts.

Recordings that are joined, or edited, have clocks that start again or jump. Players go on; so do the times here. From
a break on, one shift is added to the times of all streams: picture and sound stay together, and the picture goes on
one frame after the last one before the break. The shift is larger if sound would overlap by more than OVERLAP.

What is a break: times that go back, or that jump ahead by more than GAP, in all streams that have packets there. A
smaller jump is a gap, as is one of a single stream that agrees with the others' times when it comes back; gaps are
kept. A stream whose times disagree with all the others' is moved alone. A time that only one packet has is damaged,
and is left to what repairs single times (timestamps.py, mux/packet_repair.py).

Wraps of the 33 bits are undone without a word.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from upscaling.demux.clock import NONE, OVERLAP, SECOND, WRAP, Break, Clock, PacketTimes, near

GAP = 10 * SECOND  # FFmpeg's dts_delta_threshold, too
BACK = SECOND // 10  # times that go back less are damage
_HORIZON, _EVIDENCE = 3 * SECOND, 3 * SECOND // 2  # see _Search._others
_EDGE = 64  # packets on either side of a break, of which the first or last time is taken
_DELAY = 3 * SECOND  # from decoding to presentation; more is damage
_STEPS = 500  # packets on which the usual distance of two is measured
_CONFIRMING = 2  # packets that must follow a jump
_DAMAGE = SECOND // 2  # one damaged time is that of several packets of sound, which last so long
_REORDERED = 16  # packets on either side of a small jump, to see whether times are in the order of presentation


@dataclass
class _Piece:
    """Packets of a stream from `first` (a number in the stream) on, all shifted alike."""

    first: int
    epoch: int
    alone: bool = False  # its shift is its own, not the epoch's
    shift: int = 0  # approximate while breaks are searched, then final


class _Track:
    """One stream while the packets are gone through in file order."""

    def __init__(self, packets: Sequence[int], is_dense: bool, step: int):
        self.packets = packets  # places in the file
        self.is_dense = is_dense  # picture or sound: it has packets all the time
        self.step = step  # the usual time from one packet to the next, in ticks
        self.number = -1  # of the current packet
        self.pieces = [_Piece(0, 0)]
        self.expected: int | None = None  # when the next packet begins, shifted
        self.damaged: set[int] = set()  # numbers

    @property
    def piece(self) -> _Piece:
        return self.pieces[-1]


def find_clock(packets: PacketTimes, dense: set[int], main: int) -> Clock:
    """The clock of a file with these packets.

    `dense` are the indices of picture and sound streams, `main` is that of the main stream.
    """
    return _Search(packets, dense, main).run()


class _Search:
    def __init__(self, packets: PacketTimes, dense: set[int], main: int):
        self._packets, self._main = packets, main
        places: dict[int, array] = {}
        for place, stream in enumerate(packets.stream):
            places.setdefault(stream, array("q")).append(place)
        # Streams of which the first packets have decoding times: those are in order, presentation times may not be.
        self._by_dts = {
            stream: any(packets.dts[at] != NONE for at in found[:_STEPS]) for stream, found in places.items()
        }
        self._clocks = array("q", self._unwrapped())  # for each packet, ticks or NONE
        self._tracks = {
            index: _Track(found, index in dense, self._step([self._clocks[at] for at in found[:_STEPS]]))
            for index, found in places.items()
        }
        self._shifts = [0]  # of each epoch, approximate
        # The last packet of picture or sound, and the last one of another such stream: (track, time when it was).
        self._last: tuple[_Track | None, int] = (None, 0)
        self._other: tuple[_Track | None, int] = (None, 0)

    def _raw(self, place: int) -> int:
        """A packet's dts, or its pts if its stream has no dts."""
        times = self._packets.dts if self._by_dts[self._packets.stream[place]] else self._packets.pts
        return times[place]

    def _unwrapped(self) -> Iterator[int]:
        """Each packet's time, as near as 33 bits allow to the one before it in its stream."""
        last: dict[int, int] = {}
        latest: int | None = None
        for place, stream in enumerate(self._packets.stream):
            time, before = self._raw(place), last.get(stream, latest)
            if time != NONE:
                time = time if before is None else near(time, before)
                last[stream] = latest = time
            yield time

    @staticmethod
    def _step(clocks: list[int]) -> int:
        """The median time between packets with those times, without gaps and what goes back."""
        known = [clock for clock in clocks if clock != NONE]
        steps = sorted(after - before for before, after in pairwise(known) if 0 < after - before < SECOND)
        return steps[len(steps) // 2] if steps else 0

    def run(self) -> Clock:
        for place, (stream, time) in enumerate(zip(self._packets.stream, self._clocks, strict=True)):
            track = self._tracks[stream]
            track.number += 1
            if time == NONE:
                continue
            if not track.is_dense:
                self._follow(track, time)
            elif self._fits(track, time) or self._breaks(place, track, time):
                shifted = time + track.piece.shift
                track.expected = shifted + track.step
                if not track.piece.alone:
                    self._other = self._other if self._last[0] is track else self._last
                    self._last = (track, shifted)
            else:
                track.damaged.add(track.number)
        self._settle()
        return self._clock()

    # Each packet: does it continue its stream?

    def _follow(self, track: _Track, time: int) -> None:
        """Subtitles and data have the shift that brings them nearest to picture and sound."""
        epochs = range(track.piece.epoch, len(self._shifts))
        self._enter(track, min(epochs, key=lambda epoch: self._away(track, time + self._shifts[epoch])))

    def _fits(self, track: _Track, time: int) -> bool:
        """Whether a packet goes on in its stream's epoch, or in a later one that another stream has begun."""
        piece, found = track.piece, []
        is_far = track.expected is not None and time + piece.shift > track.expected + SECOND
        if self._is_next(track, time + piece.shift) and (not is_far or self._is_confirmed(track, time)):
            if piece.epoch == len(self._shifts) - 1:
                return True
            found.append((self._distance(track, time + piece.shift), piece.epoch))
        for epoch in range(piece.epoch + 1, len(self._shifts)):
            distance = self._distance(track, time + self._shifts[epoch])
            if distance < GAP:  # it may overlap what came before: that is known when all streams have begun
                found.append((distance, epoch))
        if found:
            self._enter(track, min(found)[1])
        return bool(found)

    def _is_next(self, track: _Track, shifted: int) -> bool:
        if track.expected is None:
            return True
        ahead = shifted - track.expected
        return ahead > -BACK and (ahead < GAP or self._away(track, shifted) < GAP)

    def _distance(self, track: _Track, shifted: int) -> int:
        """How far a time is from what its stream, or the others, would go on with."""
        away = self._away(track, shifted)
        return away if track.expected is None else min(away, abs(shifted - track.expected))

    def _away(self, track: _Track, shifted: int) -> int:
        """How far a time is from where the other streams of picture and sound are; very far if there are none."""
        other, now = self._other if self._last[0] is track else self._last
        return WRAP if other is None else abs(shifted - now)

    def _enter(self, track: _Track, epoch: int) -> None:
        if epoch != track.piece.epoch:
            track.pieces.append(_Piece(track.number, epoch, shift=self._shifts[epoch]))

    # A packet that does not: damage, a gap, or a break?

    def _breaks(self, place: int, track: _Track, time: int) -> bool:
        """Whether the packet's time can be kept, after a break was made if that is what it takes."""
        assert track.expected is not None
        if not self._is_confirmed(track, time):
            return False
        if track.number == 1:  # what was there before is one packet: that one is damaged
            track.damaged.add(0)
            return True
        if self._away(track, time + track.piece.shift) < GAP < self._away(track, track.expected):
            return True  # damaged times until now
        shift = track.expected - time
        common, agrees = self._others(place, track, time, shift)
        if common:
            self._shifts.append(shift)
            self._enter(track, len(self._shifts) - 1)
        elif not agrees:
            track.pieces.append(_Piece(track.number, track.piece.epoch, alone=True, shift=shift))
        return True

    def _is_confirmed(self, track: _Track, time: int) -> bool:
        """Whether the stream's next packets go on from this time, and not from where the stream was before."""
        assert track.expected is not None
        number, old = track.number, track.expected - track.piece.shift
        following = self._known(track, number + 1, number + 1 + _EDGE)
        for count, (before, after) in enumerate(pairwise([time, *following])):
            if count < _CONFIRMING and not -BACK < after - before < GAP:
                return False
            if -BACK < after - old < min(GAP, abs(time - old)):
                return False
            if count >= _CONFIRMING and after - time > _DAMAGE:
                break
        if abs(time - old) < SECOND:  # streams whose times are in the order of presentation go back again and again
            before, after = (
                self._known(track, number - _REORDERED, number),
                self._known(track, number, number + _REORDERED),
            )
            return all(a < b for a, b in [*pairwise(before), *pairwise(after)])
        return bool(following)

    def _known(self, track: _Track, first: int, end: int) -> list[int]:
        """The times of packets `first` to `end`, not shifted, as far as they exist."""
        times = [self._clocks[place] for place in track.packets[max(first, 0) : end]]
        return [time for time in times if time != NONE]

    def _others(self, place: int, track: _Track, time: int, shift: int) -> tuple[bool, bool]:
        """(whether the other streams break as well, whether this one's times agree with theirs if they don't).

        They do if one of them goes on in the new epoch within _HORIZON, or if none goes on in the old one for
        _EVIDENCE: multiplexers send picture and sound up to a second apart.
        """
        assert track.expected is not None
        old, began = time + track.piece.shift, {}
        expected = {  # of the streams that had packets until now
            index: other.expected
            for index, other in self._tracks.items()
            if other.is_dense and other.expected is not None and abs(other.expected - track.expected) < GAP
        }
        is_ahead = old > track.expected
        lasted = nearest = None
        for at in range(place + 1, len(self._clocks)):
            stream, clock = self._packets.stream[at], self._clocks[at]
            if clock == NONE or stream not in expected:
                continue
            other = self._tracks[stream]
            if other is track:
                if clock - time > _HORIZON:
                    break
                continue
            shifted, due = clock + other.piece.shift, expected[stream]
            if -BACK < shifted - due < GAP:
                expected[stream] = shifted + other.step
                began.setdefault(stream, shifted)
                lasted = max(lasted or 0, shifted - began[stream])
                away = abs(shifted - old)
                nearest = away if nearest is None or not is_ahead else min(away, nearest)
            elif min(abs(clock + shift - due), abs(clock + shift - track.expected)) < GAP:
                return True, False
        if lasted is None or nearest is None or lasted < _EVIDENCE:
            return not (is_ahead and nearest is not None and nearest < GAP), True
        return False, nearest < GAP

    # The final shifts

    def _settle(self) -> None:
        """Replaces the approximate shifts by those that the packets on both sides of each break ask for."""
        final = [0]
        self._set(0, 0)
        for epoch in range(1, len(self._shifts)):
            picture, others = None, []
            for index, track in self._tracks.items():
                for before, piece in zip(track.pieces, track.pieces[1:], strict=False):
                    if piece.epoch == epoch != before.epoch and track.is_dense:
                        distance = self._end(track, before) - self._start(track, piece)
                        picture = distance if index == self._main else picture
                        others += [distance] if index != self._main else []
            longest = max(others, default=picture)
            if picture is None or (longest is not None and longest > picture + OVERLAP * SECOND):
                picture = longest
            final.append(self._shifts[epoch] if picture is None else picture)
            self._set(epoch, final[epoch])

    def _set(self, epoch: int, shift: int) -> None:
        """Sets the shift of an epoch's pieces; one that is moved alone follows the piece before it."""
        for track in self._tracks.values():
            for before, piece in zip([None, *track.pieces], track.pieces, strict=False):
                if piece.epoch == epoch:
                    piece.shift = shift
                    if piece.alone and before is not None:
                        piece.shift = self._end(track, before) - self._start(track, piece)

    def _span(self, track: _Track, piece: _Piece) -> tuple[int, int]:
        """Numbers of the piece's first packet and of the one after its last."""
        following = [other.first for other in track.pieces if other.first > piece.first]
        return piece.first, following[0] if following else len(track.packets)

    def _start(self, track: _Track, piece: _Piece) -> int:
        """The earliest time of a piece, not shifted."""
        first, end = self._span(track, piece)
        return min(self._starts(track, first, min(first + _EDGE, end)) or self._starts(track, first, end) or [0])

    def _end(self, track: _Track, piece: _Piece) -> int:
        """Where the last frame of a piece ends, shifted, if it is as long as the usual step (durations are guesses)."""
        first, end = self._span(track, piece)
        starts = self._starts(track, max(first, end - _EDGE), end) or self._starts(track, first, end) or [0]
        return piece.shift + max(starts) + track.step

    def _starts(self, track: _Track, first: int, end: int) -> list[int]:
        """The times of packets, not shifted, without damaged ones."""
        found = []
        for number in range(first, end):
            place = track.packets[number]
            pts, clock = self._packets.pts[place], self._clocks[place]
            if clock != NONE and number not in track.damaged:
                pts = clock if pts == NONE else near(pts, clock)
                found.append(pts if abs(pts - clock) < _DELAY else clock)
        return found

    def _clock(self) -> Clock:
        shifts = {}
        for index, track in self._tracks.items():
            changes: list[tuple[int, int]] = []
            wrap = 0
            for piece in track.pieces:
                for number in range(*self._span(track, piece)):
                    place = track.packets[number]
                    if self._clocks[place] != NONE:
                        wrap = self._clocks[place] - self._raw(place)
                    if not changes or piece.shift + wrap != changes[-1][1]:
                        changes.append((number, piece.shift + wrap))
            if any(shift for _, shift in changes):
                shifts[index] = tuple(zip(*changes, strict=True))
        main = self._tracks.get(self._main)
        span = (self._earliest(main), self._end(main, main.piece)) if main else None
        breaks = tuple(self._found(span[0] if span else 0))
        return Clock(breaks, shifts, len(main.packets) if main else 0, span)

    def _earliest(self, track: _Track) -> int:
        return track.pieces[0].shift + self._start(track, track.pieces[0])

    def _found(self, first: int) -> Iterator[Break]:
        """All breaks in order of time, which counts from `first`."""
        begins: dict[tuple[int, int | None], int] = {}
        for index, track in sorted(self._tracks.items(), key=lambda item: item[0] == self._main):  # the picture's last
            for piece in track.pieces[1:] if track.is_dense else []:
                begins[piece.epoch, index if piece.alone else None] = piece.shift + self._start(track, piece)
        for (_, stream), start in sorted(begins.items(), key=lambda item: item[1]):
            yield Break(Fraction(start - first, SECOND), stream)
