"""Properties of a video: size, pixel format, colours, rate and duration of the frames that `Decoder` yields.

`probe` decodes no more than the first frames; the file is only read.
"""

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer

from upscaling.common.errors import InputError
from upscaling.common.text import display_name
from upscaling.decode.colour_tags import Colour, hdr_metadata, read_colour
from upscaling.decode.deinterlace import bwdif_options
from upscaling.decode.marks import read_marks
from upscaling.decode.orientation import Orientation, from_degrees, from_matrix
from upscaling.decode.planes import PlaneViewer, has_alpha, stored_format
from upscaling.decode.side_data import side_data_of, watched
from upscaling.decode.timecode import read_timecode
from upscaling.demux.clock import clock_lines
from upscaling.demux.input_file import VideoError
from upscaling.demux.main_stream import check_size
from upscaling.demux.reader import MAX_REORDER, Reader, has_hidden_alpha, no_frames, seconds_per_tick
from upscaling.frames.layout import FrameLayout

_RATE_PACKETS = 120  # packets whose times the frame rate is measured on
_RATE_BYTES = 32 << 20  # but no more than this is read for it
_COMMON_RATES = [Fraction(n) for n in (8, 10, 12, 15, 16, 18, 20, 24, 25, 30, 48, 50, 60, 90, 100, 120, 144, 240)]
_COMMON_RATES += [Fraction(n * 1000, 1001) for n in (24, 30, 48, 60, 120, 240)] + [Fraction(15000, 1001)]
_GAP_STEPS, _MAX_GAPS = 10, 0.05  # a gap is longer than so many usual steps; more of all steps are no gaps
_MAX_RATE = Fraction(1000)  # frames/s; a higher rate in a header is not believed
_MAX_DURATION = 10 * 365 * 86400  # seconds
_ALPHA_ALWAYS = {"gif", "apng", "png", "webp", "qtrle"}  # their pixel formats have alpha even if no pixel uses it


@dataclass(frozen=True)
class VideoInfo:
    """One video, as its frames will be decoded: upright, deinterlaced, in a format that frames are stored in."""

    path: Path
    stream_index: int
    codec: str  # FFmpeg's name: 'h264', 'prores', …
    width: int  # pixels, after rotation
    height: int
    pixel_format: str  # a key of pixel_formats.FORMATS
    colour: Colour
    time_base: Fraction  # seconds per tick
    frame_rate: Fraction | None  # frames/s, the average by the timestamps; None if unknown
    frame_count: int | None  # an estimate, for progress bars only
    duration: Fraction | None  # seconds
    sample_aspect_ratio: Fraction  # width : height of a pixel, after rotation; 1 if unknown
    deinterlace: bool
    side_data: dict[str, dict] = field(default_factory=dict)  # see colour_tags.hdr_metadata and marks.read_marks
    notes: tuple[str, ...] = ()  # one line each, for the user
    # What the decoder needs to produce the same frames:
    source_width: int = 0  # as coded, before rotation
    source_height: int = 0
    source_format: str = ""  # FFmpeg's pixel format of the first frame
    orientation: Orientation = field(default_factory=Orientation)
    alpha: bool = False  # the alpha channel is kept
    bwdif: str | None = None  # the deinterlacer's options
    listed_frames: int | None = None  # frames that the container says it holds; None if it does not say
    pictures: bool = False  # the frames are picture files or an animation: there is no other stream

    @property
    def layout(self) -> FrameLayout:
        """How the samples of a decoded frame are laid out."""
        return FrameLayout(
            width=self.width,
            height=self.height,
            pixel_format=self.pixel_format,
            matrix=self.colour.matrix,
            full_range=self.colour.full_range,
            chroma_location=self.colour.chroma_location,
        )

    def identity(self) -> str:
        """A JSON line of everything that changes the decoded frames; the file's path is left out."""
        values = asdict(self)
        for name in ("path", "notes", "frame_count", "listed_frames", "pictures"):
            del values[name]
        return json.dumps(values, default=str, sort_keys=True)


def probe(path: Path | str, *, deinterlace: str = "auto", keep_alpha: bool = False) -> VideoInfo:
    """Reads the properties of a video from its header and its first frames.

    `deinterlace` is auto, on or off; `keep_alpha` keeps an alpha channel instead of dropping it with a note.
    VideoError (one line, with the file's name): the file is missing, a directory, empty or not a video, has no
    video stream or no frame that decodes, or its frames are too large.
    """
    path = Path(path)
    with Reader(path, alpha=keep_alpha) as reader:
        frames = iter(reader)
        first = next(frames, None)
        if first is None:
            raise no_frames(path)
        check_size(first.width, first.height, path)
        try:
            return _describe(reader, first, frames, deinterlace, keep_alpha)
        except InputError as error:
            raise VideoError(f"{display_name(path)}: {error}") from error


