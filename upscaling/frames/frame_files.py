"""Frame files: uncompressed `.npy`, memory-mapped when read, or `.png` for pictures that a person can open."""

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np

from upscaling.common.errors import InputError
from upscaling.common.files import replacing
from upscaling.frames.conversion import FrameConversion
from upscaling.frames.layout import FrameLayout


def read_frame(path: Path) -> np.ndarray:
    """The samples of a frame file: in their stored shape, memory-mapped, of .npy; (height, width[, channels]) of .png.

    InputError if the file is damaged, OSError if it cannot be read.
    """
    if path.suffix == ".npy":
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise InputError(f"{path}: not a frame: {error}") from error
    from upscaling.frames.av_images import decode_png  # imports FFmpeg, which most workers do not need

    try:
        return decode_png(path.read_bytes())
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def write_npy(file: BinaryIO, samples: np.ndarray) -> None:
    """An array in NumPy's format 1.0 (NEP 1).

    Not by numpy.lib.format.write_array: it goes through C's stdio, which drops the error of a disk that is full
    when the file is closed.
    """
    samples = np.ascontiguousarray(samples)
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(samples))
    file.write(samples.reshape(-1).view(np.uint8).data)


def npy_bytes(layout: FrameLayout) -> int:
    """The length of a frame's .npy file in bytes."""
    header = io.BytesIO()
    description = {"descr": layout.format.dtype.str, "fortran_order": False, "shape": layout.stored_shape}
    np.lib.format.write_array_header_1_0(header, description)
    return len(header.getvalue()) + layout.frame_bytes


def write_frame(path: Path, samples: np.ndarray) -> None:
    """Write a frame file under a temporary name and move it into place: half a frame is never visible."""
    with replacing(path) as file:  # write(), never a mapping: a full disk is an OSError and no SIGBUS
        if path.suffix == ".npy":
            write_npy(file, samples)
        else:
            from upscaling.frames.av_images import encode_png

            file.write(encode_png(samples))


def as_stored(picture: FrameConversion, frame_format: str) -> FrameConversion:
    """A job's picture in storage: as it is decoded and encoded, or 8-bit RGB in files that a person can open."""
    if frame_format == "npy":
        return picture
    return FrameConversion(source=picture.source.as_rgb24, target=picture.target.as_rgb24)


def check_frame_format(frame_format: str, picture: FrameConversion) -> list[str]:
    """What --frame-format can't keep, a line each; InputError for an alpha channel."""
    if frame_format == "npy":
        return []
    if picture.source.format.alpha and picture.target.format.alpha:
        raise InputError("--frame-format png keeps no alpha channel; leave it out")
    return ["--frame-format png takes the frames through 8-bit RGB"] if picture.source.format.depth > 8 else []
