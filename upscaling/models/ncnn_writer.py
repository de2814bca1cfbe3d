"""A network written for ncnn: its layers as `.param` text and its tensors as `.bin` bytes, in memory.

The formats are those that ncnn_files reads. Only SRVGGNetCompact and RRDBNet are written, of any size, as fp32.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from torch import nn

from upscaling.models.ncnn_files import FP32_TAG, MAGIC, RRDB_SLOPE
from upscaling.models.network import BlockMean, Network, SpandrelModule

INPUT, OUTPUT = "data", "output"  # names of blobs
_LEAKY = {"9": "2", "-23310": f"1,{RRDB_SLOPE}"}  # of a convolution: its activation, a leaky ReLU
_NEAREST = "1"  # of an Interp
_SUM = "1"  # of an Eltwise
_RESIDUAL = {"0": _SUM, "-23301": f"2,{RRDB_SLOPE},1.0"}  # RRDBNet: 0.2 of a block's result, plus its input


@dataclass(frozen=True)
class NcnnModel:
    """`param` and `weights` as ncnn loads them; from blob INPUT (C, h, w) to OUTPUT (C, h * scale, w * scale).

    The network's picture is OUTPUT, plus the input with its pixels repeated if `adds_input`: done outside in fp32, so
    that in fp16 only the residual is rounded. `floats` are the largest input and output of any layer, in numbers per
    pixel of the network's input.
    """

    param: str
    weights: bytes
    scale: int
    adds_input: bool
    floats: float


def written(network: Network) -> NcnnModel | None:
    """The network for ncnn, BlockMean left out; None if it is neither SRVGGNetCompact nor a plain RRDBNet."""
    module = network.module.module if isinstance(network.module, BlockMean) else network.module
    graph = _Graph(network.channels)
    if network.architecture == "SRVGGNetCompact":
        return _compact(cast(nn.Module, module), graph)
    if network.architecture == "RRDBNet" and isinstance(module, SpandrelModule):
        return _rrdb(module.model, network.native_scale, graph)
    return None


class _Graph:
    """Layers and weights in the making. Methods add a layer and return the name of its output blob."""

    def __init__(self, channels: int):
        self.channels = channels  # of the pictures
        self._layers: list[tuple[str, list[str], str, Mapping[str, object]]] = []  # kind, inputs, output, values
        self._weights: list[bytes] = []
        self._shapes: dict[str, tuple[int, float]] = {INPUT: (channels, 1.0)}  # (channels, area in input pixels)
        self._floats = 0.0

    def add(
        self, kind: str, inputs: Sequence[str], values: Mapping[str, object], area: float = 1, channels: int = 0
    ) -> str:
        """`area` is that of the output in pixels of the input; it has `channels`, or as many as all inputs together."""
        output = f"b{len(self._layers)}"
        self._layers.append((kind, list(inputs), output, values))
        read = [self._shapes[blob] for blob in inputs]
        self._shapes[output] = channels or sum(count for count, _ in read), read[0][1] * area
        self._floats = max(self._floats, sum(count * size for count, size in (*read, self._shapes[output])))
        return output

    def convolution(self, layer: nn.Conv2d, blob: str, activation: Mapping[str, object] | None = None) -> str:
        weight, bias = layer.weight.numpy(), cast(nn.Parameter, layer.bias).numpy()
        self._weights += [np.uint32(FP32_TAG).tobytes(), _bytes(weight), _bytes(bias)]
        values = {"0": len(weight), "1": 3, "4": 1, "5": 1, "6": weight.size, **(activation or {})}
        return self.add("Convolution", [blob], values, channels=len(weight))

    def prelu(self, layer: nn.PReLU, blob: str) -> str:
        self._weights.append(_bytes(layer.weight.numpy()))
        return self.add("PReLU", [blob], {"0": layer.weight.numel()})

    def enlarge(self, factor: int, blob: str) -> str:
        return self.add("Interp", [blob], {"0": _NEAREST, "1": f"{factor}.0", "2": f"{factor}.0"}, factor**2)

    def residual(self, blob: str, before: str, values: Mapping[str, object]) -> str:
        return self.add("Eltwise", [blob, before], values, channels=self._shapes[before][0])

    def finish(self, scale: int, adds_input: bool = False) -> NcnnModel:
        """The model; the layer added last gives its output."""
        *others, (kind, inputs, _, values) = self._layers
        layers = [("Input", [], INPUT, {}), *others, (kind, inputs, OUTPUT, values)]
        uses = Counter(blob for _, inputs, _, _ in layers for blob in inputs)
        copies = {blob: [f"{blob}_{n}" for n in range(count)] for blob, count in uses.items() if count > 1}
        left = {blob: iter(names) for blob, names in copies.items()}  # each is taken once
        lines = []
        for kind, inputs, output, values in layers:
            taken = [next(left[blob]) if blob in left else blob for blob in inputs]
            lines.append(_line(kind, output, taken, [output], values))
            if output in copies:
                lines.append(_line("Split", f"split_{output}", [output], copies[output], {}))
        blobs = len(layers) + sum(map(len, copies.values()))
        text = "\n".join([MAGIC, f"{len(lines)} {blobs}", *lines, ""])
        return NcnnModel(text, b"".join(self._weights), scale, adds_input, self._floats)


def _line(kind: str, name: str, inputs: Sequence[str], outputs: Sequence[str], values: Mapping[str, object]) -> str:
    parameters = (f"{key}={value}" for key, value in values.items())
    return " ".join([kind, name, str(len(inputs)), str(len(outputs)), *inputs, *outputs, *parameters])


def _bytes(values: np.ndarray) -> bytes:
    return values.astype("<f4").tobytes()


def _compact(module: nn.Module, graph: _Graph) -> NcnnModel:
    """SRVGGNetCompact: convolutions and PReLUs in turn, then PixelShuffle; its picture is that plus the input."""
    blob = INPUT
    for layer in cast(nn.ModuleList, module.body):
        blob = (
            graph.prelu(layer, blob) if isinstance(layer, nn.PReLU) else graph.convolution(cast(nn.Conv2d, layer), blob)
        )
    scale = cast(int, module.upscale)
    graph.add("PixelShuffle", [blob], {"0": scale}, scale**2, graph.channels)
    return graph.finish(scale, adds_input=True)


def _rrdb(module: nn.Module, scale: int, graph: _Graph) -> NcnnModel | None:
    """Spandrel's RRDBNet, whose convolutions are in the order in which they are used; None for ESRGAN+ (1x1 ones)."""
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    if any(layer.kernel_size != (3, 3) or layer.bias is None for layer in convolutions):
        return None
    ups = [
        round(float(cast(float, layer.scale_factor))) for layer in module.modules() if isinstance(layer, nn.Upsample)
    ]
    layers = iter(convolutions)
    blob = INPUT
    if shuffle := cast(int | None, module.shuffle_factor):
        blob = graph.add(
            "Reorg", [blob], {"0": shuffle}, 1 / shuffle**2, graph.channels * shuffle**2
        )  # PixelUnshuffle, channels in PyTorch's order
    first = body = graph.convolution(next(layers), blob)
    for _ in range((len(convolutions) - 4 - len(ups)) // 15):
        inner = body
        for _ in range(3):
            inner = _dense(layers, inner, graph)
        body = graph.residual(inner, body, _RESIDUAL)
    blob = graph.residual(graph.convolution(next(layers), body), first, {"0": _SUM})
    for factor in ups:
        blob = graph.convolution(next(layers), graph.enlarge(round(cast(float, factor)), blob), _LEAKY)
    blob = graph.convolution(next(layers), blob, _LEAKY)
    graph.convolution(next(layers), blob)
    return graph.finish(scale)


def _dense(layers: Iterator[nn.Conv2d], blob: str, graph: _Graph) -> str:
    """A dense block of five convolutions, each of which sees the results of all before it."""
    seen = [blob]
    for _ in range(4):
        joined = graph.add("Concat", seen, {}) if len(seen) > 1 else blob
        seen.append(graph.convolution(next(layers), joined, _LEAKY))
    result = graph.convolution(next(layers), graph.add("Concat", seen, {}))
    return graph.residual(result, blob, _RESIDUAL)
