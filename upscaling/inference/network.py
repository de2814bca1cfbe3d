"""A network from its tensors: which architecture, how wide, how deep, which factor; and how it is run.

SRVGGNetCompact and RRDBNet are realesrgan's own classes where that is installed; spandrel's, which give the
same picture, elsewhere (Python 3.13 and newer), and spandrel opens every other architecture.
"""

import math
import re
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from upscaling.inference import winograd
from upscaling.inference.realesrgan_arch import realesrgan_classes
from upscaling.inference.weights import WeightsError

UNKNOWN_HALO = 32  # for architectures that only spandrel knows
CHANNELS = 3


@dataclass
class Network:
    """A network in evaluation mode, float32 on the CPU.

    `module` takes (N, 3, H, W) in [0, 1] and gives (N, 3, H * factor, W * factor), not clipped; H and W
    must be multiples of `multiple` and at least `minimum`, and patches of a frame start at multiples of `step`.
    `native` is the factor of the weights, of which `factor` may be a divisor (means of blocks). A pixel of the
    input matters to the output up to `halo` pixels away, or nearly so. `tiles` is False where the whole frame
    matters. `kind` names the architecture.
    """

    module: nn.Module
    kind: str
    native: int
    factor: int
    halo: int
    multiple: int = 1
    minimum: int = 1
    step: int = 1
    tiles: bool = True
    half: bool = True
    bfloat16: bool = True


