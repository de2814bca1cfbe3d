"""A batch of planar frames upscaled on one device: what a worker calls, whatever does the work.

    submit(frames, picture) ─► staging.NetworkUpscaler (CPU or CUDA) or resize.LanczosUpscaler ─► collect()

At most `depth` batches stay in flight after a `collect` is due: 1 on CUDA, where the upload, the computation and the
download of neighbouring batches overlap, 0 elsewhere. A frame that equals the one before it in its batch is computed
once. Free of heavy imports until an upscaler is made: `lanczos` never imports torch.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from upscaling.frames.conversion import FrameConversion
from upscaling.frames.layout import FrameLayout
from upscaling.frames.pixel_formats import equal
from upscaling.inference.settings import LANCZOS, ModelSettings


def make_upscaler(settings: ModelSettings, heartbeat: Callable[[], None]) -> "BatchUpscaler":
    """The upscaler of one worker; loads the model. `beat` is called at least once a patch, or once a frame.

    UpscaleError where the model or the device can't be used.
    """
    return BatchUpscaler(settings, heartbeat)


@dataclass
class _Batch:
    """A batch in flight: `outputs` of all its frames; `unique[i]` tells which of the computed ones frame i equals."""

    slot: int
    outputs: list[np.ndarray]
    unique: list[int]


class BatchUpscaler:
    """Batches in order, each collected in the order it was submitted in.

    Holds the buffers of `depth` + 1 batches, allocated once a picture size and used again: memory does not grow
    with the number of batches.
    """

    def __init__(self, settings: ModelSettings, heartbeat: Callable[[], None]):
        if settings.model == LANCZOS:
            from upscaling.inference.lanczos_engine import LanczosUpscaler

            self._engine = LanczosUpscaler(heartbeat)
        else:
            from upscaling.inference.torch_engine import NetworkUpscaler

            self._engine = NetworkUpscaler(settings, heartbeat)
        self.depth: int = self._engine.depth
        self._in_flight: deque[_Batch] = deque()
        self._turn = 0
        self.notes: list[str] = []  # on the batch collected last, for a log, one line each
        self._buffers: list[np.ndarray | None] = [None] * (self.depth + 1)

    @property
    def pending(self) -> int:
        """Batches submitted and not yet collected."""
        return len(self._in_flight)

    def submit(
        self, frames: list[np.ndarray], conversion: FrameConversion, outputs: list[np.ndarray] | None = None
    ) -> None:
        """Starts a batch of at least one frame.

        `frames`: samples of `conversion.source`, any shape, may be read-only memory maps; not needed once
        this returns. `outputs`: a flat writable array a frame, to be filled by the time of `collect` (shared memory);
        without it the results lie in buffers of this object. ValueError where more than `depth` + 1 batches
        would be in flight; UpscaleError where the picture can't be converted.
        """
        if self.pending > self.depth:
            raise ValueError(f"{self.pending} batches are in flight; collect one first")
        unique = distinct(frames)
        first = [unique.index(n) for n in range(max(unique) + 1)]  # the frame that each computed one is taken from
        slot = self._turn
        if outputs is None:
            buffer = self._buffer(slot, len(first), conversion.target.padded)
            outputs = [buffer[n] for n in range(len(first))]
            outputs = [outputs[n] for n in unique]
        self._engine.start([frames[i] for i in first], conversion, [outputs[i] for i in first], slot)
        self._in_flight.append(_Batch(slot, outputs, unique))
        self._turn = (slot + 1) % (self.depth + 1)

    def collect(self) -> list[np.ndarray]:
        """Flat arrays in the layout `conversion.target.padded` of the oldest batch, a frame each; waits for it.

        Without `outputs` given to `submit` they are valid until the next `submit`; equal frames may share an array.
        ValueError where nothing is in flight.
        """
        if not self._in_flight:
            raise ValueError("no batch is in flight")
        batch = self._in_flight.popleft()
        self.notes = self._engine.finish(batch.slot)
        for output, n in zip(batch.outputs, batch.unique, strict=True):
            same = batch.outputs[batch.unique.index(n)]
            if output is not same:
                np.copyto(output, same)
        return batch.outputs

    def _buffer(self, slot: int, count: int, layout: FrameLayout) -> np.ndarray:
        """At least `count` flat output frames that the slot keeps for them."""
        size, dtype = layout.sample_count, layout.format.dtype
        buffer = self._buffers[slot]
        if buffer is None or buffer.shape[1] != size or buffer.dtype != dtype or len(buffer) < count:
            self._buffers[slot] = None  # let go of the old one before the new one is there
            self._buffers[slot] = buffer = self._engine.allocate((count, size), dtype)
        return buffer


def distinct(frames: list[np.ndarray]) -> list[int]:
    """For each frame the number of the distinct frame that it is, counting up from 0: equal neighbours share one."""
    numbers = [0]
    for before, frame in pairwise(frames):
        numbers.append(numbers[-1] + (not equal(before.reshape(-1), frame.reshape(-1))))
    return numbers
