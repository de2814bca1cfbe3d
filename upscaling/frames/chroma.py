"""Subsampled chroma, upsampled to the luma sites and downsampled again, each axis with its own siting.

Chroma is upsampled with a cubic filter (Catmull-Rom if it lies between luma samples, the 4-point Deslauriers-Dubuc
scheme if it lies on them) and downsampled with the dual of that filter: downsample(upsample(c)) = c. So a frame that
goes to RGB and back keeps its chroma, and new chroma is still low-pass filtered before it is subsampled.

All tensors are (channels, rows, columns) float32, on any device; `dim` is -1 (columns) or -2 (rows).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

# One output sample as weights of neighbours: (index of the neighbour, weight).
Taps = tuple[tuple[int, float], ...]


def _taps(first: int, weights: tuple[int, ...], unit: int) -> Taps:
    return tuple((first + i, w / unit) for i, w in enumerate(weights) if w)


@dataclass(frozen=True)
class Siting:
    """Filters of one axis with subsampled chroma: chroma sample c lies at luma 2c (cosited) or 2c + 0.5.

    `even` and `odd` are the weights of chroma c + k at luma sites 2c and 2c + 1; `down` are the weights of luma 2c + k
    at chroma c.
    """

    cosited: bool
    even: Taps
    odd: Taps
    down: Taps


# Interpolating [-1 0 9 16 9 0 -1]/16 and its dual: the low-pass pair of the (4, 2) wavelet, "9/7-M" (Sweldens 1996).
COSITED = Siting(True, ((0, 1.0),), _taps(-1, (-1, 9, 9, -1), 16), _taps(-4, (1, 0, -8, 16, 46, 16, -8, 0, 1), 64))
# Catmull-Rom at a quarter of a sample; its dual of eight taps with the least norm (down(up(c)) = c to 0.1 %, solved by
# least squares, rounded to 1/1024 with a sum of exactly 1).
MIDPOINT = Siting(
    False,
    _taps(-2, (-3, 29, 111, -9), 128),
    _taps(-1, (-9, 111, 29, -3), 128),
    _taps(-3, (56, -145, 28, 573, 573, 28, -145, 56), 1024),
)
REACH_UP = 2  # chroma samples on either side that `even` and `odd` may use
REACH_DOWN = 4  # luma samples before 2c and after 2c + 1 that `down` may use; even


Fold = Callable[[np.ndarray, int], np.ndarray]  # (indices, number of samples) -> indices of samples that exist


def _mirror(index: np.ndarray, count: int, first_once: bool, last_once: bool) -> np.ndarray:
    """Indices folded back into [0, count); the end samples appear once (whole-sample symmetry) or twice."""
    start, stop = (0.0 if first_once else -0.5), (count - 1.0 if last_once else count - 0.5)
    period = 2 * (stop - start)
    if period == 0:
        return np.zeros_like(index)
    phase = (index - start) % period
    return (start + np.minimum(phase, period - phase)).astype(np.int64)


def luma_fold(siting: Siting) -> Fold:
    return lambda index, count: _mirror(index, count, siting.cosited, siting.cosited)


def _chroma_fold(siting: Siting, luma_count: int) -> Fold:
    """Mirrors chroma so that upsampled chroma is mirrored as `luma_fold` does, and the filters stay dual at the edges.

    The mirror at the end depends on whether the last chroma sample has one luma site or two.
    """
    return lambda index, count: _mirror(index, count, siting.cosited, luma_count % 2 == 1)


def gather(x: torch.Tensor, dim: int, start: int, stop: int, fold: Fold) -> torch.Tensor:
    """Samples [start, stop) along `dim`; those outside are folded back. A view if all are inside."""
    count = x.shape[dim]
    if start >= 0 and stop <= count:
        return x.narrow(dim, start, stop - start)
    index = fold(np.arange(start, stop), count)
    return x.index_select(
        dim, torch.from_numpy(index) if x.device.type == "cpu" else _device_index(index.tobytes(), x.device)
    )


@lru_cache(maxsize=128)
def _device_index(index: bytes, device: torch.device) -> torch.Tensor:
    """Indices on a GPU, cached: a copy from pageable memory waits for all the work queued before it."""
    return torch.from_numpy(np.frombuffer(index, np.int64).copy()).to(device)


def upsample(chroma: torch.Tensor, dim: int, siting: Siting, start: int, stop: int, luma_count: int) -> torch.Tensor:
    """Chroma at the luma sites [start, stop) along `dim` (-1 or -2); start is even, luma_count the picture's sites."""
    pairs = (stop - start + 1) // 2
    first = start // 2 - REACH_UP
    x = gather(chroma, dim, first, first + pairs + 2 * REACH_UP, _chroma_fold(siting, luma_count))
    shape = list(x.shape)
    shape[dim] = 2 * pairs
    out = x.new_empty(shape)
    for parity, taps in enumerate((siting.even, siting.odd)):
        _filter(x, dim, [(REACH_UP + k, w) for k, w in taps], 1, _strided(out, dim, parity, pairs, 2))
    return out.narrow(dim, 0, stop - start)


def downsample(x: torch.Tensor, dim: int, siting: Siting) -> torch.Tensor:
    """Every second site along `dim`; x has REACH_DOWN sites more on either side than twice the result."""
    shape = list(x.shape)
    shape[dim] = (shape[dim] - 2 * REACH_DOWN) // 2
    return _filter(x, dim, [(REACH_DOWN + k, w) for k, w in siting.down], 2, x.new_empty(shape))


def _strided(x: torch.Tensor, dim: int, first: int, count: int, step: int) -> torch.Tensor:
    part = slice(first, first + step * (count - 1) + 1, step)
    return x[..., part] if dim == -1 else x[..., part, :]


def _filter(x: torch.Tensor, dim: int, taps: list[tuple[int, float]], step: int, out: torch.Tensor) -> torch.Tensor:
    """out[i] = Σ weight · x[first + step · i] along `dim`, over the taps (first, weight)."""
    count = out.shape[dim]
    for number, (first, weight) in enumerate(taps):
        part = _strided(x, dim, first, count, step)
        if number == 0:
            torch.mul(part, weight, out=out)
        else:
            out.add_(part, alpha=weight)
    return out
