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

from upscaling.common.errors import InputError
from upscaling.common.text import display_name
from upscaling.decode.changes import Survey, clock_tenths, survey
from upscaling.decode.colour_tags import Colour, ContextTags, hdr_metadata, read_colour
from upscaling.decode.deinterlace import Deinterlacing, deinterlacing
from upscaling.decode.fields import frames_of, is_field
from upscaling.decode.frame_shape import FrameShape, ShapeReader, orientation_of
from upscaling.decode.marks import read_marks
from upscaling.decode.planes import PlaneViewer, has_alpha, stored_format
from upscaling.decode.side_data import side_data_of, watched
from upscaling.decode.timecode import read_timecode
from upscaling.demux.clock import clock_lines
from upscaling.demux.input_file import VideoError
from upscaling.demux.main_stream import check_size
from upscaling.demux.rates import duration_of, frame_count, frame_rate, listed_frames
from upscaling.demux.reader import Reader, has_hidden_alpha, no_frames, seconds_per_tick
from upscaling.frames.layout import FrameLayout

_DETECTION_FRAMES = 300  # at the start, to find out whether they are interlaced
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
    shape: FrameShape  # that of most frames as they are decoded; all others are converted to it
    side_data: dict[str, dict] = field(default_factory=dict)  # see colour_tags.hdr_metadata and marks.read_marks
    notes: tuple[str, ...] = ()  # one line each, for the user
    # What the decoder needs to produce the same frames:
    changes: tuple[FrameShape, ...] = ()  # other shapes, which the notes name
    decoding_times: bool = False  # its packets have decoding times in place of presentation times
    fields: bool = False  # its pictures are fields, of which two make a frame (HEVC)
    one_thread: bool = False  # other threads would flag good frames as damaged (H.264 whose pictures may be fields)
    alpha: bool = False  # the alpha channel is kept
    deinterlacing: Deinterlacing | None = None
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

    @property
    def field_gap(self) -> int | None:
        """Ticks that the two fields of a frame are apart at most; None if its pictures are frames."""
        if not self.fields:
            return None
        return round(1 / ((self.frame_rate or 25) * self.time_base) * Fraction(3, 4))

    def identity(self) -> str:
        """A JSON line of everything that changes the decoded frames; the file's path is left out."""
        values = asdict(self)
        for name in ("path", "notes", "changes", "one_thread", "frame_count", "listed_frames", "pictures"):
            del values[name]
        if not self.deinterlace:  # nothing is interlaced: it makes no difference how that would be deinterlaced
            values["deinterlacing"] = None
        return json.dumps(values, default=str, sort_keys=True)


def probe(path: Path | str, *, deinterlace: str = "auto", keep_alpha: bool = False) -> VideoInfo:
    """Reads the properties of a video from its header and its first frames.

    `deinterlace` is auto, on or off; `keep_alpha` keeps an alpha channel instead of dropping it with a note.
    VideoError (one line, with the file's name): the file is missing, a directory, empty or not a video, has no
    video stream or no frame that decodes, or its frames are too large.
    """
    path = Path(path)
    with Reader(path, alpha=keep_alpha) as reader:
        shapes, frames = ShapeReader(reader), frames_of(reader)
        first = next(frames, None)
        if first is None:
            raise no_frames(path)
        check_size(first.width, first.height, path)
        try:
            return _describe(reader, shapes, first, frames, deinterlace, keep_alpha)
        except InputError as error:
            raise VideoError(f"{display_name(path)}: {error}") from error


def _describe(
    reader: Reader,
    shapes: ShapeReader,
    first: av.VideoFrame,
    following: Iterator[av.VideoFrame],
    deinterlace: str,
    keep_alpha: bool,
) -> VideoInfo:
    stream, context = reader.stream, reader.decoder
    found, main, shape = _survey(reader, shapes.read(first), first, keep_alpha)
    side_data = side_data_of(main)
    seen = set(side_data)
    following = watched(following, seen)
    notes = _shape_notes(main, shape, reader, found)
    alpha = _alpha(main, stream, keep_alpha, notes)
    layout, viewer, tagged = _layout(main, shape, shapes.tags, alpha, notes)
    fields = is_field(first, reader)
    head = itertools.islice(itertools.chain([first], following), _DETECTION_FRAMES)
    same = (frame for frame in head if shapes.read(frame) == shape)
    how = None if viewer.stored.rgb else deinterlacing(deinterlace, same, viewer, context)
    interlaced = _interlaced_notes(how, found)
    as_coded = not shape.orientation and (shape.width, shape.height) == (main.width, main.height)
    decoding_times = _has_decoding_times(reader, following)
    marks, mark_notes = read_marks(stream, side_data, seen, tagged=tagged, as_coded=as_coded)
    rate, duration = frame_rate(reader), duration_of(reader)
    rate = rate / 2 if fields and rate else rate
    share = Fraction(1, 2) if fields else found.frame_share
    _read_timecode(reader, first, rate, marks, mark_notes)
    return VideoInfo(
        path=reader.path,
        stream_index=stream.index,
        codec=context.codec.canonical_name,
        width=layout.width,
        height=layout.height,
        pixel_format=layout.pixel_format,
        colour=replace(shape.colour, chroma_location=layout.chroma_location),
        time_base=seconds_per_tick(stream),
        frame_rate=rate,
        frame_count=frame_count(reader, rate, duration, share),
        duration=duration,
        sample_aspect_ratio=shape.upright_aspect,
        deinterlace=bool(interlaced),
        side_data=hdr_metadata(side_data) | marks,
        notes=(*notes, *interlaced, *clock_lines(reader.clock), *mark_notes),
        shape=shape,
        changes=tuple({stretch.shape for stretch in found.stretches} - {shape}),
        decoding_times=decoding_times,
        fields=fields,
        one_thread=found.has_fields,
        alpha=alpha,
        deinterlacing=how,
        listed_frames=listed_frames(reader.container, stream, rate, duration, share),
    )


