"""Frames spread over an input, each with its neighbours, without decoding all of it.

    frame_source ─► samples ─► Sample, Sample, … (one at a time: a frame of 8K is large)

A video's time is cut into slots of equal length. The decoder seeks to the keyframe before the middle of a slot; where
that is not later than what is decoded already, or the file cannot be sought in, it just goes on.
"""

import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.error import FFmpegError

from upscaling.common.errors import UpscaleError
from upscaling.common.notation import FrameRange, TimeRange
from upscaling.decode.decoder import DEINTERLACER_CONTEXT, DecodedFrame, Decoder
from upscaling.decode.probe import VideoInfo
from upscaling.demux.packet_index import read_packet_index
from upscaling.demux.reader import Reader
from upscaling.pipeline.sources import Source, VideoSource

SAMPLES = 12
MAX_SECONDS = 15.0  # after that no further sample is looked for
MOST_ALIKE = 50  # frames that are looked at for one that differs from its neighbour: a still has none
UNKNOWN_LENGTH = Fraction(SAMPLES)  # seconds of a video that does not say how long it is

Planes = list[np.ndarray]


@dataclass(frozen=True)
class Sample:
    """One frame of the input with the frame before and the frame after, if there are such that differ from it."""

    seconds: Fraction  # from the input's first frame
    frames: tuple[Planes, ...]  # consecutive; the samples are in the source's layout
    wanted: int  # index of the frame itself


def samples(source: Source, selection: FrameRange | TimeRange | None, count: int = SAMPLES) -> Iterator[Sample]:
    """Up to `count` samples of the selected frames, in order; fewer if the input is short, slow to decode or damaged.

    UpscaleError if not even the first frame decodes.
    """
    stop_at = time.monotonic() + MAX_SECONDS
    if not isinstance(source, VideoSource):
        yield from _of_pictures(source, count, stop_at)
        return
    start, end, can_seek = _bounds(source, selection)
    yield from _of_video(source.info, start, end, count if can_seek else -count, stop_at)


# Pictures and animations


def _of_pictures(source: Source, count: int, stop_at: float) -> Iterator[Sample]:
    total = source.max_frames or 1
    count = min(count, total)
    errors: list[UpscaleError] = []
    for place in range(count):
        index = (2 * place + 1) * total // (2 * count)
        frames = _around(source, index, errors)
        if any(frame.number == index + 1 for frame in frames):
            distinct = list(_distinct(frames))
            wanted = max(at for at, frame in enumerate(distinct) if frame.number <= index + 1)
            yield _sample(distinct, wanted, source.info.time_base, Fraction(0))
        if time.monotonic() > stop_at:
            return
    if len(errors) >= count:  # none could be read
        raise errors[0]


def _around(source: Source, index: int, errors: list[UpscaleError]) -> list[DecodedFrame]:
    """The frame of that index, from 0, the one before and the one after; a damaged one ends them, with an error."""
    found: list[DecodedFrame] = []
    for first in range(max(index - 1, 0), index + 1):
        try:
            with source.open(first) as decoder:
                for decoded in itertools.islice(decoder, index + 2 - first):
                    found.append(_copied(decoded))
        except UpscaleError as error:
            if found:
                return found
            if first == index:
                errors.append(error)
            continue
        return found
    return found


# Videos


def _bounds(source: VideoSource, selection: FrameRange | TimeRange | None) -> tuple[Fraction, Fraction, bool]:
    """(start, end) of the selection in seconds from the first frame, and whether the file can be sought in."""
    info = source.info
    if isinstance(selection, TimeRange):
        length = info.duration if info.duration is not None else UNKNOWN_LENGTH
        end = selection.start + length
        return selection.start, min(end, selection.end) if selection.end is not None else end, True
    if selection is None:
        return Fraction(0), info.duration or UNKNOWN_LENGTH, True
    index = read_packet_index(info.path, info.field_gap)
    pts = np.sort(index.pts[index.shown])
    if index.fault or len(pts) < selection.first:
        step = 1 / (info.frame_rate or Fraction(25))
        last = selection.last or selection.first + SAMPLES - 1
        return (selection.first - 1) * step, last * step, not index.fault
    ticks = int(pts[selection.first - 1] - pts[0]), int(pts[min(selection.last or len(pts), len(pts)) - 1] - pts[0])
    return ticks[0] * info.time_base, (ticks[1] + 1) * info.time_base, True


def _of_video(info: VideoInfo, start: Fraction, end: Fraction, count: int, stop_at: float) -> Iterator[Sample]:
    """A negative `count`: without seeking."""
    can_seek, count = count > 0, abs(count)
    frames = _Frames(info)
    try:
        origin = frames.seconds
        slot = (end - start) / count
        for number in range(count):
            low = start + number * slot
            if can_seek:
                frames = frames.nearer(origin + low + slot / 2)
            sample = frames.sample(origin, origin + low, origin + end, origin + start)
            if sample is not None:
                yield sample
            if frames.past_end or time.monotonic() > stop_at:
                break
    finally:
        frames.close()


