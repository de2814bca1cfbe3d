"""How much detail a picture has, and the part of it that has the most."""

import numpy as np
from PIL import Image


def differences(picture: np.ndarray) -> np.ndarray:
    """How far each value of a picture, (height, width) of a signed dtype, is from those to its left and above it."""
    found = np.zeros_like(picture)
    found[:, 1:] += np.abs(np.diff(picture, axis=1))
    found[1:] += np.abs(np.diff(picture, axis=0))
    return found


def busiest(picture: np.ndarray, rows: int, columns: int) -> tuple[int, int, int]:
    """(row, column, detail) of the part of `rows` × `columns` pixels with the most detail.

    `picture` is (height, width, 3 or 4) uint8, the part at most as large. Detail is the sum of the differences between
    the gray values of neighbouring pixels.
    """
    detail = differences(np.asarray(Image.fromarray(picture).convert("L"), np.int16))
    # Sums over all pixels above and to the left. They may wrap around; their differences are right all the same.
    total = np.pad(detail.cumsum(0, np.uint32).cumsum(1, np.uint32), ((1, 0), (1, 0)))
    sums = total[rows:, columns:] - total[:-rows, columns:] - total[rows:, :-columns] + total[:-rows, :-columns]
    row, column = np.unravel_index(int(np.argmax(sums)), sums.shape)
    return int(row), int(column), int(sums[row, column])
