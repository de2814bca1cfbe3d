"""What a video is: size, pixel format, colours, rate and duration of the frames that decode.Decoder will yield.

`probe` decodes no more than the first frames; the file is only read.
"""

import itertools
import json
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path

from upscaling.common.errors import InputError
from upscaling.decode import colour_tags
from upscaling.decode import deinterlace as interlace
from upscaling.decode import orientation as orient
from upscaling.decode.colour_tags import Colour
from upscaling.decode.planes import PlaneViewer, has_alpha, kept_format
from upscaling.decode.reader import Reader, VideoError, check_size, has_hidden_alpha, no_frames, open_input, shown
from upscaling.frames.layout import FrameLayout

__all__ = ["Colour", "VideoError", "VideoInfo", "open_input", "probe"]

_REORDERED = 16  # frames that a codec may put between a packet and the one before it (H.264, H.265)
_RATE_PACKETS = 120  # packets whose times tell the real frame rate
_RATE_BYTES = 32 << 20  # but no more than this is read for it
_COMMON_RATES = [Fraction(n) for n in (8, 10, 12, 15, 16, 18, 20, 24, 25, 30, 48, 50, 60, 90, 100, 120, 144, 240)]
_COMMON_RATES += [Fraction(n * 1000, 1001) for n in (24, 30, 48, 60, 120, 240)] + [Fraction(15000, 1001)]
_MAX_RATE = Fraction(1000)  # frames/s; beyond it a rate is a claim, not a rate
_MAX_SECONDS = 10 * 365 * 86400
_ALPHA_ALWAYS = {"gif", "apng", "png", "webp", "qtrle"}  # their pixel formats have alpha though few pictures use it


@dataclass(frozen=True)
class VideoInfo:
    """One video, as its frames will be decoded: turned upright, deinterlaced, in a format that frames are kept in."""

    path: Path
    stream_index: int
    codec: str  # FFmpeg's name of it: 'h264', 'prores', …
    width: int  # pixels, after rotation
    height: int
    pixel_format: str  # a name in frame.FORMATS
    colour: Colour
    time_base: Fraction  # seconds a tick
    frame_rate: Fraction | None  # frames/s on average, as the timestamps have it; None if unknown
    frame_count: int | None  # an estimate, for bars only
    duration: Fraction | None  # seconds
    sample_aspect_ratio: Fraction  # width : height of a pixel, after rotation; 1 if unknown
    deinterlace: bool
    side_data: dict[str, dict] = field(default_factory=dict)  # HDR metadata, as tags.hdr_metadata gives it
    notes: tuple[str, ...] = ()  # one line each, for the user
    # What the decoder needs to do the same again:
    source_width: int = 0  # as coded, before rotation
    source_height: int = 0
    source_format: str = ""  # FFmpeg's pixel format of the first frame
    orientation: orient.Orientation = field(default_factory=orient.Orientation)
    alpha: bool = False  # the alpha channel is kept
    bwdif: str | None = None  # the deinterlacer's options

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
        """A JSON line of everything that changes the decoded frames, but not of where the file lies."""
        values = asdict(self)
        for name in ("path", "notes", "frame_count"):
            del values[name]
        return json.dumps(values, default=str, sort_keys=True)


def probe(path, *, deinterlace: str = "auto", keep_alpha: bool = False) -> VideoInfo:
    """Reads what the video at `path` is, from its header and its first frames.

    `deinterlace` is auto, on or off; `keep_alpha` keeps an alpha channel instead of dropping it with a note.
    VideoError (one line, with the file's name): missing, a directory, empty, not a video, no video stream,
    no frame that decodes, frames too large.
    """
    path = Path(path)
    with Reader(path, alpha=keep_alpha) as reader:
        frames = iter(reader)
        first = next(frames, None)
        if first is None:
            raise no_frames(path)
        check_size(first.width, first.height, path)
        try:
            return _describe(path, reader, first, frames, deinterlace, keep_alpha)
        except InputError as error:
            raise VideoError(f"{shown(path)}: {error}") from error


def _describe(path, reader: Reader, first, frames, deinterlace: str, keep_alpha: bool) -> VideoInfo:
    stream, context = reader.stream, reader.decoder
    side_data = colour_tags.side_data_of(first)
    notes: list[str] = []
    orientation = _orientation(first, side_data, notes)
    alpha = _alpha(first, stream, keep_alpha, notes)
    kept = kept_format(first.format.name, alpha=alpha, transposed=orientation.transpose)
    colour, colour_note = colour_tags.read_colour(first, context, first.height)
    notes += [colour_note] if colour_note else []
    ratio = Fraction(stream.sample_aspect_ratio or context.sample_aspect_ratio or 1)
    ratio = ratio if Fraction(1, 100) < ratio < 100 else Fraction(1)
    viewer = PlaneViewer(first.format.name, first.width, first.height, kept, colour.full_range)
    viewer.fit(first)  # it raises here, not in the middle of a job
    bwdif = _bwdif(deinterlace, first, frames, viewer, context, notes) if not kept.rgb else None
    rate = _frame_rate(reader, stream)
    duration = _duration(reader, stream)
    width, height = orientation.size(first.width, first.height)
    return VideoInfo(
        path=path,
        stream_index=stream.index,
        codec=context.codec.canonical_name,
        width=width,
        height=height,
        pixel_format=kept.name,
        colour=_turned(colour, orientation),
        time_base=Fraction(stream.time_base),
        frame_rate=rate,
        frame_count=_frame_count(path, stream, rate, duration),
        duration=duration,
        sample_aspect_ratio=1 / ratio if orientation.transpose else ratio,
        deinterlace=bwdif is not None,
        side_data=colour_tags.hdr_metadata(side_data),
        notes=tuple(notes),
        source_width=first.width,
        source_height=first.height,
        source_format=first.format.name,
        orientation=orientation,
        alpha=alpha,
        bwdif=bwdif,
    )


