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

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import count, pairwise

from upscaling.demux.clock import (
    EDGE,
    NONE,
    OVERLAP,
    SECOND,
    WRAP,
    Break,
    Clock,
    PacketTimes,
    Piece,
    Track,
    tracks_of,
)

GAP = 10 * SECOND  # FFmpeg's dts_delta_threshold, too
BACK = SECOND // 10  # times that go back less are damage
_HORIZON, _EVIDENCE = 3 * SECOND, 3 * SECOND // 2  # see _Search._others
_CONFIRMING = 2  # packets that must follow a jump
_DAMAGE = SECOND // 2  # one damaged time is that of several packets of sound, which last so long
_REORDERED = 16  # packets on either side of a small jump, to see whether times are in the order of presentation


def find_clock(packets: PacketTimes, dense: set[int], main: int) -> Clock:
    """The clock of a file with these packets.

    `dense` are the indices of picture and sound streams, `main` is that of the main stream.
    """
    tracks = tracks_of(packets, dense)
    search = _Search(packets, tracks)
    search.run()
    _settle(tracks, main, search.shifts)
    shifts = {index: track.shifts() for index, track in tracks.items()}
    picture = tracks.get(main)
    if picture is None:
        return Clock()
    first = picture.pieces[0].shift + picture.start(picture.pieces[0])
    return Clock(
        breaks=_breaks(tracks, main, first),
        shifts={index: found for index, found in shifts.items() if any(found[1])},
        packets=len(picture.clocks),
        span=(first, picture.end(picture.piece)),
    )


class _Search:
    """Goes through all packets in file order; afterwards the tracks are cut, and `shifts` are those of the epochs.

    An epoch is what lies between two breaks of all streams. The shifts are approximate.
    """

    def __init__(self, packets: PacketTimes, tracks: dict[int, Track]):
        self._packets, self._tracks = packets, tracks
        self.shifts = [0]
        # The last packet of picture or sound, and the last one of another such stream: (track, time when it was).
        self._last: tuple[Track | None, int] = (None, 0)
        self._other: tuple[Track | None, int] = (None, 0)

    def run(self) -> None:
        for place, stream in enumerate(self._packets.stream):
            track = self._tracks[stream]
            track.number += 1
            time = track.clocks[track.number]
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

    # Each packet: does it continue its stream?

    def _follow(self, track: Track, time: int) -> None:
        """Subtitles and data have the shift that brings them nearest to picture and sound."""
        epochs = range(track.piece.epoch, len(self.shifts))
        self._enter(track, min(epochs, key=lambda epoch: self._away(track, time + self.shifts[epoch])))

    def _fits(self, track: Track, time: int) -> bool:
        """Whether a packet goes on in its stream's epoch, or in a later one that another stream has begun."""
        piece, found = track.piece, []
        is_far = track.expected is not None and time + piece.shift > track.expected + SECOND
        if self._is_next(track, time + piece.shift) and (not is_far or self._is_confirmed(track, time)):
            if piece.epoch == len(self.shifts) - 1:
                return True
            found.append((self._distance(track, time + piece.shift), piece.epoch))
        for epoch in range(piece.epoch + 1, len(self.shifts)):
            distance = self._distance(track, time + self.shifts[epoch])
            if distance < GAP:  # it may overlap what came before: that is known when all streams have begun
                found.append((distance, epoch))
        if found:
            self._enter(track, min(found)[1])
        return bool(found)

    def _is_next(self, track: Track, shifted: int) -> bool:
        if track.expected is None:
            return True
        ahead = shifted - track.expected
        return ahead > -BACK and (ahead < GAP or self._away(track, shifted) < GAP)

    def _distance(self, track: Track, shifted: int) -> int:
        """How far a time is from what its stream, or the others, would go on with."""
        away = self._away(track, shifted)
        return away if track.expected is None else min(away, abs(shifted - track.expected))

    def _away(self, track: Track, shifted: int) -> int:
        """How far a time is from where the other streams of picture and sound are; very far if there are none."""
        other, now = self._other if self._last[0] is track else self._last
        return WRAP if other is None else abs(shifted - now)

    def _enter(self, track: Track, epoch: int) -> None:
        if epoch != track.piece.epoch:
            track.cut(epoch, self.shifts[epoch])

    # A packet that does not: damage, a gap, or a break?

    def _breaks(self, place: int, track: Track, time: int) -> bool:
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
            self.shifts.append(shift)
            self._enter(track, len(self.shifts) - 1)
        elif not agrees:
            track.cut(track.piece.epoch, shift, alone=True)
        return True

    def _is_confirmed(self, track: Track, time: int) -> bool:
        """Whether the stream's next packets go on from this time, and not from where the stream was before."""
        assert track.expected is not None
        number, old = track.number, track.expected - track.piece.shift
        following = track.known(number + 1, number + 1 + EDGE)
        for nth, (before, after) in enumerate(pairwise([time, *following])):
            if nth < _CONFIRMING and not -BACK < after - before < GAP:
                return False
            if -BACK < after - old < min(GAP, abs(time - old)):
                return False
            if nth >= _CONFIRMING and after - time > _DAMAGE:
                break
        if abs(time - old) < SECOND:  # streams whose times are in the order of presentation go back again and again
            before, after = (
                track.known(number - _REORDERED, number),
                track.known(number, number + _REORDERED),
            )
            return all(a < b for a, b in [*pairwise(before), *pairwise(after)])
        return bool(following)

    def _others(self, place: int, track: Track, time: int, shift: int) -> tuple[bool, bool]:
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
        for stream, clock in self._after(place):
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

    def _after(self, place: int) -> Iterator[tuple[int, int]]:
        """(stream, clock) of the packets after a place in the file."""
        numbers = {index: count(track.number + 1) for index, track in self._tracks.items()}
        for at in range(place + 1, len(self._packets.stream)):
            stream = self._packets.stream[at]
            yield stream, self._tracks[stream].clocks[next(numbers[stream])]


