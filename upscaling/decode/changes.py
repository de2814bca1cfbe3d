"""What changes within a video, found before the work starts: its packets are read, and a few keyframes are decoded.

A keyframe is decoded if its headers differ from those of the last one, and now and then where a codec has none or a
flag of the frame alone may change (interlacing). Transport and program streams are read to their end, as for their
clock; of other files SURVEY_BYTES are read, and keyframes at PLACES of the rest are decoded. What changes between them
is told in the end. So a film of hours costs seconds: a few GiB are read, and some hundred keyframes decoded.
"""

import contextlib
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import av.error

from upscaling.common.text import clock
from upscaling.decode.fields import doubled, is_field
from upscaling.decode.fitting import box_for, source_matrix
from upscaling.decode.frame_shape import FrameShape, ShapeReader
from upscaling.demux.reader import Reader, seconds_per_tick
from upscaling.demux.survey import FORMATS

SURVEY_BYTES = 1 << 30  # of packets
PLACES = 100
_FIRST_INTERVAL, _LONGEST_INTERVAL = Fraction(1, 5), Fraction(10)  # seconds between keyframes that are decoded
_MOST_INTERVALS = 128  # of the longest kind
_FIRST_SHARE = Fraction(1, 4)  # of the frames: fewer do not decide over all others
_SAME_CURVE = {"bt709", "smpte170m", "bt2020-10", "bt2020-12"}
_MAX_GAP = 10  # seconds; a larger step of the clock is a break, not time


@dataclass
class Stretch:
    """Frames of one shape that follow one another."""

    start: Fraction  # seconds from the first frame
    shape: FrameShape
    interlaced: bool
    first: av.VideoFrame  # decoded
    sampled: bool = False  # it may have begun earlier, after the place before
    frames: int = 0


@dataclass
class Survey:
    """The stretches of a video."""

    stretches: list[Stretch] = field(default_factory=list)
    frames: int = 0  # packets that begin a frame
    second_fields: int = 0  # packets that don't: the second fields of H.264 frames
    has_fields: bool = False  # an H.264 picture is a field

    @property
    def frame_share(self) -> Fraction:
        """The share of the packets that begin a frame."""
        return Fraction(self.frames or 1, (self.frames or 1) + self.second_fields)

    def main(self) -> Stretch:
        """The first stretch with the size that most frames have, and, of these, the shape of the first ones.

        The first ones do not decide if they are less than a quarter: a few frames of the programme before.
        """
        by_size: dict[tuple[int, int], int] = {}
        for stretch in self.stretches:
            size = stretch.shape.size
            by_size[size] = by_size.get(size, 0) + stretch.frames
        size = max(by_size, key=lambda size: by_size[size])  # the first of equals
        of_size = [stretch for stretch in self.stretches if stretch.shape.size == size]
        by_shape: dict[FrameShape, int] = {}
        for stretch in of_size:
            by_shape[stretch.shape] = by_shape.get(stretch.shape, 0) + stretch.frames
        first = of_size[0].shape
        if by_shape[first] < _FIRST_SHARE * by_size[size]:
            first = max(by_shape, key=lambda shape: by_shape[shape])
        return next(stretch for stretch in of_size if stretch.shape == first)

    def lines(self, main: FrameShape) -> list[str]:
        """One line for each change to another shape than the main one."""
        before = None
        found = []
        for stretch in self.stretches:
            if stretch.shape not in (main, before):
                found.append(change_line(stretch.shape, main, stretch.start, about=stretch.sampled))
            before = stretch.shape
        return found

    def interlaced_from(self) -> Fraction | None:
        """When interlaced frames begin, in seconds; None if there are none."""
        return next((stretch.start for stretch in self.stretches if stretch.interlaced), None)


