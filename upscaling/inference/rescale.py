"""Frames as float tensors to an exact size: averaged by area down, Lanczos with four lobes up, each axis by itself.

The filters are those of OpenCV's INTER_AREA and INTER_LANCZOS4 (modules/imgproc/src/resize.cpp), as products with the
dense part of a banded matrix: on a CPU as fast as OpenCV, and the same on a GPU.
"""

from functools import lru_cache

import numpy as np
import torch

LOBES = 4  # of the Lanczos filter on either side
BLOCK = {"cpu": 32, "cuda": 512}  # output samples a product: more of them multiply more zeros


def rescale(frames: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Resize frames (N, C, H, W), float32 in [0, 1], to (N, C, height, width) in [0, 1].

    Frames that have this size already are returned as they are, not copied.
    """
    if frames.shape[-2:] == (height, width):
        return frames
    out = frames.new_empty((*frames.shape[:2], height, width))
    for frame, target in zip(frames, out, strict=True):  # one by one: the result does not depend on the batch
        rows = frame.new_empty((frame.shape[0], height, frame.shape[2]))
        for start, stop, first, last, weights in _matrix_blocks(frame.shape[1], height, frame.device):
            rows[:, start:stop] = weights @ frame[:, first:last]  # (C, block, W)
        for start, stop, first, last, weights in _matrix_blocks(frame.shape[2], width, frame.device):
            target[..., start:stop] = rows[..., first:last] @ weights.T  # (C, height, block)
    return out.clamp_(0, 1)


Block = tuple[int, int, int, int, torch.Tensor]


@lru_cache(maxsize=8)
def _matrix_blocks(length: int, size: int, device: torch.device) -> list[Block]:
    """The (size, length) matrix that resizes an axis, without its zeros.

    (start, stop, first, last, weights) a block: output samples [start, stop) are weights, (stop - start, last - first),
    times the input samples [first, last).
    """
    indices, weights = axis_taps(length, size)
    block = BLOCK["cuda" if device.type == "cuda" else "cpu"]
    blocks = []
    for start in range(0, size, block):
        used, weight = indices[:, start : start + block], weights[:, start : start + block]
        rows, first, last = used.shape[1], int(used.min()), int(used.max()) + 1
        matrix = np.zeros((rows, last - first))
        np.add.at(matrix, (np.broadcast_to(np.arange(rows), used.shape), used - first), weight)
        blocks.append((start, start + rows, first, last, torch.from_numpy(matrix.astype(np.float32)).to(device)))
    return blocks


def axis_taps(length: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """How to resize an axis of `length` samples to `size`: (taps, size) indices, int64, and weights, float64.

    Output sample i is Σ weights[k, i] · input[indices[k, i]] over k; its weights sum to 1. Beyond the ends of the axis
    the first or last sample is repeated.
    """
    if size == length:
        return np.arange(size)[None], np.ones((1, size))
    step = length / size  # input samples an output sample
    if size < length:  # the share of each input sample in [start, start + step)
        start = np.arange(size) * step
        indices = np.floor(start).astype(np.int64) + np.arange(int(np.ceil(step)) + 1)[:, None]
        weights = (np.minimum(indices + 1, start + step) - np.maximum(indices, start)).clip(0, None)
    else:
        centre = (np.arange(size) + 0.5) * step - 0.5
        indices = np.floor(centre).astype(np.int64) + np.arange(1 - LOBES, 1 + LOBES)[:, None]
        weights = np.sinc(indices - centre) * np.sinc((indices - centre) / LOBES)
    return indices.clip(0, length - 1), weights / weights.sum(0)
