"""Weights of ncnn models: the layer list `.param` (text) and the numbers `.bin`. NumPy only.

Formats as in ncnn's `Net::load_param` and `ModelBinFromDataReader::load` (Tencent/ncnn, src/net.cpp and
src/modelbin.cpp). A `.param` is the number 7767517, then "layers blobs", then one layer per line:

    Type  name  inputs  outputs  input-blob…  output-blob…  key=value…

A `.bin` holds, layer by layer in that order: for a convolution a 4-byte tag (0x01306B47: fp16 weights,
padded to 4 bytes; 0: fp32 weights), the weights in the order (out, in, rows, columns) and fp32 biases; for
a PReLU fp32 slopes without a tag. Tensors are returned under realesrgan's names.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from upscaling.common.errors import InputError

MAGIC = "7767517"
FP16_TAG = 0x01306B47
FP32_TAG = 0
INT8_TAG = 0x000D4B38
# Layers without weights in the two architectures.
PLAIN_LAYERS = {"Input", "Split", "Concat", "Eltwise", "BinaryOp", "Interp", "PixelShuffle", "ReLU", "Noop", "Reorg"}
MAX_LAYERS = 100_000
ACTIVATION_KEYS = ("9", "-23310")  # of a convolution: the kind (0 none, 2 leaky ReLU), its parameters as an array
LEAKY_RELU = 2
RRDB_SLOPE = 0.2


class NcnnError(InputError):
    """The files are damaged or hold an unsupported network; the message is one line."""


@dataclass(frozen=True)
class Layer:
    """One line of a `.param`: `values` are its key=value entries as text, keys as ncnn numbers them."""

    kind: str
    name: str
    values: dict[str, str]

    def number(self, key: str, default: int) -> int:
        """The integer under that key."""
        return int(self.values.get(key, default))


def pair(path: Path) -> tuple[Path, Path]:
    """(`.param`, `.bin`) of which `path` is either; NcnnError if the other one is missing."""
    param, weights = path.with_suffix(".param"), path.with_suffix(".bin")
    for file in (param, weights):
        if not file.is_file():
            raise NcnnError(f"an ncnn model is two files: {path.name} needs {file.name} in {path.parent}")
    return param, weights


def layers(param: Path) -> list[Layer]:
    """The layers of a `.param` in order; NcnnError if it is damaged or has an unsupported layer."""
    try:
        text = param.read_text(encoding="ascii")
    except UnicodeDecodeError:
        raise NcnnError(f"{param} is not an ncnn .param file (binary)") from None
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if not lines or lines[0] != [MAGIC]:
        raise NcnnError(f"{param} is not an ncnn .param file (it does not start with {MAGIC})")
    try:
        count = int(lines[1][0])
        found = [_layer(words) for words in lines[2:]]
    except (IndexError, ValueError):
        raise NcnnError(f"{param} is not an ncnn .param file (damaged)") from None
    if count != len(found) or count > MAX_LAYERS:
        raise NcnnError(f"{param} is damaged: its header says {count} layers, it has {len(found)}")
    for layer in found:
        if layer.kind not in PLAIN_LAYERS | {"Convolution", "PReLU"}:
            raise NcnnError(
                f"{param}: layer {layer.kind} ({layer.name}) is part of neither SRVGGNetCompact nor RRDBNet"
            )
    return found


def _layer(words: list[str]) -> Layer:
    inputs, outputs = int(words[2]), int(words[3])
    if inputs < 0 or outputs < 0:
        raise ValueError
    values = dict(word.split("=", 1) for word in words[4 + inputs + outputs :])
    return Layer(words[0], words[1], values)


def scale(param: Path) -> int:
    """The network's scale, from the layer list alone; a resize after the network is not counted."""
    found = layers(param)
    try:
        return _scale(found)
    except ValueError:
        raise NcnnError(f"{param} is damaged (a parameter is not a number)") from None


