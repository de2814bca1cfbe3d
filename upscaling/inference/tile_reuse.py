"""Which tiles of a batch must be computed: those whose input differs from the same tile of the frame before.

Frames are compared on the host, in the samples that are staged there for the device: less to read than their RGB, and
no GPU is waited for, so that a batch can be queued while the one before is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from upscaling.frames.chroma import REACH_UP
from upscaling.frames.layout import FrameLayout
from upscaling.inference.tiling import Grid, Span

SPARSE = 16  # every 16th row is compared first: what moves differs there already


@dataclass(frozen=True)
class TileRun:
    """A tile that is the same in frames [first, last) of a batch."""

    rows: Span
    columns: Span
    first: int
    last: int


@dataclass(frozen=True)
class ComparedPlane:
    """One plane of a batch on the host: `samples` are (N, rows, columns) or (N, rows, columns, channels).

    A sample belongs to 2**across by 2**down pixels, and a pixel depends on the samples up to `reach` away from its own.
    """

    samples: np.ndarray
    across: int = 0
    down: int = 0
    reach: int = 0


class FrameChanges:
    """What changes from frame to frame of a batch; `first` is the frame of the batch that counts as frame 0."""

    def __init__(self, planes: Sequence[ComparedPlane], first: int = 0):
        """`planes` of all frames of the batch; the first plane has a sample for each pixel."""
        self._planes, self._first = planes, first
        self._height, self._width = planes[0].samples.shape[1:3]

    @classmethod
    def of(cls, samples: np.ndarray, layout: FrameLayout) -> FrameChanges:
        """Those of (N, samples of a frame), which must not change while this is used."""
        planes, start = [], 0
        for plane in layout.planes(samples[0]):
            part = samples[:, start : start + plane.size].reshape(len(samples), *plane.shape)
            subsampled = layout.format.chroma if len(planes) in (1, 2) and layout.format.chroma else (0, 0)
            planes.append(ComparedPlane(part, *subsampled, reach=REACH_UP if any(subsampled) else 0))
            start += plane.size
        return cls(planes)

    def since(self, first: int) -> FrameChanges:
        """The same, with frame `first` of the batch as frame 0."""
        return FrameChanges(self._planes, first)

    @property
    def follows(self) -> bool:
        """Whether frame 0 has a frame before it, in an earlier part of the batch."""
        return self._first > 0

    def differs(self, number: int, top: int, left: int, height: int, width: int) -> bool:
        """Whether pixels of frame `number` in this window differ from the frame before, which must exist.

        A window may exceed the frame at the bottom and at the right, where frames are mirrored.
        """
        rows, columns = _with_mirrored(top, height, self._height), _with_mirrored(left, width, self._width)
        frame = self._first + number
        for plane in self._planes:
            y, x = _sample_range(rows, plane.down, plane.reach), _sample_range(columns, plane.across, plane.reach)
            now, before = plane.samples[frame, y, x], plane.samples[frame - 1, y, x]
            if not (np.array_equal(now[::SPARSE], before[::SPARSE]) and np.array_equal(now, before)):
                return True
        return False


def _with_mirrored(start: int, length: int, size: int) -> tuple[int, int]:
    """[first, last) of the axis that a window [start, start + length) shows, if it is mirrored behind `size`."""
    stop = start + length
    return (start, stop) if stop <= size else (max(0, min(start, 2 * size - 1 - stop)), size)


def _sample_range(pixels: tuple[int, int], shift: int, reach: int) -> slice:
    """The samples that pixels [first, last) depend on."""
    first, last = pixels
    return slice(max(0, (first >> shift) - reach), ((last - 1) >> shift) + 1 + reach)


def tile_runs(
    number: int, grid: Grid, changes: FrameChanges | None = None, after: bool = False
) -> tuple[list[TileRun], list[TileRun]]:
    """(runs to compute, by tile and frame; runs from frame 0 that are the same in the frame before it).

    Of `number` frames; without `changes` every tile is computed. `after`: the result of the frame before can be used.
    """
    computed, kept = [], []
    for rows, columns in grid.tiles():
        starts = [
            n
            for n in range(number)
            if changes is None
            or (n == 0 and not after)
            or changes.differs(n, rows.start, columns.start, grid.height, grid.width)
        ]
        computed += [TileRun(rows, columns, *run) for run in pairwise([*starts, number])]
        kept.append(TileRun(rows, columns, 0, starts[0] if starts else number))
    return computed, kept
