"""Where a job's frames come from: a video, a part of one, or pictures; each opened as often as a run is resumed.

source.open(skip) ─► frames numbered from 1 within the job, without the first `skip`
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from upscaling.common.errors import InputError, UpscaleError
from upscaling.common.files import file_identity
from upscaling.decode.decoder import DecodedFrame, Decoder
from upscaling.decode.packet_index import PacketIndex, Part, read_packet_index
from upscaling.decode.part_decoder import PartDecoder
from upscaling.decode.probe import VideoInfo, probe
from upscaling.decode.reader import VideoError
from upscaling.job.notation import FrameRange, TimeRange, round_half_up

DEFAULT_RATE = Fraction(25)  # frames/s of numbered pictures, as FFmpeg has it


@dataclass(frozen=True)
class VideoSource:
    """The frames of a video, or of the part of it that was asked for."""

    info: VideoInfo  # its frame_count and duration are those of the part
    part: FrameRange | TimeRange | None = None
    numbers: None = None  # numbers that the frames have in the names of pictures: from 1

    @property
    def most(self) -> int | None:
        """Frames that there can be at the most; None where that is not known for sure."""
        part = self.part
        return part.last - part.first + 1 if isinstance(part, FrameRange) and part.last is not None else None

    def open(self, skip: int) -> "Decoder | RangeOfVideo":
        """A context manager and iterator of DecodedFrame with `warnings`, without the first `skip` frames."""
        if self.part is None:
            return Decoder(self.info, skip=skip)
        return RangeOfVideo(self.info, self.part, skip)

    def identity(self) -> dict:
        """What tells this input from others, as JSON has it."""
        part = None if self.part is None else [str(value) for value in vars(self.part).values()]
        return {"input": file_identity(self.info.path), "part": part}


class RangeOfVideo:
    """Frames of a part of a video, numbered from 1 where the part begins; a context manager, iterable once.

    The video is decoded from its start: only so do frames have the numbers that a whole run gives them.
    """

    def __init__(self, info: VideoInfo, part: FrameRange | TimeRange, skip: int):
        self._info, self._part, self._skip = info, part, skip
        by_number = isinstance(part, FrameRange)
        self._before = part.first - 1 if by_number else 0
        if by_number:
            self._decoder = Decoder(info, skip=self._before + skip, stop=part.last)
        else:
            self._decoder = Decoder(info)

    @property
    def warnings(self) -> list[str]:
        return self._decoder.warnings

    def __enter__(self) -> "RangeOfVideo":
        return self

    def __exit__(self, *_) -> None:
        self._decoder.close()

    def __iter__(self) -> Iterator[DecodedFrame]:
        frames = self._decoder if isinstance(self._part, FrameRange) else self._timed()
        found = self._skip > 0
        for decoded in frames:
            found = True
            yield replace(decoded, number=decoded.number - self._before)
        if not found:
            raise InputError(f"{self._info.path} has no frame in the part that was asked for; it is shorter")

    def _timed(self) -> Iterator[DecodedFrame]:
        """Frames of a TimeRange; times count from the first frame of the video."""
        origin, number, base = None, 0, self._info.time_base
        for decoded in self._decoder:
            origin = decoded.pts if origin is None else origin
            seconds = (decoded.pts - origin) * base
            if self._part.end is not None and seconds >= self._part.end:
                return
            if seconds >= self._part.start:
                number += 1
                if number > self._skip:
                    yield replace(decoded, number=number)


@dataclass(frozen=True)
class VideoPartSource:
    """The frames of one of several parts of a video."""

    info: VideoInfo  # the whole video's, but for frame_count
    part: Part
    index: PacketIndex
    numbers: None = None

    @property
    def most(self) -> int | None:
        """The number of frames; None if there may be more."""
        return None if self.part.by_number and self.part.end is None else max(1, self.part.frames)

    def open(self, skip: int) -> PartDecoder:
        return PartDecoder(self.info, self.part, self.index, skip)

    def identity(self) -> dict:
        return {"input": file_identity(self.info.path), "part": self.part.identity()}


@dataclass(frozen=True)
class PictureSource:
    """Pictures as frames, one after the other; `numbers` are those in their names."""

    info: VideoInfo  # of the first picture, with the sequence's rate, count and time base of 1/rate seconds
    files: tuple[Path, ...]
    numbers: tuple[int, ...]

    @property
    def most(self) -> int:
        return len(self.files)

    def open(self, skip: int) -> "PictureDecoder":
        return PictureDecoder(self.info, self.files, skip)

    def identity(self) -> dict:
        """One file's as a video's; of many the names, sizes and modification times."""
        if len(self.files) == 1:
            return {"input": file_identity(self.files[0]), "part": None}
        digest = hashlib.sha256()
        for path in self.files:
            about = path.stat()
            digest.update(f"{path.name!r} {about.st_size} {about.st_mtime_ns}\n".encode())
        return {"input": {"files": len(self.files), "sha256_of_list": digest.hexdigest()}, "part": None}


Source = VideoSource | VideoPartSource | PictureSource


class PictureDecoder:
    """Frames from picture files; pictures of another size than the first are resized to it, with a warning."""

    def __init__(self, info: VideoInfo, files: tuple[Path, ...], skip: int):
        self._info, self._files, self._skip = info, files, skip
        self.warnings: list[str] = []

    def __enter__(self) -> "PictureDecoder":
        return self

    def __exit__(self, *_) -> None:
        """Every file is closed as soon as its frame was taken."""

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
                f"{changed} pictures are damaged, or differ from the first in size or format: made to fit"
            )


def video_source(path: Path, part: FrameRange | TimeRange | None, deinterlace: str, keep_alpha: bool) -> VideoSource:
    """A probed video, or the part of it; VideoError as video.probe."""
    info = probe(path, deinterlace=deinterlace, keep_alpha=keep_alpha)
    if part is None:
        return VideoSource(info)
    count = _frames_in(info, part)
    if count is not None and count < 1:
        raise InputError(f"{path} has about {info.frame_count} frames: none is in the part that was asked for")
    duration = count / info.frame_rate if count and info.frame_rate else None
    return VideoSource(replace(info, frame_count=count, duration=duration), part)


def part_source(path: Path, number: int, count: int, deinterlace: str, keep_alpha: bool) -> VideoPartSource:
    """Part `number` of `count` of a video; VideoError as for probe."""
    info = probe(path, deinterlace=deinterlace, keep_alpha=keep_alpha)
    index = read_packet_index(path)
    part = index.part(number, count)
    notes = info.notes
    if index.fault and part.first is not None and part.frames:
        notes += (f"the part is decoded from the start of the video: {index.fault}",)
    return VideoPartSource(replace(info, frame_count=part.frames or None, notes=notes), part, index)


def _frames_in(info: VideoInfo, part: FrameRange | TimeRange) -> int | None:
    """Frames of a part, an estimate as the video's own count is."""
    if isinstance(part, FrameRange):
        ends = [end for end in (part.last, info.frame_count) if end is not None]
        return min(ends) - part.first + 1 if ends else None
    if info.frame_rate is None or (part.end is None and info.duration is None):
        return None
    end = min(end for end in (part.end, info.duration) if end is not None)
    return max(0, -(-(end - part.start) * info.frame_rate // 1))


def picture_source(
    files: tuple[tuple[int, Path], ...], part: FrameRange | TimeRange | None, rate: Fraction | None, keep_alpha: bool
) -> PictureSource:
    """(number, file) of pictures as frames, `rate` a second; a part counts them from 1, whatever their numbers."""
    rate = rate or DEFAULT_RATE
    if isinstance(part, FrameRange):
        files = files[part.first - 1 : part.last]
    elif part is not None:
        first, last = (None if t is None else round_half_up(t * rate) for t in (part.start, part.end))
        files = files[first:last]
    if not files:
        raise InputError("there is no picture in the part that was asked for")
    info = probe(files[0][1], deinterlace="off", keep_alpha=keep_alpha)
    info = replace(
        info, time_base=1 / rate, frame_rate=rate, frame_count=len(files), duration=len(files) / rate,
        notes=tuple(note for note in info.notes if not note.startswith("colours are not tagged")),
    )  # fmt: skip
    return PictureSource(info, tuple(path for _, path in files), tuple(number for number, _ in files))
