"""Which worker gets which device, with which engine; the devices are made up."""

import shutil
import subprocess

import pytest

from upscaling.common.devices import CudaDevice, CudaProbe
from upscaling.common.errors import InputError
from upscaling.inference import device_choice, vulkan
from upscaling.inference.device_choice import choose
from upscaling.inference.vulkan import SOFTWARE, VulkanDevice, VulkanProbe

GPU = VulkanDevice(0, "AMD Radeon", "discrete GPU", 8 << 30)
ON_BOARD = VulkanDevice(1, "Intel UHD", "integrated GPU", 4 << 30)
LAVAPIPE = VulkanDevice(2, "llvmpipe", SOFTWARE, 1 << 30)
AUTO = ("auto", "auto", "auto")


@pytest.fixture
def machine(monkeypatch):
    """Sets what a machine has: the number of its CUDA devices, its Vulkan devices, its CPU's instructions."""

    def has(cuda=0, vulkan=(), bf16=False, problem=""):
        found = CudaProbe(tuple(CudaDevice(index, "NVIDIA L4", (8, 9), 24 << 30) for index in range(cuda)))
        monkeypatch.setattr(device_choice, "cuda_devices", lambda: found)
        monkeypatch.setattr(device_choice, "vulkan_devices", lambda: VulkanProbe(tuple(vulkan), problem))
        monkeypatch.setattr(device_choice, "gpu_files", lambda: ["/dev/dri/renderD128"] if vulkan or problem else [])
        monkeypatch.setattr(device_choice, "cpu_has_bf16", lambda: bf16)

    return has


def chosen(device="auto", engine="auto", precision="auto", workers=6, model="realesr-animevideov3"):
    found = choose(device, engine, precision, model, None, workers)
    return list(found.devices), found.engine


@pytest.mark.parametrize(
    ("requested", "gpus", "expected"),
    [
        ("auto", 0, ["cpu"] * 6),
        ("cpu", 2, ["cpu"] * 6),
        ("auto", 1, ["cuda:0"] * 6),
        ("auto", 4, ["cuda:0", "cuda:1", "cuda:2", "cuda:3", "cuda:0", "cuda:1"]),
        ("cuda", 2, ["cuda:0", "cuda:1"] * 3),
        ("cuda:1", 2, ["cuda:1"] * 6),
        ("cuda:2,cuda:0", 3, ["cuda:2", "cuda:0"] * 3),
    ],
)
def test_worker_i_on_device_i_mod_n(machine, requested, gpus, expected):
    machine(cuda=gpus, bf16=True)
    assert chosen(requested) == (expected, "torch")


@pytest.mark.parametrize(
    ("has", "options", "devices", "engine"),
    [
        ({"cuda": 1, "vulkan": [GPU]}, {}, ["cuda:0"], "torch"),
        ({"cuda": 1, "vulkan": [GPU]}, {"engine": "ncnn"}, ["vulkan:0"], "ncnn"),
        ({"vulkan": [GPU, ON_BOARD, LAVAPIPE]}, {}, ["vulkan:0"], "ncnn"),
        ({"vulkan": [ON_BOARD, LAVAPIPE], "bf16": True}, {}, ["vulkan:1"], "ncnn"),
        ({"vulkan": [GPU]}, {"engine": "torch"}, ["cpu"], "torch"),
        ({"vulkan": [LAVAPIPE]}, {}, ["cpu"], "ncnn"),
        ({"vulkan": [LAVAPIPE], "bf16": True}, {}, ["cpu"], "torch"),
        ({"vulkan": [LAVAPIPE]}, {"device": "vulkan"}, ["vulkan:2"], "ncnn"),
        ({"vulkan": [GPU, ON_BOARD]}, {"device": "vulkan:1,vulkan:0", "workers": 2}, ["vulkan:1", "vulkan:0"], "ncnn"),
        ({}, {}, ["cpu"], "ncnn"),
        ({}, {"precision": "bf16"}, ["cpu"], "torch"),
        ({}, {"engine": "torch"}, ["cpu"], "torch"),
        ({"bf16": True}, {"engine": "ncnn"}, ["cpu"], "ncnn"),
        ({"cuda": 1}, {"model": "lanczos"}, ["cpu"], "libswscale"),
    ],
)
def test_the_fastest_device_and_its_engine(machine, has, options, devices, engine):
    machine(**has)
    assert chosen(**{"workers": 1} | options) == (devices, engine)


@pytest.mark.parametrize(
    ("requested", "gpus"),
    [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2), ("gpu", 1), ("cuda:", 1), ("vulkan", 0), ("cuda:0,vulkan:0", 1)],
)
def test_what_is_not_there_is_said(machine, requested, gpus):
    machine(cuda=gpus)
    with pytest.raises(InputError, match=r"this machine has|choose auto"):
        chosen(requested)


@pytest.mark.parametrize(
    "options",
    [
        {"device": "cuda", "engine": "ncnn"},
        {"device": "vulkan", "engine": "torch"},
        {"device": "vulkan", "precision": "bf16"},
        {"device": "cpu", "engine": "ncnn", "precision": "fp16"},
    ],
)
def test_an_engine_that_cannot_use_the_device_is_refused(machine, options):
    machine(cuda=1, vulkan=[GPU])
    with pytest.raises(InputError, match=r"use|choose"):
        chosen(**options)


def test_a_driver_that_does_not_work_is_a_warning(machine):
    machine(problem="the Vulkan driver ended with signal 11: no message", bf16=True)
    found = choose(*AUTO, "realesr-animevideov3", None, 1)
    assert found.devices == ("cpu",) and "bf16" in found.reason and "signal 11" in found.warnings[0]


@pytest.mark.parametrize(
    ("code", "words"),
    [("raise(SIGSEGV);", "ended with signal 11"), ("sleep(60);", "did not answer within 2 s")],
)
def test_a_driver_that_crashes_or_hangs_is_found_in_a_process_of_its_own(tmp_path, monkeypatch, code, words):
    """A real library in place of the driver."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make a driver with")
    (tmp_path / "fake.c").write_text(
        f"#include <signal.h>\n#include <unistd.h>\n__attribute__((constructor)) static void load(void) {{ {code} }}\n"
    )
    subprocess.run([compiler, "-shared", "-fPIC", "-o", tmp_path / "fake.so", tmp_path / "fake.c"], check=True)
    monkeypatch.setenv("NCNN_VULKAN_DRIVER", str(tmp_path / "fake.so"))
    monkeypatch.setattr(vulkan, "PROBE_SECONDS", 2.0)
    probe = vulkan.vulkan_devices.__wrapped__()
    assert probe.devices == () and words in probe.problem
