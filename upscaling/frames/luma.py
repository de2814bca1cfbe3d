"""The luma of a frame as float, whatever its pixel format."""

from collections.abc import Sequence

import numpy as np

from upscaling.frames.layout import FrameLayout

LUMA_OF_RGB = np.array([0.2126, 0.7152, 0.0722], np.float32)  # ITU-R BT.709, item 3.2


def luma(planes: Sequence[np.ndarray], layout: FrameLayout, white: float = 1.0) -> np.ndarray:
    """(height, width) float32, from 0 for black to `white`, as coded; values outside are kept."""
    plane = planes[0].astype(np.float32)
    if layout.format.rgb:
        plane = plane[..., :3] @ LUMA_OF_RGB
    black, span = layout.luma_codes
    return (plane - np.float32(black)) / np.float32(span / white)
