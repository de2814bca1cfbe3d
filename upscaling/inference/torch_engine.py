"""Batches through a network on one device: into staging buffers, to RGB, upscaled, back to planes, and out.

On a CPU all of it happens in `start`, and `finish` only adds the alpha plane. On CUDA a batch takes three streams,

    upload     host samples (pinned) ─► device samples      of batch n + 1
    compute    device samples ─► RGB ─► network ─► samples  of batch n
    download   device samples ─► host samples (pinned)      of batch n - 1

tied by events, with two sets of buffers used in turn: samples cross the bus in their own depth, never as float.
`start` returns when the work is queued, `finish` waits for the download.

YUV outside the RGB cube (super-whites, deep colours) is subtracted before the network, which knows [0, 1] only,
resized bilinearly and added to its result: it is not clipped away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from upscaling.common.errors import UpscaleError
from upscaling.frames.conversion import FrameConversion, frames_at_once, store_plane
from upscaling.frames.transparency import fill_transparent
from upscaling.frames.yuv import from_alpha, from_rgb, to_alpha, to_rgb
from upscaling.inference.rescale import rescale
from upscaling.inference.settings import ModelSettings
from upscaling.inference.tile_reuse import FrameChanges
from upscaling.inference.upscaler import Upscaler
from upscaling.models.network import RGBA

# Less than an 8-bit sample can show is not worth a resize (on CUDA always resized: testing would synchronise).
_VISIBLE = 0.5 / 255


@dataclass
class _BatchBuffers:
    """Buffers of one batch in flight; on a CPU `device_in` and `device_out` are not used."""

    conversion: FrameConversion
    staged: torch.Tensor  # (batch, samples in), on the host
    device_in: torch.Tensor  # (batch, samples in)
    device_out: torch.Tensor  # (batch, samples out)
    pinned_checksum: torch.Tensor  # (), on the host
    checksum: torch.Tensor | None = None  # (), Upscaler.take_checksum; on the host once the batch is done
    device_checksum: torch.Tensor | None = None  # (), on CUDA
    outputs: list[np.ndarray] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    done: torch.cuda.Event | None = None


class TorchEngine:
    """An `engine.Engine` that runs a network on a CPU or a CUDA device."""

    def __init__(self, settings: ModelSettings, heartbeat: Callable[[], None], upscaler: Upscaler | None = None):
        """`upscaler` is one for these settings if it is not the ordinary one."""
        self._heartbeat = heartbeat
        self._model = settings.model
        self._device = torch.device(settings.device)
        self._cuda = self._device.type == "cuda"
        self.depth = 1 if self._cuda else 0
        if self._cuda:
            torch.cuda.set_device(self._device)
        self._upscaler = upscaler or Upscaler(settings, heartbeat)
        self._slots: list[_BatchBuffers | None] = [None] * (self.depth + 1)
        if self._cuda:
            self._upload, self._compute, self._download = (torch.cuda.Stream(self._device) for _ in range(3))
            torch.cuda.synchronize(self._device)  # the weights were moved on another stream

    def allocate(self, shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
        """Host memory for outputs; pinned on CUDA, so that the download overlaps the computation."""
        return self._host(shape, dtype).numpy()

    def _host(self, shape: tuple[int, int], dtype: np.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=_TORCH[dtype], pin_memory=self._cuda)

    def start(
        self, frames: list[np.ndarray], conversion: FrameConversion, outputs: list[np.ndarray], slot: int
    ) -> None:
        """Queue a batch: frames are copied before this returns, `outputs` are filled by `finish` of the slot."""
        buffers = self._buffers(slot, conversion, len(frames))
        buffers.outputs = outputs
        staged = buffers.staged.numpy()
        for frame, target in zip(frames, staged, strict=False):
            np.copyto(target, fill_transparent(frame, conversion.source).reshape(-1))
        computed, reused = self._upscaler.computed, self._upscaler.reused
        with torch.inference_mode():
            if self._cuda:
                self._start_on_cuda(buffers, len(frames))
            else:
                self._convert(buffers, buffers.staged[: len(frames)], [torch.from_numpy(out) for out in outputs])
                buffers.checksum = self._upscaler.take_checksum()
        computed, reused = self._upscaler.computed - computed, self._upscaler.reused - reused
        buffers.notes = [*self._upscaler.take_notes(), f"tiles: {computed} computed, {reused} reused"]

    def _start_on_cuda(self, buffers: _BatchBuffers, count: int) -> None:
        """Each stream waits for the event of the one before it; `finish` has waited for the slot's last batch."""
        uploaded, computed, done = (torch.cuda.Event() for _ in range(3))
        buffers.done = done
        with torch.cuda.stream(self._upload):
            buffers.device_in[:count].copy_(buffers.staged[:count], non_blocking=True)
            uploaded.record()
        with torch.cuda.stream(self._compute):
            self._compute.wait_event(uploaded)
            self._convert(buffers, buffers.device_in[:count], list(buffers.device_out[:count]))
            buffers.device_checksum = self._upscaler.take_checksum()
            computed.record()
        with torch.cuda.stream(self._download):
            self._download.wait_event(computed)
            for out, result in zip(buffers.outputs, buffers.device_out, strict=False):
                torch.from_numpy(out).copy_(result, non_blocking=True)
            if buffers.device_checksum is not None:
                buffers.checksum = buffers.pinned_checksum.copy_(buffers.device_checksum, non_blocking=True)
            done.record()

    def _convert(self, buffers: _BatchBuffers, inputs: torch.Tensor, outputs: list[torch.Tensor]) -> None:
        """Samples (N, samples in) to N tensors of (samples out,), a bounded number of frames at a time.

        `inputs` are `buffers.staged` on the device.
        """
        conversion = buffers.conversion
        source, target = conversion.source, conversion.target
        changes = FrameChanges.of(buffers.staged[: len(inputs)].numpy(), source)
        step = frames_at_once(target, self._device.type)
        for first in range(0, len(inputs), step):
            rgb = to_rgb(inputs[first : first + step], source)  # (n, 3, height, width)
            inside = rgb.clamp(0, 1)
            outside = rgb.sub_(inside)
            if self._upscaler.channels == RGBA:
                inside = torch.cat([inside, to_alpha(inputs[first : first + step], source)], 1)  # (n, 4, height, width)
            # (n, channels, target.height, target.width)
            upscaled = self._upscaler(inside, target.width, target.height, changes.since(first))
            for result, rest, out in zip(upscaled, outside, outputs[first : first + step], strict=True):
                from_rgb(self._whole(result[:3], rest)[None], target.padded, out[None])
                if self._network_makes_alpha(conversion):
                    from_alpha(result[None, 3:], target.padded, out[None])
            self._heartbeat()

    def _network_makes_alpha(self, conversion: FrameConversion) -> bool:
        """Whether alpha goes through the network; otherwise it is resized, or opaque."""
        return self._upscaler.channels == RGBA and conversion.source.format.alpha and conversion.target.format.alpha

    def _whole(self, result: torch.Tensor, outside: torch.Tensor) -> torch.Tensor:
        """`result` (3, out h, out w), not changed, plus `outside` (3, h, w), resized: what the network cannot see."""
        whole = result
        for number, rest in enumerate(outside):
            if self._cuda or float(rest.abs().amax()) > _VISIBLE:
                if whole is result:
                    whole = result.clone()
                size = result.shape[1:]
                whole[number] += F.interpolate(rest[None, None], size, mode="bilinear", align_corners=False)[0, 0]
        return whole

    def finish(self, slot: int) -> list[str]:
        """Wait for the slot's batch; its `outputs` are complete when this returns, alpha included.

        Return notes on it for a log, a line each.
        """
        buffers = self._slots[slot]
        assert buffers is not None  # `start` was called for this slot
        if buffers.done is not None:
            buffers.done.synchronize()
        if buffers.checksum is not None and not buffers.checksum.isfinite():
            self._repeat_in_fp32(buffers)
        if buffers.conversion.target.format.alpha and not self._network_makes_alpha(buffers.conversion):
            for staged, out in zip(buffers.staged.numpy(), buffers.outputs, strict=False):
                store_alpha(staged, buffers.conversion, out)
        buffers.outputs, buffers.done = [], None
        buffers.checksum = buffers.device_checksum = None
        return buffers.notes

    @torch.inference_mode()
    def _repeat_in_fp32(self, buffers: _BatchBuffers) -> None:
        """Compute a batch again for which the network returned NaN or infinities, as fp16 does beyond 65504.

        UpscaleError if it does so in fp32, too.
        """
        count = len(buffers.outputs)
        results = [torch.from_numpy(out) for out in buffers.outputs]  # each (samples out,)
        if self._cuda:
            with torch.cuda.stream(self._compute):
                checksum = self._convert_in_fp32(buffers, buffers.device_in[:count], list(buffers.device_out[:count]))
                for result, computed in zip(results, buffers.device_out, strict=False):
                    result.copy_(computed)
        else:
            checksum = self._convert_in_fp32(buffers, buffers.staged[:count], results)
        if checksum is not None and not checksum.isfinite():
            raise UpscaleError(f"model {self._model} returns NaN or infinite values, also in fp32; use another model")
        buffers.notes.append("the network returned NaN or infinite values: this batch was computed again in fp32")

    def _convert_in_fp32(
        self, buffers: _BatchBuffers, inputs: torch.Tensor, outputs: list[torch.Tensor]
    ) -> torch.Tensor | None:
        with self._upscaler.in_fp32():
            self._convert(buffers, inputs, outputs)
            return self._upscaler.take_checksum()

    def _buffers(self, slot: int, conversion: FrameConversion, count: int) -> _BatchBuffers:
        """The slot's buffers, for at least `count` frames; new ones are allocated unless they fit."""
        buffers = self._slots[slot]
        if buffers is not None and len(buffers.staged) >= count and buffers.conversion == conversion:
            return buffers
        self._slots[slot] = buffers = None  # free the old ones before the new ones are allocated
        layouts = conversion.source, conversion.target.padded
        shapes = [(count, layout.sample_count) for layout in layouts]
        types = [layout.format.dtype for layout in layouts]
        staged = device_in = device_out = self._host(shapes[0], types[0])
        checksum = torch.empty((), pin_memory=self._cuda)
        if self._cuda:
            # New device memory may have been in use on another stream; rare enough to wait for everything.
            torch.cuda.synchronize(self._device)
            device_in, device_out = (
                torch.empty(shape, dtype=_TORCH[dtype], device=self._device)
                for shape, dtype in zip(shapes, types, strict=True)
            )
        self._slots[slot] = buffers = _BatchBuffers(conversion, staged, device_in, device_out, checksum)
        return buffers


_TORCH = {np.dtype(np.uint8): torch.uint8, np.dtype("<u2"): torch.uint16}


def store_alpha(frame: np.ndarray, conversion: FrameConversion, out: np.ndarray) -> None:
    """Write the alpha plane of a flat frame, resized as RGB is, into the flat `out`; opaque if the frame has none."""
    source, target = conversion.source, conversion.target
    target_plane = _alpha_plane(target.padded.planes(out))
    if not source.format.alpha:
        target_plane[:] = target.peak
        return
    plane = _alpha_plane(source.planes(frame))
    if (source.width, source.height, source.peak) != (target.width, target.height, target.peak):
        alpha = torch.from_numpy(plane.astype(np.float32)).div_(source.peak)  # alpha is full range at every depth
        alpha = rescale(alpha[None, None], target.width, target.height)[0, 0]  # (target.height, target.width)
        plane = alpha.clamp(0, 1).mul_(target.peak).round_().numpy().astype(target.format.dtype)
    store_plane(plane, target_plane)


def _alpha_plane(views: list[np.ndarray]) -> np.ndarray:
    return views[0][..., 3] if len(views) == 1 else views[-1]
