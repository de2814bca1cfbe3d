"""The network of one worker: upscales batches of RGB frames on one device.

settings ─► weights.load ─► network.build, with the scale folded in ─► network.runner on the device
frames ─► TiledForward ─► rescale (exact size) ─► blend with a plain resize, if asked
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from upscaling.common.devices import fp16_works
from upscaling.common.errors import InputError
from upscaling.common.system import cpu_has_bf16, retain_freed_memory
from upscaling.inference.memory import (
    MEMORY_FRACTION,
    MIN_TILE,
    NO_LIMIT,
    PROBE_SIDE,
    PassLimits,
    bytes_per_pixel,
    free_bytes,
)
from upscaling.inference.rescale import rescale
from upscaling.inference.settings import AUTO, ModelSettings
from upscaling.inference.tile_reuse import FrameChanges
from upscaling.inference.tiled_forward import TiledForward
from upscaling.models import weights
from upscaling.models.network import CHANNELS, RGBA, Network, build, runner, scale_for

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Upscaler:
    """A loaded network.

    WeightsError if the model cannot be used, InputError if the device or the precision cannot.
    """

    def __init__(self, settings: ModelSettings, heartbeat: Callable[[], None] = lambda: None):
        self.settings, self.heartbeat = settings, heartbeat
        self.device = torch.device(settings.device)
        self.precision = self._choose_precision()
        _configure(self.device, settings.threads)
        self._state: dict[str, torch.Tensor] | None = weights.load(settings.model, settings.denoise)
        described = build(self._state)
        self.native_scale = described.native_scale
        self.channels = RGBA if described.channels == RGBA else CHANNELS  # of frames in and out
        self._forward: TiledForward | None = None
        self._forward_fp32: TiledForward | None = None  # in its place in a block of `in_fp32`
        self._in_fp32 = False
        self._notes: list[str] = []

    @property
    def computed(self) -> int:
        """Tiles that went through the network."""
        return self._forward.computed if self._forward else 0

    @property
    def reused(self) -> int:
        """Tiles that were not computed, as their input equals that of the frame before."""
        return self._forward.reused if self._forward else 0

    def take_notes(self) -> list[str]:
        """What happened since the last call (memory that ran out, another precision), a line each, for a log."""
        notes, self._notes = self._notes, []
        if self._forward:
            limits = self._forward.limits
            notes, limits.notes = notes + limits.notes, []
        return notes

    def take_checksum(self) -> torch.Tensor | None:
        """Of the calls since the last one, as TiledForward has it: not finite if the network returned such values."""
        forward = self._forward_fp32 if self._in_fp32 else self._forward
        return forward.take_checksum() if forward else None

    @contextmanager
    def in_fp32(self) -> Iterator[None]:
        """Calls in this block run the network in fp32."""
        self._in_fp32 = True
        try:
            yield
        finally:
            self._in_fp32 = False
            if self._forward_fp32:
                self._forward_fp32.release()  # rarely needed, and as large as the other one's

    @torch.inference_mode()
    def __call__(self, rgb: torch.Tensor, width: int, height: int, changes: FrameChanges | None = None) -> torch.Tensor:
        """Frames (N, channels, H, W), float32 in [0, 1] on the device, to (N, channels, height, width), the same.

        The network runs at the smallest scale that reaches the size, or else at its native one; then frames are resized
        to the exact size. `changes` are as TiledForward takes them. The result is valid until the next call.
        UpscaleError if even the smallest tile does not fit into memory.
        """
        strength = self.settings.strength
        if strength <= 0:
            return rescale(rgb, width, height)
        rows, columns = rgb.shape[-2:]
        forward = self._loaded(scale_for(self.native_scale, width / columns, height / rows), rgb)
        out = rescale(forward(rgb, changes), width, height)  # (N, channels, height, width)
        if strength < 1:
            out = torch.lerp(rescale(rgb, width, height), out, strength)
        return out

    def _loaded(self, scale: int, frames: torch.Tensor) -> TiledForward:
        """The network for this scale on the device; loaded once, as frames (N, C, H, W) of a run have one size."""
        loaded = self._forward_fp32 if self._in_fp32 else self._forward
        if loaded and loaded.network.scale == scale:
            return loaded
        state = self._state or weights.load(self.settings.model, self.settings.denoise)
        self._state = None  # a second scale is rare, and a second copy of the weights takes memory
        network = build(state, scale)
        dtype = torch.float32 if self._in_fp32 else DTYPES[self.precision]
        if not network.supports(dtype):
            dtype = torch.float32
            self._notes.append(f"{network.architecture} does not support {self.precision}; running in fp32")
        module = self._runner(network, dtype)
        limits = self._pass_limits(module, network, frames.numel() * scale**2 * 4)
        if self.settings.compile and self.device.type == "cuda":
            module = compiled(module)
        forward = TiledForward(module, network, limits, self.heartbeat)
        if self._in_fp32:
            self._forward_fp32 = forward
        else:
            self._forward = forward
        return forward

    def _choose_precision(self) -> str:
        return choose_precision(self.settings.precision, self.device)

    def _runner(self, network: Network, dtype: torch.dtype) -> Any:
        """What runs the network, ready on its device: a tiled_forward.RunNetwork."""
        return runner(network, dtype, self.device)

    def _free_bytes(self) -> int | None:
        """Free memory of the device that runs the network."""
        return free_bytes(self.device)

    def _bytes_per_pixel(self, module: Any, side: int) -> float:
        """Bytes of activations per input pixel of what `_runner` returned; `side` is one of a possible tile."""
        return bytes_per_pixel(module, self.device, side, self.channels)

    def _pass_limits(self, module: Any, network: Network, result_bytes: int) -> PassLimits:
        """What the settings ask for, or less if that does not fit into the memory that results leave free."""
        size = self.settings.patch_size
        tile_area = size**2 if size and network.supports_tiling else NO_LIMIT
        batch = 1 if self.device.type == "cpu" else max(1, self.settings.batch_size)
        free = self._free_bytes()
        if free is None or not network.supports_tiling:
            return PassLimits(tile_area, batch)
        side = -(-max(PROBE_SIDE, network.minimum) // network.multiple_of) * network.multiple_of
        share = max(0.0, free * MEMORY_FRACTION / self.settings.workers_on_device - result_bytes)
        affordable = int(share / self._bytes_per_pixel(module, side))  # pixels in a pass
        while batch > 1 and batch * tile_area // 4 > affordable:  # rather than tiles of less than half the side
            batch //= 2
        return PassLimits(max(min(tile_area, affordable // batch), MIN_TILE**2), batch)


def choose_precision(asked: str, device: torch.device) -> str:
    """fp32, bf16 or fp16; for auto the fastest that the device supports. InputError if it does not support `asked`."""
    if asked not in (AUTO, *DTYPES):
        raise InputError(f"unknown precision {asked!r} (choose from auto, {', '.join(DTYPES)})")
    return _cuda_precision(asked, device) if device.type == "cuda" else _cpu_precision(asked)


def _cuda_precision(asked: str, device: torch.device) -> str:
    if not torch.cuda.is_available():
        raise InputError(f"no CUDA device here for --device {device}; use --device cpu")
    half = fp16_works(torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device))
    if asked == AUTO:
        return "fp16" if half else "fp32"
    if asked == "fp16" and not half:
        raise InputError("this GPU gives wrong results in fp16; use --precision fp32")
    if asked == "bf16" and not torch.cuda.is_bf16_supported():
        raise InputError("this GPU does not support bf16; use --precision fp16 or fp32")
    return asked


def _cpu_precision(asked: str) -> str:
    if asked == AUTO:
        return "bf16" if cpu_has_bf16() and torch.backends.mkldnn.is_available() else "fp32"
    if asked == "fp16" and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        raise InputError("this CPU does not support fp16; use --precision bf16 or fp32")
    return asked


def _configure(device: torch.device, threads: int) -> None:
    """Set threads and allocator of a CPU; on CUDA exact fp32, and algorithms chosen by measuring."""
    torch.set_num_threads(max(1, threads))
    if device.type == "cpu":
        retain_freed_memory()
        return
    torch.backends.cudnn.benchmark = True  # shapes are constant
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32
    torch.backends.cuda.matmul.allow_tf32 = False


def compiled(module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """The module through torch.compile with CUDA graphs."""
    compiled = torch.compile(module, mode="reduce-overhead", dynamic=False)

    def run(batch: torch.Tensor) -> torch.Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # the last pass's result may be overwritten: it is pasted
        return compiled(batch)

    return run
