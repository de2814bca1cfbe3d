"""Which tiles of a batch must be computed: those whose input differs from the same tile of the frame before."""

from dataclasses import dataclass
from itertools import pairwise

import torch

from upscaling.inference.tiling import Grid, Span


@dataclass(frozen=True)
class TileRun:
    """A tile that is the same in frames [first, last) of a batch."""

    rows: Span
    columns: Span
    first: int
    last: int


def tile_runs(
    frames: torch.Tensor, grid: Grid, previous: torch.Tensor | None = None
) -> tuple[list[TileRun], list[TileRun]]:
    """(runs to compute, by tile and frame; runs from frame 0 that are the same in `previous`).

    `frames` are (N, C, H, W), `previous` is the frame before them, (C, H, W), if its result can be used.
    """
    tiles, number = grid.tiles(), len(frames)
    changed = torch.ones(len(tiles), number, dtype=torch.bool)
    if number > 1:
        changed[:, 1:] = _changes(frames[1:], frames[:-1], grid)
    if previous is not None:
        changed[:, :1] = _changes(frames[:1], previous[None], grid)
    computed, kept = [], []
    for (rows, columns), flags in zip(tiles, changed.tolist(), strict=True):
        starts = [n for n, flag in enumerate(flags) if flag]
        computed += [TileRun(rows, columns, *run) for run in pairwise([*starts, number])]
        kept.append(TileRun(rows, columns, 0, starts[0] if starts else number))
    return computed, kept


def _changes(frames: torch.Tensor, earlier: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Which tiles differ between frames (n, C, H, W) and the ones before them: (tiles, n), bool, on the CPU."""
    pixels = (frames != earlier).any(1)  # (n, H, W)
    return torch.stack([window(pixels, grid, y, x).flatten(1).any(1) for y, x in grid.tiles()]).cpu()


def window(frames: torch.Tensor, grid: Grid, rows: Span, columns: Span) -> torch.Tensor:
    """The tile of frames (…, H, W): (…, grid.height, grid.width), a view."""
    return frames[..., rows.start : rows.start + grid.height, columns.start : columns.start + grid.width]
