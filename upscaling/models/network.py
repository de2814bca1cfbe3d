"""Build a network from its tensors: its architecture, width, depth and scale; and prepare it for a device.

SRVGGNetCompact is realesrgan's own class if that package is installed, else spandrel's, which gives the same picture to
the bit. Every other architecture, RRDBNet included, is spandrel's.
"""

import math
import re
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from upscaling.models import winograd
from upscaling.models.realesrgan_arch import srvgg_class
from upscaling.models.weights import WeightsError

DEFAULT_OVERLAP = 32  # pixels, for architectures whose reach is not known here
CHANNELS = 3
GRAY, RGBA = 1, 4  # channels of other networks
LUMA_WEIGHTS = (0.299, 0.587, 0.114)  # BT.601's: the Y that networks of one channel are trained with (SRCNN, FSRCNN)


@dataclass
class Network:
    """A network in evaluation mode, float32 on the CPU. Fields are named as in spandrel's ModelDescriptor.

    `module` takes (N, C, H, W) in [0, 1] and returns (N, C, H * scale, W * scale), not clipped. C, `channels`, is 3 for
    RGB pictures, 1 for gray ones, 4 for RGB with straight alpha. H and W must be multiples of `multiple_of` and at
    least `minimum`; tiles of a frame start at multiples of `alignment`. `native_scale` is that of the weights; `scale`
    may be a divisor of it (means of blocks). Input pixels further away than `overlap` have hardly any influence on an
    output pixel. A network that needs whole frames does not `supports_tiling`.
    """

    module: nn.Module
    architecture: str
    native_scale: int
    scale: int
    overlap: int
    multiple_of: int = 1
    minimum: int = 1
    alignment: int = 1
    supports_tiling: bool = True
    supports_half: bool = True
    supports_bfloat16: bool = True
    channels: int = CHANNELS

    def supports(self, dtype: torch.dtype) -> bool:
        return {torch.float16: self.supports_half, torch.bfloat16: self.supports_bfloat16}.get(dtype, True)


