"""Orientation: the display matrix of a file, and planes rotated and mirrored by it, without resampling.

A display matrix holds nine 32-bit integers (a, b, u, c, d, v, x, y, w), a to d in 16.16 fixed point; a pixel at
(x, y) is shown at (a·x + c·y, b·x + d·y) plus an offset (ISO/IEC 14496-12 8.3.2; libavutil/display.h).
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Position of a 4:2:0 chroma sample, in luma pixels (right, down) from the top left luma sample of its 2x2 block.
_CHROMA_POSITIONS = {"center": (0.5, 0.5), "left": (0.0, 0.5), "topleft": (0.0, 0.0)}
_TOLERANCE = 0.02  # of the largest element: what rounding leaves of a right angle


@dataclass(frozen=True)
class Orientation:
    """One of the eight axis-aligned orientations: an optional transpose, then mirroring."""

    transpose: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    def __bool__(self) -> bool:
        return self.transpose or self.mirror_x or self.mirror_y

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of an oriented picture."""
        return (height, width) if self.transpose else (width, height)

    def apply(self, planes: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The oriented planes, (rows, columns) or (rows, columns, channels) each; nothing is copied."""
        oriented = []
        for plane in planes:
            if self.transpose:
                plane = plane.swapaxes(0, 1)
            oriented.append(plane[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1])
        return oriented

    def chroma_location(self, location: str) -> str:
        """The chroma location of an oriented picture: left, center or topleft, off by half a pixel at most."""
        right, down = _CHROMA_POSITIONS.get(location, _CHROMA_POSITIONS["left"])
        if self.transpose:
            right, down = down, right
        position = (1 - right if self.mirror_x else right, 1 - down if self.mirror_y else down)
        return min(_CHROMA_POSITIONS, key=lambda name: math.dist(position, _CHROMA_POSITIONS[name]))

    def __str__(self) -> str:
        return _DESCRIPTIONS[(self.transpose, self.mirror_x, self.mirror_y)]


_DESCRIPTIONS = {
    (False, False, False): "unchanged",
    (False, True, False): "mirrored",
    (False, False, True): "flipped",
    (False, True, True): "rotated by 180°",
    (True, True, False): "rotated by 90° clockwise",
    (True, False, True): "rotated by 90° counterclockwise",
    (True, False, False): "mirrored and rotated by 90° counterclockwise",
    (True, True, True): "mirrored and rotated by 90° clockwise",
}


def from_matrix(matrix: bytes) -> Orientation | None:
    """The orientation of a display matrix (36 bytes, native byte order); None if its angle is not a right one."""
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix[:36])
    size = max(map(abs, (a, b, c, d)))
    if size == 0:
        return Orientation()
    if max(abs(b), abs(c)) <= _TOLERANCE * size:
        return Orientation(False, a < 0, d < 0)
    if max(abs(a), abs(d)) <= _TOLERANCE * size:
        return Orientation(True, c < 0, b < 0)
    return None
