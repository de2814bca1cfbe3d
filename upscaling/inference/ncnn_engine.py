"""Batches through a network in ncnn, on a CPU or a Vulkan device.

Everything around the network (staging, YUV and RGB, tiles, the resize) is the torch engine's own, on the CPU, so that
both give one picture. The network is written for ncnn in memory (models/ncnn_writer). Vulkan is initialised when the
model is loaded: in a worker, never before the fork.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ncnn as _ncnn
import torch

from upscaling.common.errors import InputError
from upscaling.inference.ncnn_network import NcnnNetwork
from upscaling.inference.settings import AUTO, ModelSettings
from upscaling.inference.torch_engine import TorchEngine
from upscaling.inference.upscaler import Upscaler
from upscaling.inference.vulkan import MIB
from upscaling.models.ncnn_writer import written
from upscaling.models.network import BlockMean, Network, for_rgb

ncnn: Any = _ncnn  # a C extension without types


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
