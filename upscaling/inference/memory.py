"""Memory of a device: what is free, what a patch needs, which errors mean there was too little."""

import torch
from torch import nn

from upscaling.common.system import available_memory, cgroup_memory_left

KEEP = 0.8  # of the free memory is planned with; the rest is for what was not foreseen
SPARE = 2.0  # times the measured activations: workspaces of the convolutions, fragmentation
PROBE = 64  # pixels, side of the patch that activations are measured with
# Allocators' own words where they raise a plain RuntimeError (c10/core/CPUAllocator.cpp, cuDNN, cuBLAS).
OUT_OF_MEMORY = (
    "can't allocate memory",
    "defaultcpuallocator: not enough memory",
    "out of memory",
    "cudnn_status_alloc_failed",
    "cublas_status_alloc_failed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device had too little memory."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in OUT_OF_MEMORY)


def free_bytes(device: torch.device) -> int | None:
    """Free memory of the device in bytes, or None where it can't be known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    limits = [available_memory(), cgroup_memory_left()]
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else None


def bytes_per_pixel(module: nn.Module, device: torch.device, side: int = PROBE) -> float:
    """Bytes of activations that one input pixel of (1, 3, side, side) needs at the worst layer, measured.

    The largest input plus output of any layer, twice: blocks hold on to earlier outputs.
    """
    worst = 0

    def watch(_module, inputs, output) -> None:
        nonlocal worst
        tensors = [t for t in (*inputs, output) if isinstance(t, torch.Tensor)]
        worst = max(worst, sum(t.numel() * t.element_size() for t in tensors))

    leaves = [m for m in module.modules() if not list(m.children())]
    hooks = [leaf.register_forward_hook(watch) for leaf in leaves]
    try:
        module(torch.zeros(1, 3, side, side, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    return SPARE * worst / side**2
