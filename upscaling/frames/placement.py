"""Where the upscaled picture lies in the frame that is encoded: within black bars, or cut off at the edges."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from upscaling.frames.layout import FrameLayout


@dataclass(frozen=True)
class Placement:
    """A picture of `width` × `height` pixels, whose top left corner lies `left` and `top` pixels within the frame.

    `left` and `top` are negative if the picture is cut off there. All four are multiples of what the pixel format
    needs, so chroma samples stay where they are.
    """

    width: int
    height: int
    left: int
    top: int

    def visible(self, width: int, height: int) -> tuple["Region", "Region"]:
        """What is seen of the picture in a frame of `width` × `height`: (its region of the frame, of the picture)."""
        rows = _overlap(height, self.height, self.top)
        columns = _overlap(width, self.width, self.left)
        return (rows[0], columns[0]), (rows[1], columns[1])


Region = tuple[slice, slice]  # rows, columns


def _overlap(frame: int, picture: int, offset: int) -> tuple[slice, slice]:
    """The samples of an axis that both have: (as samples of the frame, of the picture)."""
    start, stop = max(offset, 0), min(offset + picture, frame)
    return slice(start, stop), slice(start - offset, stop - offset)


def place(
    picture: Sequence[np.ndarray], placement: Placement, layout: FrameLayout, frame: Sequence[np.ndarray]
) -> None:
    """Write the planes of a picture into those of a frame of `layout`, on black; transparent if it has alpha.

    Planes have the shapes of `pixel_formats.plane_shapes` for the placement's size and for the layout's.
    """
    for source, target, black in zip(picture, frame, black_samples(layout), strict=True):
        across, down = layout.width // target.shape[1], layout.height // target.shape[0]  # subsampling
        rows = _overlap(target.shape[0], source.shape[0], placement.top // down)
        columns = _overlap(target.shape[1], source.shape[1], placement.left // across)
        if source.shape[0] < target.shape[0] or source.shape[1] < target.shape[1]:
            target[...] = black
        target[rows[0], columns[0]] = source[rows[1], columns[1]]


def black_samples(layout: FrameLayout) -> list[int]:
    """The sample of black in each plane, 0 in an alpha plane (ITU-T H.273, clause 8.3)."""
    fmt = layout.format
    if fmt.rgb:
        return [0]
    dark, middle = layout.luma_codes[0], 1 << (fmt.depth - 1)
    chroma = [dark if layout.matrix in ("gbr", "rgb") else middle] * 2 if fmt.chroma else []
    return [dark, *chroma, *([0] if fmt.alpha else [])]