def build(state: dict[str, torch.Tensor], factor: int | None = None, spandrel: bool = False) -> Network:
    """The network of these tensors. Raises WeightsError where they are none that is known.

    `factor` is the wanted one, a divisor of the native one (default: that); `spandrel` asks for
    spandrel's classes although realesrgan's are there.
    """
    classes = None if spandrel else realesrgan_classes()
    try:
        if _is_compact(state):
            network = _compact(state, factor, classes)
        elif classes and _is_rrdb(state):
            network = _rrdb(state, classes[1])
        else:
            network = _by_spandrel(state)
    except (KeyError, IndexError, RuntimeError, ValueError, ZeroDivisionError, TypeError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0][:160]
        raise WeightsError(f"this model fits no known network ({type(error).__name__}: {reason})") from error
    network.module.eval().requires_grad_(False)
    factor = factor or network.native
    if network.factor != factor:
        if network.factor % factor:
            raise WeightsError(f"a x{network.native} network has no factor {factor}")
        network.module = BlockMean(network.module, network.factor // factor)
        network.factor = factor
    return network


def factor_for(native: int, width_ratio: float, height_ratio: float) -> int:
    """The smallest factor that a network of this native factor can give and that reaches both ratios; else native."""
    wanted = max(width_ratio, height_ratio)
    return next((f for f in range(1, native) if native % f == 0 and f >= wanted), native)


def native_factor(state: dict[str, torch.Tensor]) -> int:
    """The factor of the weights. Raises WeightsError as `build` does."""
    return build(state).native


class CompactRunner(nn.Module):
    """SRVGGNetCompact's forward pass with the picture itself in float32 (`out = body(x) + nearest(x)`).

    In half precision the class's own pass rounds the picture to 8 bits (bf16) before the network and after;
    here only the residual is rounded. Against float32, animevideov3 at x2 on a frame of a film: 59.5 dB the
    class's own way, 66.4 dB with the sum in float32, 74.7 dB with the first layer in float32 as well, which
    costs 0.4 % more time. In float32 the result is the class's own to the bit. With `paired` the layers between
    the first and the last are computed by winograd.PairedRows.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype, paired: bool = False):
        super().__init__()
        head_dtype = torch.float32 if dtype == torch.bfloat16 else dtype
        self.head = nn.Sequential(*module.body[:2]).to(head_dtype)
        middle = [winograd.PairedRows(module.body[2:-1], dtype)] if paired else module.body[2:-1]
        self.body = nn.Sequential(*middle, module.body[-1]).to(dtype)
        self.upsampler, self.upscale = module.upsampler, module.upscale
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


class BlockMean(nn.Module):
    """A network, its output clipped to [0, 1], and the mean of each `size` x `size` block of that."""

    def __init__(self, module: nn.Module, size: int):
        super().__init__()
        self.module, self.size = module, size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(self.module(x).clamp(0, 1), self.size)


def rrdb_halo(blocks: int) -> int:
    """The overlap that RRDBNet needs, in pixels at the resolution of its body: no seam above one 8-bit code.

    Each block has 15 convolutions of 3x3, the rest reaches 4 pixels; but what is far matters hardly. Measured with
    the packaged networks in fp32, tiled against whole, as the largest difference of any pixel on six crops of
    frames of films (160x400 and 120x400): 6 blocks: 1.33 codes with 49 pixels, 0.16 with 56; 23 blocks: 12.9 codes
    with 64 pixels, 0.61 with 80 on one frame, 0.47 with 96 on another.
    """
    return min(15 * blocks + 4, math.ceil(42 + 2.4 * blocks))


def runner(network: Network, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """`network.module` on `device` in `dtype` and channels_last, float32 in and out; takes the module over."""
    inner, size = network.module, 1
    if isinstance(inner, BlockMean):
        inner, size = inner.module, inner.size
    if network.kind == "SRVGGNetCompact":
        paired = device.type == "cpu" and dtype == torch.bfloat16 and winograd.available()
        wrapped = CompactRunner(inner, dtype, paired)
    else:
        wrapped = PlainRunner(inner, dtype)
    whole = BlockMean(wrapped, size) if size > 1 else wrapped
    return whole.to(device).to(memory_format=torch.channels_last).eval()


def fold_compact(state: dict[str, torch.Tensor], native: int, factor: int) -> dict[str, torch.Tensor]:
    """SRVGGNetCompact's tensors for a smaller factor: the mean of each block folded into the last convolution.

    PixelShuffle(native) takes channel c * native² + i * native + j to pixel (i, j) of the block, so the mean
    over blocks is the mean over the low parts of i and j. Exact but for pixels that clip.
    """
    last = f"body.{_last_index(state)}"
    size = native // factor  # pixels of a block's side
    folded = dict(state)
    for part in ("weight", "bias"):
        values = state[f"{last}.{part}"]
        rest = values.shape[1:]
        blocks = values.reshape(-1, factor, size, factor, size, *rest)  # (3, i high, i low, j high, j low, …)
        folded[f"{last}.{part}"] = blocks.mean((2, 4)).reshape(-1, *rest)  # (3 * factor², …)
    return folded


def _last_index(state: dict[str, torch.Tensor]) -> int:
    return max(int(m[1]) for name in state if (m := re.fullmatch(r"body\.(\d+)\.weight", name)))


def _is_compact(state: dict[str, torch.Tensor]) -> bool:
    names = ("body.0.weight", "body.1.weight")
    return all(n in state for n in names) and [state[n].dim() for n in names] == [4, 1]


def _compact(state: dict[str, torch.Tensor], factor: int | None, classes: tuple[type, type] | None) -> Network:
    last = _last_index(state)
    native = math.isqrt(state[f"body.{last}.weight"].shape[0] // CHANNELS)
    if factor and native % factor == 0:
        state = fold_compact(state, native, factor)
    else:
        factor = native
    if classes:
        features, inputs = state["body.0.weight"].shape[:2]
        _check_channels(inputs, CHANNELS)
        module = _filled(classes[0], state, num_feat=features, num_conv=last // 2 - 1, upscale=factor)
    else:
        module = _by_spandrel(state).module.model
    convolutions = last // 2 + 1  # of 3x3, each reaching one pixel further
    # winograd.PairedRows rounds by pairs of rows: the same pairs in a patch as in the frame.
    return Network(module, "SRVGGNetCompact", native, factor, halo=convolutions, step=2)


def _is_rrdb(state: dict[str, torch.Tensor]) -> bool:
    """RRDBNet as basicsr has it: two doublings; old names and other counts are spandrel's."""
    return {"conv_first.weight", "body.0.rdb1.conv1.weight", "conv_up2.weight"} <= state.keys() and not any(
        name.startswith("conv_up3") for name in state
    )


def _rrdb(state: dict[str, torch.Tensor], rrdb_class: type) -> Network:
    features, inputs = state["conv_first.weight"].shape[:2]
    unshuffle = math.isqrt(inputs // CHANNELS)  # 1: x4, 2: x2, 4: x1
    if unshuffle not in (1, 2, 4):
        raise ValueError(f"{inputs} input channels")
    _check_channels(inputs, CHANNELS * unshuffle**2)
    _check_channels(state["conv_last.weight"].shape[0], CHANNELS)
    blocks = 1 + max(int(m[1]) for name in state if (m := re.match(r"body\.(\d+)\.", name)))
    module = _filled(
        rrdb_class, state, num_in_ch=CHANNELS, num_out_ch=CHANNELS, scale=4 // unshuffle,
        num_feat=features, num_block=blocks, num_grow_ch=state["body.0.rdb1.conv1.weight"].shape[0],
    )  # fmt: skip
    native = 4 // unshuffle
    return Network(
        module,
        "RRDBNet",
        native,
        native,
        halo=rrdb_halo(blocks) * unshuffle,
        multiple=unshuffle,
    )


def _filled(network_class: type, state: dict[str, torch.Tensor], **arguments) -> nn.Module:
    """An instance with these tensors; nothing is allocated or drawn at random on the way."""
    with torch.device("meta"):
        module = network_class(**arguments)
    module.load_state_dict(state, strict=True, assign=True)
    return module


def _check_channels(found: int, wanted: int) -> None:
    if found != wanted:
        raise WeightsError(f"the model has {found} channels where a picture needs {wanted}")


def _by_spandrel(state: dict[str, torch.Tensor]) -> Network:
    """Whatever spandrel recognises, as long as it takes RGB and gives RGB."""
    import spandrel  # two seconds of torchvision: only where it is needed

    try:
        found = spandrel.MAIN_REGISTRY.load(state)
    except spandrel.UnsupportedModelError as error:
        raise WeightsError("the tensors of this model fit no network that is known here (nor spandrel)") from error
    if not isinstance(found, spandrel.ImageModelDescriptor):
        raise WeightsError(f"{found.architecture.name} is not a network that upscales a picture")
    _check_channels(found.input_channels, CHANNELS)
    _check_channels(found.output_channels, CHANNELS)
    size = found.size_requirements
    rrdb = found.architecture.id == "ESRGAN"
    unshuffle = getattr(found.model, "shuffle_factor", None) or 1
    blocks = sum(type(module).__name__ == "RRDB" for module in found.model.modules())
    return Network(
        SpandrelModule(found),
        kind="RRDBNet" if rrdb else found.architecture.name,
        native=found.scale,
        factor=found.scale,
        halo=rrdb_halo(blocks) * unshuffle if rrdb else UNKNOWN_HALO,
        multiple=size.multiple_of,
        minimum=max(1, size.minimum),
        tiles=found.tiling == spandrel.ModelTiling.SUPPORTED,
        half=found.supports_half,
        bfloat16=found.supports_bfloat16,
    )


class SpandrelModule(nn.Module):
    """A spandrel model, called the way its descriptor says (some give more than the picture)."""

    def __init__(self, descriptor):
        super().__init__()
        self.model = descriptor.model
        self.call = descriptor._call_fn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.call(self.model, x)
