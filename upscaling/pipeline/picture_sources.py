"""Pictures and animations as the frames of a job."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from upscaling.common.errors import InputError, UpscaleError
from upscaling.common.files import file_identity
from upscaling.common.notation import FrameRange, TimeRange, round_half_up
from upscaling.decode.colour_tags import Colour
from upscaling.decode.decoder import DecodedFrame
from upscaling.decode.frame_shape import FrameShape
from upscaling.decode.probe import VideoInfo
from upscaling.frames.conversion import FrameConversion
from upscaling.frames.layout import FrameLayout
from upscaling.frames.swscale import Resizer
from upscaling.pictures.animation import Animation, animation_frames
from upscaling.pictures.reading import Picture, read_picture

DEFAULT_RATE = Fraction(25)  # frames/s of numbered pictures, as in FFmpeg
Selection = FrameRange | TimeRange  # of --frames or --time
NOTHING_SELECTED = "no frame is selected by --frames or --time"
_COLOUR = Colour("gbr", True, "bt709", "iec61966-2-1", "left")  # of RGB pictures: sRGB
_GRAY_COLOUR = replace(_COLOUR, matrix="bt709")


# Numbered pictures, or one


@dataclass(frozen=True)
class PictureSource:
    """Pictures as frames of one sequence; `numbers` are those in their names."""

    info: VideoInfo  # of the first picture, with the sequence's rate, count and time base of 1/rate seconds
    files: tuple[Path, ...]
    numbers: tuple[int, ...]

    @property
    def max_frames(self) -> int:
        return len(self.files)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that are read."""
        return self.files

    def open(self, skip: int, context: int = 0) -> "PictureDecoder":
        return PictureDecoder(self.info, self.files, max(0, skip - context))

    def identity(self) -> dict:
        """For one picture its content, as for a video; for many their names, sizes and modification times."""
        if len(self.files) == 1:
            return {"input": file_identity(self.files[0]), "part": None}
        digest = hashlib.sha256()
        for path in self.files:
            info = path.stat()
            digest.update(f"{path.name!r} {info.st_size} {info.st_mtime_ns}\n".encode())
        return {"input": {"files": len(self.files), "sha256_of_list": digest.hexdigest()}, "part": None}


class PictureDecoder:
    """Frames from picture files; a picture of another size or format than the first is converted, with a warning."""

    def __init__(self, info: VideoInfo, files: tuple[Path, ...], skip: int):
        self._info, self._files, self._skip = info, files, skip
        self.warnings: list[str] = []

    def __enter__(self) -> "PictureDecoder":
        return self

    def __exit__(self, *_) -> None:
        """Nothing to close: a file is closed once its frame is taken."""

    def __iter__(self) -> Iterator[DecodedFrame]:
        converted = 0
        layout = self._info.layout
        for index, path in enumerate(self._files[self._skip :], self._skip):
            try:
                picture = read_picture(path)
            except InputError as error:
                raise UpscaleError(f"{error}, then rerun") from error
            own = layout_of(picture.samples)
            same = (own.width, own.height) == (layout.width, layout.height)
            wanted = _without_alpha(own) if not self._info.alpha else own
            converted += not (same and wanted.pixel_format == layout.pixel_format)
            yield DecodedFrame(index + 1, index, [fitted(picture.samples, own, layout)])
        if converted:
            self.warnings.append(f"{converted} pictures were converted to the first one's size and format")


def picture_source(
    pictures: tuple[tuple[int, Path], ...], selection: Selection | None, rate: Fraction | None, keep_alpha: bool
) -> PictureSource:
    """Pictures at `rate` frames/s; a selection counts them from 1, whatever their numbers."""
    rate = rate or DEFAULT_RATE
    if isinstance(selection, FrameRange):
        pictures = pictures[selection.first - 1 : selection.last]
    elif selection is not None:
        end = None if selection.end is None else round_half_up(selection.end * rate)
        pictures = pictures[round_half_up(selection.start * rate) : end]
    if not pictures:
        raise InputError(f"{NOTHING_SELECTED}; there are fewer pictures")
    first = read_picture(pictures[0][1])
    info = _info(pictures[0][1], first, keep_alpha)
    info = replace(info, time_base=1 / rate, frame_rate=rate, frame_count=len(pictures), duration=len(pictures) / rate)
    return PictureSource(info, tuple(path for _, path in pictures), tuple(number for number, _ in pictures))


def _info(path: Path, picture: Picture, keep_alpha: bool) -> VideoInfo:
    """A picture as a video of one frame; rate, count and duration are for the caller to set."""
    own, notes = layout_of(picture.samples), picture.notes
    layout = own if keep_alpha else _without_alpha(own)
    if layout != own and (picture.samples[..., 3] < own.peak).any():
        notes += ("the alpha channel is dropped",)
    colour = _COLOUR if own.format.rgb else _GRAY_COLOUR
    colour = replace(colour, primaries=picture.primaries, transfer=picture.transfer)
    return VideoInfo(
        path=path,
        stream_index=0,
        codec=picture.format,
        width=own.width,
        height=own.height,
        pixel_format=layout.pixel_format,
        colour=colour,
        time_base=Fraction(1),
        frame_rate=None,
        frame_count=1,
        duration=None,
        sample_aspect_ratio=Fraction(1),
        deinterlace=False,
        shape=FrameShape(own.width, own.height, own.pixel_format, colour),
        notes=notes,
        alpha=layout.format.alpha,
        pictures=True,
    )


