"""Tiny networks with random weights, and files of them in each format that models come in."""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F


def _convolution(name: str, inputs: int, outputs: int, generator: torch.Generator, size: float = 1.0) -> dict:
    """A 3x3 convolution drawn as PyTorch draws one, `size` times as large."""
    bound = size / (inputs * 9) ** 0.5
    weight = torch.rand((outputs, inputs, 3, 3), generator=generator) * 2 - 1
    bias = torch.rand(outputs, generator=generator) * 2 - 1
    return {f"{name}.weight": weight * bound, f"{name}.bias": bias * bound}


def compact(
    features: int = 8, convolutions: int = 2, scale: int = 4, seed: int = 0, channels: int = 3
) -> dict[str, torch.Tensor]:
    """The tensors of an SRVGGNetCompact whose residual is small, so that little of a mid-gray picture clips."""
    generator = torch.Generator().manual_seed(seed)
    state, inputs = {}, channels
    for index in range(convolutions + 1):
        state |= _convolution(f"body.{2 * index}", inputs, features, generator)
        state |= {f"body.{2 * index + 1}.weight": 0.1 + 0.3 * torch.rand(features, generator=generator)}
        inputs = features
    return state | _convolution(f"body.{2 * convolutions + 2}", features, channels * scale**2, generator, 0.3)


def overflowing(size: float) -> dict[str, torch.Tensor]:
    """A network whose features are `size` times as large; only the sum of the last layer's is small again."""
    state = compact(scale=2)
    state["body.0.weight"] = state["body.0.weight"] * size
    state["body.0.bias"] = state["body.0.bias"] * size
    state["body.1.weight"] = torch.ones_like(state["body.1.weight"])
    for layer in ("2", "4"):
        state[f"body.{layer}.bias"] = state[f"body.{layer}.bias"] * size
    state["body.6.weight"] = state["body.6.weight"] / size
    return state


def rrdb(
    features: int = 8, blocks: int = 1, grow: int = 32, scale: int = 4, seed: int = 0, channels: int = 3
) -> dict[str, torch.Tensor]:
    """The tensors of an RRDBNet that gives a picture around mid-gray."""
    generator = torch.Generator().manual_seed(seed)
    state = _convolution("conv_first", channels * (4 // scale) ** 2, features, generator)
    for block in range(blocks):
        for dense in (1, 2, 3):
            for index in range(1, 6):
                inputs, outputs = features + (index - 1) * grow, grow if index < 5 else features
                state |= _convolution(f"body.{block}.rdb{dense}.conv{index}", inputs, outputs, generator)
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        state |= _convolution(name, features, features, generator)
    state |= _convolution("conv_last", features, channels, generator, 0.3)
    return state | {"conv_last.bias": torch.full((channels,), 0.5)}


def rrdb_output(state: dict[str, torch.Tensor], picture: torch.Tensor) -> torch.Tensor:
    """What RRDBNet makes of a picture (N, 3, H, W), as its definition says (Wang et al. 2018; BasicSR's RRDBNet)."""

    def convolved(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    def activated(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(convolved(name, x), 0.2)

    def dense(name: str, x: torch.Tensor) -> torch.Tensor:
        features = [x]
        for index in range(1, 5):
            features.append(activated(f"{name}.conv{index}", torch.cat(features, 1)))
        return convolved(f"{name}.conv5", torch.cat(features, 1)) * 0.2 + x

    shuffle = int((state["conv_first.weight"].shape[1] // picture.shape[1]) ** 0.5)
    first = convolved("conv_first", F.pixel_unshuffle(picture, shuffle))
    body = first
    for block in range(1 + max(int(name.split(".")[1]) for name in state if name.startswith("body."))):
        inner = body
        for index in (1, 2, 3):
            inner = dense(f"body.{block}.rdb{index}", inner)
        body = inner * 0.2 + body
    features = first + convolved("conv_body", body)
    for name in ("conv_up1", "conv_up2"):
        features = activated(name, F.interpolate(features, scale_factor=2, mode="nearest"))
    return convolved("conv_last", activated("conv_hr", features))


def picture(height: int, width: int, seed: int = 0, frames: int = 1) -> torch.Tensor:
    """(frames, 3, height, width) in [0.2, 0.8]: slopes, an edge and grain, another grain for each frame."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.linspace(0, 1, height)[:, None]
    x = torch.linspace(0, 1, width)[None, :]
    base = torch.stack([y * x, (x + y) / 2, ((x * 9).sin() + (y * 7).cos() + 2) / 4])
    base[:, :, width // 3 :] = 1 - base[:, :, width // 3 :]
    grain = torch.rand((frames, 3, height, width), generator=generator)
    return 0.2 + 0.6 * (0.8 * base + 0.2 * grain)


def save_pth(state: dict, path: Path, wrapper: str | None = "params_ema") -> Path:
    """A checkpoint as realesrgan writes it, or bare."""
    torch.save({wrapper: state} if wrapper else state, path)
    return path


def save_safetensors(state: dict, path: Path) -> Path:
    from safetensors.torch import save_file

    save_file({name: values.contiguous() for name, values in state.items()}, path)
    return path


def save_ncnn(state: dict, path: Path, half: bool = True) -> Path:
    """`path`.param and `path`.bin, laid out as ncnn's converter lays these two architectures out."""
    lines, data = ["Input data 0 1 data"], b""
    blob = 0
    leaky = "9=2 -23310=1,2.000000e-01"
    for name in [name.removesuffix(".weight") for name in state if name.endswith(".weight")]:
        weight, bias = state[f"{name}.weight"].numpy(), state.get(f"{name}.bias")
        blob += 1
        if weight.ndim == 1:
            lines.append(f"PReLU p{blob} 1 1 {blob} {blob + 1} 0={len(weight)}")
            data += weight.astype("<f4").tobytes()
            continue
        if name.startswith("conv_up"):
            lines.append(f"Interp i{blob} 1 1 {blob} i{blob} 0=1 1=2.000000e+00 2=2.000000e+00")
        activation = leaky if name[-5:] in ("conv1", "conv2", "conv3", "conv4", "v_up1", "v_up2", "nv_hr") else ""
        lines.append(
            f"Convolution c{blob} 1 1 {blob} {blob + 1} 0={len(weight)} 1=3 4=1 5=1 6={weight.size} {activation}"
        )
        numbers = weight.astype("<f2").tobytes() if half else weight.astype("<f4").tobytes()
        data += np.uint32(0x01306B47 if half else 0).tobytes() + numbers + bytes(-len(numbers) % 4)
        data += bias.numpy().astype("<f4").tobytes()
    if "body.0.weight" in state:
        scale = int((len(weight) // 3) ** 0.5)
        lines += [f"PixelShuffle s 1 1 a b 0={scale}", f"Interp u 1 1 data c 0=1 1={scale}.0 2={scale}.0"]
        lines += ["BinaryOp add 2 1 b c output"]
    path.with_suffix(".param").write_text(f"7767517\n{len(lines)} {len(lines)}\n" + "\n".join(lines) + "\n")
    path.with_suffix(".bin").write_bytes(data)
    return path.with_suffix(".param")


def rounded(state: dict) -> dict:
    """The tensors as ncnn's fp16 keeps them: convolution weights rounded, all else as it was."""
    return {name: values.half().float() if values.dim() == 4 else values for name, values in state.items()}
