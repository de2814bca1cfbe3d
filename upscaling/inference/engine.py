"""Upscales batches of planar frames on one device; a worker calls it, whatever does the work.

    submit(frames, conversion) ─► torch_engine, ncnn_engine or lanczos_engine ─► collect()

At most `depth` batches stay in flight after a `collect` is due: 1 on CUDA, where the upload, the computation and the
download of neighbouring batches overlap, 0 elsewhere. Free of heavy imports until an upscaler is made; `lanczos` never
imports torch.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from upscaling.frames.conversion import FrameConversion
from upscaling.frames.layout import FrameLayout
from upscaling.inference.settings import LANCZOS, NCNN, ModelSettings


class Engine(Protocol):
    """What computes batches: in `depth` + 1 slots, each used for one batch at a time."""

    depth: int

    def allocate(self, shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
        """Host memory for outputs."""
        ...

    def start(
        self, frames: list[np.ndarray], conversion: FrameConversion, outputs: list[np.ndarray], slot: int
    ) -> None:
        """Start a batch. `frames` are not used once this returns; `outputs` are filled by `finish` of the slot."""
        ...

    def finish(self, slot: int) -> list[str]:
        """Wait for the slot's batch. Return notes on it for a log, a line each."""
        ...


def make_upscaler(settings: ModelSettings, heartbeat: Callable[[], None]) -> "BatchUpscaler":
    """The upscaler of one worker; loads the model. `heartbeat` is called at least once per tile or frame.

    UpscaleError if the model or the device cannot be used.
    """
    if settings.model == LANCZOS:
        from upscaling.inference.lanczos_engine import LanczosEngine

        return BatchUpscaler(LanczosEngine(heartbeat))
    if settings.engine == NCNN:
        from upscaling.inference.ncnn_engine import NcnnEngine

        return BatchUpscaler(NcnnEngine(settings, heartbeat))
    from upscaling.inference.torch_engine import TorchEngine

    return BatchUpscaler(TorchEngine(settings, heartbeat))


@dataclass
class _Batch:
    """A batch in flight."""

    slot: int
    outputs: list[np.ndarray]


class BatchUpscaler:
    """Upscales batches; they are collected in the order in which they were submitted.

    Holds the buffers of `depth` + 1 batches, allocated once per frame size and reused: memory does not grow with the
    number of batches.
    """

    def __init__(self, engine: Engine):
        self._engine = engine
        self.depth = engine.depth
        self._in_flight: deque[_Batch] = deque()
        self._next_slot = 0
        self.notes: list[str] = []  # on the batch collected last, for a log, a line each
        self._buffers: list[np.ndarray | None] = [None] * (self.depth + 1)

    @property
    def pending(self) -> int:
        """Batches submitted and not yet collected."""
        return len(self._in_flight)

    def submit(
        self, frames: list[np.ndarray], conversion: FrameConversion, outputs: list[np.ndarray] | None = None
    ) -> None:
        """Start a batch of at least one frame.

        `frames` are samples in the layout `conversion.source`, of any shape, maybe read-only memory maps; they are not
        used once this returns. `outputs` are flat writable arrays, one per frame, filled by the time of `collect`; by
        default they are buffers of this object. ValueError if more than `depth` + 1 batches would be in flight;
        UpscaleError if the frames cannot be converted.
        """
        if self.pending > self.depth:
            raise ValueError(f"{self.pending} batches are in flight; collect one first")
        slot = self._next_slot
        if outputs is None:
            outputs = list(self._buffer(slot, len(frames), conversion.target.padded)[: len(frames)])
        self._engine.start(frames, conversion, outputs, slot)
        self._in_flight.append(_Batch(slot, outputs))
        self._next_slot = (slot + 1) % (self.depth + 1)

    def collect(self) -> list[np.ndarray]:
        """Wait for the oldest batch. Return its frames: flat arrays in the layout `conversion.target.padded`.

        Unless `submit` was given `outputs`, they are valid until the next `submit`. ValueError if there is no batch.
        """
        if not self._in_flight:
            raise ValueError("no batch is in flight")
        batch = self._in_flight.popleft()
        self.notes = self._engine.finish(batch.slot)
        return batch.outputs

    def _buffer(self, slot: int, count: int, layout: FrameLayout) -> np.ndarray:
        """The slot's buffer: (at least `count`, samples of a frame)."""
        size, dtype = layout.sample_count, layout.format.dtype
        buffer = self._buffers[slot]
        if buffer is None or buffer.shape[1] != size or buffer.dtype != dtype or len(buffer) < count:
            self._buffers[slot] = None  # free the old one before the new one is allocated
            self._buffers[slot] = buffer = self._engine.allocate((count, size), dtype)
        return buffer