def _scale(found: list[Layer]) -> int:
    for layer in found:
        if layer.kind == "PixelShuffle":
            return layer.number("0", 1)
    last = max((i for i, layer in enumerate(found) if layer.kind == "Convolution"), default=0)
    total = 1
    for layer in found[:last]:
        if layer.kind == "Interp":
            total *= round(float(layer.values.get("1", "1")))
        if layer.kind == "Reorg":
            total = total // layer.number("0", 1) or 1
    return total


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of the pair of files of which `path` is one, float32, under realesrgan's names.

    Convolutions are (out, in, 3, 3), biases (out,), PReLU slopes (channels,). NcnnError if the files are not an
    SRVGGNetCompact or an RRDBNet of 3x3 convolutions.
    """
    param, weights = pair(path)
    found = layers(param)
    try:
        names = _srvgg_names(found) if any(layer.kind == "PReLU" for layer in found) else _rrdb_names(found, param)
        tensors = list(_tensors(found, weights.read_bytes(), weights))
    except (ValueError, OverflowError):
        raise NcnnError(f"{param} is damaged (a parameter is not a number)") from None
    return {
        f"{name}.{part}": values for name, parts in zip(names, tensors, strict=True) for part, values in parts.items()
    }


def _tensors(found: list[Layer], data: bytes, file: Path) -> Iterator[dict[str, np.ndarray]]:
    """{"weight": …, "bias": …} of each convolution and PReLU in order; every byte of `data` must be used."""
    reader = _Reader(data, file)
    for layer in found:
        if layer.kind == "PReLU":
            yield {"weight": reader.floats(layer.number("0", 0))}
        elif layer.kind == "Convolution":
            out = layer.number("0", 0)
            size = layer.number("6", 0)
            plain = [layer.number(key, default) for key, default in (("1", 0), ("11", 3), ("2", 1), ("3", 1), ("5", 0))]
            if plain != [3, 3, 1, 1, 1] or out < 1 or size < 9 or size % (out * 9):
                raise NcnnError(f"{file}: convolution {layer.name} is not 3x3, stride 1, with a bias")
            yield {"weight": reader.tagged(size).reshape(out, -1, 3, 3), "bias": reader.floats(out)}
    reader.finish()


class _Reader:
    """Reads arrays of a `.bin`, one after another."""

    def __init__(self, data: bytes, file: Path):
        self.data, self.file, self.position = data, file, 0

    def _take(self, count: int, dtype: str) -> np.ndarray:
        size = count * np.dtype(dtype).itemsize
        if count < 0 or self.position + size > len(self.data):
            raise NcnnError(
                f"{self.file} is too short for its .param ({len(self.data)} bytes): damaged, or of another .param"
            )
        values = np.frombuffer(self.data, dtype, count, self.position)
        self.position += -(-size // 4) * 4  # everything is aligned to 4 bytes
        return values

    def floats(self, count: int) -> np.ndarray:
        return self._take(count, "<f4").astype(np.float32)

    def tagged(self, count: int) -> np.ndarray:
        tag = int(self._take(1, "<u4")[0])
        if tag == FP16_TAG:
            return self._take(count, "<f2").astype(np.float32)
        if tag == FP32_TAG:
            return self.floats(count)
        kind = "int8" if tag == INT8_TAG else f"unknown (tag 0x{tag:08X})"
        raise NcnnError(f"{self.file} holds {kind} weights, not fp16 or fp32: damaged, or of another .param")

    def finish(self) -> None:
        if self.position != len(self.data):
            raise NcnnError(f"{self.file} has {len(self.data) - self.position} bytes more than its .param needs")


def _srvgg_names(found: list[Layer]) -> list[str]:
    """SRVGGNetCompact: convolutions and PReLUs alternate as body.0, body.1, …; building it checks the rest."""
    weighted = [layer for layer in found if layer.kind in ("Convolution", "PReLU")]
    for index, layer in enumerate(weighted):
        if layer.kind != ("Convolution", "PReLU")[index % 2]:
            raise NcnnError(f"layer {layer.name} breaks the pattern of an SRVGGNetCompact")
    return [f"body.{index}" for index in range(len(weighted))]


def _rrdb_names(found: list[Layer], param: Path) -> list[str]:
    """RRDBNet: 15 convolutions a block between conv_first and conv_body, one for each doubling, two at the end."""
    convolutions = [layer for layer in found if layer.kind == "Convolution"]
    last = max((i for i, layer in enumerate(found) if layer.kind == "Convolution"), default=0)
    doublings = sum(layer.kind == "Interp" for layer in found[:last])
    blocks, rest = divmod(len(convolutions) - 4 - doublings, 15)
    if blocks < 1 or rest:
        raise NcnnError(f"{param}: {len(convolutions)} convolutions are neither SRVGGNetCompact nor RRDBNet")
    _check_activations(found, param)
    dense = [f"body.{b}.rdb{r}.conv{c}" for b in range(blocks) for r in (1, 2, 3) for c in range(1, 6)]
    ups = [f"conv_up{i + 1}" for i in range(doublings)]
    return ["conv_first", *dense, "conv_body", *ups, "conv_hr", "conv_last"]


def _check_activations(found: list[Layer], param: Path) -> None:
    """RRDBNet's leaky ReLUs all have slope 0.2, its pixel unshuffle PyTorch's order of channels."""
    for layer in found:
        slope = None
        if layer.kind == "ReLU":
            slope = layer.values.get("0", "0")
        elif layer.kind == "Convolution" and layer.number(ACTIVATION_KEYS[0], 0):
            slope = layer.values.get(ACTIVATION_KEYS[1], "1,0").split(",")[-1]
            slope = slope if layer.number(ACTIVATION_KEYS[0], 0) == LEAKY_RELU else "0"
        if slope is not None and abs(float(slope) - RRDB_SLOPE) > 1e-6:
            raise NcnnError(
                f"{param}: the activation of {layer.name} is not RRDBNet's leaky ReLU of slope {RRDB_SLOPE}"
            )
        if layer.kind == "Reorg" and layer.number("1", 0):
            raise NcnnError(f"{param}: {layer.name} orders channels as RRDBNet does not")
