"""Planar YUV to RGB in float and back, on the device of the tensors: matrices, ranges, siting, bit depths.

The samples of a frame (see pixel_formats.py) become RGB float32 in (3, height, width), nominally [0, 1], and back, with
one rounding at the very end. Nothing is clipped on the way to RGB: YUV outside the RGB cube (super-whites, deep
colours) gives RGB outside [0, 1] and comes back as it was.

Sources: ITU-T H.273 (2021), clause 8.3 "Matrix coefficients" with its table 4 (Kr, Kb, YCgCo, the identity) and its
equations for narrow and full range; ITU-R BT.601-7, BT.709-6, BT.2020-2; for the chroma location H.273 clause 8.7.

Memory beside the result: the chroma of one frame in float, and strips of `STRIP_PIXELS`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch

from upscaling.common.errors import InputError
from upscaling.frames.chroma import COSITED, MIDPOINT, REACH_DOWN, Siting, downsample, gather, luma_fold, upsample
from upscaling.frames.layout import FrameLayout
from upscaling.frames.pixel_formats import plane_shapes

# Kr and Kb by FFmpeg's name: H.273 table 4.
_LUMA_WEIGHTS = {
    "bt709": (0.2126, 0.0722),
    "fcc": (0.30, 0.11),
    "bt470bg": (0.299, 0.114),
    "smpte170m": (0.299, 0.114),
    "bt601": (0.299, 0.114),
    "smpte240m": (0.212, 0.087),
    "bt2020nc": (0.2627, 0.0593),
}
# Constant luminance, ICtCp and similar ones are not linear in RGB. What matters here is that a matrix is invertible and
# the same both ways, so the nearest linear one is used: the network sees slightly different colours, but the output has
# exactly the code values that such a file means.
_READ_AS = {
    "bt2020c": "bt2020nc",
    "bt2020_ncl": "bt2020nc",
    "bt2020_cl": "bt2020nc",
    "ictcp": "bt2020nc",
    "smpte2085": "bt2020nc",
    "chroma-derived-nc": "bt709",
    "chroma-derived-c": "bt709",
    "ycocg": "ycgco",
    "rgb": "gbr",
}
MATRICES = (*_LUMA_WEIGHTS, "ycgco", "gbr", *_READ_AS)

# Pixels (one channel) of a strip, which is converted at a time: it fits a core's cache, and keeps a GPU busy.
STRIP_PIXELS = {"cpu": 1 << 17, "cuda": 1 << 23}
STRIP_ROWS = 64  # at least, as neighbouring strips share some rows; even


@lru_cache(maxsize=32)
def rgb_to_yuv(matrix: str, full_range: bool, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """((3, 3) weights, (3,) offsets) in float64: codes (Y, Cb, Cr) = weights @ (R, G, B in [0, 1]) + offsets.

    InputError if the matrix is not in MATRICES.
    """
    matrix = _READ_AS.get(matrix, matrix)
    unit = 1 << (depth - 8)
    peak = (1 << depth) - 1
    luma, luma_zero = (peak, 0) if full_range else (219 * unit, 16 * unit)
    chroma, chroma_zero = (peak if full_range else 224 * unit), 128 * unit
    if matrix == "gbr":  # the identity: Y = G, Cb = B, Cr = R, all scaled as luma
        return luma * np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]), np.full(3, float(luma_zero))
    if matrix == "ycgco":
        weights = np.array([[0.25, 0.5, 0.25], [-0.25, 0.5, -0.25], [0.5, 0, -0.5]])
    elif matrix in _LUMA_WEIGHTS:
        kr, kb = _LUMA_WEIGHTS[matrix]
        y = np.array([kr, 1 - kr - kb, kb])
        weights = np.stack(
            [y, (np.array([0.0, 0, 1]) - y) / (2 * (1 - kb)), (np.array([1.0, 0, 0]) - y) / (2 * (1 - kr))]
        )
    else:
        raise InputError(f"colour matrix {matrix!r} is not known (known: {', '.join(MATRICES)})")
    return weights * np.array([[luma], [chroma], [chroma]]), np.array([luma_zero, chroma_zero, chroma_zero], float)


def to_rgb(samples: torch.Tensor, layout: FrameLayout) -> torch.Tensor:
    """(N, samples of a frame) uint8 or uint16 to (N, 3, height, width) float32 on the same device; not clipped.

    Code values are exact in float32 up to 16 bits. Alpha is left out. InputError if the matrix is unknown.
    """
    height, width = layout.height, layout.width
    rgb = torch.empty((len(samples), 3, height, width), dtype=torch.float32, device=samples.device)
    for flat, out in zip(samples, rgb, strict=True):
        planes = planes_of(flat, layout)
        if layout.format.rgb:
            for a, b in _strips(out):
                out[:, a:b] = planes[0][a:b, :, :3].permute(2, 0, 1)  # (rows, width, 3) -> (3, rows, width)
            out.div_(layout.peak)
        elif layout.format.chroma is None:
            weights, offsets = _gray(layout)
            out[0].copy_(planes[0]).sub_(offsets[0]).mul_(1 / weights.sum())
            out[1:] = out[0]
        else:
            _yuv_to_rgb(planes, layout, out)
    return rgb


def from_rgb(rgb: torch.Tensor, layout: FrameLayout, out: torch.Tensor) -> torch.Tensor:
    """Convert (N, 3, h, w) float32 into `out`, (N, samples of a frame) of the layout's dtype on the same device.

    If h or w is less than the layout's, the last row or column is repeated. Values are rounded once, half to even, and
    clipped to the range of a sample. Alpha in `out` is not changed. Returns `out`. InputError if the matrix is unknown.
    """
    fmt = layout.format
    for picture, flat in zip(rgb, out, strict=True):
        planes = planes_of(flat, layout)
        if fmt.rgb:
            for a, b in _strips(planes[0][..., 0][None]):
                strip = _quantise(_rows(picture, a, b, layout) * layout.peak, layout.peak)
                planes[0][a:b, :, :3].copy_(strip.permute(1, 2, 0))  # (3, rows, width) -> (rows, width, 3)
        elif fmt.chroma is None:
            weights, offsets = _gray(layout)
            for a, b in _strips(planes[0][None]):
                y = _weighted_channels(_rows(picture, a, b, layout), weights).add_(offsets[0])
                planes[0][a:b].copy_(_quantise(y, layout.peak))
        else:
            _rgb_to_yuv(picture, layout, planes)
    return out


def to_alpha(samples: torch.Tensor, layout: FrameLayout) -> torch.Tensor:
    """The alpha of (N, samples of a frame) as (N, 1, height, width) float32 in [0, 1]; 1 if the layout has none."""
    alpha = torch.ones((len(samples), 1, layout.height, layout.width), dtype=torch.float32, device=samples.device)
    if layout.format.alpha:
        for flat, out in zip(samples, alpha, strict=True):
            out[0].copy_(_alpha_plane(flat, layout)).div_(layout.peak)  # full range at every depth
    return alpha


def from_alpha(alpha: torch.Tensor, layout: FrameLayout, out: torch.Tensor) -> None:
    """Store (N, 1, h, w) float32 as the alpha of `out`, (N, samples of a frame), as `from_rgb` stores colours."""
    for picture, flat in zip(alpha, out, strict=True):
        plane = _alpha_plane(flat, layout)
        for a, b in _strips(plane[None]):
            plane[a:b].copy_(_quantise(_rows(picture, a, b, layout)[0] * layout.peak, layout.peak))


def _alpha_plane(flat: torch.Tensor, layout: FrameLayout) -> torch.Tensor:
    """A view of a flat frame's alpha: (height, width)."""
    planes = planes_of(flat, layout)
    return planes[0][..., 3] if layout.format.rgb else planes[-1]


