"""The pictures that a job writes: which files, what their format keeps, and writing them from the segments."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from upscaling.common.errors import InputError
from upscaling.common.files import sync_directory
from upscaling.decode.decoder import Decoder
from upscaling.decode.probe import VideoInfo, probe
from upscaling.encode.settings import FALLBACK_RATE, EncodeSettings, colour_codes, encode_settings
from upscaling.frames.pixel_formats import FORMATS, pixel_format
from upscaling.job.work_dir import WorkDir
from upscaling.pictures.animation_writer import Timing, format_limits, write_animation
from upscaling.pictures.metadata import Metadata, coded_colours, read_metadata
from upscaling.pictures.writing import ALPHA, ALWAYS_ANIMATED, ANIMATIONS, DEEP, MAX_SIDE, write_picture
from upscaling.pipeline.images import numbered_name

_WIDE = ("bt2020", "smpte431", "smpte432", "smpte428", "film")  # primaries far from sRGB's
_HDR = ("smpte2084", "arib-std-b67", "linear", "log100", "log316", "smpte428")


@dataclass(frozen=True)
class Origin:
    """What results take from their input beside the frames."""

    info: VideoInfo
    files: Sequence[Path] = ()  # whose metadata are kept: one for each frame, or one for all
    numbers: Sequence[int] | None = None  # in the results' names; from 1 by default
    last_duration: Fraction | None = None  # seconds that the last frame is shown
    loops: int = 0  # how often an animation is shown; 0 is for ever


@dataclass(frozen=True)
class PictureTarget:
    """The output of a job that writes pictures: one file, or the files of a pattern."""

    path: Path
    pattern: bool
    animated: bool = False  # one file with all frames

    @property
    def extension(self) -> str:
        return self.path.suffix.lower().lstrip(".")

    def may_be_animated(self, of_animation: bool) -> bool:
        """Whether a file of this name takes many frames; a .png does if they are those of an animation."""
        return self.extension in ANIMATIONS and (self.extension != "png" or of_animation)

    def is_animated(self, frames: int | None) -> bool:
        """Whether the file is written as an animation, for that number of frames, None if it is not known."""
        return not self.pattern and (self.extension in ALWAYS_ANIMATED or frames != 1)

    def file(self, number: int) -> Path:
        """The file of a frame."""
        return self.path.with_name(numbered_name(self.path.name, number)) if self.pattern else self.path

    def settings(self, info: VideoInfo, width: int, height: int) -> EncodeSettings:
        """How segments store the frames until they are written: lossless, with the samples of the picture files."""
        return encode_settings(
            info, Path("segment.mkv"), width, height, codec="ffv1", pix_fmt=stored_format(info, self.extension)
        )

    def write(self, work_dir: WorkDir, origin: Origin) -> None:
        """Write every frame of the job's segments as a picture file, or all of them as an animation.

        OSError if a file cannot be written.
        """
        self.path.parent.mkdir(exist_ok=True)
        if self.animated:
            metadata = _metadata(origin, 0)
            write_animation(self.path, _frames(work_dir), _timing(work_dir, origin), metadata)
        else:
            self._write_pictures(work_dir, origin)
        sync_directory(self.path.parent)

    def _write_pictures(self, work_dir: WorkDir, origin: Origin) -> None:
        threads = len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(threads) as pool:
            running = []
            for index, samples in enumerate(_frames(work_dir)):
                name = self.file(origin.numbers[index] if origin.numbers is not None else index + 1)
                running.append(pool.submit(_write_one, name, samples, origin, index))
                if len(running) > 2 * threads:  # bounds the pictures in memory
                    running.pop(0).result()
            for future in running:
                future.result()


def _write_one(path: Path, samples: np.ndarray, origin: Origin, index: int) -> None:
    write_picture(path, samples, _metadata(origin, index))


def _metadata(origin: Origin, index: int) -> Metadata:
    """What is kept for the result of frame `index`, counted from 0, of the job."""
    metadata = read_metadata(origin.files[min(index, len(origin.files) - 1)]) if origin.files else Metadata()
    if needs_coded_colours(origin.info):
        codes = colour_codes(origin.info.colour)
        chunk = coded_colours((codes["color_primaries"], codes["color_trc"]))
        metadata = replace(metadata, colour_chunks=chunk)
    return metadata


def needs_coded_colours(info: VideoInfo) -> bool:
    """Whether the samples are not sRGB's or near: readers have to be told."""
    return info.colour.primaries in _WIDE or info.colour.transfer in _HDR


def _timing(work_dir: WorkDir, origin: Origin) -> Timing:
    base = origin.info.time_base
    pts = [pts for record in work_dir.records for pts in record.pts]
    last = origin.last_duration
    if last is None:
        last = 1 / (origin.info.frame_rate or FALLBACK_RATE)
    return Timing([(one - pts[0]) * base for one in pts], last, origin.loops)


def stored_format(info: VideoInfo, extension: str) -> str:
    """The pixel format in which a picture file of that kind stores such frames."""
    source = pixel_format(info.pixel_format)
    deep = source.depth > 8 and extension in DEEP
    if source.alpha and extension in ALPHA:
        return "rgba64le" if deep else "rgba"
    if source.chroma is None and not source.rgb and info.colour.full_range:
        return "gray16le" if deep else "gray"
    return "rgb48le" if deep else "rgb24"


def _frames(work_dir: WorkDir) -> Iterator[np.ndarray]:
    """The frames in a job's segments: (height, width) or (height, width, channels), R G B and alpha."""
    for record in work_dir.records:
        info = probe(work_dir.folder("segments") / record.file, deinterlace="off", keep_alpha=True)
        with Decoder(info) as decoder:
            for decoded in decoder:
                yield decoded.planes[0].copy()


def check_formats(target: PictureTarget, info: VideoInfo, width: int, height: int) -> tuple[str, ...]:
    """What a picture format cannot keep of such frames, a line each; InputError if a picture is too large for it.

    `width` × `height` is the upscaled size in pixels.
    """
    source, extension = FORMATS[info.pixel_format], target.extension
    largest = MAX_SIDE.get(extension, width + height)
    if max(width, height) > largest:
        raise InputError(f"{extension} pictures have at most {largest} pixels a side, not {width}x{height}; use png")
    lost = []
    if target.animated or extension in ALWAYS_ANIMATED:
        lost = format_limits(extension, source.alpha, info.frame_rate if target.animated else None)
    if source.alpha and extension not in ALPHA:
        lost.append("the alpha channel is dropped")
    if needs_coded_colours(info) and extension not in ("png", "apng"):
        colours = f"{info.colour.primaries}, {info.colour.transfer}"
        lost.append(f"{extension} does not say that the colours are {colours}: readers take them for sRGB; png does")
    if source.depth > 8 and extension not in DEEP:
        lost.append(f"{source.depth} bits a sample become 8: png and tif keep 16")
    return tuple(lost)