def change_line(shape: FrameShape, main: FrameShape, seconds: Fraction, *, about: bool = False) -> str:
    """What is different in frames of that shape, from a time on (or `about` that), and what is done with them."""
    own, other = shape.colour, main.colour
    differences = [  # (what, of this shape, of the main one, what is done)
        ("size is", f"{shape.size[0]}x{shape.size[1]}", f"{main.size[0]}x{main.size[1]}", "scaled"),
        ("sample aspect ratio is", _ratio(shape.upright_aspect), _ratio(main.upright_aspect), ""),
        ("picture is", str(shape.orientation), str(main.orientation), "turned upright"),
        ("pixel format is", shape.format, main.format, "converted"),
        ("colour matrix is", own.matrix, other.matrix, _matrix_done(shape, main)),
        ("range is", _range(own.full_range), _range(other.full_range), "converted"),
        ("primaries are", own.primaries, other.primaries, "primaries not converted"),
        ("transfer is", *_transfers(own.transfer, other.transfer), "transfer not converted"),
    ]
    differences = [difference for difference in differences if difference[1] != difference[2]]
    done = [how for *_, how in differences if how]
    if box_for(shape, main, (2, 2)) != box_for(main, main, (2, 2)):
        done.insert(0, "fitted in with black bars")
    when = f"from {'about ' if about else ''}{clock_tenths(seconds)} on" if seconds else "at first"
    what = ", ".join(f"the {name} {own} instead of {other}" for name, own, other, _ in differences)
    return f"{when} {what}: {', '.join(dict.fromkeys(done)) or 'shown alike'}"


def _matrix_done(shape: FrameShape, main: FrameShape) -> str:
    return "converted" if source_matrix(shape, main) == shape.colour.matrix else "matrix not converted"


def _transfers(own: str, other: str) -> tuple[str, str]:
    """Both names; those of one and the same curve do not differ (ITU-R BT.709, BT.601 and BT.2020)."""
    return (other, other) if {own, other} <= _SAME_CURVE else (own, other)


def clock_tenths(seconds: Fraction) -> str:
    """Seconds as h:mm:ss.d."""
    tenths = int(seconds * 10)
    return f"{clock(tenths // 10)}.{tenths % 10}"


def _ratio(aspect: Fraction) -> str:
    return f"{aspect.numerator}:{aspect.denominator}"


def _range(full: bool) -> str:
    return "full" if full else "limited"


def survey(path: Path, *, alpha: bool, duration: Fraction | None, rate: Fraction | None) -> Survey:
    """Reads the packets of a file's main stream. VideoError as for Reader."""
    with Reader(path, alpha=alpha, threads=1) as reader:
        return _Surveyor(reader, duration, rate or Fraction(25)).run()


