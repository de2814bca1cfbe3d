"""The part of a picture that has the most detail."""

import numpy as np
from PIL import Image


def busiest(picture: np.ndarray, rows: int, columns: int) -> tuple[int, int, int]:
    """(row, column, detail) of the part of `rows` × `columns` pixels with the most detail.

    `picture` is (height, width, 3 or 4) uint8, the part at most as large. Detail is the sum of the differences between
    the gray values of neighbouring pixels.
    """
    gray = np.asarray(Image.fromarray(picture).convert("L"), np.int16)
    detail = np.zeros(gray.shape, np.uint32)
    detail[:, 1:] += np.abs(np.diff(gray, axis=1)).astype(np.uint32)
    detail[1:] += np.abs(np.diff(gray, axis=0)).astype(np.uint32)
    # Sums over all pixels above and to the left. They may wrap around; their differences are right all the same.
    total = np.pad(detail.cumsum(0, np.uint32).cumsum(1, np.uint32), ((1, 0), (1, 0)))
    sums = total[rows:, columns:] - total[:-rows, columns:] - total[rows:, :-columns] + total[:-rows, :-columns]
    row, column = np.unravel_index(int(np.argmax(sums)), sums.shape)
    return int(row), int(column), int(sums[row, column])
