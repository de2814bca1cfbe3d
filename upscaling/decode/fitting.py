"""Frames of every shape as planes of one layout: cropped, upright, and those of another shape converted to it.

A frame of the main shape is viewed, not copied. Of any other, size, pixel format, matrix and range are converted by
libswscale; on screen it keeps its own proportions, so if these are not the main shape's there are black bars.
"""

from dataclasses import dataclass, replace
from fractions import Fraction

import av
import numpy as np

from upscaling.common.errors import InputError, UpscaleError
from upscaling.decode.frame_shape import FrameShape
from upscaling.decode.planes import PlaneViewer, has_alpha, stored_format
from upscaling.frames.conversion import FrameConversion
from upscaling.frames.layout import FrameLayout
from upscaling.frames.pixel_formats import PixelFormat
from upscaling.frames.swscale import Resizer, has_matrix

# Proportions that differ by less than this are taken as equal: those of analogue formats are not defined more exactly.
SAME_PROPORTIONS = Fraction(3, 100)


class Fitter:
    """Gives the planes of a video's frames in the layout of its main shape, upright."""

    def __init__(self, main: FrameShape, layout: FrameLayout, alpha: bool):
        """`layout` is that of the planes; `alpha`: an alpha channel is kept."""
        self._main, self._layout, self._alpha = main, layout, alpha
        self._viewers: dict[FrameShape, PlaneViewer] = {}
        self._conversions: dict[FrameShape, _Conversion] = {}

    def viewer(self, shape: FrameShape) -> PlaneViewer:
        """What views frames of that shape, before they are cropped and upright."""
        if shape not in self._viewers:
            transposed = shape.orientation.transpose
            stored = stored_format(shape.format, alpha=self._alpha and has_alpha(shape.format), transposed=transposed)
            self._viewers[shape] = PlaneViewer(stored, shape.colour.full_range)
        return self._viewers[shape]

    def planes(self, frame: av.VideoFrame, shape: FrameShape) -> list[np.ndarray]:
        """Planes of a frame of that shape, in the shapes of `pixel_formats.plane_shapes`, maybe views and strided.

        InputError: libswscale has no such conversion.
        """
        viewer = self.viewer(shape)
        planes = shape.orientation.apply(cropped(viewer.planes(frame), shape, viewer.stored))
        if shape == self._main:
            return planes
        if shape not in self._conversions:
            self._conversions[shape] = _Conversion(self._main, shape, self._layout, viewer.stored)
        return self._conversions[shape](planes)


def cropped(planes: list[np.ndarray], shape: FrameShape, fmt: PixelFormat) -> list[np.ndarray]:
    """The planes of a frame without what its shape leaves out.

    If a crop begins between two chroma samples, the mean of both lies where the first one has to be.
    """
    if shape.crop == (0, 0) and planes[0].shape[:2] == (shape.height, shape.width):
        return planes
    left, top = shape.crop
    result = []
    for index, plane in enumerate(planes):
        across, down = fmt.multiple if index in (1, 2) else (1, 1)
        columns, rows = -(-shape.width // across), -(-shape.height // down)
        plane = _from(plane, top, down, rows, 0)
        result.append(_from(plane, left, across, columns, 1))
    return result


def _from(plane: np.ndarray, start: int, step: int, count: int, axis: int) -> np.ndarray:
    """`count` rows or columns from `start` on, which counts luma samples; `step` of them are one of the plane's."""
    first = start // step
    part = _slice(plane, first, count, axis)
    if start % step == 0:
        return part
    after = _slice(plane, first + 1, count, axis)
    if after.shape[axis] < count:  # the last sample has no neighbour
        after = np.concatenate([after, _slice(part, count - 1, 1, axis)], axis)
    return ((part.astype(np.uint32) + after + 1) // 2).astype(plane.dtype)


def _slice(plane: np.ndarray, first: int, count: int, axis: int) -> np.ndarray:
    return plane[first : first + count] if axis == 0 else plane[:, first : first + count]


@dataclass(frozen=True)
class Box:
    """The part of the main picture that a picture of other proportions fills, in pixels."""

    left: int
    top: int
    width: int
    height: int


def box_for(shape: FrameShape, main: FrameShape, multiple: tuple[int, int]) -> Box:
    """Where a frame of `shape` is shown in a picture of the main shape; both upright, on pixels of `multiple`."""
    (width, height), (own_width, own_height) = main.size, shape.size
    ratio = own_width * shape.upright_aspect / own_height  # of the picture on screen
    whole = width * main.upright_aspect / height
    if abs(ratio / whole - 1) < SAME_PROPORTIONS:
        return Box(0, 0, width, height)
    across, down = multiple
    if ratio < whole:
        inner = _nearest(height * ratio / main.upright_aspect, across, width)
        return Box((width - inner) // 2 // across * across, 0, inner, height)
    inner = _nearest(width * main.upright_aspect / ratio, down, height)
    return Box(0, (height - inner) // 2 // down * down, width, inner)


def _nearest(length: Fraction, multiple: int, most: int) -> int:
    return min(max(round(length / multiple) * multiple, multiple), most)


def source_matrix(shape: FrameShape, main: FrameShape) -> str:
    """The matrix that a frame is converted from; the main shape's if libswscale does not know one of both."""
    own, other = shape.colour.matrix, main.colour.matrix
    known = all(matrix == "gbr" or has_matrix(matrix) for matrix in (own, other))
    return own if known or own == "gbr" else other


class _Conversion:
    """Converts planes of one shape, upright, to the main shape's layout."""

    def __init__(self, main: FrameShape, shape: FrameShape, layout: FrameLayout, stored: PixelFormat):
        width, height = shape.size
        same_sites = stored.chroma == layout.format.chroma
        source = FrameLayout(
            width=width,
            height=height,
            pixel_format=stored.name,
            matrix=source_matrix(shape, main),
            full_range=shape.colour.full_range,
            chroma_location=layout.chroma_location if same_sites else "left",
        )
        self._box, self._layout = box_for(shape, main, layout.format.multiple), layout
        target = replace(layout, width=self._box.width, height=self._box.height)
        try:
            self._resizer = Resizer(FrameConversion(source, target))
        except UpscaleError as error:
            raise InputError(str(error)) from error
        self._target = target.padded

    def __call__(self, planes: list[np.ndarray]) -> list[np.ndarray]:
        flat = np.concatenate([np.ascontiguousarray(plane).reshape(-1) for plane in planes])
        out = self._target.empty()
        self._resizer(flat, out)
        canvas = self._layout.planes(black(self._layout))
        across, down = self._layout.format.multiple
        for index, (plane, whole) in enumerate(zip(self._target.planes(out), canvas, strict=True)):
            x, y = (across, down) if index in (1, 2) else (1, 1)
            top, left = self._box.top // y, self._box.left // x
            rows, columns = min(plane.shape[0], whole.shape[0] - top), min(plane.shape[1], whole.shape[1] - left)
            whole[top : top + rows, left : left + columns] = plane[:rows, :columns]
        return canvas


def black(layout: FrameLayout) -> np.ndarray:
    """A black frame, flat; opaque if it has alpha."""
    frame = layout.empty()
    for index, plane in enumerate(layout.planes(frame)):
        if layout.format.rgb or index == 0:
            plane[...] = layout.luma_codes[0]
        else:
            plane[...] = layout.peak if index == 3 else 1 << (layout.format.depth - 1)
    if layout.format.rgb and layout.format.alpha:
        layout.planes(frame)[0][..., 3] = layout.peak
    return frame
