"""Animations written frame by frame: GIF and APNG by FFmpeg's encoders, WebP by Pillow's.

Each frame of a GIF has a palette of its own (palettegen, paletteuse), with error diffusion. Times are rounded to the
format's units from the start, so that they do not drift.
"""

import itertools
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.error import BlockingIOError as NothingYet
from av.error import EOFError as GraphEnd
from av.error import FFmpegError
from av.filter import Graph
from PIL import Image

from upscaling.common.errors import UpscaleError
from upscaling.common.files import fitting_name, replacing
from upscaling.common.notation import round_half_up
from upscaling.common.text import SOFTWARE
from upscaling.pictures.metadata import PNG_HEADER, Metadata, png_chunks, png_pixel_size, webp_options

# Seconds of a unit of the formats' times, and the fewest units of a frame that browsers show as they are.
UNITS = {"gif": (Fraction(1, 100), 2), "webp": (Fraction(1, 1000), 11)}
_QUALITY = 95  # of WebP, from 1 to 100
_MAX_UNITS = {"gif": 65535, "webp": (1 << 24) - 1}
_FORMATS = {(3, 1): "rgb24", (4, 1): "rgba", (1, 1): "gray", (3, 2): "rgb48le", (4, 2): "rgba64le", (1, 2): "gray16le"}


@dataclass(frozen=True)
class Timing:
    """When each frame begins, in seconds from the first one, how long the last is shown, and how often; 0 is ever."""

    starts: Sequence[Fraction]
    last: Fraction
    loops: int = 0

    def in_units(self, format: str) -> tuple[list[int], list[int]]:
        """(indices of the frames that are written, units that each is shown).

        A frame that would be shown for fewer units than browsers keep to is left out; the one before is shown on.
        """
        unit, fewest = UNITS[format]
        end = max(round_half_up((self.starts[-1] + self.last) / unit), fewest)
        kept, begins = [0], [0]
        for index, start in enumerate(self.starts[1:], 1):
            begin = round_half_up(start / unit)
            if begin - begins[-1] >= fewest and end - begin >= fewest:
                kept.append(index)
                begins.append(begin)
        shown = [min(b - a, _MAX_UNITS[format]) for a, b in itertools.pairwise([*begins, end])]
        return kept, shown


def format_limits(format: str, alpha: bool, rate: Fraction | None) -> list[str]:
    """What an animation's format cannot keep of frames at a rate in frames/s, a line each."""
    lost = []
    if format == "gif":
        lost.append("a gif has 256 colours a frame and times of 1/100 s; apng keeps all")
        if alpha:
            lost.append("pixels of a gif are opaque or transparent: alpha is cut at one half; apng and webp keep it")
    unit, fewest = UNITS.get(format, (Fraction(0), 0))
    if rate and unit and rate > 1 / (unit * fewest):
        lost.append(f"{format} shows {float(1 / (unit * fewest)):.0f} frames/s at most: some frames are left out")
    return lost


def write_animation(path: Path, frames: Iterable[np.ndarray], timing: Timing, metadata: Metadata | None = None) -> None:
    """Write an animation in the format of its name, atomically; one frame is a picture.

    `frames` are (height, width) gray or (height, width, 3 or 4) RGB or RGBA, uint8, or uint16 for APNG; one for each
    start. UpscaleError if the format cannot hold them; OSError if it cannot be stored.
    """
    format = path.suffix.lower().lstrip(".")
    frames = iter(frames)
    first = next(frames)
    channels = first.shape[2] if first.ndim == 3 else 1
    metadata = (metadata or Metadata()).of_result(first.shape[1], first.shape[0], channels)
    frames = itertools.chain([first], frames)
    temporary = path.with_name(fitting_name(f".{path.name}", ".upscale-tmp"))
    try:
        with replacing(path, sync=True, temporary=temporary) as file, tempfile.TemporaryFile(dir=path.parent) as muxed:
            if format == "webp":
                _write_webp(file, frames, timing, metadata)
            elif format == "gif":
                _write_gif(muxed, frames, timing)
                comment = SOFTWARE.encode("ascii")
                extension = b"\x21\xfe" + bytes([len(comment)]) + comment + b"\0"
                _copy(muxed, file, _gif_header(muxed), 0, extension)
            else:
                _write_apng(muxed, frames, timing)
                _copy(muxed, file, PNG_HEADER, png_pixel_size(_read_at(muxed, 0, 64)), png_chunks(metadata))
    except (FFmpegError, ValueError) as error:
        size = f"{first.shape[1]}x{first.shape[0]}"
        raise UpscaleError(f"cannot write frames of {size} as {format} ({error}); try apng or mp4") from error


def _copy(source: BinaryIO, target: BinaryIO, at: int, cut: int, extra: bytes) -> None:
    """Copy a file with other bytes in place of the `cut` bytes at an offset."""
    target.write(_read_at(source, 0, at) + extra)
    source.seek(at + cut)
    shutil.copyfileobj(source, target, 1 << 20)


def _read_at(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size)


# GIF and APNG


def _write_gif(file: BinaryIO, frames: Iterator[np.ndarray], timing: Timing) -> None:
    kept, shown = timing.in_units("gif")
    repeats = {0: "0", 1: "-1"}.get(timing.loops, str(min(timing.loops - 1, 65535)))
    options = {"loop": repeats, "final_delay": str(shown[-1])}
    graph = None
    with _Muxer(file, "gif", Fraction(1, 100), options) as muxer:
        for frame, time in _with_times(frames, kept, shown):
            samples = np.dstack([frame] * 3) if frame.ndim == 2 else frame
            graph = graph or _PaletteGraph(samples)
            for picture in graph.push(samples, time):
                muxer.write(picture)
        for picture in graph.push(None, 0) if graph is not None else ():
            muxer.write(picture)


