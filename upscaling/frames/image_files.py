"""Picture files: the formats that are written, what they keep, and writing them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from upscaling.common.errors import UpscaleError
from upscaling.common.files import fitting_name, replacing
from upscaling.common.text import SOFTWARE
from upscaling.frames.av_images import encode_png, encode_tiff
from upscaling.frames.picture_metadata import SOFTWARE_TAG, describes, png_with_metadata, tiff_with_metadata

EXTENSIONS = ("png", "jpg", "jpeg", "webp", "tif", "tiff")
ALPHA = ("png", "webp", "tif", "tiff")  # formats that keep an alpha channel
DEEP = ("png", "tif", "tiff")  # formats that keep 16 bits a sample
MAX_SIDE = {"jpg": 65500, "jpeg": 65500, "webp": 16383}  # pixels, of libjpeg and libwebp
QUALITY = 95  # of JPEG and WebP, from 1 to 100
_TIFF_FIELDS = {
    317: 2,  # differences of neighbouring samples are compressed (TIFF 6.0, section 14)
    SOFTWARE_TAG: SOFTWARE,
}


def is_picture(path: Path) -> bool:
    """Whether a file's name is that of a picture; patterns of numbered pictures are."""
    return path.suffix.lower().lstrip(".") in EXTENSIONS


def write_picture(path: Path, samples: np.ndarray, profile: bytes | None = None) -> None:
    """Write a picture in the format of its name, atomically, with an ICC profile if it fits the picture's channels.

    `samples`: (height, width) gray or (height, width, 3 or 4) RGB or RGBA; uint8, or uint16 for a format in DEEP.
    UpscaleError if the format cannot hold a picture of that size; OSError if it cannot be stored.
    """
    extension = path.suffix.lower().lstrip(".")
    if extension == "webp" and samples.ndim == 2:
        samples = np.dstack([samples] * 3)  # WebP has no gray
    if profile is not None and not describes(profile, samples.shape[2] if samples.ndim == 3 else 1):
        profile = None
    try:
        data = _encoded(samples, extension, profile)
    except (OSError, ValueError) as error:  # av.FFmpegError is one of them
        size = f"{samples.shape[1]}x{samples.shape[0]}"
        raise UpscaleError(f"cannot write a picture of {size} as {extension} ({error}); try png") from error
    with replacing(path, sync=True, temporary=path.with_name(fitting_name(f".{path.name}", ".upscale-tmp"))) as file:
        file.write(data)


def _encoded(samples: np.ndarray, extension: str, profile: bytes | None) -> bytes:
    """The bytes of a picture file; OSError or ValueError if the format cannot hold it."""
    if max(samples.shape[:2]) > MAX_SIDE.get(extension, 1 << 31):
        raise ValueError(f"at most {MAX_SIDE[extension]} pixels a side")  # libjpeg would print it to stderr, too
    tiff = extension in ("tif", "tiff")
    if extension == "png":
        return png_with_metadata(encode_png(samples), profile)
    if tiff and samples.dtype == np.uint16:
        return tiff_with_metadata(encode_tiff(samples), profile)
    picture, file, exif = Image.fromarray(samples), io.BytesIO(), Image.Exif()
    exif[SOFTWARE_TAG] = SOFTWARE
    if tiff:
        picture.save(file, "TIFF", compression="tiff_lzw", tiffinfo=_TIFF_FIELDS, icc_profile=profile)
    elif extension == "webp":
        picture.save(file, "WEBP", quality=QUALITY, icc_profile=profile, exif=exif)
    else:
        picture.save(file, "JPEG", quality=QUALITY, subsampling="4:4:4", icc_profile=profile, exif=exif)
    return file.getvalue()
