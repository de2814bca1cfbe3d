"""The frames of a job's input: a video, a selection or a part of one, or pictures.

    frame_source(options, …) ─► source
    source.open(skip) ─► DecodedFrame, numbered from 1 within the job, without the first `skip`

A resumed run opens its source again and skips the frames that are done.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from upscaling.common.errors import InputError, UpscaleError
from upscaling.common.files import file_identity
from upscaling.common.notation import FrameRange, TimeRange, round_half_up
from upscaling.decode.decoder import DecodedFrame, Decoder
from upscaling.decode.part_decoder import PartDecoder
from upscaling.decode.probe import VideoInfo, probe
from upscaling.demux.input_file import VideoError
from upscaling.demux.packet_index import PacketIndex, Part, read_packet_index
from upscaling.frames import image_files
from upscaling.job.options import Options
from upscaling.pipeline import images
from upscaling.pipeline.images import PictureTarget

DEFAULT_RATE = Fraction(25)  # frames/s of numbered pictures, as in FFmpeg
Selection = FrameRange | TimeRange  # of --frames or --time
NOTHING_SELECTED = "no frame is selected by --frames or --time"


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

    def open(self, skip: int) -> "Decoder | SelectionDecoder":
        """A context manager and iterator of DecodedFrame with `warnings`, without the first `skip` frames."""
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

    def open(self, skip: int) -> PartDecoder:
        return PartDecoder(self.info, self.part, self.index, skip)

    def identity(self) -> dict:
        return {"input": file_identity(self.info.path), "part": self.part.identity()}


# Pictures


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

    def open(self, skip: int) -> "PictureDecoder":
        return PictureDecoder(self.info, self.files, skip)

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
    """Frames from picture files; a picture of another size than the first is resized to it, with a warning."""

    def __init__(self, info: VideoInfo, files: tuple[Path, ...], skip: int):
        self._info, self._files, self._skip = info, files, skip
        self.warnings: list[str] = []

    def __enter__(self) -> "PictureDecoder":
        return self

    def __exit__(self, *_) -> None:
        """Nothing to close: a file is closed once its frame is taken."""

    def __iter__(self) -> Iterator[DecodedFrame]:
        changed = 0
        for index, path in enumerate(self._files[self._skip :], self._skip):
            try:
                with Decoder(replace(self._info, path=path)) as decoder:
                    for decoded in decoder:
                        yield replace(decoded, number=index + 1, pts=index)
                    changed += bool(decoder.warnings)
            except VideoError as error:
                raise UpscaleError(f"{error}; replace or remove it, then rerun") from error
        if changed:
            self.warnings.append(
                f"{changed} pictures were converted: damaged, or not of the first one's size and format"
            )


Source = VideoSource | VideoPartSource | PictureSource


# Opening


def frame_source(options: Options, target: PictureTarget | None, keep_alpha: bool) -> Source:
    """The source that the input's name stands for; InputError if it cannot give what the output needs."""
    path, selection = options.input, options.frames or options.time
    pictures = _pictures(path)
    one = isinstance(selection, FrameRange) and selection.first == selection.last
    if target and not target.pattern and not one:
        if not _has_one_frame(path, pictures):
            raise InputError(
                f"{target.path.name} is one picture, the input has many frames; name a pattern such as "
                f"{target.path.stem}_%06d{target.path.suffix}, or choose one frame with --frames 10"
            )
        selection = selection or FrameRange(1, 1)
    if options.part is not None:
        if pictures is not None or target is not None:
            raise InputError("--part requires a video as input and as output, not pictures")
        return _part_source(path, *options.part, options.deinterlace, keep_alpha)
    if pictures is not None:
        return _picture_source(pictures, selection, options.frame_rate, keep_alpha)
    if options.frame_rate is not None:
        raise InputError("--frame-rate is for numbered pictures; a video has its own")
    return _video_source(path, selection, options.deinterlace, keep_alpha)


def _has_one_frame(path: Path, pictures: Sequence | None) -> bool:
    if pictures is not None:
        return len(pictures) == 1
    with Decoder(probe(path)) as decoder:  # a container's own count may be wrong
        return len(list(itertools.islice(decoder, 2))) == 1


def _pictures(path: Path) -> tuple[tuple[int, Path], ...] | None:
    """(number, file) of the pictures that an input's name stands for; None for a video."""
    if images.is_pattern(path):
        return images.files_of_pattern(path)
    if path.is_dir():
        return images.numbered_pictures(path)
    return ((1, path),) if image_files.is_picture(path) else None


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
    index = read_packet_index(path)
    part = index.part(number, count)
    notes = info.notes
    if index.fault and part.first is not None and part.frames:
        notes += (f"the part is decoded from the start of the video: {index.fault}",)
    return VideoPartSource(replace(info, frame_count=part.frames or None, notes=notes), part, index)


def _picture_source(
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
    info = probe(pictures[0][1], deinterlace="off", keep_alpha=keep_alpha)
    info = replace(
        info,
        time_base=1 / rate,
        frame_rate=rate,
        frame_count=len(pictures),
        duration=len(pictures) / rate,
        notes=tuple(note for note in info.notes if not note.startswith("colours are not tagged")),
    )
    return PictureSource(info, tuple(path for _, path in pictures), tuple(number for number, _ in pictures))
