"""Convolutions by pairs of rows: the layers' own results, in every size, and no coarser than bf16 itself."""

import nets
import pytest
import torch
from torch import nn

from upscaling.models import network, weights, winograd

pytestmark = pytest.mark.skipif(not winograd.available(), reason="no bf16 in oneDNN on this processor")
CPU = torch.device("cpu")


def layers(channels: int, count: int) -> nn.Sequential:
    torch.manual_seed(5)
    pairs = [(nn.Conv2d(channels, channels, 3, 1, 1), nn.PReLU(channels, init=0.2)) for _ in range(count)]
    return nn.Sequential(*(layer for pair in pairs for layer in pair)).requires_grad_(False)


@pytest.mark.parametrize(("height", "width"), [(1, 7), (2, 1), (3, 5), (24, 31), (25, 32)])
@pytest.mark.parametrize("channels", [16, 64, 10])
def test_any_size_gives_what_the_layers_give(height, width, channels):
    own = layers(channels, 3)
    features = torch.randn(2, channels, height, width).contiguous(memory_format=torch.channels_last)
    paired = winograd.PairedRows(own, torch.float32)(features)
    assert torch.allclose(paired, own(features), atol=1e-5)
    assert not torch.allclose(paired, own(features + 0.01), atol=1e-5)  # so the test can fail


def test_the_packaged_network_stays_as_exact_as_bf16_is():
    """Against float32, on a frame that is harder than most: no further away than the class's own pass in bf16."""
    state, picture = weights.load("realesr-animevideov3"), nets.picture(91, 160)

    def module() -> nn.Module:
        return network.build(state, 2).module

    def error(upscaled: torch.Tensor) -> float:
        return (upscaled.clamp(0, 1) - full).square().mean().item()

    full = module()(picture).clamp(0, 1)
    paired = network.runner(network.build(state, 2), torch.bfloat16, CPU)
    assert any(isinstance(part, winograd.PairedRows) for part in paired.modules())
    plain = network.CompactRunner(module(), torch.bfloat16)
    own = module().bfloat16()(picture.bfloat16()).float()
    assert error(plain(picture)) < error(paired(picture)) < error(own)


def test_float32_is_left_to_the_layers():
    exact = network.runner(network.build(nets.compact()), torch.float32, CPU)
    assert not any(isinstance(part, winograd.PairedRows) for part in exact.modules())


def paired(net) -> bool:
    return any(isinstance(part, winograd.PairedRows) for part in net.modules())


def runner() -> nn.Module:
    return network.runner(network.build(nets.compact(16, 3)), torch.bfloat16, CPU)


def test_an_operator_that_raises_leaves_the_work_to_the_layers(monkeypatch):
    def gone(*_):
        raise TypeError("_convolution_pointwise() takes 7 arguments")

    picture = nets.picture(21, 34)
    assert paired(runner())
    monkeypatch.setattr(winograd, "_convolve", gone)
    fallback = runner()
    assert not paired(fallback)
    plain = network.CompactRunner(network.build(nets.compact(16, 3)).module, torch.bfloat16)
    plain = plain.to(memory_format=torch.channels_last)
    assert torch.equal(fallback(picture), plain(picture))


@pytest.mark.parametrize("change", [lambda y: y * 1.1, lambda y: y * float("nan"), lambda y: y.flip(-1)])
def test_an_operator_that_computes_something_else_leaves_the_work_to_the_layers(monkeypatch, change):
    right = winograd._convolve
    monkeypatch.setattr(winograd, "_convolve", lambda *arguments: change(right(*arguments)))
    assert not paired(runner())
