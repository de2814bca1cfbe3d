"""Picture files of a job: the names of numbered ones, and writing finished frames."""

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from upscaling.common.errors import InputError
from upscaling.common.files import sync_directory
from upscaling.common.system import usable_cores
from upscaling.decode.decoder import Decoder
from upscaling.decode.probe import VideoInfo, probe
from upscaling.encode.settings import EncodeSettings, encode_settings
from upscaling.frames.image_files import ALPHA, DEEP, MAX_SIDE, is_picture, write_picture
from upscaling.frames.picture_metadata import read_profile
from upscaling.frames.pixel_formats import FORMATS, pixel_format
from upscaling.job.work_dir import WorkDir

PATTERN = re.compile(r"%(?:0([1-9]))?d")
NUMBERED = re.compile(r"(.*?)([0-9]{1,12})(\.[A-Za-z]+)", re.DOTALL)


def is_pattern(path: Path) -> bool:
    """Whether a path is a pattern of numbered pictures, as frames_%06d.png; an existing file of that name is not."""
    return is_picture(path) and len(PATTERN.findall(path.name)) == 1 and not path.is_file()


def numbered_name(pattern: str, number: int) -> str:
    """The file name that a pattern gives to a number."""
    return PATTERN.sub(lambda match: f"{number:0{match[1] or 1}d}", pattern)


def files_of_pattern(pattern: Path) -> tuple[tuple[int, Path], ...]:
    """(number, file) of a pattern's files, by number; InputError if no file matches."""
    found = existing_files(pattern)
    if not found:
        raise InputError(f"{pattern}: no file in {pattern.parent} matches")
    return found


def existing_files(pattern: Path) -> tuple[tuple[int, Path], ...]:
    """(number, file) of a pattern's files, by number; InputError if their directory cannot be read."""
    before, width, after = PATTERN.split(pattern.name)
    digits = rf"[0-9]{{{width}}}|[1-9][0-9]{{{width},11}}" if width else "0|[1-9][0-9]{0,11}"
    form = re.compile(f"{re.escape(before)}({digits}){re.escape(after)}", re.DOTALL)
    try:
        names = os.listdir(pattern.parent)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise InputError(f"cannot read {pattern.parent}: {error.strerror}") from error
    return tuple(sorted((int(match[1]), pattern.parent / name) for name in names if (match := form.fullmatch(name))))


def numbered_pictures(folder: Path) -> tuple[tuple[int, Path], ...]:
    """(number, file) of the pictures in a folder, by number; InputError unless they are one series."""
    series: dict[tuple[str, str], list[tuple[int, Path]]] = {}
    for name in os.listdir(folder):
        if not name.startswith(".") and is_picture(Path(name)):
            match = NUMBERED.fullmatch(name)
            if not match:
                raise InputError(
                    f"{folder}: {name!r} has no number; choose the frames with a pattern: {folder}/%06d.png"
                )
            series.setdefault((match[1], match[3]), []).append((int(match[2]), folder / name))
    if len(series) != 1:
        found = "no numbered pictures" if not series else f"{len(series)} series of numbered pictures"
        raise InputError(f"{folder} has {found}; choose the frames with a pattern: {folder}/frame_%06d.png")
    return tuple(sorted(next(iter(series.values()))))


# Writing


@dataclass(frozen=True)
class PictureTarget:
    """The output of a job that writes pictures: one file, or the files of a pattern."""

    path: Path
    pattern: bool

    @property
    def extension(self) -> str:
        return self.path.suffix.lower().lstrip(".")

    def file(self, number: int) -> Path:
        """The file of a frame."""
        return self.path.with_name(numbered_name(self.path.name, number)) if self.pattern else self.path

    def settings(self, info: VideoInfo, width: int, height: int) -> EncodeSettings:
        """How segments store the frames until they are written: lossless, with the samples of the picture files."""
        return encode_settings(
            info, Path("segment.mkv"), width, height, codec="ffv1", pix_fmt=stored_format(info, self.extension)
        )

    def write(self, work_dir: WorkDir, numbers: Sequence[int] | None, source: Path | None) -> None:
        """Write every frame of the job's segments as a picture file.

        `numbers` are those in the files' names, by default from 1. The ICC profile of the picture `source` is copied.
        OSError if a file cannot be written.
        """
        self.path.parent.mkdir(exist_ok=True)
        profile = read_profile(source) if source is not None else None
        threads = usable_cores()
        with ThreadPoolExecutor(threads) as pool:
            running = []
            for index, samples in enumerate(_frames(work_dir)):
                name = self.file(numbers[index] if numbers is not None else index + 1)
                running.append(pool.submit(write_picture, name, samples, profile))
                if len(running) > 2 * threads:  # bounds the pictures in memory
                    running.pop(0).result()
            for future in running:
                future.result()
        sync_directory(self.path.parent)


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
    if source.alpha and extension not in ALPHA:
        lost.append("the alpha channel is dropped")
    if source.depth > 8 and extension not in DEEP:
        lost.append(f"{source.depth} bits a sample become 8: png and tif keep 16")
    return tuple(lost)
