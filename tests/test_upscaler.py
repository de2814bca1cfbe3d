"""The network of a worker: any size, precision, strength; the memory it plans with; the resize beside it."""

import subprocess
import sys
from pathlib import Path

import nets
import pytest
import torch

from upscaling.common.errors import InputError
from upscaling.inference import memory
from upscaling.inference import upscaler as model
from upscaling.inference.rescale import rescale
from upscaling.inference.settings import ModelSettings
from upscaling.inference.tile_reuse import ComparedPlane, FrameChanges
from upscaling.inference.upscaler import Upscaler, choose_precision
from upscaling.models.weights import WeightsError

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")


@pytest.fixture
def tiny(tmp_path):
    """Settings of a tiny x4 network in fp32."""

    def settings(state=None, **arguments):
        file = nets.save_pth(state or nets.compact(), tmp_path / "net.pth")
        return ModelSettings(**{"model": str(file), "precision": "fp32"} | arguments)

    return settings


@pytest.mark.parametrize(
    ("size", "scale"),
    [((34, 26), 2), ((68, 52), 4), ((17, 13), 1), ((51, 39), 4), ((25, 20), 2), ((136, 104), 4), ((34, 52), 4)],
)  # fmt: skip
def test_any_size_comes_from_the_smallest_scale_that_reaches_it(tiny, size, scale):
    frames = nets.picture(13, 17, frames=2)
    upscaler = Upscaler(tiny())
    out = upscaler(frames, *size).clone()
    assert out.shape == (2, 3, size[1], size[0]) and out.dtype == torch.float32
    assert out.min() >= 0 and out.max() <= 1
    native = upscaler(frames, 17 * scale, 13 * scale)
    assert torch.equal(out, rescale(native, *size))


def test_a_native_x2_network_does_x2_directly(tiny):
    frames = nets.picture(15, 21)
    state = nets.rrdb(scale=2)
    assert Upscaler(tiny(state))(frames, 42, 30).shape == (1, 3, 30, 42)
    assert Upscaler(tiny(state)).native_scale == 2


def test_strength_blends_with_a_plain_resize(tiny):
    frames = nets.picture(20, 24)
    full = Upscaler(tiny())(frames, 48, 40)
    none = Upscaler(tiny(strength=0.0))(frames, 48, 40)
    half = Upscaler(tiny(strength=0.5))(frames, 48, 40)
    assert torch.equal(none, rescale(frames, 48, 40)) and not torch.allclose(full, none, atol=0.01)
    assert torch.allclose(half, (full + none) / 2, atol=1e-6)


def test_precisions_agree(tiny):
    frames = nets.picture(30, 40)
    full = Upscaler(tiny())(frames, 80, 60)
    half = Upscaler(tiny(precision="bf16"))(frames, 80, 60)
    assert not torch.equal(half, full) and (half - full).abs().max() < 2 / 255


def test_auto_precision_takes_bf16_only_where_the_cpu_has_it(monkeypatch):
    for flag, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(model, "cpu_has_bf16", lambda flag=flag: flag)
        assert choose_precision("auto", CPU) == expected
    assert choose_precision("fp32", CPU) == "fp32"


@pytest.mark.parametrize(
    ("device", "precision", "words"),
    [("cuda:0", "auto", "no CUDA device here"), ("cpu", "fp64", "unknown precision"), ("cpu", "fp16", "fp16")],
)
def test_what_the_device_cannot_do_is_one_line(tiny, monkeypatch, device, precision, words):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_fp16_supported", lambda: False)
    with pytest.raises(InputError, match=words):
        Upscaler(tiny(device=device, precision=precision))


def test_a_network_that_does_not_support_half_precision_runs_in_full(tiny, monkeypatch):
    def without_half(state, scale=None):
        network = original(state, scale)
        network.supports_bfloat16 = False
        return network

    original = model.build
    monkeypatch.setattr(model, "build", without_half)
    frames = nets.picture(10, 10)
    upscaler = Upscaler(tiny(precision="bf16"))
    out = upscaler(frames, 20, 20)
    assert torch.equal(out, Upscaler(tiny())(frames, 20, 20))
    assert upscaler.take_notes() == ["SRVGGNetCompact does not support bf16; running in fp32"]
    assert upscaler.take_notes() == []