def _describe(
    reader: Reader, first: av.VideoFrame, following: Iterator[av.VideoFrame], deinterlace: str, keep_alpha: bool
) -> VideoInfo:
    stream, context = reader.stream, reader.decoder
    side_data = side_data_of(first)
    seen = set(side_data)
    following = watched(following, seen)
    notes: list[str] = []
    orientation = _orientation(first, side_data, notes)
    alpha = _alpha(first, stream, keep_alpha, notes)
    stored = stored_format(first.format.name, alpha=alpha, transposed=orientation.transpose)
    colour, colour_note = read_colour(first, context, first.height)
    notes += [colour_note] if colour_note else []
    viewer = PlaneViewer(first.format.name, first.width, first.height, stored, colour.full_range)
    viewer.fit(first)  # so that a format that can't be converted fails here and not within a job
    bwdif = None if stored.rgb else _bwdif(deinterlace, first, following, viewer, context)
    notes += ["interlaced or telecined: deinterlaced with bwdif"] if bwdif else []
    marks, mark_notes = read_marks(stream, side_data, seen, tagged=colour_note is None)
    width, height = orientation.size(first.width, first.height)
    rate, duration = _frame_rate(reader), _duration(reader)
    notes += clock_lines(reader.clock)
    start = (first.pts or 0) * seconds_per_tick(stream)
    timecode = read_timecode(reader.path, reader.container, stream, (start, side_data), rate)
    if timecode and "rate" in timecode:
        marks["timecode"] = timecode
    elif timecode:
        mark_notes.append(f"its time code {timecode['first']!r} can't be read; it is dropped")
    return VideoInfo(
        path=reader.path,
        stream_index=stream.index,
        codec=context.codec.canonical_name,
        width=width,
        height=height,
        pixel_format=stored.name,
        colour=replace(colour, chroma_location=orientation.chroma_location(colour.chroma_location)),
        time_base=seconds_per_tick(stream),
        frame_rate=rate,
        frame_count=_frame_count(reader, rate, duration),
        duration=duration,
        sample_aspect_ratio=_sample_aspect_ratio(stream, orientation),
        deinterlace=bwdif is not None,
        side_data=hdr_metadata(side_data) | marks,
        notes=(*notes, *mark_notes),
        source_width=first.width,
        source_height=first.height,
        source_format=first.format.name,
        orientation=orientation,
        alpha=alpha,
        bwdif=bwdif,
        listed_frames=_listed_frames(reader.container, stream, rate, duration),
    )


def _sample_aspect_ratio(stream: av.VideoStream, orientation: Orientation) -> Fraction:
    ratio = Fraction(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1)
    if not Fraction(1, 100) < ratio < 100:
        return Fraction(1)
    return 1 / ratio if orientation.transpose else ratio


def _orientation(first: av.VideoFrame, side_data: dict[str, bytes], notes: list[str]) -> Orientation:
    if "DISPLAYMATRIX" in side_data:
        orientation = from_matrix(side_data["DISPLAYMATRIX"])
    else:
        orientation = from_degrees(first.rotation)
    if orientation is None:
        notes.append("its display matrix is not a right angle; the picture is not rotated")
        return Orientation()
    if orientation:
        notes.append(f"the picture is {orientation}, as the file's display matrix says")
    return orientation


def _alpha(first: av.VideoFrame, stream: av.VideoStream, keep: bool, notes: list[str]) -> bool:
    """Whether an alpha channel is kept; notes that one is dropped if any pixel uses it."""
    name = first.format.name
    if keep:
        return has_alpha(name)
    used = has_hidden_alpha(stream) or has_alpha(name)
    if used and (name == "pal8" or stream.codec_context.codec.canonical_name in _ALPHA_ALWAYS):
        pixels = first.to_ndarray(format="rgba")
        used = bool((pixels[..., 3] < 255).any())
    if used:
        notes.append("the alpha channel is dropped")
    return False


def _bwdif(
    mode: str,
    first: av.VideoFrame,
    frames: Iterator[av.VideoFrame],
    viewer: PlaneViewer,
    context: av.VideoCodecContext,
) -> str | None:
    """bwdif's options, by the frames up to a change of size or format."""
    layout = (first.width, first.height, first.format.name)
    same = (frame for frame in frames if (frame.width, frame.height, frame.format.name) == layout)
    return bwdif_options(mode, (viewer.fit(frame) for frame in itertools.chain([first], same)), viewer, context)


