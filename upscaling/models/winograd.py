"""A chain of 3x3 convolutions with a third fewer multiplications: a picture's rows in pairs, in bf16 on a CPU.

Winograd's F(2, 3) along the rows: of four rows d0 to d3 a filter of three rows g0 to g2 makes two, with four 1x3
convolutions (`*`) in place of six:

    T0 = d0 - d2        G0 = g0                    y0 = T0 * G0 + (T1 * G1 + T2 * G2)
    T1 = d1 + d2        G1 = (g0 + g1 + g2) / 2
    T2 = d2 - d1        G2 = (g0 - g1 + g2) / 2    y1 = T3 * G3 + (T1 * G1 - T2 * G2)
    T3 = d1 - d3        G3 = -g2

(A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, section 4.1, with d1 - d3 on the
side of the picture.) Even and odd rows stay apart from the first layer to the last, so that nothing is shuffled.
Along the columns as well it would save nothing: the sums would cost what the products save.
"""

import copy
import logging
import platform
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

log = logging.getLogger("upscaling.inference")
_TEST_ROWS, _TEST_COLUMNS = 7, 12  # of the tile of the self-test, in pixels; an odd number of rows tests the border
_TOLERANCE = 4.0  # times the rounding of the plain layers in the same dtype
_SHAPE = ([0, 1], [1, 1], [1, 1], 1)  # of a 1x3 convolution: padding, stride, dilation, groups


def paired_rows(layers: Sequence[nn.Module], dtype: torch.dtype) -> "PairedRows | None":
    """PairedRows of `layers`, which are in float32, if it passes a self-test; None if they must compute for themselves.

    The operators are private ones of torch, which may change with any version: one small tile is computed both ways.
    Any exception or a difference beyond rounding makes the test fail.
    """
    try:
        if not available():
            return None
        paired = PairedRows(layers, dtype)
        if _agrees(paired, layers, dtype):
            return paired
        log.warning("the fast convolutions give another picture on this machine; using the plain ones")
    except Exception as error:  # whatever it is, the plain layers work
        log.warning("the fast convolutions do not run on this machine (%s); using the plain ones", error)
    return None


def _agrees(paired: "PairedRows", layers: Sequence[nn.Module], dtype: torch.dtype) -> bool:
    """Whether `paired` is as close to the layers in float32 as the layers in `dtype` are, but for a small factor."""
    chain, channels = nn.Sequential(*layers), cast(nn.Conv2d, layers[0]).in_channels
    features = torch.sin(torch.arange(channels * _TEST_ROWS * _TEST_COLUMNS) * 0.7)
    features = features.reshape(1, channels, _TEST_ROWS, _TEST_COLUMNS).contiguous(memory_format=torch.channels_last)
    exact = chain(features)
    rounded = copy.deepcopy(chain).to(dtype)(features.to(dtype)).float()
    error, rounding = ((x - exact).square().mean().sqrt() for x in (paired(features.to(dtype)).float(), rounded))
    return bool(error <= _TOLERANCE * rounding)


def available() -> bool:
    """Whether oneDNN computes in bf16 here; its fused operators are what torch.compile uses on a CPU."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


class PairedRows(nn.Module):
    """Convolutions of 3x3 (padding 1, as many channels out as in), each with its PReLU.

    `layers` are in float32: their weights are rounded to `dtype` once, as sums of rows.
    Input and output are features (N, C, H, W) in channels_last, of `dtype`. In bfloat16 it takes 0.88 of the layers'
    own time, but rounds the sums of two rows once more. PSNR of animevideov3 at x2 against float32, with the first
    layer in float32: 66 dB on frames of a film (the layers themselves: 69.5 dB), 56.6 dB on a test pattern (60.8 dB).
    """

    def __init__(self, layers: Sequence[nn.Module], dtype: torch.dtype):
        super().__init__()
        convolutions, activations = cast(Sequence[nn.Conv2d], layers[::2]), cast(Sequence[nn.PReLU], layers[1::2])
        self.biases = [cast(torch.Tensor, convolution.bias).to(dtype) for convolution in convolutions]
        self.filters = [_filters(convolution.weight, dtype) for convolution in convolutions]
        self.slopes = [prelu.weight.to(dtype) for prelu in activations]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        pairs = features.shape[2] // 2  # if H is odd, one more, whose odd row is below the picture: zeros
        even = features[:, :, ::2].contiguous(memory_format=torch.channels_last)  # (N, C, ceil(H / 2), W)
        odd = torch.zeros_like(even)
        odd[:, :, :pairs] = features[:, :, 1::2]
        for filters, bias, slope in zip(self.filters, self.biases, self.slopes, strict=True):
            even, odd = _convolved(even, odd, filters, bias)
            even = F.prelu(even, slope)
            odd = F.prelu(odd, slope)
            odd[:, :, pairs:] = 0
        out = torch.empty_like(features)
        out[:, :, ::2], out[:, :, 1::2] = even, odd[:, :, :pairs]
        return out


def _convolved(
    even: torch.Tensor, odd: torch.Tensor, filters: list[torch.Tensor], bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Even and odd rows of features, (N, C, rows, W) each, to those of their convolution."""
    t = even + odd
    first = _convolve(t, filters[1])
    second = _convolve(torch.sub(odd, even, out=t), filters[2])
    y0, y1 = torch.add(first, second, out=t), first.sub_(second)  # few buffers: more would not fit a cache
    t = second
    torch.sub(odd[:, :, :-1], odd[:, :, 1:], out=t[:, :, 1:])
    torch.neg(odd[:, :, :1], out=t[:, :, :1])  # the row above the picture is zeros
    _accumulate(y0, t, filters[0], bias)
    torch.sub(even[:, :, :-1], even[:, :, 1:], out=t[:, :, :-1])
    t[:, :, -1:] = even[:, :, -1:]  # so is the row below it
    _accumulate(y1, t, filters[3], bias)
    return y0, y1


def _convolve(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._convolution_pointwise(rows, weight, None, *_SHAPE, "none", [], "")


def _accumulate(total: torch.Tensor, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Adds rows * weight + bias to `total`, all in one pass over it."""
    fused = torch.ops.mkldnn._convolution_pointwise_.binary
    fused(total, rows, weight, bias, *_SHAPE, "add", 1.0, None, [], None)


def _filters(weight: torch.Tensor, dtype: torch.dtype) -> list[torch.Tensor]:
    """G0 to G3, (O, I, 1, 3) each, of a filter (O, I, 3, 3), laid out as oneDNN likes them."""
    above, middle, below = weight.double().split(1, dim=2)
    filters = (above, (above + middle + below) / 2, (above - middle + below) / 2, -below)
    reorder = torch.ops.mkldnn._reorder_convolution_weight
    return [reorder(one.to(dtype).contiguous(memory_format=torch.channels_last), *_SHAPE) for one in filters]