def build(state: dict[str, torch.Tensor], scale: int | None = None, spandrel: bool = False) -> Network:
    """The network of these tensors.

    `scale` is a divisor of the native one, which is the default. `spandrel` asks for spandrel's SRVGGNetCompact even if
    realesrgan's is installed. WeightsError if the tensors fit no known network.
    """
    try:
        if _is_compact(state):
            network = _compact(state, scale, None if spandrel else srvgg_class())
        else:
            network = _by_spandrel(state)
    except (KeyError, IndexError, RuntimeError, ValueError, ZeroDivisionError, TypeError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0][:160]
        raise WeightsError(f"this model fits no known network ({type(error).__name__}: {reason})") from error
    network.module.eval().requires_grad_(False)
    scale = scale or network.native_scale
    if network.scale != scale:
        if network.scale % scale:
            raise WeightsError(f"a x{network.native_scale} network has no scale {scale}")
        network.module = BlockMean(network.module, network.scale // scale)
        network.scale = scale
    return network


def scale_for(native: int, width_ratio: float, height_ratio: float) -> int:
    """The smallest scale that a network of this native scale can compute and that reaches both ratios; else native."""
    wanted = max(width_ratio, height_ratio)
    return next((s for s in range(1, native) if native % s == 0 and s >= wanted), native)


class CompactRunner(nn.Module):
    """SRVGGNetCompact's forward pass with the picture itself in float32 (`out = body(x) + nearest(x)`).

    In half precision the class's own pass rounds the picture to 8 bits (bf16) before the network and after;
    here only the residual is rounded. Against float32, animevideov3 at x2 on a frame of a film: 59.5 dB the
    class's own way, 66.4 dB with the sum in float32, 74.7 dB with the first layer in float32 as well, which
    costs 0.4 % more time. In float32 the result is the class's own to the bit. With `paired` the layers between
    the first and the last are computed by winograd.PairedRows, if that works here.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype, paired: bool = False):
        super().__init__()
        head_dtype = torch.float32 if dtype == torch.bfloat16 else dtype
        layers = list(cast(nn.ModuleList, module.body))
        self.head = nn.Sequential(*layers[:2]).to(head_dtype)
        middle = winograd.paired_rows(layers[2:-1], dtype) if paired else None
        self.body = nn.Sequential(*([middle] if middle else layers[2:-1]), layers[-1]).to(dtype)
        self.upsampler, self.upscale = cast(nn.Module, module.upsampler), cast(int, module.upscale)
        self.head_dtype, self.dtype = head_dtype, dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.head(x.to(self.head_dtype)).to(self.dtype)  # (N, features, H, W)
        residual = self.upsampler(self.body(features).float())  # (N, 3, H * upscale, W * upscale)
        return residual + F.interpolate(x, scale_factor=self.upscale, mode="nearest")


class PlainRunner(nn.Module):
    """Any module in `dtype` between float32 pictures."""

    def __init__(self, module: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.module, self.dtype = module.to(dtype), dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x.to(self.dtype)).float()


class LumaRunner(nn.Module):
    """A network for gray pictures on RGB ones: luma goes through it, colour differences are resized.

    That is what such networks are made for, and gray stays gray: (R, G, B) - Y is resized bicubically, and the
    network's Y added, in float32.
    """

    def __init__(self, module: nn.Module, scale: int):
        super().__init__()
        self.module, self.scale = module, scale
        self.weights: torch.Tensor
        self.register_buffer("weights", torch.tensor(LUMA_WEIGHTS).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        luma = (x * self.weights).sum(1, keepdim=True)  # (N, 1, H, W)
        colour = F.interpolate(x - luma, scale_factor=self.scale, mode="bicubic", align_corners=False)
        return self.module(luma) + colour  # (N, 1, …) + (N, 3, H * scale, W * scale)


class BlockMean(nn.Module):
    """A network, its output clipped to [0, 1], and the mean of each `size` x `size` block of that.

    Infinities become NaN: clipped they would pass for black or white.
    """

    def __init__(self, module: nn.Module, size: int):
        super().__init__()
        self.module, self.size = module, size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        picture = self.module(x)
        return F.avg_pool2d(picture.clamp(0, 1).add_(picture * 0), self.size)


def rrdb_overlap(blocks: int) -> int:
    """The overlap that RRDBNet needs, in pixels at the resolution of its body: no seam above one 8-bit code.

    Each block has 15 convolutions of 3x3, the rest reaches 4 pixels; but what is far matters hardly. Measured with
    the packaged networks in fp32, tiled against whole, as the largest difference of any pixel on six crops of
    frames of films (160x400 and 120x400): 6 blocks: 1.33 codes with 49 pixels, 0.16 with 56; 23 blocks: 12.9 codes
    with 64 pixels, 0.61 with 80 on one frame, 0.47 with 96 on another.
    """
    return min(15 * blocks + 4, math.ceil(42 + 2.4 * blocks))


def runner(network: Network, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """`network.module` on `device` in `dtype` and channels_last, with float32 input and output.

    It takes and gives RGB pictures also if the network is for gray ones; RGBA pictures if it is for those. The module
    is changed: do not use it afterwards.
    """
    inner, size = network.module, 1
    if isinstance(inner, BlockMean):
        inner, size = inner.module, inner.size
    if network.architecture == "SRVGGNetCompact":
        paired = device.type == "cpu" and dtype == torch.bfloat16
        wrapped = CompactRunner(inner, dtype, paired)
    else:
        wrapped = PlainRunner(inner, dtype)
    wrapped = for_rgb(wrapped, network)
    whole = BlockMean(wrapped, size) if size > 1 else wrapped
    return whole.to(device).to(memory_format=torch.channels_last).eval()


def for_rgb(module: nn.Module, network: Network) -> nn.Module:
    """What runs `network`, without its BlockMean, for RGB pictures (RGBA ones if it is for those)."""
    size = network.module.size if isinstance(network.module, BlockMean) else 1
    return LumaRunner(module, network.scale * size) if network.channels == GRAY else module


def fold_compact(state: dict[str, torch.Tensor], native: int, scale: int) -> dict[str, torch.Tensor]:
    """SRVGGNetCompact's tensors for a smaller scale: the mean of each block folded into the last convolution.

    PixelShuffle(native) takes channel c * native² + i * native + j to pixel (i, j) of the block, so the mean
    over blocks is the mean over the low parts of i and j. Exact but for pixels that clip.
    """
    last = f"body.{_last_index(state)}"
    size = native // scale  # pixels of a block's side
    folded = dict(state)
    for part in ("weight", "bias"):
        values = state[f"{last}.{part}"]
        rest = values.shape[1:]
        blocks = values.reshape(-1, scale, size, scale, size, *rest)  # (channels, i high, i low, j high, j low, …)
        folded[f"{last}.{part}"] = blocks.mean((2, 4)).reshape(-1, *rest)  # (channels * scale², …)
    return folded


def _last_index(state: dict[str, torch.Tensor]) -> int:
    return max(int(m[1]) for name in state if (m := re.fullmatch(r"body\.(\d+)\.weight", name)))


def _is_compact(state: dict[str, torch.Tensor]) -> bool:
    names = ("body.0.weight", "body.1.weight")
    return all(n in state for n in names) and [state[n].dim() for n in names] == [4, 1]


def _compact(state: dict[str, torch.Tensor], scale: int | None, network_class: type | None) -> Network:
    last = _last_index(state)
    features, channels = state["body.0.weight"].shape[:2]
    outputs = state[f"body.{last}.weight"].shape[0]
    native = math.isqrt(outputs // channels)
    _check_channels(channels, outputs / native**2)
    if scale and native % scale == 0:
        state = fold_compact(state, native, scale)
    else:
        scale = native
    if network_class:
        sizes = {"num_in_ch": channels, "num_out_ch": channels, "num_feat": features, "num_conv": last // 2 - 1}
        module = _filled(network_class, state, **sizes, upscale=scale)
    else:
        module = cast(nn.Module, _by_spandrel(state).module.model)
    convolutions = last // 2 + 1  # of 3x3, each reaching one pixel further
    # winograd.PairedRows rounds by pairs of rows: the same pairs in a tile as in the frame.
    return Network(module, "SRVGGNetCompact", native, scale, overlap=convolutions, alignment=2, channels=channels)


def _filled(network_class: type, state: dict[str, torch.Tensor], **arguments) -> nn.Module:
    """An instance with these tensors; nothing is allocated or drawn at random on the way."""
    with torch.device("meta"):
        module = network_class(**arguments)
    module.load_state_dict(state, strict=True, assign=True)
    return module


def _check_channels(inputs: int, outputs: float) -> None:
    if inputs != outputs or inputs not in (GRAY, CHANNELS, RGBA):
        raise WeightsError(
            f"the model takes {inputs} channels and gives {outputs:g}; it needs 1, 3 or 4, the same for both"
        )


def _by_spandrel(state: dict[str, torch.Tensor]) -> Network:
    """A network that spandrel recognises; WeightsError unless it makes pictures of pictures of the same channels."""
    import spandrel  # here: it imports torchvision, which takes two seconds

    try:
        found = spandrel.MAIN_REGISTRY.load(state)
    except spandrel.UnsupportedModelError as error:
        raise WeightsError("the tensors of this model fit no network that spandrel knows") from error
    if not isinstance(found, spandrel.ImageModelDescriptor):
        raise WeightsError(f"{found.architecture.name} is not a network that upscales a picture")
    _check_channels(found.input_channels, found.output_channels)
    size = found.size_requirements
    rrdb = found.architecture.id == "ESRGAN"
    shuffle = getattr(found.model, "shuffle_factor", None) or 1
    blocks = sum(type(module).__name__ == "RRDB" for module in found.model.modules())
    return Network(
        SpandrelModule(found),
        architecture="RRDBNet" if rrdb else found.architecture.name,
        native_scale=found.scale,
        scale=found.scale,
        overlap=rrdb_overlap(blocks) * shuffle if rrdb else DEFAULT_OVERLAP,
        multiple_of=size.multiple_of,
        minimum=max(1, size.minimum),
        supports_tiling=found.tiling == spandrel.ModelTiling.SUPPORTED,
        supports_half=found.supports_half,
        supports_bfloat16=found.supports_bfloat16,
        channels=found.input_channels,
    )


class SpandrelModule(nn.Module):
    """A spandrel model, called as its descriptor calls it: some models return more than the picture."""

    def __init__(self, descriptor):
        super().__init__()
        self.model = descriptor.model
        self.call = descriptor._call_fn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.call(self.model, x)
