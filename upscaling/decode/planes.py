"""Decoded frames as the planes of a format that frames are kept in: views of FFmpeg's memory wherever it fits.

Every pixel format of FFmpeg has a nearest format in frame.FORMATS that holds it without loss (`kept_format`);
where it is not the same layout, libswscale converts.
"""

import math

import av
import numpy as np
from av.video.format import VideoFormat
from av.video.reformatter import Interpolation, VideoReformatter

from upscaling.common.errors import InputError
from upscaling.frames.pixel_formats import FORMATS, PixelFormat, plane_shapes

_DEPTHS = (8, 9, 10, 12, 14, 16)
_RANGES = {False: 1, True: 2}  # AVCOL_RANGE_MPEG, AVCOL_RANGE_JPEG (libavutil/pixfmt.h)
_FULL, _LIMITED = 2, 1
_SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP


def has_alpha(name: str) -> bool:
    """Whether a pixel format of FFmpeg has an alpha channel."""
    pixel = VideoFormat(name)
    return pixel.has_palette or any(component.is_alpha for component in pixel.components)


def is_rgb(name: str) -> bool:
    """Whether a pixel format of FFmpeg holds RGB (or XYZ, which is turned into RGB)."""
    pixel = VideoFormat(name)
    return pixel.is_rgb or pixel.has_palette or name.startswith("xyz")


def kept_format(name: str, *, alpha: bool = False, transposed: bool = False) -> PixelFormat:
    """The format of frame.FORMATS that holds frames of FFmpeg's pixel format `name` without loss.

    `alpha`: keep an alpha channel; `transposed`: rows and columns will be swapped, so chroma that is
    subsampled in one direction only becomes 4:4:4. InputError for frames that lie on a device.
    """
    pixel = VideoFormat(name)
    if not pixel.components:
        raise InputError(f"frames of pixel format {name} can't be read")
    alpha = alpha and has_alpha(name)
    bits = min(max(component.bits for component in pixel.components), 16)
    if is_rgb(name):
        return FORMATS[("rgba" if alpha else "rgb24") if bits <= 8 else ("rgba64le" if alpha else "rgb48le")]
    chroma = len(pixel.components) > 2
    family = "yuv444p" if transposed or alpha or chroma else "gray"
    if chroma:
        narrow, low = pixel.chroma_width(64) < 64, pixel.chroma_height(64) < 64
        family = {(True, True): "yuv420p", (True, False): "yuv422p"}.get((narrow, low), "yuv444p")
        if transposed and family == "yuv422p":
            family = "yuv444p"
    elif not alpha:
        family = "gray"
    if alpha:
        family = family.replace("yuv", "yuva")
    names = [family + ("" if depth == 8 else f"{depth}le") for depth in _DEPTHS if depth >= bits]
    return FORMATS[next(name for name in names if name in FORMATS)]


def is_full_range(frame) -> bool | None:
    """Whether a frame says that its samples use the full range; None where it does not say."""
    if frame.format.name.startswith("yuvj") or frame.color_range == _FULL:
        return True
    return False if frame.color_range == _LIMITED else None


class PlaneViewer:
    """Gives the planes of decoded frames in one format and size; frames of others are converted (`changed` counts).

    `source` is the pixel format and (width, height) of the first frame.
    """

    def __init__(self, source: str, width: int, height: int, kept: PixelFormat, full_range: bool):
        self.kept = kept
        self._source, self._size, self._full_range = source, (width, height), full_range
        self._shapes = plane_shapes(kept, width, height)
        self._reformatter = VideoReformatter()
        self.changed = 0

    def fit(self, frame):
        """The frame itself where `planes` can view it, else a converted one."""
        self.changed += (frame.width, frame.height, frame.format.name) != (*self._size, self._source)
        return self._fitting(frame)

    def _fitting(self, frame):
        size = (frame.width, frame.height)
        full_range = is_full_range(frame)
        same_range = self.kept.rgb or full_range is None or full_range == self._full_range
        if size == self._size and same_range and _viewable(frame.format.name, self.kept):
            return frame
        return self._converted(frame, self._full_range if full_range is None else full_range)

    def _converted(self, frame, full_range: bool):
        name = frame.format.name
        ranges = {} if is_rgb(name) else {"src_color_range": _RANGES[full_range]}
        if not self.kept.rgb:
            ranges["dst_color_range"] = _RANGES[self._full_range]
        try:
            if name.startswith("bayer") and (frame.width % 2 or frame.height % 2):
                raise ValueError("odd size")  # libswscale aborts the process
            return self._reformatter.reformat(
                frame, *self._size, format=self.kept.name, interpolation=int(_SCALING), **ranges
            )
        except (av.FFmpegError, ValueError, MemoryError) as error:
            size = f"{frame.width}x{frame.height}"
            raise InputError(f"{size} frames of pixel format {name} can't be turned into {self.kept.name}") from error

    def planes(self, frame) -> list[np.ndarray]:
        """Views of the planes of a frame from `fit`, in the shapes of frame.plane_shapes; rows may be strided.

        The frame may have been through a filter since; if that changed its pixel format, it is changed back.
        """
        frame = self._fitting(frame)
        return [
            _view(plane, shape, self.kept.dtype)
            for plane, shape in zip(frame.planes, self._shapes, strict=False)  # a dropped alpha plane is the last
        ]


def _viewable(name: str, kept: PixelFormat) -> bool:
    """Whether frames of FFmpeg's format `name` have, as their first planes, the planes of `kept`."""
    return (
        name == kept.name
        or name.replace("yuvj", "yuv") == kept.name
        or (name.startswith("yuva") and name.replace("yuva", "yuv") == kept.name)
    )


def _view(plane, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    rows, line = shape[0], abs(plane.line_size)
    used = math.prod(shape[1:]) * dtype.itemsize
    lines = np.frombuffer(plane, np.uint8)[: rows * line].reshape(rows, line)  # (rows, bytes of a line)
    if plane.line_size < 0:
        lines = lines[::-1]  # stored bottom up
    return lines[:, :used].view(dtype).reshape(shape) if len(shape) == 2 else _packed(lines[:, :used], shape, dtype)


def _packed(lines: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """(rows, bytes) as (rows, columns, channels) without a copy."""
    strides = (lines.strides[0], shape[2] * dtype.itemsize, dtype.itemsize)
    return np.lib.stride_tricks.as_strided(lines.view(dtype), shape, strides)