def _duration(reader: Reader) -> Fraction | None:
    """Seconds; None if the file does not say."""
    seconds, stream = None, reader.stream
    tick = seconds_per_tick(stream)
    if reader.clock.span:
        first, end = reader.clock.span
        seconds = (end - first) * tick
    elif stream.duration and stream.duration > 0:
        seconds = stream.duration * tick
    elif reader.container.duration and reader.container.duration > 0:
        seconds = Fraction(reader.container.duration, 1_000_000)  # AV_TIME_BASE
        if "matroska" in reader.container.format.name:  # it counts from zero, not from the first frame
            seconds -= max(stream.start_time or 0, 0) * tick
    return seconds if seconds is not None and 0 < seconds < _MAX_DURATION else None


def _frame_rate(reader: Reader) -> Fraction | None:
    """Frames/s: the container's rate if the first packets' times agree, else the rate of those times."""
    stream, tick = reader.stream, seconds_per_tick(reader.stream)
    for _ in itertools.takewhile(lambda _: _needs_more_times(reader), reader.packets()):
        pass
    times = sorted(set(reader.packet_times))
    if len(times) > 3 * MAX_REORDER:
        del times[-MAX_REORDER:]  # between the last ones, frames may be missing whose packets come later in the file
    declared = [Fraction(rate) for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate) if rate]
    declared = [rate for rate in declared if 0 < rate <= _MAX_RATE]
    if len(times) < 3:
        return next((rate for rate in declared if rate <= max(_COMMON_RATES)), None)
    measured = _rate_between_gaps(times) / tick
    error = max(measured * 2 / (times[-1] - times[0]), measured / 500)  # times are rounded to ticks
    if reader.untimed_packets:  # frames so small that several share a packet of a program stream
        measured *= 1 + Fraction(reader.untimed_packets, len(reader.packet_times))
        error = measured / 20
    near = [rate for rate in declared if abs(rate - measured) <= error]
    if not near and stream.frames > len(times) and declared and measured / 8 < declared[0] < measured * 8:
        return declared[0]  # uneven times; this average is over all the frames that the container lists
    near = near or [rate for rate in _COMMON_RATES if abs(rate - measured) <= error]
    if near:
        return _snap(min(near, key=lambda rate: abs(rate - measured)), tick)
    if measured > _MAX_RATE:
        return None
    return measured.limit_denominator(1001) or measured


def _rate_between_gaps(times: list[int]) -> Fraction:
    """Frames a tick at these times: their average, without a few long gaps."""
    steps = sorted(after - before for before, after in itertools.pairwise(times))
    longest = _GAP_STEPS * steps[len(steps) // 2]
    gaps = sum(step > longest for step in steps)
    if gaps <= len(steps) * _MAX_GAPS:
        steps = steps[: len(steps) - gaps]
    return Fraction(len(steps), sum(steps))


def _needs_more_times(reader: Reader) -> bool:
    count = len(reader.packet_times)
    return count < 3 or (count < _RATE_PACKETS and reader.bytes_read < _RATE_BYTES)


def _snap(rate: Fraction, tick: Fraction) -> Fraction:
    """`rate`, or the common rate that it misses only because a frame is not a whole number of ticks."""
    if (1 / (rate * tick)).denominator == 1:
        return rate
    nearest = min(_COMMON_RATES, key=lambda common: abs(common - rate))
    return nearest if abs(nearest - rate) * 5000 <= rate else rate


def _frame_count(reader: Reader, rate: Fraction | None, duration: Fraction | None) -> int | None:
    by_rate = round(rate * duration) if rate and duration else 0
    if reader.clock.packets:  # fewer than that in gaps; more if every field has a packet
        by_rate = min(by_rate or reader.clock.packets, reader.clock.packets)
    count = _container_count(reader.stream) or by_rate
    return count if 0 < count <= reader.path.stat().st_size else None  # no frame is smaller than a byte


def _container_count(stream: av.VideoStream) -> int:
    """The number of frames in the stream's header, or in Matroska's statistics tags; 0 if there is none."""
    tags = {key.upper(): value for key, value in stream.metadata.items()}
    statistics = next((value for key, value in tags.items() if key.startswith("NUMBER_OF_FRAMES")), "")
    return stream.frames or (int(statistics) if statistics.isdecimal() else 0)


def _listed_frames(
    container: InputContainer, stream: av.VideoStream, rate: Fraction | None, duration: Fraction | None
) -> int | None:
    """The container's count; less if its duration is shorter, or if an edit list of MP4 hides frames."""
    count = _container_count(stream)
    if "mp4" in container.format.name:
        count = min(count, sum(not entry.is_discard for entry in stream.index_entries))
    return min(count, round(rate * duration)) if count and rate and duration else None