class _Frames:
    """The frames of a video from its start, or from the keyframe at or before `target` seconds of its own clock.

    UpscaleError if there is none.
    """

    def __init__(self, info: VideoInfo, target: Fraction | None = None):
        self._info = info
        self._decoder = Decoder(info) if target is None else _SeekingDecoder(info, target)
        self.past_end = False  # of the selection
        try:
            self._iterator = iter(self._decoder)
            skipped = DEINTERLACER_CONTEXT if target is not None and info.deinterlace else 0
            first = next(itertools.islice(self._iterator, skipped, None), None)
            if first is None:
                raise UpscaleError(f"{info.path}: no frame here")
        except BaseException:
            self._decoder.close()
            raise
        self._waiting: list[DecodedFrame] = [_copied(first)]
        self._recent: deque[DecodedFrame] = deque(maxlen=3)
        self._used = first.pts - 1  # pts of the last frame that was returned
        self.seconds = first.pts * info.time_base  # of the frame decoded last

    def close(self) -> None:
        self._decoder.close()

    def nearer(self, target: Fraction) -> "_Frames":
        """Frames that begin nearer to `target`, in place of these; these if there are none."""
        if target <= self.seconds:
            return self
        try:
            other = _Frames(self._info, target)
        except (FFmpegError, UpscaleError, ValueError, OSError):
            return self
        if other.seconds <= self.seconds:
            other.close()
            return self
        self.close()
        return other

    def sample(self, origin: Fraction, low: Fraction, end: Fraction, start: Fraction) -> Sample | None:
        """The first frame from `low` on and before `end`, with its neighbours after `start`; None if there is none."""
        recent, base = self._recent, self._info.time_base
        alike = 0
        for decoded in self._remaining():
            at = self.seconds = decoded.pts * base
            if at >= end:
                self.past_end = True
                break
            if at < start:
                continue
            if recent and _equal(recent[-1], decoded):
                alike += at >= low
            else:
                recent.append(_copied(decoded))
            if (len(recent) == 3 and recent[1].pts * base >= low and recent[1].pts > self._used) or alike >= MOST_ALIKE:
                break
        unused = [at for at, one in enumerate(recent) if one.pts * base >= low and one.pts > self._used]
        if not unused:
            return None
        wanted = min(unused, key=lambda at: abs(2 * at - (len(recent) - 1)))  # the middle has neighbours on both sides
        self._used = recent[wanted].pts
        return _sample(recent, wanted, base, origin)

    def _remaining(self) -> Iterator[DecodedFrame]:
        """The rest; what is damaged ends it."""
        while self._waiting:
            yield self._waiting.pop()
        try:
            for decoded in self._iterator:  # noqa: UP028 - `yield from` would end the iterator with this generator
                yield decoded
        except UpscaleError:
            return


class _SeekingDecoder(Decoder):
    """A Decoder that begins at the keyframe at or before `target` seconds of the file's clock."""

    def __init__(self, info: VideoInfo, target: Fraction):
        self._target = target
        super().__init__(info)

    def _open_reader(self, threads: int) -> Reader:
        info = self._info
        return _SeekingReader(info.path, round(self._target / info.time_base), alpha=info.alpha, threads=threads)


class _SeekingReader(Reader):
    """Frames from a keyframe on, in presentation order, without those before it that refer to what was not decoded."""

    def __init__(self, path, target: int, **how):
        super().__init__(path, **how)
        self._start: int | None = None  # pts of the keyframe
        try:
            if not self.clock.is_continuous:
                raise UpscaleError(f"{path}: its clock is not continuous")
            self.container.seek(target, stream=self.stream)
        except BaseException:
            self.close()
            raise

    def packets(self) -> Iterator[av.Packet]:
        for packet in super().packets():
            if self._start is None and packet.is_keyframe:
                self._start = packet.pts
            if self._start is not None:
                yield packet

    def _decode(self, packet: av.Packet | None) -> list[av.VideoFrame]:
        start = self._start
        return [
            frame
            for frame in super()._decode(packet)
            if not frame.is_corrupt and (frame.pts is None or start is None or frame.pts >= start)
        ]


# Frames


def _sample(frames: Iterable[DecodedFrame], wanted: int, base: Fraction, origin: Fraction) -> Sample:
    frames = list(frames)
    return Sample(frames[wanted].pts * base - origin, tuple(one.planes for one in frames), wanted)


def _copied(decoded: DecodedFrame) -> DecodedFrame:
    planes = [np.array(plane) for plane in decoded.planes]
    return DecodedFrame(decoded.number, decoded.pts, planes)


def _distinct(frames: Iterable[DecodedFrame]) -> Iterator[DecodedFrame]:
    last = None
    for frame in frames:
        if last is None or not _equal(last, frame):
            yield frame
        last = frame


def _equal(a: DecodedFrame, b: DecodedFrame) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(a.planes, b.planes, strict=True))
