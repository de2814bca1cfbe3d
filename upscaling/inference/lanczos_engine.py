"""`--model lanczos` as an engine: libswscale resizes every frame of a batch, without torch."""

from collections.abc import Callable

import numpy as np

from upscaling.frames.conversion import FrameConversion
from upscaling.frames.swscale import Resizer
from upscaling.frames.transparency import fill_transparent


class LanczosEngine:
    """An `engine.Engine`; everything happens in `start`."""

    depth = 0

    def __init__(self, heartbeat: Callable[[], None]):
        self._heartbeat = heartbeat
        self._resizer: Resizer | None = None

    def allocate(self, shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
        return np.empty(shape, dtype)

    def start(
        self, frames: list[np.ndarray], conversion: FrameConversion, outputs: list[np.ndarray], slot: int
    ) -> None:
        if self._resizer is None or self._resizer.conversion != conversion:
            self._resizer = Resizer(conversion)
        for frame, out in zip(frames, outputs, strict=True):
            self._resizer(frame if conversion.is_identity else fill_transparent(frame, conversion.source), out)
            self._heartbeat()

    def finish(self, slot: int) -> list[str]:
        """Return no notes: there is nothing to wait for."""
        return []