def _has_decoding_times(reader: Reader, following: Iterator[av.VideoFrame]) -> bool:
    """Whether the packets have decoding times in place of presentation times; decodes more frames if that is open."""
    if reader.decoder.has_b_frames:
        while reader.time_order.in_doubt and next(following, None) is not None:
            pass
    return reader.time_order.lacks_presentation_times


def _survey(
    reader: Reader, shape: FrameShape, first: av.VideoFrame, alpha: bool
) -> tuple[Survey, av.VideoFrame, FrameShape]:
    """(what changes within the video, a frame of its main shape, that shape); `shape` is that of the first frame."""
    rate = reader.stream.average_rate or reader.stream.guessed_rate
    found = survey(reader.path, alpha=alpha, duration=duration_of(reader), rate=rate)
    if not found.stretches or not any(stretch.shape == shape for stretch in found.stretches):
        return found, first, shape
    main = found.main()
    return (found, first, shape) if main.shape == shape else (found, main.first, main.shape)


def _shape_notes(main: av.VideoFrame, shape: FrameShape, reader: Reader, survey: Survey) -> list[str]:
    """What is done with the shape of frames, one line each."""
    notes = []
    if "DISPLAYMATRIX" in side_data_of(main) and orientation_of(main) is None:
        notes.append("its display matrix is not a right angle; the picture is not rotated")
    elif shape.orientation:
        notes.append(f"the picture is {shape.orientation}, as the file's display matrix says")
    crop = reader.crop
    if crop and not crop.fits:
        notes.append(f"the file's crop is larger than its frames of {crop.width}x{crop.height} and is ignored")
    elif (shape.width, shape.height) != (main.width, main.height):
        notes.append(f"the picture is cropped to {shape.width}x{shape.height} pixels, as the file says")
    return notes + survey.lines(shape)


def _layout(
    main: av.VideoFrame, shape: FrameShape, tags: ContextTags, alpha: bool, notes: list[str]
) -> tuple[FrameLayout, PlaneViewer, bool]:
    """(the layout of upright frames, what views frames before that, whether the colours are tagged)."""
    stored = stored_format(shape.format, alpha=alpha, transposed=shape.orientation.transpose)
    colour, note = read_colour(main, tags, main.height)
    notes += [note] if note else []
    viewer = PlaneViewer(stored, shape.colour.full_range)
    viewer.fit(main)  # so that a format that can't be converted fails here and not within a job
    width, height = shape.size
    location = shape.orientation.chroma_location(colour.chroma_location)
    layout = FrameLayout(width, height, stored.name, shape.colour.matrix, shape.colour.full_range, location)
    return layout, viewer, note is None


def _read_timecode(reader: Reader, first: av.VideoFrame, rate: Fraction | None, marks: dict, notes: list[str]) -> None:
    """Add the time code of the `first` frame to the marks, or a note that it cannot be read."""
    start = (first.pts or 0) * seconds_per_tick(reader.stream)
    timecode = read_timecode(reader.path, reader.container, reader.stream, (start, side_data_of(first)), rate)
    if timecode and "rate" in timecode:
        marks["timecode"] = timecode
    elif timecode:
        notes.append(f"its time code {timecode['first']!r} can't be read; it is dropped")


def _interlaced_notes(how: Deinterlacing | None, survey: Survey) -> list[str]:
    if how is None:
        return []
    start = survey.interlaced_from() if how.flagged_only else None
    if start:
        return [f"interlaced from {clock_tenths(start)} on: deinterlaced with bwdif"]
    return ["interlaced or telecined: deinterlaced with bwdif"] if how.found or start is not None else []


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
