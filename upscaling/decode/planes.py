"""Decoded frames as planes of a format that frames are stored in: views of FFmpeg's memory if the layout is the same.

Every pixel format of FFmpeg has a nearest format in `pixel_formats.FORMATS` that holds it without loss
(`stored_format`); if its layout is another, libswscale converts.
"""

import av
import av.error
import numpy as np
from av.video.format import VideoFormat
from av.video.reformatter import Interpolation, VideoReformatter

from upscaling.common.errors import InputError
from upscaling.frames.av_planes import av_planes
from upscaling.frames.pixel_formats import FORMATS, PixelFormat

_DEPTHS = (8, 9, 10, 12, 14, 16)
_LIMITED, _FULL = 1, 2  # AVCOL_RANGE_MPEG, AVCOL_RANGE_JPEG (libavutil/pixfmt.h)
_CONVERSION = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP


def has_alpha(name: str) -> bool:
    """Whether a pixel format of FFmpeg has an alpha channel."""
    pixel = VideoFormat(name)
    return pixel.has_palette or any(component.is_alpha for component in pixel.components)


def is_rgb(name: str) -> bool:
    """Whether a pixel format of FFmpeg holds RGB (or XYZ, which is converted to RGB)."""
    pixel = VideoFormat(name)
    return pixel.is_rgb or pixel.has_palette or name.startswith("xyz")


def stored_format(name: str, *, alpha: bool = False, transposed: bool = False) -> PixelFormat:
    """The format of `pixel_formats.FORMATS` that holds frames of FFmpeg's pixel format `name` without loss.

    `alpha`: keep an alpha channel; `transposed`: rows and columns will be swapped, so chroma that is
    subsampled in one direction only becomes 4:4:4. InputError for frames in a device's memory.
    """
    pixel = VideoFormat(name)
    if not pixel.components:
        raise InputError(f"cannot read frames of pixel format {name}")
    alpha = alpha and has_alpha(name)
    bits = min(max(component.bits for component in pixel.components), 16)
    if is_rgb(name):
        return FORMATS[("rgba" if alpha else "rgb24") if bits <= 8 else ("rgba64le" if alpha else "rgb48le")]
    if len(pixel.components) > 2:
        halved = pixel.chroma_width(64) < 64, pixel.chroma_height(64) < 64  # or quartered: the nearest format
        family = {(True, True): "yuv420p", (True, False): "yuv422p"}.get(halved, "yuv444p")
        if transposed and family == "yuv422p":
            family = "yuv444p"
    else:
        family = "yuv444p" if alpha else "gray"  # no format has gray with alpha
    if alpha:
        family = family.replace("yuv", "yuva")
    names = [family + ("" if depth == 8 else f"{depth}le") for depth in _DEPTHS if depth >= bits]
    return FORMATS[next(name for name in names if name in FORMATS)]


def is_full_range(frame: av.VideoFrame) -> bool | None:
    """Whether a frame is tagged as full range; None if it has no tag."""
    if frame.format.name.startswith("yuvj") or frame.color_range == _FULL:
        return True
    return False if frame.color_range == _LIMITED else None


class PlaneViewer:
    """Returns the planes of decoded frames in one format.

    `stored` is the format of the planes, `full_range` their range, unless a frame is tagged otherwise.
    """

    def __init__(self, stored: PixelFormat, full_range: bool):
        self.stored = stored
        self._full_range = full_range
        self._reformatter = VideoReformatter()

    def views(self, frame: av.VideoFrame) -> bool:
        """Whether the planes of a frame are viewed as they are."""
        return _viewable(frame.format.name, self.stored)

    def fit(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The frame itself if `planes` can view it, else a converted one, of the same size, matrix and range."""
        name = frame.format.name
        if self.views(frame):
            return frame
        full_range = is_full_range(frame)
        color_range = _FULL if (self._full_range if full_range is None else full_range) else _LIMITED
        ranges = {} if is_rgb(name) else {"src_color_range": color_range}
        if not self.stored.rgb:
            ranges["dst_color_range"] = color_range
        try:
            if name.startswith("bayer") and (frame.width % 2 or frame.height % 2):
                raise ValueError("odd size")  # libswscale would abort the process
            return self._reformatter.reformat(frame, format=self.stored.name, interpolation=int(_CONVERSION), **ranges)
        except (av.error.FFmpegError, ValueError, MemoryError) as error:
            size = f"{frame.width}x{frame.height}"
            raise InputError(f"cannot convert {size} frames of pixel format {name} to {self.stored.name}") from error

    def planes(self, frame: av.VideoFrame) -> list[np.ndarray]:
        """Views of the planes of a frame, in the shapes of `pixel_formats.plane_shapes`, maybe strided."""
        return av_planes(self.fit(frame), self.stored)


def _viewable(name: str, stored: PixelFormat) -> bool:
    """Whether frames of FFmpeg's format `name` have, as their first planes, the planes of `stored`."""
    return (
        name == stored.name
        or name.replace("yuvj", "yuv") == stored.name
        or (name.startswith("yuva") and name.replace("yuva", "yuv") == stored.name)
    )
