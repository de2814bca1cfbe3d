"""What a worker runs: which model, on which device, and how. Free of heavy imports."""

from dataclasses import dataclass

LANCZOS = "lanczos"  # the model name for a plain resize of the planes, without a network
AUTO = "auto"
TORCH, NCNN, SWSCALE = "torch", "ncnn", "libswscale"  # engines
AUTO_TILE = 512  # pixels: of 1280x720 with an overlap of 18 pixels 8 % is computed twice, with tiles of 256 22 %


@dataclass(frozen=True)
class ModelSettings:
    """The model and how it runs; the same for all frames of a run.

    `model` is a name or the path of a weights file. `engine` is TORCH or NCNN;
    `device` is "cpu", or "cuda:N" with TORCH, or "vulkan:N" with NCNN. A tile has at most `patch_size`²
    input pixels, overlap included; 0 means whole frames. `threads` are CPU threads of this worker.
    `workers_on_device` counts the workers that share its device, this one included: each plans with its part of the
    free memory. `strength` in 0..1 blends the network's picture (1) with a plain Lanczos resize (0). `denoise` in 0..1
    or None is for realesr-general-x4v3 only.
    """

    model: str = "realesr-animevideov3"
    device: str = "cpu"
    engine: str = TORCH
    precision: str = "auto"
    patch_size: int = AUTO_TILE
    batch_size: int = 8
    threads: int = 1
    denoise: float | None = None
    strength: float = 1.0
    compile: bool = False
    workers_on_device: int = 1


def tile_size(patch_size: int | str) -> int:
    """The tile size for the option --patch-size: "auto" or a number of pixels, 0 for whole frames."""
    return AUTO_TILE if patch_size == AUTO else int(patch_size)