def test_counts_tiles_and_beats(tiny):
    beats = []
    upscaler = Upscaler(tiny(patch_size=16), lambda: beats.append(1))
    frames = nets.picture(40, 60).repeat(3, 1, 1, 1)
    upscaler(frames, 120, 80, FrameChanges([ComparedPlane(frames.permute(0, 2, 3, 1).numpy())]))
    assert upscaler.computed == len(beats) > 1 and upscaler.reused == 2 * upscaler.computed


def test_a_file_that_is_no_model_is_one_line(tmp_path):
    (tmp_path / "net.pth").write_bytes(b"no model")
    with pytest.raises(WeightsError, match="is not a model file"):
        Upscaler(ModelSettings(model=str(tmp_path / "net.pth")))


def test_little_free_memory_makes_small_tiles_from_the_start(tiny, monkeypatch):
    frames = nets.picture(100, 140)
    plenty = Upscaler(tiny(patch_size=0))
    expected = plenty(frames, 280, 200)
    per_pixel = memory.bytes_per_pixel(model.build(nets.compact(), 2).module, CPU)
    result = 3 * 280 * 200 * 4
    monkeypatch.setattr(
        model, "free_bytes", lambda device: int(3 * (4000 * per_pixel + result) / memory.MEMORY_FRACTION)
    )
    scarce = Upscaler(tiny(patch_size=0, workers_on_device=3))
    assert torch.allclose(scarce(frames, 280, 200), expected, atol=1e-6)
    assert plenty.computed == 1 and scarce.computed >= 4 and scarce.take_notes() == []


def test_memory_is_measured():
    free = memory.free_bytes(CPU)
    assert free is not None and 1 << 20 < free < 1 << 50
    for features, worst in ((8, 48 + 48), (64, 64 + 64)):  # channels in and out of the pixel shuffle, of PReLU
        measured = memory.bytes_per_pixel(model.build(nets.compact(features)).module, CPU)
        assert measured == memory.ACTIVATION_MARGIN * worst * 4


def test_which_errors_mean_too_little_memory():
    for error in (
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    ):
        assert memory.is_out_of_memory(error), error
    assert not memory.is_out_of_memory(RuntimeError("expected 3 channels"))
    assert not memory.is_out_of_memory(ValueError("out of memory"))


def test_a_real_allocation_failure_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert memory.is_out_of_memory(caught.value)


def test_freed_memory_is_kept_for_the_next_layer():
    code = (
        "import resource, torch\nfrom upscaling.common import system\n"
        "torch.set_num_threads(1)\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(20):\n        torch.ones(64 << 18)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "first = faults()\nsystem.retain_freed_memory()\nfaults()\nsteady = faults()\n"
        "assert steady < first / 10, (first, steady)\n"
    )
    if "glibc" not in __import__("platform").libc_ver()[0]:
        pytest.skip("not glibc")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.requires_cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
def test_on_cuda_it_is_the_same_picture(tiny, compiled):
    frames = nets.picture(48, 64, frames=3)
    expected = Upscaler(tiny())(frames, 128, 96)
    exact = Upscaler(tiny(device="cuda:0"))(frames.cuda(), 128, 96).cpu()
    assert (exact - expected).abs().max() < 1e-4
    fast = Upscaler(tiny(device="cuda:0", precision="fp16", compile=compiled))
    assert (fast(frames.cuda(), 128, 96).cpu() - expected).abs().max() < 1 / 255
    assert (fast(frames.cuda(), 150, 100).cpu() - Upscaler(tiny())(frames, 150, 100)).abs().max() < 1 / 255


@pytest.mark.requires_cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_full_gpu_halves_the_work_and_goes_on(tiny):
    frames = nets.picture(200, 300, frames=4)
    expected = Upscaler(tiny())(frames, 600, 400)
    upscaler = Upscaler(tiny(nets.compact(64, 4), device="cuda:0", patch_size=0))
    torch.cuda.set_per_process_memory_fraction(0.002)
    try:
        assert upscaler(frames.cuda(), 600, 400).shape == expected.shape
        assert any("out of memory" in note for note in upscaler.take_notes())
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
