"""Batches through a network in ncnn, on a CPU or a Vulkan device.

Everything around the network (staging, YUV and RGB, tiles, the resize) is the torch engine's own, on the CPU, so that
both give one picture. The network is written for ncnn in memory (models/ncnn_writer). Vulkan is initialised when the
model is loaded: in a worker, never before the fork.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ncnn as _ncnn
import numpy as np
import torch
from torch.nn import functional as F

from upscaling.common.errors import InputError, UpscaleError
from upscaling.inference.settings import AUTO, ModelSettings
from upscaling.inference.torch_engine import TorchEngine
from upscaling.inference.upscaler import Upscaler
from upscaling.inference.vulkan import MIB
from upscaling.models.ncnn_writer import INPUT, OUTPUT, NcnnModel, written
from upscaling.models.network import BlockMean, Network, for_rgb

ncnn: Any = _ncnn  # a C extension without types
OUT_OF_MEMORY = -100  # what ncnn's layers return if an allocation has failed (src/layer/*.cpp)
# Options of ncnn that are on by default and round to 16 bits.
WORKSPACE_MARGIN = 3.0  # times the largest input and output of a layer: blobs kept, transforms of Winograd
HALF = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_packed", "use_bf16_storage")


class NcnnEngine(TorchEngine):
    """An `engine.Engine` whose network runs in ncnn."""

    def __init__(self, settings: ModelSettings, heartbeat: Callable[[], None]):
        super().__init__(replace(settings, device="cpu"), heartbeat, NcnnUpscaler(settings, heartbeat))


class NcnnUpscaler(Upscaler):
    """An `Upscaler` whose network runs in ncnn on `settings.device`; pictures are tensors on the CPU."""

    def __init__(self, settings: ModelSettings, heartbeat: Callable[[], None] = lambda: None):
        self._gpu = int(settings.device.removeprefix("vulkan:")) if settings.device != "cpu" else None
        if self._gpu is not None and self._gpu >= ncnn.get_gpu_count():
            raise InputError(f"--device {settings.device} not found in ncnn; see --list-devices")
        super().__init__(replace(settings, device="cpu"), heartbeat)

    def _choose_precision(self) -> str:
        asked = self.settings.precision
        if asked != AUTO:
            return asked
        return "fp32" if self._gpu is None else "fp16"

    def _runner(self, network: Network, dtype: torch.dtype) -> torch.nn.Module:
        model = written(network)
        if model is None:
            raise InputError(f"ncnn runs SRVGGNetCompact and RRDBNet, not {network.architecture}; use --engine torch")
        run = for_rgb(NcnnNetwork(model, self._gpu, dtype == torch.float16, self.settings.threads), network)
        if isinstance(network.module, BlockMean):
            return BlockMean(run, network.module.size)
        return run

    def _free_bytes(self) -> int | None:
        return super()._free_bytes() if self._gpu is None else ncnn.get_gpu_device(self._gpu).get_heap_budget() * MIB

    def _bytes_per_pixel(self, module: torch.nn.Module, side: int) -> float:
        return next(part.bytes_per_pixel for part in module.modules() if isinstance(part, NcnnNetwork))


class NcnnNetwork(torch.nn.Module):
    """A network loaded into ncnn: (B, C, h, w), float32 on the CPU, to (B, C, h * scale, w * scale), float32."""

    bytes_per_pixel: float  # of activations, per pixel of a tile

    def __init__(self, model: NcnnModel, gpu: int | None, half: bool, threads: int):
        """`gpu` is ncnn's number of a Vulkan device, None for the CPU. UpscaleError if the device cannot hold it."""
        super().__init__()
        self.scale, self.adds_input = model.scale, model.adds_input
        self.bytes_per_pixel = model.floats * (2 if half else 4) * WORKSPACE_MARGIN
        self._net = net = ncnn.Net()
        net.opt.num_threads = max(1, threads)
        net.opt.use_vulkan_compute = gpu is not None
        for name in HALF:
            setattr(net.opt, name, half and "bf16" not in name)
        if gpu is not None:
            net.set_vulkan_device(gpu)
        if net.load_param_mem(model.param) != 0:
            raise UpscaleError("ncnn cannot load the network on this device")
        net.load_model_mem(model.weights)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """RuntimeError if ncnn fails; its message says "out of memory" if that is the reason."""
        residual = torch.stack([self._one(picture) for picture in batch])
        if not self.adds_input:
            return residual
        return residual.add_(F.interpolate(batch, scale_factor=self.scale, mode="nearest"))

    def _one(self, picture: torch.Tensor) -> torch.Tensor:
        """(C, h, w) to (C, h * scale, w * scale), a view of ncnn's memory: nothing is copied on the way in or out."""
        samples = picture.contiguous().numpy()  # ncnn reads this memory: it must live until `extract` returns
        extractor = self._net.create_extractor()
        extractor.input(INPUT, ncnn.Mat(samples))
        result = ncnn.Mat()
        status = extractor.extract(OUTPUT, result)
        if status == OUT_OF_MEMORY:
            raise RuntimeError(f"ncnn: out of memory for a tile of {samples.shape[2]}x{samples.shape[1]}")
        if status != 0 or result.empty():
            raise RuntimeError(f"ncnn: error {status}; the device may have been lost")
        return torch.from_numpy(np.asarray(result))