def planes_of(flat: torch.Tensor, layout: FrameLayout) -> list[torch.Tensor]:
    """Views of the planes of one flat frame, in the shapes of `plane_shapes`; nothing is copied."""
    shapes = plane_shapes(layout.format, layout.width, layout.height)
    parts = flat.split([math.prod(shape) for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _gray(layout: FrameLayout) -> tuple[np.ndarray, np.ndarray]:
    """The luma row of the matrix and the offsets. 'gbr' has no luma: gray is BT.709's then."""
    matrix = "bt709" if _READ_AS.get(layout.matrix, layout.matrix) == "gbr" else layout.matrix
    weights, offsets = rgb_to_yuv(matrix, layout.full_range, layout.format.depth)
    return weights[0], offsets


def _strips(picture: torch.Tensor) -> Iterator[tuple[int, int]]:
    """(first row, row after the last) of strips of a (channels, height, width) picture; first rows are even."""
    height, width = picture.shape[-2:]
    rows = max(STRIP_ROWS, STRIP_PIXELS.get(picture.device.type, 1 << 17) // width // 2 * 2)
    for start in range(0, height, rows):
        yield start, min(start + rows, height)


def _yuv_to_rgb(planes: list[torch.Tensor], layout: FrameLayout, out: torch.Tensor) -> None:
    """Planes Y (h, w), Cb and Cr (chroma h, chroma w) into `out` (3, h, w)."""
    weights, offsets = rgb_to_yuv(layout.matrix, layout.full_range, layout.format.depth)
    inverse = np.linalg.inv(weights)
    height, width = layout.height, layout.width
    across, down = _sitings(layout)
    chroma = out.new_empty((2, *planes[1].shape))
    for plane, code, zero in zip(planes[1:3], chroma, offsets[1:], strict=True):
        code.copy_(plane).sub_(zero)
    for a, b in _strips(out):
        yuv = out.new_empty((3, b - a, width))
        yuv[0].copy_(planes[0][a:b]).sub_(offsets[0])
        rows = upsample(chroma, -2, down, a, b, height) if down else chroma[:, a:b]  # (2, b - a, chroma w)
        yuv[1:] = upsample(rows, -1, across, 0, width, width) if across else rows
        for channel in range(3):
            _weighted_channels(yuv, inverse[channel], out=out[channel, a:b])


def _rgb_to_yuv(picture: torch.Tensor, layout: FrameLayout, planes: list[torch.Tensor]) -> None:
    """(3, h, w) into the planes Y, Cb and Cr of the layout."""
    weights, offsets = rgb_to_yuv(layout.matrix, layout.full_range, layout.format.depth)
    across, down = _sitings(layout)
    reach = REACH_DOWN if down else 0
    step = 2 if down else 1
    for a, b in _strips(planes[0][None]):
        strip = _rows(picture, a - reach, b + b % step + reach, layout, down)  # (3, rows + 2 reach, w)
        y = _weighted_channels(strip[:, reach : reach + b - a], weights[0]).add_(offsets[0])
        planes[0][a:b].copy_(_quantise(y, layout.peak))
        chroma = strip.new_empty((2, *strip.shape[1:]))
        for row, channel in zip(weights[1:], chroma, strict=True):
            _weighted_channels(strip, row, out=channel)
        if down:
            chroma = downsample(chroma, -2, down)  # (2, rows / 2, w)
        if across:
            width = layout.width + layout.width % 2
            chroma = downsample(gather(chroma, -1, -REACH_DOWN, width + REACH_DOWN, luma_fold(across)), -1, across)
        for plane, channel, zero in zip(planes[1:3], chroma, offsets[1:], strict=True):
            plane[a // step : -(-b // step)].copy_(_quantise(channel.add_(zero), layout.peak))


def _sitings(layout: FrameLayout) -> tuple[Siting | None, Siting | None]:
    """The filters of columns and of rows; None for an axis without subsampling."""
    half_width, half_height = layout.format.chroma or (0, 0)
    across = MIDPOINT if layout.chroma_location in ("center", "top", "bottom") else COSITED
    down = COSITED if layout.chroma_location in ("topleft", "top") else MIDPOINT
    return (across if half_width else None), (down if half_height else None)


def _quantise(codes: torch.Tensor, peak: int) -> torch.Tensor:
    return codes.round_().clamp_(0, peak)


def _weighted_channels(x: torch.Tensor, weights: np.ndarray, out: torch.Tensor | None = None) -> torch.Tensor:
    """Σ weights[c] · x[c] of a (C, h, w) tensor, without channels of weight 0: (h, w).

    Not a matrix product: TF32 or bf16 settings meant for the network must not affect colours.
    """
    used = [(c, float(w)) for c, w in enumerate(weights) if abs(w) > 1e-12 * abs(weights).max()]
    (first, weight), *rest = used
    out = torch.mul(x[first], weight, out=out)
    for channel, weight in rest:
        out.add_(x[channel], alpha=weight)
    return out


def _rows(
    picture: torch.Tensor, start: int, stop: int, layout: FrameLayout, siting: Siting | None = None
) -> torch.Tensor:
    """Rows [start, stop) of a picture, (3, stop - start, layout.width).

    Its last row and column are repeated up to the layout's size; rows outside of that are mirrored as the siting needs.
    """
    height = picture.shape[-2]
    fold = luma_fold(siting) if siting else lambda i, n: np.minimum(i, n - 1)
    strip = gather(picture, -2, start, stop, lambda i, _: np.minimum(fold(i, layout.height), height - 1))
    if strip.shape[-1] < layout.width:
        strip = gather(strip, -1, 0, layout.width, lambda i, n: np.minimum(i, n - 1))
    return strip
