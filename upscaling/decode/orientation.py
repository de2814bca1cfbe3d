"""Orientation: the display matrix of a file, and planes turned and mirrored as it says, without resampling.

A display matrix holds nine 32-bit integers (a, b, u, c, d, v, x, y, w), a to d in 16.16 fixed point; a pixel at
(x, y) is shown at (a·x + c·y, b·x + d·y) plus an offset (ISO/IEC 14496-12 8.3.2; libavutil/display.h).
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Where a chroma sample of 4:2:0 lies, in luma pixels from the top left luma sample of its 2x2: (right, down).
_SITES = {"center": (0.5, 0.5), "left": (0.0, 0.5), "topleft": (0.0, 0.0)}
_TOLERANCE = 0.02  # of the matrix's size: what rounding leaves of a right angle


@dataclass(frozen=True)
class Orientation:
    """One of the eight: first rows and columns are swapped (transpose), then the result is mirrored."""

    transpose: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    def __bool__(self) -> bool:
        return self.transpose or self.mirror_x or self.mirror_y

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) after it."""
        return (height, width) if self.transpose else (width, height)

    def apply(self, planes: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The planes turned, (rows, columns) or (height, width, channels) each; nothing is copied."""
        turned = []
        for plane in planes:
            if self.transpose:
                plane = plane.swapaxes(0, 1)
            turned.append(plane[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1])
        return turned

    def chroma_location(self, location: str) -> str:
        """The nearest of left, center and topleft to where chroma samples lie after it (half a pixel at most)."""
        right, down = _SITES.get(location, _SITES["left"])
        if self.transpose:
            right, down = down, right
        site = (1 - right if self.mirror_x else right, 1 - down if self.mirror_y else down)
        return min(_SITES, key=lambda name: math.dist(site, _SITES[name]))

    def __str__(self) -> str:
        turns = {(False, True, True): "turned by 180°", (True, True, False): "turned by 90° clockwise"}
        turns |= {(True, False, True): "turned by 90° counterclockwise", (False, True, False): "mirrored"}
        turns |= {(False, False, True): "turned upside down and mirrored", (False, False, False): "as it is"}
        turns |= {(True, False, False): "mirrored and turned by 90° counterclockwise"}
        turns |= {(True, True, True): "mirrored and turned by 90° clockwise"}
        return turns[(self.transpose, self.mirror_x, self.mirror_y)]


def from_matrix(matrix: bytes) -> Orientation | None:
    """The orientation of a display matrix (36 bytes, native order); None if it is no right angle."""
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix[:36])
    size = max(map(abs, (a, b, c, d)))
    if size == 0:
        return Orientation()
    if max(abs(b), abs(c)) <= _TOLERANCE * size:
        return Orientation(False, a < 0, d < 0)
    if max(abs(a), abs(d)) <= _TOLERANCE * size:
        return Orientation(True, c < 0, b < 0)
    return None


def from_degrees(degrees: int) -> Orientation | None:
    """The orientation of a counterclockwise turn (what PyAV's frame.rotation gives); None if it is no right angle."""
    turns = {0: (False, False, False), 90: (True, False, True), 180: (False, True, True), 270: (True, True, False)}
    turn = turns.get(degrees % 360)
    return Orientation(*turn) if turn else None
