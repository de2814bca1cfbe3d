"""RGB frames as float tensors to an exact size: INTER_AREA down, INTER_LANCZOS4 up, each axis by itself.

On a CPU OpenCV does it. On CUDA the same two filters run as matrix products: both are linear and
separable, so OpenCV's own resize of the identity matrix gives the matrix of an axis.
"""

from functools import lru_cache

import numpy as np
import torch


def rescale(frames: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Frames (N, C, H, W), float32 in [0, 1], to (N, C, height, width), clipped to [0, 1]; the same if they fit."""
    rows, columns = frames.shape[-2:]
    if (rows, columns) == (height, width):
        return frames
    if frames.device.type == "cpu":
        return _by_opencv(frames, width, height)
    vertical = torch.from_numpy(_axis_matrix(rows, height)).to(frames.device)  # (height, H)
    horizontal = torch.from_numpy(_axis_matrix(columns, width)).to(frames.device)  # (width, W)
    return (vertical @ (frames @ horizontal.T)).clamp_(0, 1)


def _by_opencv(frames: torch.Tensor, width: int, height: int) -> torch.Tensor:
    out = torch.empty((*frames.shape[:2], height, width))
    for source, target in zip(frames.flatten(0, 1).numpy(), out.flatten(0, 1).numpy(), strict=True):
        target[:] = _plane(source, width, height)  # (H, W) to (height, width)
    return out.clamp_(0, 1)


def _plane(plane: np.ndarray, width: int, height: int) -> np.ndarray:
    """One plane resized, columns first where the two axes go different ways."""
    import cv2  # a fifth of a second that most runs do not need

    rows, columns = plane.shape
    method = {True: cv2.INTER_LANCZOS4, False: cv2.INTER_AREA}
    if (width > columns) == (height > rows) or width == columns or height == rows:
        return cv2.resize(plane, (width, height), interpolation=method[width > columns or height > rows])
    plane = cv2.resize(plane, (width, rows), interpolation=method[width > columns])
    return cv2.resize(plane, (width, height), interpolation=method[height > rows])


@lru_cache(maxsize=8)
def _axis_matrix(length: int, wanted: int) -> np.ndarray:
    """The (wanted, length) float32 matrix that resizes an axis."""
    return np.ascontiguousarray(_plane(np.eye(length, dtype=np.float32), length, wanted))
