"""A network in ncnn: tensors in, tensors out; on Vulkan whole tiles, on a CPU strips that fit its cache.

A CPU's time for whole tiles goes into moving features from layer to layer: 320x180 pixels with 64 features are 15 MB.
In strips of some 3000 pixels they stay in the second-level cache: 0.6 of the time, the same picture.
"""

from collections.abc import Iterator
from typing import Any

import ncnn as _ncnn
import numpy as np
import torch
from torch.nn import functional as F

from upscaling.common.errors import UpscaleError
from upscaling.models.ncnn_writer import ABOVE, BELOW, INPUT, KEPT, OUTPUT, NcnnModel

ncnn: Any = _ncnn  # a C extension without types
OUT_OF_MEMORY = -100  # what ncnn's layers return if an allocation has failed (src/layer/*.cpp)
# Options of ncnn that are on by default and round to 16 bits.
HALF = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_packed", "use_bf16_storage")
WORKSPACE_MARGIN = 3.0  # times the largest input and output of a layer: blobs kept, transforms of Winograd
STRIP_PIXELS = 3072  # a thread: with 64 features 0.75 MiB, read and written by each layer
STRIP_ROWS = 4  # a strip has a multiple of these, as Winograd's F(4, 3) computes four at a time


class NcnnNetwork(torch.nn.Module):
    """A network loaded into ncnn: (B, C, h, w), float32 on the CPU, to (B, C, h * scale, w * scale), float32."""

    bytes_per_pixel: float  # of activations, per pixel of a tile

    def __init__(self, model: NcnnModel, gpu: int | None, half: bool, threads: int):
        """`gpu` is ncnn's number of a Vulkan device, None for the CPU. UpscaleError if the device cannot hold it."""
        super().__init__()
        self.scale, self.adds_input, self._states, self._threads = model.scale, model.adds_input, model.states, threads
        self.bytes_per_pixel = model.floats * (2 if half else 4) * WORKSPACE_MARGIN
        texts = (model.middle, model.last) if model.states and gpu is None else (model.param,)
        self._nets = [_loaded(text, model.weights, gpu, half, threads) for text in texts]

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """RuntimeError if ncnn fails; its message says "out of memory" if that is the reason."""
        compute = self._in_strips if len(self._nets) == 2 else self._whole
        number, channels, rows, columns = batch.shape
        result = torch.empty(number, channels, rows * self.scale, columns * self.scale)
        for picture, target in zip(batch, result.numpy(), strict=True):
            compute(picture.contiguous().numpy(), target)
        if self.adds_input:
            result += F.interpolate(batch, scale_factor=self.scale, mode="nearest")
        return result

    def _whole(self, picture: np.ndarray, target: np.ndarray) -> None:
        """(C, h, w) to (C, h * scale, w * scale)."""
        extractor = self._nets[0].create_extractor()
        extractor.input(INPUT, ncnn.Mat(picture))  # no copy: ncnn reads this memory
        np.copyto(target, np.asarray(_extracted(extractor, OUTPUT)))

    def _in_strips(self, picture: np.ndarray, target: np.ndarray) -> None:
        """The same, some rows at a time; each strip's result lags behind by one row a convolution, but for the last."""
        columns = picture.shape[2]
        outside = [np.zeros((channels, 1, columns), np.float32) for channels in self._states]
        above = [ncnn.Mat(row) for row in outside]
        done = 0  # rows of `target`
        for strip, is_last in self._strips(picture):
            extractor = self._nets[is_last].create_extractor()
            extractor.input(INPUT, ncnn.Mat(strip))
            for index, rows in enumerate(above):
                extractor.input(f"{ABOVE}{index}", rows)
                if is_last:
                    extractor.input(f"{BELOW}{index}", ncnn.Mat(outside[index]))
            if not is_last:
                # In this order each call computes one more layer, and nothing twice. They stay in ncnn's own layout.
                above = [_extracted(extractor, f"{KEPT}{index}", 1) for index in range(len(self._states))]
            result = np.asarray(_extracted(extractor, OUTPUT))
            target[:, done : done + result.shape[1]] = result
            done += result.shape[1]

    def _strips(self, picture: np.ndarray) -> Iterator[tuple[np.ndarray, bool]]:
        """(rows of the picture, whether they are its last) from top to bottom; the first strip is larger by the lag."""
        height, columns = picture.shape[1:]
        rows = max(1, round(STRIP_PIXELS * self._threads / columns / STRIP_ROWS)) * STRIP_ROWS
        start, stop = 0, rows + len(self._states)
        while height - stop >= rows // 2:
            yield np.ascontiguousarray(picture[:, start:stop]), False
            start, stop = stop, stop + rows
        yield np.ascontiguousarray(picture[:, start:]), True


def _loaded(param: str, weights: bytes, gpu: int | None, half: bool, threads: int) -> Any:
    net = ncnn.Net()
    net.opt.num_threads = max(1, threads)
    net.opt.use_vulkan_compute = gpu is not None
    for name in HALF:
        setattr(net.opt, name, half and "bf16" not in name)
    if gpu is not None:
        net.set_vulkan_device(gpu)
    if net.load_param_mem(param) != 0:
        raise UpscaleError("ncnn cannot load the network on this device")
    net.load_model_mem(weights)
    return net


def _extracted(extractor: Any, blob: str, kind: int = 0) -> Any:
    """A blob as ncnn.Mat; of `kind` 1 as ncnn has it, otherwise as plain float32."""
    result = ncnn.Mat()
    status = extractor.extract(blob, result, kind)
    if status == OUT_OF_MEMORY:
        raise RuntimeError("ncnn: out of memory")
    if status != 0 or result.empty():
        raise RuntimeError(f"ncnn: error {status}; the device may have been lost")
    return result
