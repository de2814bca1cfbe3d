"""Memory of a device: how much is free, how much a tile needs, and what to do if it runs out."""

from dataclasses import dataclass, field

import torch
from torch import nn

from upscaling.common.system import available_memory

MEMORY_FRACTION = 0.8  # of the free memory is planned with; the rest is for what was not foreseen
ACTIVATION_MARGIN = 2.0  # times the measured activations: workspaces of the convolutions, fragmentation
PROBE_SIDE = 64  # pixels, side of the tile that activations are measured with
MIN_TILE = 32  # pixels, side of the smallest tile that is tried if memory runs out
NO_LIMIT = 1 << 62  # pixels of a tile: no limit
# Messages of allocators that raise a plain RuntimeError (c10/core/CPUAllocator.cpp, cuDNN, cuBLAS).
OUT_OF_MEMORY = (
    "can't allocate memory",
    "defaultcpuallocator: not enough memory",
    "out of memory",
    "cudnn_status_alloc_failed",
    "cublas_status_alloc_failed",
)


@dataclass
class PassLimits:
    """The most that one pass may compute: `batch` tiles of `tile_area` pixels each, overlap included.

    Both go down when the device runs out of memory and stay there; `notes` says so, a line each, for a log.
    """

    tile_area: int = NO_LIMIT
    batch: int = 1
    notes: list[str] = field(default_factory=list)

    def halve_batch(self) -> bool:
        """Call it after memory ran out. Return False if a pass has a single tile already."""
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        if self.batch == 1:
            return False
        self.batch //= 2
        self.notes.append(f"out of memory: computing {self.batch} tiles at a time from now on")
        return True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device had too little memory."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in OUT_OF_MEMORY)


def free_bytes(device: torch.device) -> int | None:
    """Free memory of the device in bytes, or None if that is unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return available_memory()


def bytes_per_pixel(module: nn.Module, device: torch.device, side: int = PROBE_SIDE, channels: int = 3) -> float:
    """Bytes of activations per input pixel, measured with a tile of (1, channels, side, side).

    The largest input plus output of any layer, times ACTIVATION_MARGIN, as blocks keep earlier outputs.
    """
    worst = 0

    def watch(_module, inputs, output) -> None:
        nonlocal worst
        tensors = [t for t in (*inputs, output) if isinstance(t, torch.Tensor)]
        worst = max(worst, sum(t.numel() * t.element_size() for t in tensors))

    leaves = [m for m in module.modules() if not list(m.children())]
    hooks = [leaf.register_forward_hook(watch) for leaf in leaves]
    try:
        module(torch.zeros(1, channels, side, side, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    return ACTIVATION_MARGIN * worst / side**2
