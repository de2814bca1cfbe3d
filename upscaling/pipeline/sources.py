"""The frames of a job's input: a video, a selection or a part of one, or pictures (picture_sources).

    frame_source(options, …) ─► source
    source.open(skip) ─► DecodedFrame, numbered from 1 within the job, without the first `skip`

A resumed run opens its source again and skips the frames that are done. `context`: so many frames before the first
wanted one are yielded, too, as far as the job has them. A part also yields those before it, numbered 0, -1, …, and so
many after it (`after_part`), because the whole video has them.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from upscaling.common.errors import InputError
from upscaling.common.files import file_identity
from upscaling.common.notation import FrameRange, TimeRange
from upscaling.decode.decoder import DecodedFrame, Decoder
from upscaling.decode.part_decoder import PartDecoder
from upscaling.decode.probe import VideoInfo, probe
from upscaling.demux.packet_index import PacketIndex, Part, read_packet_index
from upscaling.job.options import Options
from upscaling.pictures import formats
from upscaling.pictures.animation import read_animation
from upscaling.pipeline import images
from upscaling.pipeline.picture_sources import (
    NOTHING_SELECTED,
    AnimationSource,
    PictureSource,
    Selection,
    animation_source,
    picture_source,
)
from upscaling.pipeline.picture_target import PictureTarget

# Videos


@dataclass(frozen=True)
class VideoSource:
    """The frames of a video, or the selected ones."""

    info: VideoInfo  # its frame_count and duration are those of the selection
    selection: Selection | None = None
    numbers: None = None  # in the names of pictures: counted from 1

    @property
    def max_frames(self) -> int | None:
        """An upper limit of the number of frames, if there is one."""
        selection = self.selection
        if isinstance(selection, FrameRange) and selection.last is not None:
            return selection.last - selection.first + 1
        return None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that are read."""
        return (self.info.path,)

    def open(self, skip: int, context: int = 0) -> "Decoder | SelectionDecoder":
        """A context manager and iterator of DecodedFrame with `warnings`, without the first `skip` frames."""
        skip = max(0, skip - context)
        if self.selection is None:
            return Decoder(self.info, skip=skip)
        return SelectionDecoder(self.info, self.selection, skip)

    def identity(self) -> dict:
        """What distinguishes this input from others, as JSON has it."""
        selection = None if self.selection is None else [str(value) for value in vars(self.selection).values()]
        return {"input": file_identity(self.info.path), "part": selection}


class SelectionDecoder:
    """The selected frames of a video, numbered from 1; a context manager, iterable once.

    The video is decoded from its start, because only then do frames have the numbers of a whole run.
    """

    def __init__(self, info: VideoInfo, selection: Selection, skip: int):
        self._info, self._selection, self._skip = info, selection, skip
        if isinstance(selection, FrameRange):
            self._decoder = Decoder(info, skip=selection.first - 1 + skip, stop=selection.last)
        else:
            self._decoder = Decoder(info)

    @property
    def warnings(self) -> list[str]:
        return self._decoder.warnings

    def __enter__(self) -> "SelectionDecoder":
        return self

    def __exit__(self, *_) -> None:
        self._decoder.close()

    def __iter__(self) -> Iterator[DecodedFrame]:
        found = self._skip > 0
        selection = self._selection
        for decoded in self._numbered(selection) if isinstance(selection, FrameRange) else self._timed(selection):
            found = True
            yield decoded
        if not found:
            raise InputError(f"{self._info.path}: {NOTHING_SELECTED}; the video is shorter")

    def _numbered(self, selection: FrameRange) -> Iterator[DecodedFrame]:
        for decoded in self._decoder:
            yield replace(decoded, number=decoded.number - (selection.first - 1))

    def _timed(self, selection: TimeRange) -> Iterator[DecodedFrame]:
        """Times count from the first frame of the video."""
        number, base = 0, self._info.time_base
        origin: int | None = None  # pts
        for decoded in self._decoder:
            origin = decoded.pts if origin is None else origin
            seconds = (decoded.pts - origin) * base
            if selection.end is not None and seconds >= selection.end:
                return
            if seconds >= selection.start:
                number += 1
                if number > self._skip:
                    yield replace(decoded, number=number)