def _orientation(first, side_data: dict[str, bytes], notes: list[str]) -> orient.Orientation:
    if "DISPLAYMATRIX" in side_data:
        orientation = orient.from_matrix(side_data["DISPLAYMATRIX"])
    else:
        orientation = orient.from_degrees(first.rotation)
    if orientation is None:
        notes.append("its display matrix is not a right angle; the picture is left as it is")
        return orient.Orientation()
    if orientation:
        notes.append(f"the picture is {orientation}, as the file asks for")
    return orientation


def _alpha(first, stream, keep: bool, notes: list[str]) -> bool:
    """Whether an alpha channel is kept; notes one that is dropped, if it is used."""
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


def _bwdif(mode: str, first, frames, viewer: PlaneViewer, context, notes: list[str]) -> str | None:
    same = (f for f in frames if (f.width, f.height, f.format.name) == (first.width, first.height, first.format.name))
    options = interlace.plan(mode, (viewer.fit(f) for f in itertools.chain([first], same)), viewer, context)
    if options:
        notes.append("interlaced or telecined: deinterlaced with bwdif")
    return options


def _turned(colour: Colour, orientation: orient.Orientation) -> Colour:
    values = asdict(colour) | {"chroma_location": orientation.chroma_location(colour.chroma_location)}
    return Colour(**values)


def _duration(reader: Reader, stream) -> Fraction | None:
    seconds = None
    if stream.duration and stream.duration > 0:
        seconds = stream.duration * Fraction(stream.time_base)
    elif reader.container.duration and reader.container.duration > 0:
        seconds = Fraction(reader.container.duration, 1_000_000)  # AV_TIME_BASE
        if "matroska" in reader.container.format.name:  # it counts from zero, not from the first frame
            seconds -= max(stream.start_time or 0, 0) * Fraction(stream.time_base)
    return seconds if seconds is not None and 0 < seconds < _MAX_SECONDS else None


def _frame_rate(reader: Reader, stream) -> Fraction | None:
    """Frames/s: the rate that the container gives if the first packets' times agree, else what those times say."""
    for _ in itertools.takewhile(lambda _: _more_times(reader), reader.packets()):
        pass
    times = sorted(set(reader.packet_times))
    if len(times) > 3 * _REORDERED:
        del times[-_REORDERED:]  # between the last ones frames may be missing, whose packets come later in the file
    claimed = [Fraction(rate) for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate) if rate]
    claimed = [rate for rate in claimed if 0 < rate <= _MAX_RATE]
    if len(times) < 3:
        return next((rate for rate in claimed if rate <= max(_COMMON_RATES)), None)
    tick = Fraction(stream.time_base)
    measured = Fraction(len(times) - 1) / ((times[-1] - times[0]) * tick)
    error = max(measured * 2 / (times[-1] - times[0]), measured / 500)  # times are rounded to ticks
    near = [rate for rate in claimed if abs(rate - measured) <= error]
    if not near and stream.frames > len(times) and claimed and measured / 8 < claimed[0] < measured * 8:
        return claimed[0]  # uneven times; this average is over all the frames that the container lists
    near = near or [rate for rate in _COMMON_RATES if abs(rate - measured) <= error]
    if near:
        return _snapped(min(near, key=lambda rate: abs(rate - measured)), tick)
    if measured > _MAX_RATE:
        return None
    return measured.limit_denominator(1001) or measured


def _more_times(reader: Reader) -> bool:
    count = len(reader.packet_times)
    return count < 3 or (count < _RATE_PACKETS and reader.bytes_read < _RATE_BYTES)


def _snapped(rate: Fraction, tick: Fraction) -> Fraction:
    """`rate`, or a common one that it only misses because a frame is no whole number of ticks."""
    if (1 / (rate * tick)).denominator == 1:
        return rate
    nearest = min(_COMMON_RATES, key=lambda common: abs(common - rate))
    return nearest if abs(nearest - rate) * 5000 <= rate else rate


def _frame_count(path: Path, stream, rate: Fraction | None, duration: Fraction | None) -> int | None:
    counted = {key.upper(): value for key, value in stream.metadata.items()}
    statistics = next((value for key, value in counted.items() if key.startswith("NUMBER_OF_FRAMES")), "")
    by_rate = round(rate * duration) if rate and duration else 0
    count = stream.frames or (int(statistics) if statistics.isdecimal() else 0) or by_rate
    return count if 0 < count <= path.stat().st_size else None  # no frame is smaller than a byte
