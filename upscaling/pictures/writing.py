"""Picture files: the formats that are written, what they keep, and writing them."""

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from upscaling.common.errors import UpscaleError
from upscaling.common.files import fitting_name, replacing
from upscaling.frames.av_images import encode_png, encode_tiff
from upscaling.pictures.animation_writer import Timing, write_animation
from upscaling.pictures.colours import gray_by_profile
from upscaling.pictures.metadata import (
    Metadata,
    jpeg_options,
    png_with_metadata,
    tiff_with_metadata,
    webp_options,
)

EXTENSIONS = ("png", "jpg", "jpeg", "webp", "tif", "tiff", "gif", "apng")
ALPHA = ("png", "webp", "tif", "tiff", "gif", "apng")  # formats that keep an alpha channel
DEEP = ("png", "tif", "tiff", "apng")  # formats that keep 16 bits a sample
ANIMATIONS = ("gif", "apng", "webp", "png")  # formats that hold several frames
ALWAYS_ANIMATED = ("gif", "apng")  # written as animations even of one frame
MAX_SIDE = {"jpg": 65500, "jpeg": 65500, "webp": 16383, "gif": 65535}  # pixels, of libjpeg, libwebp and the format
QUALITY = 95  # of JPEG and WebP, from 1 to 100
_TIFF_FIELDS = {317: 2}  # differences of neighbouring samples are compressed (TIFF 6.0, section 14)


def is_picture(path: Path) -> bool:
    """Whether a name is that of a picture that can be written; patterns of numbered pictures are."""
    return path.suffix.lower().lstrip(".") in EXTENSIONS


def write_picture(path: Path, samples: np.ndarray, metadata: Metadata | None = None) -> None:
    """Write a picture in the format of its name, atomically, with what is true of it in a source's metadata.

    `samples`: (height, width) gray or (height, width, 3 or 4) RGB or RGBA; uint8, or uint16 for a format in DEEP.
    UpscaleError if the format cannot hold a picture of that size; OSError if it cannot be stored.
    """
    extension = path.suffix.lower().lstrip(".")
    if extension in ALWAYS_ANIMATED:
        return write_animation(path, [samples], Timing([Fraction(0)], Fraction(1)), metadata)
    metadata = metadata or Metadata()
    if extension == "webp" and samples.ndim == 2:
        samples = gray_by_profile(Image.fromarray(samples), metadata.profile or b"")  # WebP has no gray
    channels = samples.shape[2] if samples.ndim == 3 else 1
    metadata = metadata.of_result(samples.shape[1], samples.shape[0], channels)
    try:
        data = _encoded(samples, extension, metadata)
    except (OSError, ValueError) as error:  # av.FFmpegError is one of them
        size = f"{samples.shape[1]}x{samples.shape[0]}"
        raise UpscaleError(f"cannot write a picture of {size} as {extension} ({error}); try png") from error
    with replacing(path, sync=True, temporary=path.with_name(fitting_name(f".{path.name}", ".upscale-tmp"))) as file:
        file.write(data)


def _encoded(samples: np.ndarray, extension: str, metadata: Metadata) -> bytes:
    """The bytes of a picture file; OSError or ValueError if the format cannot hold it."""
    if max(samples.shape[:2]) > MAX_SIDE.get(extension, 1 << 31):
        raise ValueError(f"at most {MAX_SIDE[extension]} pixels a side")  # libjpeg would print it to stderr, too
    if extension == "png":
        return png_with_metadata(encode_png(samples), metadata)
    if extension in ("tif", "tiff"):
        return tiff_with_metadata(_tiff(samples), metadata)
    picture, file = Image.fromarray(samples), io.BytesIO()
    if extension == "webp":
        picture.save(file, "WEBP", quality=QUALITY, **webp_options(metadata))
    else:
        picture.save(file, "JPEG", quality=QUALITY, subsampling="4:4:4", **jpeg_options(metadata))
    return file.getvalue()


def _tiff(samples: np.ndarray) -> bytes:
    if samples.dtype == np.uint16:
        return encode_tiff(samples)
    file = io.BytesIO()
    Image.fromarray(samples).save(file, "TIFF", compression="tiff_lzw", tiffinfo=_TIFF_FIELDS)
    return file.getvalue()
