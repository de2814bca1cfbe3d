"""The packets of a video's main stream, read without decoding: its parts, and the keyframe to start each part with.

Parts begin at keyframes. They are ranges of time if the file's own times can be trusted; else they are ranges of
frame numbers, and each part has to be decoded from the start of the video.
"""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from upscaling.demux.bitstream import Parity, second_fields
from upscaling.demux.reader import MAX_REORDER, Reader

PREROLL = 17  # frames decoded before a part, at least: a full H.264 or H.265 picture buffer, for concealing damage
# Codecs with inter frames whose keyframes depend on nothing before them.
_RANDOM_ACCESS = {
    "h264", "hevc", "vvc", "av1", "vp8", "vp9", "mpeg1video", "mpeg2video", "mpeg4", "h263", "ffv1", "theora", "vc1",
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A range of a video's frames: from `first` up to but not including `end`.

    Both are pts in ticks of the stream's time base, or frame numbers from 1 if `by_number`. None is the video's
    start or its end. `frames` is their number, exact unless the file is damaged.
    """

    number: int
    count: int
    first: int | None
    end: int | None
    by_number: bool
    frames: int

    @property
    def is_empty(self) -> bool:
        """Whether the part certainly has no frame."""
        return self.frames == 0 and not (self.by_number and self.end is None)

    def identity(self) -> list:
        """The part in JSON's types."""
        return [self.number, self.count, self.first, self.end, self.by_number]


class PacketIndex:
    """Every packet in file order: arrays `pts`, `size`, `key` (keyframe) and `shown`.

    `shown` is false for packets that begin no frame: hidden by an edit list, or the second field of a frame.

    `fault` says why the times cannot be trusted; it is empty if they can.
    """

    def __init__(self, pts: list[int | None], size: list[int], key: list[bool], shown: list[bool], fault: str = ""):
        missing = any(time is None for time, seen in zip(pts, shown, strict=True) if seen)
        self.size, self.key = np.array(size, np.int64), np.array(key, bool)  # (packets,)
        self.shown = np.array(shown, bool)
        self.pts = np.array([0 if time is None else time for time in pts], np.int64)
        self.fault = fault or ("its frames have no times" if missing else self._disorder())

    def _disorder(self) -> str:
        """What is wrong with the times of the shown frames; empty if nothing is."""
        pts, key = self.pts[self.shown], self.key[self.shown]
        if not len(pts):
            return "it has no frames"
        order = np.argsort(pts, kind="stable")
        if np.any(np.diff(pts[order]) == 0):
            return "some of its frames have the same time"
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        before = np.concatenate([[np.iinfo(np.int64).min], np.maximum.accumulate(pts)[:-1]])
        if np.any(np.abs(rank - np.arange(len(rank))) > MAX_REORDER) or np.any(pts[key] < before[key]):
            return "its frame times go backward"
        return ""

    def part(self, number: int, count: int) -> Part:
        """Part `number` (from 1) of `count`: cut at the keyframes nearest to equal shares of time (or of frames)."""
        positions, keys = self._positions()
        last = int(positions[-1]) if len(positions) else 0
        cuts = [self._cut(positions, keys, share, count) for share in range(count)] + [last + 1]
        first, end = cuts[number - 1], cuts[number]
        frames = int(np.count_nonzero((positions >= first) & (positions < end)))
        return Part(
            number, count, None if number == 1 else first, None if number == count else end, bool(self.fault), frames
        )

    def _positions(self) -> tuple[np.ndarray, np.ndarray]:
        """(positions of the shown frames in order, those of them that a part may begin with)."""
        key = self.key[self.shown]
        if self.fault:
            positions = np.arange(1, len(key) + 1)
            keys = positions[key]
        else:
            positions, keys = np.sort(self.pts[self.shown]), np.sort(self.pts[self.shown][key])
        return positions, keys[keys > positions[0]] if len(positions) else keys

    @staticmethod
    def _cut(positions: np.ndarray, keys: np.ndarray, share: int, count: int) -> int:
        """The position of the first frame of part `share` (from 0); after the last frame if there is no keyframe."""
        if share == 0 or not len(positions):
            return int(positions[0]) if len(positions) else 1
        first, last = int(positions[0]), int(positions[-1])
        if not len(keys):
            return last + 1
        step = Fraction(last - first, len(positions) - 1)
        wanted = first + (last - first + step) * Fraction(share, count)
        after = int(np.searchsorted(keys, int(wanted)))
        near = [int(key) for key in keys[max(after - 1, 0) : after + 2]]
        return min(near, key=lambda key: abs(key - wanted))

    def start_before(self, pts: int, context: int = 0) -> int | None:
        """The number of the packet to start decoding with for frames from `pts` on; None if it is the first one.

        `context`: so many frames before them are wanted, too.
        """
        if self.fault:
            return None
        shown = np.sort(self.pts[self.shown])
        before = int(np.searchsorted(shown, pts)) - PREROLL - context
        if before < 0:
            return None
        found = np.flatnonzero(self.key & self.shown & (self.pts <= shown[before]))
        return int(found[-1]) if len(found) and found[-1] > 0 else None

    def is_packet(self, at: int, packet: av.Packet) -> bool:
        """Whether a packet read after a seek is number `at` (from 0) of the file."""
        return (
            at < len(self.pts)
            and packet.pts == self.pts[at]
            and packet.size == self.size[at]
            and packet.is_keyframe == self.key[at]
        )


def read_packet_index(path: Path, field_gap: int | None = None, *, decoding_times: bool = False) -> PacketIndex:
    """Reads all packets of the main stream; VideoError as for Reader.

    `field_gap`: each packet is a field, and those of one frame are no more than so many ticks apart.
    `decoding_times`: the packets have those in place of presentation times.
    """
    parities: list[tuple[int, Parity | None]] = []
    with Reader(path, threads=1) as reader:
        packets = []
        for packet in reader.packets():
            shown = not packet.is_discard and not reader.at_second_field
            packets.append((packet.pts, packet.size, packet.is_keyframe, shown))
            if field_gap is not None and packet.pts is not None:
                parities.append((packet.pts, reader.parity_at(packet.pts)))
        codec = reader.decoder.codec
        intra = codec.intra_only or all(key for _, _, key, _ in packets)
        fault = ""
        if reader.damaged:
            fault = "it is damaged"
        elif not reader.clock.is_continuous:
            fault = "its clock is not continuous"
        elif not (codec.intra_only or codec.canonical_name in _RANDOM_ACCESS):
            fault = f"{codec.canonical_name} video may depend on frames before a keyframe"
        elif decoding_times and not intra:
            fault = "its packets have decoding times only"
    if parities and field_gap is not None:
        second = second_fields(parities, field_gap)
        packets = [(pts, size, key, shown and pts not in second) for pts, size, key, shown in packets]
    columns = [list(column) for column in zip(*packets, strict=True)] or [[], [], [], []]
    return PacketIndex(*columns, fault=fault)
