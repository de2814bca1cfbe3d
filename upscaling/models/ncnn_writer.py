"""A network written for ncnn: its layers as `.param` text and its tensors as `.bin` bytes, in memory.

The formats are those that ncnn_files reads. Only SRVGGNetCompact and RRDBNet are written, of any size, as fp32.

SRVGGNetCompact is also written for strips: a few rows of the picture at a time go through all layers, so that features
stay in a CPU's cache. Before each convolution the strip gets the last two rows of what that convolution had before it,
so nothing is computed twice; the result lags one row behind at each layer, which the last strip makes up for.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from torch import nn

from upscaling.models.ncnn_files import FP32_TAG, MAGIC, RRDB_SLOPE
from upscaling.models.network import BlockMean, Network, SpandrelModule

INPUT, OUTPUT = "data", "output"  # names of blobs
ABOVE, BELOW, KEPT = "above", "below", "kept"  # of strips: blobs of convolution n are above0, …
STATE_ROWS = 2  # that a convolution of 3x3 needs of what is above a strip
_LEAKY = {"9": "2", "-23310": f"1,{RRDB_SLOPE}"}  # of a convolution: its activation, a leaky ReLU
_NO_PADDING = {"14": 0}  # of a convolution, above and below
_ROWS = {"0": 1}  # of a Concat: along the rows
_LAST_ROWS = {"-23309": f"1,-{STATE_ROWS}", "-23310": "1,-233", "-23311": "1,1"}  # of a Crop
_NEAREST = "1"  # of an Interp
_SUM = "1"  # of an Eltwise
_RESIDUAL = {"0": _SUM, "-23301": f"2,{RRDB_SLOPE},1.0"}  # RRDBNet: 0.2 of a block's result, plus its input


@dataclass(frozen=True)
class NcnnModel:
    """`param` and `weights` as ncnn loads them; from blob INPUT (C, h, w) to OUTPUT (C, h * scale, w * scale).

    The network's picture is OUTPUT, plus the input with its pixels repeated if `adds_input`: done outside in fp32, so
    that in fp16 only the residual is rounded. `floats` are the largest input and output of any layer, in numbers per
    pixel of the network's input.

    `middle` and `last` are the layers for strips, with the same weights; `states` the channels of each convolution's
    input. Convolution n joins blob ABOVE n, INPUT or what the layer before made of it, and in `last` BELOW n, along
    the rows. In `middle` KEPT n are the last STATE_ROWS rows of that. Rows outside the picture are zeros: one above its
    first strip, one below its last.
    """

    param: str
    weights: bytes
    scale: int
    adds_input: bool
    floats: float
    middle: str = ""
    last: str = ""
    states: tuple[int, ...] = ()


def written(network: Network) -> NcnnModel | None:
    """The network for ncnn, BlockMean left out; None if it is neither SRVGGNetCompact nor a plain RRDBNet."""
    module = network.module.module if isinstance(network.module, BlockMean) else network.module
    graph = _Graph(network.channels)
    if network.architecture == "SRVGGNetCompact":
        return _compact(cast(nn.Module, module), network.channels)
    if network.architecture == "RRDBNet" and isinstance(module, SpandrelModule):
        return _rrdb(module.model, network.native_scale, graph)
    return None


class _Graph:
    """Layers and weights in the making. Methods add a layer and return the name of its output blob."""

    def __init__(self, channels: int):
        self.channels = channels  # of the pictures
        # Kind, inputs, output, values.
        self._layers: list[tuple[str, list[str], str, Mapping[str, object]]] = [("Input", [], INPUT, {})]
        self._weights: list[bytes] = []
        self._shapes: dict[str, tuple[int, float]] = {INPUT: (channels, 1.0)}  # (channels, area in input pixels)
        self._floats = 0.0

    def add(
        self, kind: str, inputs: Sequence[str], values: Mapping[str, object], area: float = 1, channels: int = 0,
        name: str = "",
    ) -> str:  # fmt: skip
        """`area` is that of the output in pixels of the input; it has `channels`, or as many as all inputs together."""
        output = name or f"b{len(self._layers)}"
        self._layers.append((kind, list(inputs), output, values))
        read = [self._shapes[blob] for blob in inputs]
        self._shapes[output] = channels or sum(count for count, _ in read), max(size for _, size in read) * area
        self._floats = max(self._floats, sum(count * size for count, size in (*read, self._shapes[output])))
        return output

    def input(self, name: str, channels: int) -> str:
        self._layers.append(("Input", [], name, {}))
        self._shapes[name] = channels, 0.0
        return name

    def convolution(self, layer: nn.Conv2d, blob: str, more: Mapping[str, object] | None = None) -> str:
        weight, bias = layer.weight.numpy(), cast(nn.Parameter, layer.bias).numpy()
        self._weights += [np.uint32(FP32_TAG).tobytes(), _bytes(weight), _bytes(bias)]
        values = {"0": len(weight), "1": 3, "4": 1, "5": 1, "6": weight.size, **(more or {})}
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
        layers = [*others, (kind, inputs, OUTPUT, values)]
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


def _compact(module: nn.Module, channels: int) -> NcnnModel:
    """SRVGGNetCompact: convolutions and PReLUs in turn, then PixelShuffle; its picture is that plus the input."""
    whole, middle, last = (_compact_graph(module, channels, part) for part in ("", KEPT, BELOW))
    layers = [layer for layer in cast(nn.ModuleList, module.body) if isinstance(layer, nn.Conv2d)]
    return replace(whole, middle=middle.param, last=last.param, states=tuple(layer.in_channels for layer in layers))


def _compact_graph(module: nn.Module, channels: int, part: str) -> NcnnModel:
    """For the whole picture, or for strips: KEPT for those whose last rows are kept, BELOW for the last one."""
    graph, blob, number = _Graph(channels), INPUT, 0
    for layer in cast(nn.ModuleList, module.body):
        if isinstance(layer, nn.PReLU):
            blob = graph.prelu(layer, blob)
            continue
        layer = cast(nn.Conv2d, layer)
        if part:
            names = [f"{name}{number}" for name in (ABOVE, BELOW)[: 2 if part == BELOW else 1]]
            above, *below = [graph.input(name, layer.in_channels) for name in names]
            blob = graph.add("Concat", [above, blob, *below], _ROWS, channels=layer.in_channels)
        if part == KEPT:
            graph.add("Crop", [blob], _LAST_ROWS, channels=layer.in_channels, name=f"{KEPT}{number}")
        blob = graph.convolution(layer, blob, _NO_PADDING if part else None)
        number += 1
    scale = cast(int, module.upscale)
    graph.add("PixelShuffle", [blob], {"0": scale}, scale**2, channels)
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
        # PixelUnshuffle with the channels in PyTorch's order
        blob = graph.add("Reorg", [blob], {"0": shuffle}, 1 / shuffle**2, graph.channels * shuffle**2)
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
