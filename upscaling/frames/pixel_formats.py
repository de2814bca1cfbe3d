"""The pixel formats of stored frames, and the shapes of their planes.

A frame is one flat array of samples, plane after plane, rows top to bottom, without padding between rows: the layout of
FFmpeg's planar pixel formats with a line size equal to the width. Samples are uint8 for 8-bit formats and little-endian
uint16 for deeper ones, with the value in the low bits as in FFmpeg. Packed RGB (rgb24, rgba, rgb48le, rgba64le) is one
plane of shape (height, width, channels).
"""

import math
from dataclasses import dataclass

import numpy as np

from upscaling.common.errors import InputError


@dataclass(frozen=True)
class PixelFormat:
    """One pixel format, under FFmpeg's name.

    `depth` is in bits per sample; `chroma` is (log2 of the horizontal, log2 of the vertical) subsampling, or None
    without chroma planes; `channels` is 1 for planar formats and 3 or 4 for packed RGB.
    """

    name: str
    depth: int
    chroma: tuple[int, int] | None
    alpha: bool = False
    rgb: bool = False

    @property
    def channels(self) -> int:
        return (4 if self.alpha else 3) if self.rgb else 1

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8) if self.depth == 8 else np.dtype("<u2")

    @property
    def multiple(self) -> tuple[int, int]:
        """(across, down): an encoder needs a width and height that are multiples of these."""
        return (1 << self.chroma[0], 1 << self.chroma[1]) if self.chroma else (1, 1)


def _formats() -> dict[str, PixelFormat]:
    formats = [
        PixelFormat("rgb24", 8, None, rgb=True),
        PixelFormat("rgba", 8, None, alpha=True, rgb=True),
        PixelFormat("rgb48le", 16, None, rgb=True),
        PixelFormat("rgba64le", 16, None, alpha=True, rgb=True),
    ]
    for depth in (8, 9, 10, 12, 14, 16):
        suffix = "" if depth == 8 else f"{depth}le"
        formats.append(PixelFormat("gray" + suffix, depth, None))
        for ratio, chroma in (("420", (1, 1)), ("422", (1, 0)), ("444", (0, 0))):
            formats.append(PixelFormat(f"yuv{ratio}p{suffix}", depth, chroma))
            if depth in (8, 10, 16) or (depth == 12 and ratio != "420"):
                formats.append(PixelFormat(f"yuva{ratio}p{suffix}", depth, chroma, alpha=True))
    return {f.name: f for f in formats}


FORMATS: dict[str, PixelFormat] = _formats()


def pixel_format(name: str) -> PixelFormat:
    """The pixel format of that name; InputError if it is not in FORMATS."""
    try:
        return FORMATS[name]
    except KeyError:
        raise InputError(f"unsupported pixel format {name!r} (choose from {', '.join(FORMATS)})") from None


def plane_shapes(fmt: PixelFormat, width: int, height: int) -> list[tuple[int, ...]]:
    """Shapes of the planes in order (Y, U, V, alpha): (rows, columns), or (height, width, channels) if packed.

    Chroma planes of odd sizes are rounded up, as FFmpeg does.
    """
    if fmt.rgb:
        return [(height, width, fmt.channels)]
    shapes: list[tuple[int, ...]] = [(height, width)]
    if fmt.chroma:
        log2_w, log2_h = fmt.chroma
        shapes += [(-(-height >> log2_h), -(-width >> log2_w))] * 2
    if fmt.alpha:
        shapes.append((height, width))
    return shapes


def sample_count(fmt: PixelFormat, width: int, height: int) -> int:
    """Samples of one frame, all planes together."""
    return sum(math.prod(shape) for shape in plane_shapes(fmt, width, height))


def frame_bytes(fmt: PixelFormat, width: int, height: int) -> int:
    """Bytes of one frame's samples."""
    return sample_count(fmt, width, height) * fmt.dtype.itemsize


def planes(samples: np.ndarray, fmt: PixelFormat, width: int, height: int) -> list[np.ndarray]:
    """Views of the planes of one flat frame, in the shapes of `plane_shapes`; nothing is copied."""
    flat = samples.reshape(-1)
    if flat.size != sample_count(fmt, width, height):
        raise InputError(
            f"a {width}x{height} {fmt.name} frame has {sample_count(fmt, width, height)} samples, not {flat.size}"
        )
    views, start = [], 0
    for shape in plane_shapes(fmt, width, height):
        size = math.prod(shape)
        views.append(flat[start : start + size].reshape(shape))
        start += size
    return views


def equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two flat frames have the same samples; comparing a few samples first is enough for most."""
    return a.shape == b.shape and np.array_equal(a[::4099], b[::4099]) and np.array_equal(a, b)


def stored_shape(fmt: PixelFormat, width: int, height: int) -> tuple[int, ...]:
    """The array shape of a frame's `.npy` file, as of PyAV's to_ndarray.

    (height, width, channels) for packed RGB, (height, width) for gray, (height * 3/2, width) for 4:2:0 of even size,
    (height * 2, width) for 4:2:2 of even width, (3, height, width) for 4:4:4 (4 with alpha); flat for all others.
    """
    if fmt.rgb:
        return (height, width, fmt.channels)
    if fmt.chroma is None:
        return (height, width)
    if fmt.chroma == (0, 0):
        return (4 if fmt.alpha else 3, height, width)
    if not fmt.alpha and width % fmt.multiple[0] == 0 and height % fmt.multiple[1] == 0:
        return (sample_count(fmt, width, height) // width, width)
    return (sample_count(fmt, width, height),)


def size_from_shape(fmt: PixelFormat, shape: tuple[int, ...]) -> tuple[int, int]:
    """(width, height) of a frame of that `stored_shape`; InputError if the shape is flat or of another format."""
    width = height = 0
    if fmt.rgb and len(shape) == 3:
        height, width = shape[:2]
    elif not fmt.rgb and fmt.chroma == (0, 0) and len(shape) == 3:
        height, width = shape[1:]
    elif not fmt.rgb and len(shape) == 2:
        rows, width = shape
        height = {None: rows, (1, 1): rows * 2 // 3, (1, 0): rows // 2}.get(fmt.chroma, 0)
    if width < 1 or height < 1 or stored_shape(fmt, width, height) != tuple(shape):
        raise InputError(f"an array of shape {tuple(shape)} is not a {fmt.name} frame")
    return width, height


def frame_name(number: int, extension: str = "npy") -> str:
    """`frame_000001.npy` for frame 1; numbers go on past six digits."""
    return f"frame_{number:06d}.{extension}"