def layout_of(samples: np.ndarray) -> FrameLayout:
    """The layout of (height, width[, 3 or 4]) uint8 or uint16 samples."""
    channels = samples.shape[2] if samples.ndim == 3 else 1
    deep = samples.dtype != np.uint8
    name = {1: "gray16le", 3: "rgb48le", 4: "rgba64le"} if deep else {1: "gray", 3: "rgb24", 4: "rgba"}
    matrix = "gbr" if channels > 1 else _GRAY_COLOUR.matrix
    return FrameLayout(samples.shape[1], samples.shape[0], name[channels], matrix, full_range=True)


def _without_alpha(layout: FrameLayout) -> FrameLayout:
    return replace(
        layout, pixel_format={"rgba": "rgb24", "rgba64le": "rgb48le"}.get(layout.pixel_format, layout.pixel_format)
    )


def fitted(samples: np.ndarray, own: FrameLayout, layout: FrameLayout) -> np.ndarray:
    """Samples of the layout `own` in another size, with more or fewer channels, or in another depth."""
    if own.format.alpha and not layout.format.alpha:
        own, samples = _without_alpha(own), np.ascontiguousarray(samples[..., :3])
    if (own.width, own.height, own.pixel_format) == (layout.width, layout.height, layout.pixel_format):
        return samples
    out = layout.empty()
    Resizer(FrameConversion(source=own, target=layout))(samples, out)
    return out.reshape(layout.stored_shape)


# Animations


@dataclass(frozen=True)
class AnimationSource:
    """The frames of an animation, or the selected ones; they are shown as long as the file says."""

    info: VideoInfo
    animation: Animation
    first: int  # index of the first selected frame
    numbers: None = None

    @property
    def max_frames(self) -> int:
        return self.info.frame_count or 1

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that are read."""
        return (self.animation.path,)

    @property
    def files(self) -> tuple[Path, ...]:
        """The file whose metadata go into every result."""
        return (self.animation.path,)

    @property
    def last_duration(self) -> Fraction:
        """Seconds that the last frame is shown."""
        return self.animation.durations[self.first + self.max_frames - 1]

    def open(self, skip: int, context: int = 0) -> "AnimationDecoder":
        return AnimationDecoder(self, max(0, skip - context))

    def identity(self) -> dict:
        part = None if self.max_frames == len(self.animation.durations) else [self.first, self.max_frames]
        return {"input": file_identity(self.animation.path), "part": part}


class AnimationDecoder:
    """Frames of an animation, numbered from 1; a context manager, iterable once."""

    def __init__(self, source: AnimationSource, skip: int):
        self._source, self._skip = source, skip
        self.warnings: list[str] = []

    def __enter__(self) -> "AnimationDecoder":
        return self

    def __exit__(self, *_) -> None:
        """Nothing to close."""

    def __iter__(self) -> Iterator[DecodedFrame]:
        source, layout = self._source, self._source.info.layout
        pts, number = source.animation.pts, self._skip
        try:
            for samples in animation_frames(source.animation, source.first + self._skip):
                if number >= source.max_frames:
                    return
                number += 1
                planes = [fitted(samples, layout_of(samples), layout)]
                yield DecodedFrame(number, pts[source.first + number - 1] - pts[source.first], planes)
        except InputError as error:
            raise UpscaleError(f"{error}, then rerun") from error


def animation_source(animation: Animation, selection: Selection | None, keep_alpha: bool) -> AnimationSource:
    """The selected frames of an animation."""
    first, count = _selected(animation, selection)
    frame = next(animation_frames(animation, first))
    info = _info(animation.path, Picture(frame, animation.format), keep_alpha)
    dropped = ("the alpha channel is dropped",) if animation.alpha and not keep_alpha else ()
    duration = sum(animation.durations[first : first + count], Fraction(0))
    rates = {1 / duration for duration in animation.durations}
    info = replace(
        info,
        time_base=animation.time_base,
        frame_rate=rates.pop() if len(rates) == 1 else count / duration,
        frame_count=count,
        duration=duration,
        notes=dropped,
    )
    return AnimationSource(info, animation, first)


def _selected(animation: Animation, selection: Selection | None) -> tuple[int, int]:
    """(index of the first frame, number of frames); InputError for none."""
    total, pts = len(animation.durations), animation.pts
    if isinstance(selection, FrameRange):
        chosen = range(selection.first - 1, min(total, selection.last or total))
    elif selection is not None:
        times = [tick * animation.time_base for tick in pts]
        inside = [
            n
            for n, time in enumerate(times)
            if selection.start <= time and (selection.end is None or time < selection.end)
        ]
        chosen = range(inside[0], inside[-1] + 1) if inside else range(0)
    else:
        chosen = range(total)
    if not chosen:
        raise InputError(f"{animation.path}: {NOTHING_SELECTED}; it has {total} frames")
    return chosen.start, len(chosen)