@dataclass(frozen=True)
class VideoPartSource:
    """The frames of one of several parts of a video (--part)."""

    info: VideoInfo  # the whole video's, except for frame_count
    part: Part
    index: PacketIndex
    numbers: None = None

    @property
    def max_frames(self) -> int | None:
        """The number of frames; None if there may be more."""
        return None if self.part.by_number and self.part.end is None else max(1, self.part.frames)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that are read."""
        return (self.info.path,)

    def open(self, skip: int, context: int = 0) -> PartDecoder:
        return PartDecoder(self.info, self.part, self.index, skip - context, context)

    def identity(self) -> dict:
        return {"input": file_identity(self.info.path), "part": self.part.identity()}


Source = VideoSource | VideoPartSource | PictureSource | AnimationSource


# Opening


def frame_source(options: Options, target: PictureTarget | None, keep_alpha: bool) -> Source:
    """The source that the input's name stands for; InputError if it cannot give what the output needs."""
    path, selection = options.input, options.frames or options.time
    pictures = _pictures(path)
    animation = read_animation(pictures[0][1]) if pictures is not None and len(pictures) == 1 else None
    one = isinstance(selection, FrameRange) and selection.first == selection.last
    many = not one and (pictures is None or len(pictures) > 1 or animation is not None)
    if many and target and not target.pattern and not target.may_be_animated(animation is not None):
        if pictures is not None or not _has_one_frame(path):
            raise InputError(
                f"{target.path.name} is one picture, the input has many frames; name a pattern such as "
                f"{target.path.stem}_%06d{target.path.suffix}, choose one frame with --frames 10, or name an animation "
                f"({target.path.stem}.gif, .apng or .webp)"
            )
        selection = selection or FrameRange(1, 1)
    if options.part is not None:
        if pictures is not None or target is not None:
            raise InputError("--part requires a video as input and as output, not pictures")
        return _part_source(path, *options.part, options.deinterlace, keep_alpha)
    if animation is not None:
        if options.frame_rate is not None:
            raise InputError("--frame-rate is for numbered pictures; an animation has its own times")
        return animation_source(animation, selection, keep_alpha)
    if pictures is not None:
        return picture_source(pictures, selection, options.frame_rate, keep_alpha)
    if options.frame_rate is not None:
        raise InputError("--frame-rate is for numbered pictures; a video has its own")
    return _video_source(path, selection, options.deinterlace, keep_alpha)


def _has_one_frame(path: Path) -> bool:
    with Decoder(probe(path)) as decoder:  # a container's own count may be wrong
        return len(list(itertools.islice(decoder, 2))) == 1


def _pictures(path: Path) -> tuple[tuple[int, Path], ...] | None:
    """(number, file) of the pictures that an input's name stands for; None for a video."""
    if images.is_pattern(path):
        return images.files_of_pattern(path)
    if path.is_dir():
        return images.numbered_pictures(path)
    return ((1, path),) if formats.format_of(path) is not None else None


def _video_source(path: Path, selection: Selection | None, deinterlace: str, keep_alpha: bool) -> VideoSource:
    info = probe(path, deinterlace=deinterlace, keep_alpha=keep_alpha)
    if selection is None:
        return VideoSource(info)
    count = _selected_count(info, selection)
    if count is not None and count < 1:
        raise InputError(f"{path}: {NOTHING_SELECTED}; the video has about {info.frame_count} frames")
    duration = count / info.frame_rate if count and info.frame_rate else None
    return VideoSource(replace(info, frame_count=count, duration=duration), selection)


def _selected_count(info: VideoInfo, selection: Selection) -> int | None:
    """The number of selected frames: an estimate, as the video's own count is."""
    if isinstance(selection, FrameRange):
        ends = [end for end in (selection.last, info.frame_count) if end is not None]
        return min(ends) - selection.first + 1 if ends else None
    if info.frame_rate is None or (selection.end is None and info.duration is None):
        return None
    end = min(end for end in (selection.end, info.duration) if end is not None)
    return max(0, -(-(end - selection.start) * info.frame_rate // 1))


def _part_source(path: Path, number: int, count: int, deinterlace: str, keep_alpha: bool) -> VideoPartSource:
    """Part `number` of `count` of a video."""
    info = probe(path, deinterlace=deinterlace, keep_alpha=keep_alpha)
    index = read_packet_index(path, info.field_gap, decoding_times=info.decoding_times)
    part = index.part(number, count)
    notes = info.notes
    if index.fault and part.first is not None and part.frames:
        notes += (f"the part is decoded from the start of the video: {index.fault}",)
    return VideoPartSource(replace(info, frame_count=part.frames or None, notes=notes), part, index)