def _settle(tracks: dict[int, Track], main: int, shifts: Sequence[int]) -> None:
    """Gives the pieces the shifts that the packets on both sides of each break ask for, in place of `shifts`."""
    cuts: dict[int, list[tuple[Track, Piece | None, Piece]]] = {}  # epoch → (track, the piece before, piece)
    for track in tracks.values():
        for before, piece in zip([None, *track.pieces], track.pieces, strict=False):
            cuts.setdefault(piece.epoch, []).append((track, before, piece))
    for epoch, shift in enumerate(shifts):
        pieces = cuts.get(epoch, [])
        distances = {
            track.index: track.end(before) - track.start(piece)
            for track, before, piece in pieces
            if track.is_dense and before is not None and before.epoch != epoch
        }
        chosen = distances.pop(main, None)
        longest = max(distances.values(), default=None)
        if longest is not None and (chosen is None or longest > chosen + OVERLAP * SECOND):
            chosen = longest
        for track, before, piece in pieces:  # one that is moved alone goes on where the piece before it ends
            piece.shift = shift if chosen is None else chosen
            if piece.alone and before is not None:
                piece.shift = track.end(before) - track.start(piece)


def _breaks(tracks: dict[int, Track], main: int, first: int) -> tuple[Break, ...]:
    """All breaks in order of time, which counts from `first`."""
    begins: dict[tuple[int, int | None], int] = {}
    for track in sorted(tracks.values(), key=lambda track: track.index == main):  # the picture's count
        for piece in track.pieces[1:] if track.is_dense else []:
            begins[piece.epoch, track.index if piece.alone else None] = piece.shift + track.start(piece)
    ordered = sorted(begins.items(), key=lambda item: item[1])
    return tuple(Break(Fraction(start - first, SECOND), stream) for (_, stream), start in ordered)
