"""Pillow's pictures of every mode as gray, RGB or RGBA samples; other colour spaces by their ICC profile."""

import io

import numpy as np
from PIL import Image, ImageCms

from upscaling.common.errors import InputError

_SRGB = ImageCms.createProfile("sRGB")
_BLACK_POINT = ImageCms.Flags.BLACKPOINTCOMPENSATION


def as_samples(picture: Image.Image) -> tuple[np.ndarray, list[str]]:
    """(samples, notes) of a loaded picture: (height, width[, 3 or 4]), uint8 or uint16; notes are lines for the user.

    InputError for samples that no format here holds.
    """
    if picture.mode in ("CMYK", "LAB", "YCbCr", "HSV"):
        return _converted(picture)
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        return _deep_gray(picture), []
    if picture.mode == "F":
        raise InputError("samples in floating point are not read; convert it to 8 or 16 bits")
    if picture.mode == "LA" and (picture.info.get("icc_profile") or b"")[16:20] == b"GRAY":
        return _gray_with_alpha(picture), []
    return np.asarray(picture.convert(_mode(picture))), []


def _mode(picture: Image.Image) -> str:
    """L, RGB or RGBA: the mode that holds a picture without loss."""
    if picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        return "RGBA"
    return "L" if picture.mode in ("1", "L") else "RGB"


def _deep_gray(picture: Image.Image) -> np.ndarray:
    samples = np.asarray(picture)
    if samples.min() < 0 or samples.max() > 65535:
        raise InputError("samples of 32 bits are not read; convert it to 16 bits")
    return samples.astype(np.uint16)


def _converted(picture: Image.Image) -> tuple[np.ndarray, list[str]]:
    """RGB of a picture in another colour space, sRGB if a profile tells how."""
    data, notes = picture.info.get("icc_profile"), []
    space = {"CMYK": b"CMYK", "LAB": b"Lab "}.get(picture.mode)
    try:
        if space is not None and data and data[16:20] == space:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        else:
            profile = ImageCms.createProfile("LAB") if picture.mode == "LAB" else None
        if profile is not None:
            result = _by_profile(picture, profile)
            return np.asarray(result), [
                "CMYK colours are converted to sRGB by their profile"
            ] if space == b"CMYK" else []
    except (OSError, ImageCms.PyCMSError):
        notes.append("its colour profile is damaged and not used")
    if picture.mode == "CMYK":
        notes.append("CMYK colours are converted to RGB without a profile: they may look different")
    return np.asarray(picture.convert("RGB")), notes


def _by_profile(picture: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    result = ImageCms.profileToProfile(
        picture, profile, _SRGB, ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB", flags=_BLACK_POINT
    )
    assert result is not None  # it is not converted in place
    return result


def gray_by_profile(picture: Image.Image, data: bytes) -> np.ndarray:
    """A gray picture as sRGB, uint8 (height, width, 3), by its profile if that is one of gray."""
    if data[16:20] == b"GRAY":
        try:
            return np.asarray(_by_profile(picture, ImageCms.ImageCmsProfile(io.BytesIO(data))))
        except (OSError, ImageCms.PyCMSError):
            pass  # a damaged profile says nothing
    return np.asarray(picture.convert("RGB"))


def _gray_with_alpha(picture: Image.Image) -> np.ndarray:
    """RGBA: no file holds gray with alpha here, and its profile is not one of RGB."""
    gray, alpha = picture.split()
    return np.dstack([gray_by_profile(gray, picture.info["icc_profile"]), np.asarray(alpha)])
