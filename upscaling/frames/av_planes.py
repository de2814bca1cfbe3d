"""The planes of PyAV's frames as arrays."""

import math

import av
import numpy as np

from upscaling.frames.pixel_formats import PixelFormat, plane_shapes


def av_planes(frame: av.VideoFrame, fmt: PixelFormat) -> list[np.ndarray]:
    """Views of a frame's planes in the shapes of `plane_shapes`: writing to them changes the frame.

    The first planes of `frame` must be laid out as those of `fmt`; planes that `fmt` lacks (alpha) are left out. Rows
    may be padded in memory, and are stored bottom up if FFmpeg's line size is negative. The views keep the frame's
    memory alive.
    """
    shapes = plane_shapes(fmt, frame.width, frame.height)
    size = fmt.dtype.itemsize
    views = []
    for plane, shape in zip(frame.planes, shapes, strict=False):
        strides = (plane.line_size, *(size * math.prod(shape[axis + 1 :]) for axis in range(1, len(shape))))
        offset = 0 if plane.line_size >= 0 else -plane.line_size * (shape[0] - 1)
        # PyAV's stub does not say that planes have a buffer.
        views.append(np.ndarray(shape, fmt.dtype, plane, offset, strides))  # pyright: ignore[reportArgumentType]
    return views
