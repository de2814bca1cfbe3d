"""Frame files: uncompressed `.npy`, memory-mapped when read, or `.png`, which image viewers can open."""

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
    """Write an array in NumPy's format 1.0 (NEP 1).

    numpy.lib.format.write_array uses C's stdio, which loses the error if the disk is full when the file is closed.
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


def as_stored(conversion: FrameConversion, frame_format: str) -> FrameConversion:
    """The conversion of frames in storage: as they are decoded and encoded for npy, 8-bit RGB for png."""
    if frame_format == "npy":
        return conversion
    return FrameConversion(source=conversion.source.as_rgb24, target=conversion.target.as_rgb24)


def check_frame_format(frame_format: str, conversion: FrameConversion) -> list[str]:
    """What --frame-format loses, a line each; InputError if it would lose an alpha channel."""
    if frame_format == "npy":
        return []
    if conversion.source.format.alpha and conversion.target.format.alpha:
        raise InputError("--frame-format png cannot store an alpha channel; remove that option")
    return ["--frame-format png reduces frames to 8-bit RGB"] if conversion.source.format.depth > 8 else []
