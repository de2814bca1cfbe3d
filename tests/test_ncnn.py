"""The ncnn engine: the same picture as torch's, for every network that it runs, on the CPU and by Vulkan."""

import math
from pathlib import Path

import av
import nets
import pytest
import torch
from runs import ROOT

from upscaling.inference import ncnn_network
from upscaling.inference.ncnn_engine import NcnnUpscaler
from upscaling.inference.settings import NCNN, ModelSettings
from upscaling.inference.upscaler import Upscaler
from upscaling.inference.vulkan import vulkan_devices
from upscaling.models.tensor_names import runs_in_ncnn

STATES = {
    "compact": nets.compact(),
    "compact x3, odd width": nets.compact(5, 3, scale=3),
    "compact x1": nets.compact(7, 1, scale=1),
    "rrdb": nets.rrdb(),
    "rrdb x2, wide": nets.rrdb(12, 2, scale=2),
    "rrdb x1": nets.rrdb(6, 1, scale=1),
}


FRAMES = nets.picture(36, 48, frames=2)


@pytest.fixture
def vulkan():
    """The first Vulkan device, a software one too."""
    probe = vulkan_devices()
    if not probe.devices:
        pytest.skip(f"no Vulkan device {probe.problem}")
    return probe.devices[0].name


def decibels(a: torch.Tensor, b: torch.Tensor) -> float:
    return -10 * math.log10(max(float((a - b).double().square().mean()), 1e-30))


def both(file: Path, frames: torch.Tensor, size: tuple[int, int], **settings) -> list[torch.Tensor]:
    """The pictures of torch in fp32 on the CPU, and of ncnn."""
    model, strength = str(file), settings.get("strength", 1.0)
    torchs = Upscaler(ModelSettings(model=model, precision="fp32", strength=strength))
    ncnns = NcnnUpscaler(ModelSettings(model=model, engine=NCNN, **settings))
    return [upscaler(frames, *size).clone() for upscaler in (torchs, ncnns)]


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("scale", [1, 2, 3.5])
def test_every_size_of_both_architectures_gives_torchs_picture(tmp_path, name, scale):
    """Scales below the network's own too: the mean of blocks, folded into the last layer or not."""
    file = nets.save_pth(STATES[name], tmp_path / "net.pth")
    want, got = both(file, FRAMES, (round(48 * scale), round(36 * scale)))
    assert decibels(want, got) > 100


@pytest.mark.parametrize("save", [nets.save_pth, nets.save_safetensors, nets.save_ncnn])
@pytest.mark.parametrize("name", ["compact", "rrdb"])
def test_any_weights_file_will_do(tmp_path, save, name):
    suffix = {"save_pth": ".pth", "save_safetensors": ".safetensors"}.get(save.__name__, "")
    file = save(STATES[name], tmp_path / f"net{suffix}")
    assert runs_in_ncnn(str(file), file)
    want, got = both(file, FRAMES, (96, 72), strength=0.7)
    assert decibels(want, got) > 100


def test_old_names_of_tensors_are_known(tmp_path):
    """ESRGAN's first release had other names, and torch.save before 1.6 another format."""
    renamed = nets.rrdb(8, 2)
    for new, old in (("conv_body", "trunk_conv"), ("body.", "RRDB_trunk."), ("rdb", "RDB"), ("conv_up", "upconv"),
                     ("conv_hr", "HRconv")):  # fmt: skip
        renamed = {name.replace(new, old): values for name, values in renamed.items()}
    torch.save(renamed, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert runs_in_ncnn("old.pth", tmp_path / "old.pth")
    want, got = both(tmp_path / "old.pth", FRAMES, (192, 144))
    assert decibels(want, got) > 100


def test_other_architectures_need_torch(tmp_path):
    for number, state in enumerate(({"layers.0.weight": torch.zeros(1)}, nets.rrdb() | {"x": torch.zeros(1)})):
        torch.save(state, tmp_path / f"{number}.pth")
        assert runs_in_ncnn("net", tmp_path / f"{number}.pth") == bool(number)
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    assert not any(runs_in_ncnn("net", tmp_path / f"broken.{suffix}") for suffix in ("pth", "safetensors"))


def test_tiled_and_whole_differ_by_less_than_a_code(tmp_path):
    file = nets.save_pth(nets.compact(16, 4), tmp_path / "net.pth")
    frames = nets.picture(90, 130)
    _, whole = both(file, frames, (260, 180), patch_size=0)
    _, tiled = both(file, frames, (260, 180), patch_size=48)
    assert float((whole - tiled).abs().max()) < 1 / 255


def test_default_network_on_a_clip(tmp_path):
    """A real network on a real picture: the frames that the command's clip has."""
    with av.open(str(ROOT / "elk.mp4")) as clip:
        picture = next(clip.decode(video=0)).to_ndarray(format="rgb24")
    frames = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
    want, got = both(Path(ModelSettings.model), frames, (320, 180))
    assert decibels(want, got) > 90


@pytest.mark.parametrize("rows", [21, 22, 30, 37])
@pytest.mark.parametrize("pixels", [1, 160, 400])
def test_strips_of_any_height_give_the_whole_picture(tmp_path, monkeypatch, rows, pixels):
    """A strip too few, one too many, and a last one of any size; the padding of each layer is that of the picture."""
    file = nets.save_pth(nets.compact(9, 5, scale=2), tmp_path / "net.pth")
    monkeypatch.setattr(ncnn_network, "STRIP_PIXELS", pixels)
    want, got = both(file, nets.picture(rows, 20), (40, 2 * rows))
    assert float((want - got).abs().max()) < 1e-4


@pytest.mark.vulkan
@pytest.mark.parametrize("name", ["compact", "rrdb"])
def test_vulkan_gives_torchs_picture_in_fp16(tmp_path, vulkan, name):
    file = nets.save_pth(STATES[name], tmp_path / "net.pth")
    want, got = both(file, FRAMES, (96, 72), device=vulkan)
    assert decibels(want, got) > 60
