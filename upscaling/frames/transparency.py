"""The colours under fully transparent pixels, filled from the nearest visible ones before a frame is resized.

What is under them is often black, and any filter would mix it into the edges: a dark fringe. The distance is that of
steps along rows and columns; alpha is not changed.
"""

import numpy as np

from upscaling.frames.layout import FrameLayout
from upscaling.frames.pixel_formats import PixelFormat, plane_shapes


def fill_transparent(frame: np.ndarray, layout: FrameLayout) -> np.ndarray:
    """The samples of a frame in any shape, or a filled copy of them, flat; chroma under any visible pixel is kept."""
    fmt = layout.format
    if not fmt.alpha:
        return frame
    planes = layout.planes(frame)
    visible = (planes[0][..., 3] if fmt.rgb else planes[-1]) != 0  # (height, width)
    if visible.all() or not visible.any():
        return frame
    samples = np.array(frame.reshape(-1))
    for plane, seen in zip(layout.planes(samples), _visible_in_planes(visible, fmt), strict=False):
        rows, columns = np.nonzero(~seen)
        nearest = nearest_visible(seen)[rows, columns]
        if fmt.rgb:
            plane[rows, columns, :3] = plane.reshape(-1, fmt.channels)[nearest, :3]
        else:
            plane[rows, columns] = plane.reshape(-1)[nearest]
    return samples


def _visible_in_planes(visible: np.ndarray, fmt: PixelFormat) -> list[np.ndarray]:
    """For each plane of colour, (rows, columns), which of its samples colour any visible pixel."""
    if fmt.chroma in (None, (0, 0)):
        return [visible] if fmt.chroma is None else [visible] * 3
    height, width = visible.shape
    rows, columns = plane_shapes(fmt, width, height)[1]
    across, down = fmt.multiple
    padded = np.pad(visible, ((0, rows * down - height), (0, columns * across - width)))
    chroma = np.asarray(padded.reshape(rows, down, columns, across).any(axis=(1, 3)))
    return [visible, chroma, chroma]


def nearest_visible(visible: np.ndarray) -> np.ndarray:
    """The flat index of the nearest visible pixel of each pixel, (height, width) int32; at least one is visible."""
    height, width = visible.shape
    far = np.int32(2 * (height + width))
    columns = np.arange(width, dtype=np.int32)
    left = np.maximum.accumulate(np.where(visible, columns, -far), axis=1)
    right = np.minimum.accumulate(np.where(visible, columns, 2 * far)[:, ::-1], axis=1)[:, ::-1]
    left_is_nearer = columns - left <= right - columns
    distance = np.minimum(np.where(left_is_nearer, columns - left, right - columns), far)  # within the row
    nearest = np.where(left_is_nearer, left, right) + np.arange(height, dtype=np.int32)[:, None] * np.int32(width)
    for rows in (range(1, height), range(height - 2, -1, -1)):  # down, then up: from the row before
        for row in rows:
            before = row - rows.step
            nearer = distance[before] + 1 < distance[row]
            np.copyto(distance[row], distance[before] + 1, where=nearer)
            np.copyto(nearest[row], nearest[before], where=nearer)
    return nearest