def _with_times(
    frames: Iterator[np.ndarray], kept: Sequence[int], shown: Sequence[int]
) -> Iterator[tuple[np.ndarray, int]]:
    """The kept frames, each with its time in units."""
    times = dict(zip(kept, itertools.accumulate(shown[:-1], initial=0), strict=True))
    for index, frame in enumerate(frames):
        if index in times:
            yield frame, times[index]


class _PaletteGraph:
    """RGB or RGBA frames to frames with palettes of their own; pixels of less than half alpha become transparent."""

    def __init__(self, first: np.ndarray):
        self._name = _FORMATS[first.shape[2], 1]
        height, width = first.shape[:2]
        self._graph = Graph()
        self._graph.threads = 1
        buffer = f"video_size={width}x{height}:pix_fmt={self._name}:time_base=1/100:pixel_aspect=1/1"
        self._buffer = self._graph.add("buffer", buffer)
        split = self._graph.add("split")
        palette = self._graph.add("palettegen", "stats_mode=single")
        use = self._graph.add("paletteuse", "new=1:dither=sierra2_4a")
        self._sink = self._graph.add("buffersink")
        self._buffer.link_to(split)
        split.link_to(palette, 0, 0)
        split.link_to(use, 1, 0)
        palette.link_to(use, 0, 1)
        use.link_to(self._sink)
        self._graph.configure()

    def push(self, samples: np.ndarray | None, time: int) -> Iterator[av.VideoFrame]:
        """The frames that come out after one goes in; None ends the graph."""
        if samples is None:
            self._buffer.push(None)
        else:
            self._buffer.push(_av_frame(samples, self._name, time, Fraction(1, 100)))
        while True:
            try:
                picture = self._sink.pull()
            except (NothingYet, GraphEnd):
                return
            assert isinstance(picture, av.VideoFrame)
            picture.time_base = Fraction(1, 100)
            yield picture


def _av_frame(samples: np.ndarray, name: str, time: int, time_base: Fraction) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(samples), format=name)
    frame.pts, frame.time_base = time, time_base
    return frame


def _gif_header(file: BinaryIO) -> int:
    """Where the first block begins, after the header and the global colour table (GIF89a, sections 17 to 19)."""
    flags = _read_at(file, 10, 1)[0]
    return 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)


def _write_apng(file: BinaryIO, frames: Iterator[np.ndarray], timing: Timing) -> None:
    """Times are exact as long as 16 bits hold numerator and denominator of each."""
    last = timing.last.limit_denominator(65535)
    options = {"plays": str(timing.loops), "final_delay": f"{last.numerator}/{last.denominator}"}
    ticks = np.lcm.reduce([start.denominator for start in timing.starts], dtype=object) if timing.starts else 1
    time_base = Fraction(1, min(int(ticks), 1 << 24))
    with _Muxer(file, "apng", time_base, options) as muxer:
        for frame, start in zip(frames, timing.starts, strict=True):
            name = _FORMATS[frame.shape[2] if frame.ndim == 3 else 1, frame.dtype.itemsize]
            picture = _av_frame(frame, name, round(start / time_base), time_base)
            if name.endswith("le"):
                picture = picture.reformat(format=name.removesuffix("le") + "be")
            muxer.write(picture)


class _Muxer:
    """An output file of one stream, opened with its first frame; a context manager."""

    def __init__(self, file: BinaryIO, codec: str, time_base: Fraction, options: dict[str, str]):
        self._codec, self._time_base = codec, time_base
        self._out = av.open(file, "w", format=codec, options=options)
        self._stream: Any = None

    def __enter__(self) -> "_Muxer":
        return self

    def write(self, frame: av.VideoFrame) -> None:
        if self._stream is None:
            self._stream = self._out.add_stream(self._codec, rate=25)
            self._stream.width, self._stream.height = frame.width, frame.height
            self._stream.pix_fmt = frame.format.name
            self._stream.codec_context.time_base = self._stream.time_base = self._time_base
            self._stream.codec_context.thread_count = 1
        self._out.mux(self._stream.encode(frame))

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        if kind is None and self._stream is not None:
            self._out.mux(self._stream.encode(None))
        self._out.close()


# WebP


class _Frames(Image.Image):
    """Frames one after another as Pillow has a file of several; each is asked for once."""

    def __init__(self, frames: Iterator[np.ndarray], count: int):
        super().__init__()
        self._frames, self._index, self.n_frames = frames, -1, count
        self.seek(0)

    def tell(self) -> int:
        return self._index

    def seek(self, frame: int) -> None:
        while self._index < frame:
            self._index += 1
            self.__dict__ |= vars(Image.fromarray(np.ascontiguousarray(next(self._frames))))


def _write_webp(file: BinaryIO, frames: Iterator[np.ndarray], timing: Timing, metadata: Metadata) -> None:
    kept, shown = timing.in_units("webp")
    colours = (np.dstack([frame] * 3) if frame.ndim == 2 else frame for frame, _ in _with_times(frames, kept, shown))
    _Frames(colours, len(kept)).save(
        file, "WEBP", save_all=True, duration=shown, loop=timing.loops, background=(0, 0, 0, 0), quality=_QUALITY,
        method=4, allow_mixed=True, **webp_options(metadata),
    )  # fmt: skip
