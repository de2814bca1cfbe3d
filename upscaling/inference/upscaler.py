"""The network of one worker: a batch of RGB frames in, upscaled out, on one device.

settings ─► weights.load ─► network.build, with the factor folded in ─► runner on the device
frames ─► forward.Forward (patches) ─► rescale (exact size) ─► blend with a plain resize, if asked
"""

from collections.abc import Callable

import torch
from torch import nn

from upscaling.common.errors import InputError
from upscaling.common.system import retain_freed_memory
from upscaling.inference import weights
from upscaling.inference.memory import KEEP, PROBE, bytes_per_pixel, free_bytes
from upscaling.inference.network import Network, build, factor_for, native_factor, runner
from upscaling.inference.rescale import rescale
from upscaling.inference.settings import ModelSettings
from upscaling.inference.tiled_forward import MIN_TILE, NO_LIMIT, Forward
from upscaling.inference.tiling import MERGE

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Upscaler:
    """A loaded network.

    Raises weights.WeightsError where the model can't be used, InputError where the device or the precision can't.
    """

    def __init__(self, settings: ModelSettings, heartbeat: Callable[[], None] = lambda: None):
        self.settings, self.heartbeat = settings, heartbeat
        self.device = torch.device(settings.device)
        self.precision = choose_precision(settings.precision, self.device)
        _tune(self.device, settings.threads)
        self._state: dict[str, torch.Tensor] | None = weights.load(settings.model, settings.denoise)
        self.native = native_factor(self._state)
        self._forward: Forward | None = None
        self._factor = 0  # that `_forward` gives; 0: not loaded yet
        self._notes: list[str] = []

    @property
    def computed(self) -> int:
        """Patches that went through the network."""
        return self._forward.computed if self._forward else 0

    @property
    def reused(self) -> int:
        """Patches copied from the frame before, as their input was the same."""
        return self._forward.reused if self._forward else 0

    def take_notes(self) -> list[str]:
        """What happened since the last call, for a log: one line each (memory that ran out, precision changed)."""
        notes = self._notes + (self._forward.notes if self._forward else [])
        self._notes = []
        if self._forward:
            self._forward.notes = []
        return notes

    def forget(self) -> None:
        """The next frame follows none: no patch of it is copied from the frame before."""
        if self._forward:
            self._forward.forget()

    @torch.inference_mode()
    def __call__(self, rgb: torch.Tensor, width: int, height: int) -> torch.Tensor:
        """Frames (N, 3, H, W), float32 in [0, 1] on the device, to (N, 3, height, width), float32 in [0, 1].

        The network's factor is the smallest that reaches the size (the native one where none does), then an
        exact resize. The first frame follows the last of the call before, unless `forget` was called; the result
        is valid until the next call. Raises UpscaleError where even the smallest patch does not fit the memory.
        """
        strength = self.settings.strength
        if strength <= 0:
            return rescale(rgb, width, height)
        rows, columns = rgb.shape[-2:]
        self._load(factor_for(self.native, width / columns, height / rows), rgb)
        out = rescale(self._forward(rgb), width, height)  # (N, 3, height, width)
        if strength < 1:
            out = torch.lerp(rescale(rgb, width, height), out, strength)
        return out

    def _load(self, factor: int, frames: torch.Tensor) -> None:
        """The network for this factor on the device; once, as a run has one size, that of `frames` (N, 3, H, W)."""
        if factor == self._factor:
            return
        state = self._state or weights.load(self.settings.model, self.settings.denoise)
        self._state = None  # a second factor is rare, a second copy of the weights is not free
        network = build(state, factor)
        dtype = DTYPES[self.precision]
        if (dtype == torch.float16 and not network.half) or (dtype == torch.bfloat16 and not network.bfloat16):
            dtype = torch.float32
            self._notes.append(f"{network.kind} runs in fp32: it does not stand {self.precision}")
        module = runner(network, dtype, self.device)
        budget, batch = self._memory_plan(module, network, frames.numel() * factor**2 * 4)
        if self.settings.compile and self.device.type == "cuda":
            module = _compiled(module)
        self._forward, self._factor = Forward(module, network, budget, batch, self.heartbeat), factor

    def _memory_plan(self, module: nn.Module, network: Network, result: int) -> tuple[int, int]:
        """(pixels of a patch, patches in a pass): what was asked for, less where free memory does not hold it.

        `result` bytes go to what the network gives, before any patch.
        """
        size = self.settings.patch_size
        budget = MERGE * size**2 if size and network.tiles else NO_LIMIT
        batch = 1 if self.device.type == "cpu" else max(1, self.settings.batch_size)
        free = free_bytes(self.device)
        if free is None or not network.tiles:
            return budget, batch
        side = -(-max(PROBE, network.minimum) // network.multiple) * network.multiple
        mine = max(0.0, free * KEEP / self.settings.workers_on_device - result)
        affordable = int(mine / bytes_per_pixel(module, self.device, side))  # pixels in a pass
        while batch > 1 and batch * min(budget, size**2 or NO_LIMIT) > affordable:
            batch //= 2
        return max(min(budget, affordable // batch), MIN_TILE**2), batch


def choose_precision(asked: str, device: torch.device) -> str:
    """fp32, bf16 or fp16 for what was asked (auto: what is fastest there). InputError where the device has it not."""
    cuda = device.type == "cuda"
    if cuda and not torch.cuda.is_available():
        raise InputError(f"device {device} was asked for, but there is no CUDA device here: use --device cpu")
    if asked == "auto":
        return "fp16" if cuda else ("bf16" if _cpu_has_bf16() else "fp32")
    if asked not in DTYPES:
        raise InputError(f"unknown precision {asked!r}: there are auto, {', '.join(DTYPES)}")
    if asked == "fp16" and not cuda and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        raise InputError("this CPU does not compute in fp16: use --precision bf16 or fp32")
    if asked == "bf16" and cuda and not torch.cuda.is_bf16_supported():
        raise InputError("this GPU does not compute in bf16: use --precision fp16 or fp32")
    return asked


def _cpu_has_bf16() -> bool:
    """Whether the CPU has bf16 instructions; without them torch emulates bf16, slower than fp32."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            words = next((line.split() for line in file if line.startswith(("flags", "Features"))), [])
    except OSError:
        return False
    return any(flag in words for flag in ("avx512_bf16", "amx_bf16", "bf16")) and torch.backends.mkldnn.is_available()


def _tune(device: torch.device, threads: int) -> None:
    """Threads and allocator of a CPU; exact fp32 and the choice of algorithms by measurement on CUDA."""
    torch.set_num_threads(max(1, threads))
    if device.type == "cpu":
        retain_freed_memory()
        return
    torch.backends.cudnn.benchmark = True  # shapes are constant
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32
    torch.backends.cuda.matmul.allow_tf32 = False


def _compiled(module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """The module through torch.compile with CUDA graphs."""
    compiled = torch.compile(module, mode="reduce-overhead", dynamic=False)

    def run(batch: torch.Tensor) -> torch.Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # the last pass's result may be overwritten: it is pasted already
        return compiled(batch)

    return run
