"""Pictures: which files are some, names of numbered ones, and a job's frames written as pictures.

A job whose result is pictures keeps its frames in segments as any other, lossless (FFV1, RGB or gray), so that
it resumes as any other; `PictureTarget.write` turns them into files at the end. Every file is written under a
temporary name, fsynced and renamed.
"""

from pathlib import Path

import numpy as np

from upscaling.common.errors import UpscaleError
from upscaling.common.files import replacing

EXTENSIONS = ("png", "jpg", "jpeg", "webp", "tif", "tiff")
ALPHA = ("png", "webp", "tif", "tiff")  # formats that keep an alpha channel
DEEP = ("png", "tif", "tiff")  # formats that keep 16 bits a sample
QUALITY = 95  # of JPEG and WebP, from 1 to 100


# Names


def is_picture(path: Path) -> bool:
    """Whether its name is that of a picture, a pattern of numbered ones included."""
    return path.suffix.lower().lstrip(".") in EXTENSIONS


def write_picture(path: Path, samples: np.ndarray, profile: np.ndarray | None = None) -> None:
    """Write gray, RGB or RGBA samples in the format that the name says; whole or not at all.

    UpscaleError where the format can't hold them; OSError where the disk does not take them.
    """
    import cv2

    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}  # OpenCV has blue first
    picture = samples if samples.ndim == 2 else np.ascontiguousarray(samples[..., order[samples.shape[2]]])
    extension = path.suffix.lower()
    options = {
        ".jpg": [cv2.IMWRITE_JPEG_QUALITY, QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111],  # 4:4:4
        ".webp": [cv2.IMWRITE_WEBP_QUALITY, QUALITY],
    }.get(".jpg" if extension == ".jpeg" else extension, [])
    try:
        done = False
        if profile is not None and extension not in (".tif", ".tiff"):
            done, data = cv2.imencodeWithMetadata(extension, picture, [cv2.IMAGE_METADATA_ICCP], [profile], options)
        if not done:  # a damaged profile is refused
            _, data = cv2.imencode(extension, picture, options)
    except cv2.error as error:
        size = f"{samples.shape[1]}x{samples.shape[0]}"
        raise UpscaleError(f"a picture of {size} can't be written as {extension[1:]} ({error.err}); try png") from error
    with replacing(path, sync=True, temporary=path.with_name(f".{path.name}.tmp")) as file:
        file.write(data.tobytes())


def read_profile(path: Path) -> np.ndarray | None:
    """The ICC profile in a picture file, as bytes in an array; None where there is none that OpenCV can read.

    It can from 4.12 on, and not from TIFF.
    """
    import cv2

    if not hasattr(cv2, "imdecodeWithMetadata") or path.suffix.lower() in (".tif", ".tiff"):
        return None
    try:
        _, kinds, data = cv2.imdecodeWithMetadata(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    found = dict(zip(list(kinds), data, strict=True))
    return found.get(cv2.IMAGE_METADATA_ICCP)
