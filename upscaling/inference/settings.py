"""What a worker is asked for: which model on which device, and which picture. Free of heavy imports."""

from dataclasses import dataclass

LANCZOS = "lanczos"  # the model name that means: no network, a plain resize of the planes


@dataclass(frozen=True)
class ModelSettings:
    """The model and how it runs; one for all frames of a run.

    `model` is a name or the path of a weights file. `device` is "cpu" or "cuda:N". `patch_size` is in
    pixels of the input, 0 for whole frames. `threads` are CPU threads of this worker, `sharers` the workers on
    its device, this one included: each plans with its part of the free memory. `strength` in 0..1 blends
    the network's picture (1) with a plain Lanczos resize (0); `denoise` in 0..1 or None is for
    realesr-general-x4v3 alone.
    """

    model: str = "realesr-animevideov3"
    device: str = "cpu"
    precision: str = "auto"
    patch_size: int = 256
    batch_size: int = 8
    threads: int = 1
    denoise: float | None = None
    strength: float = 1.0
    compile: bool = False
    workers_on_device: int = 1
