"""How long a few frames take to encode, and how large they become; for estimates."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from upscaling.encode.segment_writer import SegmentWriter
from upscaling.encode.settings import EncodeSettings
from upscaling.frames.layout import FrameLayout


def encode_frames(
    encoding: EncodeSettings, layout: FrameLayout, times: Sequence[int], frames: Sequence[np.ndarray]
) -> tuple[float, float]:
    """(seconds, bytes) per frame, from a short video in the temp directory, which is removed at once.

    `frames` are flat arrays in that layout, `times` their pts.
    """
    with tempfile.TemporaryDirectory(prefix="upscale-") as folder:
        path = Path(folder) / "segment.mkv"
        started = time.monotonic()
        with SegmentWriter(path, encoding) as writer:
            for pts, samples in zip(times, frames, strict=True):
                writer.write(layout.planes(samples), pts)
        return (time.monotonic() - started) / len(frames), path.stat().st_size / len(frames)