class _Surveyor:
    def __init__(self, reader: Reader, duration: Fraction | None, rate: Fraction):
        self._reader, self._rate, self._duration = reader, rate, duration
        self._shapes = ShapeReader(reader)
        self._longest = max(_LONGEST_INTERVAL, (duration or 0) / _MOST_INTERVALS)
        self._clock = _Clock(seconds_per_tick(reader.stream), rate)
        self._headers: bytes | None = None  # of the last keyframe that was decoded
        self._decoded_at = Fraction(-1)
        self._result = Survey()

    def run(self) -> Survey:
        reader, result = self._reader, self._result
        keyframe: list[av.Packet] = []  # with its second field, if that has a packet of its own
        waiting = 0  # frames that are not in a stretch yet
        for packet in reader.packets():
            if keyframe:
                self._examine([*keyframe, packet] if reader.at_second_field else keyframe)
                keyframe = []
            if packet.is_discard or reader.at_second_field:
                continue
            self._clock.move(packet)
            if packet.is_keyframe and self._is_wanted(packet):
                keyframe = [packet]
                self._count(waiting)
                waiting = 0
            waiting += 1
            if reader.bytes_read > SURVEY_BYTES and not self._is_cached:
                break
        if keyframe:
            self._examine(keyframe)
        self._count(waiting)
        if reader.bytes_read > SURVEY_BYTES and not self._is_cached and self._duration:
            self._sample(self._duration)
        result.second_fields, result.has_fields = reader.second_fields, reader.has_fields
        return result

    @property
    def _is_cached(self) -> bool:
        """Whether the whole file was read a moment ago, for its clock."""
        return self._reader.container.format.name in FORMATS

    def _sample(self, duration: Fraction) -> None:
        """Examines a keyframe at each of PLACES after those that were read."""
        reader, tick = self._reader, seconds_per_tick(self._reader.stream)
        start, step = reader.stream.start_time or 0, (duration - self._clock.seconds) / (PLACES + 1)
        last: int | None = None  # pts
        for place in range(1, PLACES + 1):
            target = duration - step * (PLACES + 1 - place)
            with contextlib.suppress(av.error.FFmpegError, ValueError):
                reader.container.seek(start + round(target / tick), stream=reader.stream)
                keyframe = next((packet for packet in reader.packets() if packet.is_keyframe), None)
                if keyframe is not None and keyframe.pts not in (None, last):
                    last = keyframe.pts
                    self._clock.seconds = max(self._clock.seconds, (last - start) * tick)
                    if self._may_differ(keyframe):
                        self._examine([keyframe], sampled=True)
            self._count(round(step * self._rate))

    def _count(self, frames: int) -> None:
        """Frames that belong to the last stretch."""
        self._result.frames += frames
        if self._result.stretches:
            self._result.stretches[-1].frames += frames

    def _is_wanted(self, packet: av.Packet) -> bool:
        now = self._clock.seconds
        interval = self._longest
        if not self._reader.sets_tell_all:
            interval = min(max(_FIRST_INTERVAL, now / 16), interval)
        headers, self._headers = self._headers, self._reader.parameter_sets(packet) or self._headers
        changed = self._headers != headers or packet.has_sidedata("new_extradata")
        if not changed and now - self._decoded_at < interval:
            return False
        self._decoded_at = now
        return True

    def _may_differ(self, packet: av.Packet) -> bool:
        """Whether a keyframe need not be like the last one."""
        headers, self._headers = self._headers, self._reader.parameter_sets(packet)
        return not self._reader.sets_tell_all or not self._headers or self._headers != headers

    def _examine(self, packets: list[av.Packet], *, sampled: bool = False) -> None:
        """Decodes a keyframe alone; it may begin a stretch."""
        frame = self._decode(packets)
        if frame is None:
            return
        if is_field(frame, self._reader):
            frame = doubled(frame)
        shape, interlaced = self._shapes.read(frame), frame.interlaced_frame
        stretches = self._result.stretches
        if not stretches or (stretches[-1].shape, stretches[-1].interlaced) != (shape, interlaced):
            stretches.append(Stretch(self._clock.seconds, shape, interlaced, frame, sampled=sampled))

    def _decode(self, packets: list[av.Packet]) -> av.VideoFrame | None:
        decoder, frames = self._reader.decoder, []
        try:
            for packet in (*packets, None):
                frames += decoder.decode(packet)
            decoder.flush_buffers()
        except (av.error.FFmpegError, ValueError):
            decoder.flush_buffers()
        return frames[0] if frames else None


class _Clock:
    """The time of keyframes from the first one on, past breaks of the file's clock."""

    def __init__(self, tick: Fraction, rate: Fraction):
        self._tick, self._rate = tick, rate
        self._last: int | None = None
        self._frames = 0  # since the last packet that counted
        self.seconds = Fraction(0)

    def move(self, packet: av.Packet) -> None:
        """Goes on to the next packet."""
        if not packet.is_keyframe or packet.pts is None:
            self._frames += 1
            return
        if self._last is not None or self._frames:
            step = (packet.pts - self._last) * self._tick if self._last is not None else Fraction(0)
            by_count = self._frames / self._rate
            is_break = step <= 0 or step > by_count + _MAX_GAP
            self.seconds += by_count if is_break else step
        self._last, self._frames = packet.pts, 1
