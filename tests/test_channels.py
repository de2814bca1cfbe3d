"""Networks for gray pictures and for pictures with alpha, of every architecture, on frames in colour."""

from pathlib import Path

import nets
import numpy as np
import pytest
import torch
from PIL import Image
from runs import Run
from spandrel.architectures.SPAN import SPAN
from torch.nn import functional as F

from upscaling.frames.conversion import FrameConversion
from upscaling.frames.layout import FrameLayout
from upscaling.frames.yuv import to_rgb
from upscaling.inference.engine import make_upscaler
from upscaling.inference.settings import ModelSettings
from upscaling.models import network

CPU = torch.device("cpu")
WIDTH, HEIGHT = 24, 16


def span(channels: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    module = SPAN(num_in_ch=channels, num_out_ch=channels, feature_channels=16, upscale=2, norm=False)
    return {name: values.detach() for name, values in module.state_dict().items()}


STATES = {
    "compact": lambda channels: nets.compact(scale=2, channels=channels),
    "rrdb": lambda channels: nets.rrdb(channels=channels),
    "span": span,
}
every_architecture = pytest.mark.parametrize("state", STATES.values(), ids=STATES)


def luma(rgb: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) to (N, 1, H, W), BT.601."""
    return torch.einsum("c,nchw->nhw", torch.tensor([0.299, 0.587, 0.114]), rgb)[:, None]


@every_architecture
@pytest.mark.parametrize("channels", [1, 4])
def test_networks_of_one_and_four_channels(state, channels):
    found = network.build(state(channels), 2)
    picture = torch.rand(1, channels, 16, 24)
    assert found.channels == channels and found.module(picture).shape == (1, channels, 32, 48)


@every_architecture
def test_a_gray_network_upscales_luma_and_leaves_the_colours(state):
    run = network.runner(network.build(state(1), 2), torch.float32, CPU)
    alone = network.build(state(1), 2).module
    colour = nets.picture(HEIGHT, WIDTH)
    if "conv_first.weight" in state(1):  # its mean of blocks is clipped
        alone = torch.nn.Sequential(alone, torch.nn.Hardtanh(0, 1))
    gray = luma(colour).expand(-1, 3, -1, -1).contiguous()
    assert torch.allclose(run(gray), alone(luma(gray)).expand(-1, 3, -1, -1), atol=1e-5), "gray stays gray"
    if "conv_first.weight" not in state(1):
        result = run(colour)
        assert torch.allclose(luma(result), alone(luma(colour)), atol=1e-5)
        differences = F.interpolate(colour - luma(colour), scale_factor=2, mode="bicubic", align_corners=False)
        assert torch.allclose(result - luma(result), differences, atol=1e-5)


def upscaled(
    model: Path, layout: FrameLayout, frame: np.ndarray, precision: str = "fp32", engine="torch"
) -> np.ndarray:
    """The frame at twice its size, flat."""
    settings = ModelSettings(model=str(model), precision=precision, patch_size=40, engine=engine)
    upscaler = make_upscaler(settings, lambda: None)
    conversion = FrameConversion(layout, FrameLayout(2 * layout.width, 2 * layout.height, layout.pixel_format))
    upscaler.submit([frame], conversion)
    return upscaler.collect()[0].copy()


def test_rrdb_in_ncnn(tmp_path):
    layout = FrameLayout(WIDTH, HEIGHT, "rgb24")
    frame = np.random.default_rng(0).integers(60, 200, layout.sample_count, np.uint8)
    for channels in (1, 4):
        model = nets.save_pth(nets.rrdb(channels=channels), tmp_path / "net.pth")
        here, there = (upscaled(model, layout, frame, engine=engine) for engine in ("torch", "ncnn"))
        assert np.abs(here.astype(int) - there).max() <= 1


@pytest.fixture
def rgba_model(tmp_path) -> Path:
    """Its weights come with a NumPy scalar, as training scripts save them."""
    file = tmp_path / "rgba.pth"
    torch.save({"params_ema": nets.compact(scale=2, channels=4), "loss": np.float64(0.5)}, file)
    return file


@pytest.mark.parametrize("name", ["rgba", "yuva420p", "yuva444p10le"])
@pytest.mark.parametrize("engine", ["torch", "ncnn"])
def test_alpha_goes_through_a_network_that_has_it(rgba_model, name, engine):
    layout = FrameLayout(WIDTH, HEIGHT, name)
    peak, alpha = layout.peak, torch.linspace(0.2, 0.8, WIDTH).repeat(HEIGHT, 1)
    frame = np.full(layout.sample_count, peak // 2, layout.format.dtype)
    views = layout.planes(frame)
    (views[0][..., 3] if name == "rgba" else views[-1])[:] = np.round(alpha.numpy() * peak)
    views = FrameLayout(2 * WIDTH, 2 * HEIGHT, name).planes(upscaled(rgba_model, layout, frame, engine=engine))
    found = (views[0][..., 3] if name == "rgba" else views[-1]) / peak
    rgb = to_rgb(torch.from_numpy(frame)[None], layout).clamp(0, 1)
    opacity = torch.round(alpha * peak)[None, None] / peak
    expected = network.build(nets.compact(scale=2, channels=4)).module(torch.cat([rgb, opacity], 1))[0, 3]
    assert np.abs(found - expected.clamp(0, 1).numpy()).max() < 0.51 / peak + 1e-5
    assert np.abs(found - F.interpolate(opacity, scale_factor=2)[0, 0].numpy()).max() > 0.02, "not only resized"


def test_without_alpha_such_a_network_gets_opaque_pictures(rgba_model):
    layout = FrameLayout(WIDTH, HEIGHT, "rgb24")
    frame = np.random.default_rng(0).integers(60, 200, layout.sample_count, np.uint8)
    found = upscaled(rgba_model, layout, frame).reshape(2 * HEIGHT, 2 * WIDTH, 3)
    rgba = torch.cat([to_rgb(torch.from_numpy(frame)[None], layout), torch.ones(1, 1, HEIGHT, WIDTH)], 1)
    expected = network.build(nets.compact(scale=2, channels=4)).module(rgba)[0, :3].clamp(0, 1).permute(1, 2, 0)
    assert np.abs(found - expected.numpy() * 255).max() < 0.51


@pytest.mark.parametrize("name", ["yuv420p", "yuv420p10le", "gray"])
def test_colours_of_a_video_through_a_gray_network(tmp_path, name):
    """Flat chroma stays what it was, to the code, in half precision too; luma is the network's."""
    model = nets.save_pth(nets.compact(scale=2, channels=1), tmp_path / "gray.pth")
    layout = FrameLayout(WIDTH, HEIGHT, name)
    frame = np.zeros(layout.sample_count, layout.format.dtype)
    unit = 1 << (layout.format.depth - 8)
    for plane, value in zip(layout.planes(frame), (120, 90, 160), strict=False):
        plane[:] = value * unit
    layout.planes(frame)[0][:] += (np.arange(WIDTH) * unit).astype(frame.dtype)
    for engine, precision in (("torch", "fp32"), ("torch", "bf16"), ("ncnn", "fp32")):
        views = FrameLayout(2 * WIDTH, 2 * HEIGHT, name).planes(upscaled(model, layout, frame, precision, engine))
        for plane, value in zip(views[1:], (90, 160), strict=False):
            assert np.abs(plane.astype(int) - value * unit).max() <= 1
        assert views[0].std() > 4 * unit


def test_a_picture_with_alpha_through_the_command(tmp_path, rgba_model):
    rgba = np.random.default_rng(1).integers(80, 180, (HEIGHT, WIDTH, 4), np.uint8)
    Image.fromarray(rgba).save(tmp_path / "in.png")
    Run(
        tmp_path, tmp_path / "in.png", tmp_path / "out.png", "2", "--model", rgba_model, "--precision", "fp32"
    ).succeed()
    with Image.open(tmp_path / "out.png") as picture:
        found = np.asarray(picture)
    state = nets.compact(scale=2, channels=4)
    expected = network.build(state).module(torch.from_numpy(rgba / np.float32(255)).permute(2, 0, 1)[None])[0]
    assert found.shape == (2 * HEIGHT, 2 * WIDTH, 4)
    assert np.abs(found - expected.clamp(0, 1).permute(1, 2, 0).numpy() * 255).max() < 0.51
