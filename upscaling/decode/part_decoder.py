"""Decoding a part of a video: from a keyframe before it if the frames are those of a whole run, else from the start.

PacketIndex ─► Part ─► PartDecoder ─► SeekingReader (or Reader) ─► RangeDecoder ─► frames numbered from 1
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import av

from upscaling.common.errors import UpscaleError
from upscaling.decode.decoder import DEINTERLACER_CONTEXT, DecodedFrame, Decoder
from upscaling.decode.probe import VideoInfo
from upscaling.demux.packet_index import PacketIndex, Part
from upscaling.demux.reader import Reader


class SeekFailed(UpscaleError):
    """Frames decoded from the middle may differ from those of a whole run; the message says why."""


class SeekingReader(Reader):
    """Frames from packet `start` of the file on, in presentation order, without those that precede it in time.

    Every packet is compared with the index. SeekFailed if one differs, or if anything is damaged up to the frame at
    pts `first`: what conceals damage depends on frames that were not decoded here.
    """

    def __init__(self, path, index: PacketIndex, start: int, first: int, **how):
        super().__init__(path, **how)
        self._index, self._start, self._first = index, start, first
        self._start_pts = int(index.pts[start])
        self._reached = False

    def packets(self) -> Iterator[av.Packet]:
        at = self._start
        for packet in self._packets_from_start():
            if not self._index.is_packet(at, packet):
                raise SeekFailed("packets differ after a seek")
            assert packet.pts is not None  # the packets that the index has have times
            at += 1
            self._packets_in -= (
                packet.pts < self._start_pts and not self.at_second_field
            )  # it may not decode, and its frame is left out
            yield packet
        if at < len(self._index.pts):
            raise SeekFailed("packets are missing after a seek")

    def _packets_from_start(self) -> Iterator[av.Packet]:
        """Packets from the start packet on; if the demuxer seeks past it, an earlier keyframe is tried."""
        keys = [at for at in range(self._start, -1, -1) if self._index.key[at]]
        for target in keys[:3]:
            self.container.seek(int(self._index.pts[target]), stream=self.stream)
            packets = super().packets()
            for packet in packets:
                if self._index.is_packet(self._start, packet):
                    yield packet
                    yield from packets
                    return
                if packet.is_keyframe and packet.pts is not None and packet.pts > self._start_pts:
                    break
        raise SeekFailed("the file is not seekable")

    def _decode(self, packet: av.Packet | None) -> list[av.VideoFrame]:
        frames = super()._decode(packet)
        whole = [frame for frame in frames if frame.pts is None or frame.pts >= self._start_pts]
        early = [frame for frame in whole if frame.pts is None or frame.pts <= self._first]
        if not self._reached and (self.damaged or any(frame.is_corrupt for frame in early)):
            raise SeekFailed("the video is damaged at the start of the part")
        self.corrupt -= sum(frame.is_corrupt for frame in frames) - sum(frame.is_corrupt for frame in whole)
        self.frames_out -= len(frames) - len(whole)
        self._reached |= len(whole) > len(early)
        return whole


class RangeDecoder(Decoder):
    """The frames of a part, numbered from 1; with `index`, decoding starts at a keyframe near the part.

    `skip`: frames of the part to decode without yielding them; negative to yield so many frames before the part, too:
    the last one before it has the number 0. `after`: frames after the part to yield.
    """

    def __init__(self, info: VideoInfo, part: Part, skip: int, index: PacketIndex | None = None, *, after: int = 0):
        self._part, self._index, self._after = part, index, after
        self._before = max(0, -skip)
        self.part_frames: int | None = None  # in the part; known when the frame after it is decoded
        super().__init__(info, skip=skip)

    def _open_reader(self, threads: int) -> Reader:
        first = self._part.first
        start = self._index.start_before(first, self._before) if self._index and first is not None else None
        if self._index is None or first is None or start is None:
            self._index = None  # no packets to compare
            return super()._open_reader(threads)
        return SeekingReader(self._info.path, self._index, start, first, alpha=self._info.alpha, threads=threads)

    def numbered_frames(self) -> Iterator[tuple[tuple[int, int], av.VideoFrame]]:
        part, around = self._part, DEINTERLACER_CONTEXT if self._info.deinterlacing else 0
        before: deque = deque(maxlen=self._before + around)  # frames just before the part
        number = 0
        for position, (pts, frame) in enumerate(self._times.repair(self.timed_frames()), 1):
            if self._index is not None and (self._times.repaired or self._times.missing):
                raise SeekFailed("the frame times need repair")
            place = position if part.by_number else pts
            if part.first is not None and place < part.first:
                before.append((pts, frame))
                continue
            if part.end is not None and place >= part.end and self.part_frames is None:
                self.part_frames, self._stop = number, number + self._after
            for back, (time, earlier) in zip(range(len(before) - 1, -1, -1), before, strict=True):
                if -back > self._skip - around:
                    yield (-back, time), earlier
            before.clear()
            number += 1
            if number > self._skip - around:
                yield (number, pts), frame
            if self._stop is not None and number > self._stop:
                return  # the deinterlacer needs one frame more


class PartDecoder:
    """The frames of a part with the exact times of a whole run; a context manager, iterable once.

    `skip` and `after` are as for RangeDecoder.

    Starts at a keyframe near the part; if that turns out to be unsafe, it starts over from the start of the video.
    """

    def __init__(self, info: VideoInfo, part: Part, index: PacketIndex, skip: int, after: int = 0):
        self._info, self._part, self._skip, self._after = info, part, skip, after
        self._notes: list[str] = []
        self._decoder = RangeDecoder(info, part, skip, None if index.fault else index, after=after)

    @property
    def warnings(self) -> list[str]:
        """One line each; complete after the iteration."""
        return [*self._notes, *self._decoder.warnings]

    def __enter__(self) -> "PartDecoder":
        return self

    def __exit__(self, *_) -> None:
        self._decoder.close()

    def __iter__(self) -> Iterator[DecodedFrame]:
        done = self._skip
        try:
            for decoded in self._decoder:
                done = decoded.number
                yield self._marked(decoded)
            return
        except SeekFailed as error:
            self._notes.append(f"the part was decoded from the start of the video: {error}")
        self._decoder.close()
        self._decoder = RangeDecoder(self._info, self._part, done, after=self._after)
        yield from map(self._marked, self._decoder)

    def _marked(self, decoded: DecodedFrame) -> DecodedFrame:
        frames = self._decoder.part_frames
        return decoded if frames is None or decoded.number <= frames else replace(decoded, after_part=True)
