"""The ncnn engine: the same picture as torch's, for every network that it runs, on the CPU and by Vulkan."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import clips
import nets
import numpy as np
import pytest
import torch
from runs import ROOT, Run, wait_until

from upscaling.frames.conversion import FrameConversion
from upscaling.frames.layout import FrameLayout
from upscaling.inference import ncnn_network
from upscaling.inference.engine import make_upscaler
from upscaling.inference.ncnn_engine import NcnnUpscaler
from upscaling.inference.settings import NCNN, ModelSettings
from upscaling.inference.upscaler import Upscaler
from upscaling.inference.vulkan import vulkan_devices
from upscaling.job.identity import what_changed
from upscaling.job.options import make_options
from upscaling.models.tensor_names import runs_in_ncnn
from upscaling.pipeline.plan import make_plan

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


@pytest.mark.vulkan
def test_a_batch_that_overflows_in_fp16_is_computed_again_in_fp32(tmp_path, vulkan):
    model = str(nets.save_pth(nets.overflowing(1e6), tmp_path / "large.pth"))
    layout = FrameLayout(24, 16, "yuv420p")
    conversion = FrameConversion(source=layout, target=replace(layout, width=48, height=32))
    results = []
    for settings in (ModelSettings(model, vulkan, NCNN), ModelSettings(model, precision="fp32")):
        upscaler = make_upscaler(settings, lambda: None)
        upscaler.submit([np.arange(576, dtype=np.uint8) % 100 + 80], conversion)
        results.append(upscaler.collect()[0].astype(int))
        assert any("again in fp32" in note for note in upscaler.notes) == (settings.engine == NCNN)
    assert abs(results[0] - results[1]).max() <= 1


@pytest.mark.vulkan
def test_a_device_with_too_little_memory_gets_smaller_tiles(tmp_path, vulkan):
    """A real allocation that fails: the driver's, as this process may take no more address space."""
    file = nets.save_pth(nets.compact(64, 1, scale=2), tmp_path / "net.pth")
    code = f"""
import resource, nets, torch
from upscaling.inference.ncnn_engine import NcnnUpscaler
from upscaling.inference.settings import NCNN, ModelSettings
upscaler = NcnnUpscaler(ModelSettings({str(file)!r}, {vulkan!r}, NCNN, patch_size=0))
frames = nets.picture(240, 300)
with torch.inference_mode():
    upscaler(frames[..., :32, :32], 64, 64)
    upscaler._forward.limits.tile_area = 1 << 40
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (30 << 20),) * 2)
    result = upscaler(frames, 600, 480)
print(upscaler.take_notes(), result.isfinite().all())
"""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert "out of memory: using tiles of" in done.stdout and "tensor(True)" in done.stdout, done.stderr[-2000:]


@pytest.mark.vulkan
def test_the_command_on_vulkan(tmp_path, vulkan):
    """Workers forked, Vulkan in each; one is killed and replaced; the result is torch's."""
    clip = clips.make_clip(tmp_path / "in.mkv", frames=6)
    model = nets.save_pth(nets.compact(scale=2), tmp_path / "net.pth")
    shared = ("2", "--model", model, "--batch-size", "1", "--codec", "ffv1", "--precision", "fp32")
    run = Run(tmp_path, clip, tmp_path / "vulkan.mkv", *shared, "--workers", "2", "--device", "vulkan")
    status = tmp_path / "vulkan.mkv.work" / "status" / "worker_0_status.json"
    wait_until(lambda: status.exists() and json.loads(status.read_text())["pid"], "a worker")
    os.kill(json.loads(status.read_text())["pid"], signal.SIGKILL)
    said = run.succeed().errors
    assert "vulkan:0" in said and "with ncnn (--device vulkan)" in said
    Run(tmp_path, clip, tmp_path / "torch.mkv", *shared, "--workers", "1", "--engine", "torch").succeed()
    pictures = []
    for name in ("vulkan", "torch"):
        with av.open(str(tmp_path / f"{name}.mkv")) as video:
            pictures.append(np.stack([frame.to_ndarray() for frame in video.decode(video=0)]).astype(int))
    assert len(pictures[0]) == 6 and abs(pictures[0] - pictures[1]).max() <= 1


def test_the_engine_is_part_of_what_a_resume_compares(tmp_path):
    clip = clips.make_clip(tmp_path / "in.mkv", frames=2)
    shared = {"input": clip, "output": tmp_path / "out.mkv", "device": "cpu", "precision": "fp32"}
    by_torch, by_ncnn = (make_plan(make_options(**shared, engine=engine)) for engine in ("torch", "ncnn"))
    assert what_changed(by_ncnn.identity, by_torch.identity, by_ncnn.asked, by_torch.asked) == "made with --engine ncnn"
