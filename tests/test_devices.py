"""Which devices are found, and which worker gets which; without a GPU: drivers and /proc, /sys, /dev are made up."""

import os
import shutil
import subprocess
from pathlib import Path

import clips
import nets
import pytest
from runs import Run

from upscaling.common import devices
from upscaling.common.devices import (
    CudaDevice,
    cuda_devices,
    fp16_works,
    torch_cuda_version,
)
from upscaling.inference.device_choice import choose
from upscaling.pipeline.plan import resolved_precision


def test_device_count_is_torchs():
    import torch

    assert len(cuda_devices().devices) == torch.cuda.device_count()


def test_cuda_version_is_torchs():
    import torch

    assert torch_cuda_version() == torch.version.cuda


# Drivers

FAKE_DRIVER = r"""
#include <stdlib.h>
#include <string.h>
static int said(const char *name, int other) { const char *text = getenv(name); return text ? atoi(text) : other; }
int cuInit(unsigned flags) { if (said("FAKE_CRASH", 0)) abort(); return said("FAKE_ERROR", 0); }
int cuDriverGetVersion(int *version) { *version = said("FAKE_VERSION", 99000); return 0; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int size, int device) {
    strncpy(name, device ? "NVIDIA GeForce RTX 4090" : "NVIDIA GeForce GTX 1660 Ti", size); return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)(device ? 24 : 6) << 30; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    int capability = device ? said("FAKE_CAPABILITY", 89) : 75;
    *value = attribute == 75 ? capability / 10 : capability % 10; return 0;
}
int cuGetErrorName(int status, const char **text) { *text = "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"; return 0; }
int cuGetErrorString(int status, const char **text) { *text = "system has unsupported display driver"; return 0; }
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Path:
    """A folder with a libcuda.so.1 that says what the environment tells it to."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make a driver with")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "fake.c").write_text(FAKE_DRIVER)
    library = folder / "libcuda.so.535.129.03"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "fake.c"], check=True)
    (folder / "libcuda.so.1").symlink_to(library)
    return folder


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Path:
    """An empty root in place of this machine's, and no variables that hide devices."""
    monkeypatch.setattr(devices, "ROOT", tmp_path)
    for variable in ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(devices, "torch_rocm_version", lambda: None)
    monkeypatch.setattr(devices, "torch_cuda_version", lambda: "12.8")
    cuda_devices.cache_clear()
    yield tmp_path
    cuda_devices.cache_clear()


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def add_gpu(root: Path, vendor: str) -> None:
    write(root, {"sys/bus/pci/devices/0000:01:00.0/vendor": f"{vendor}\n",
                 "sys/bus/pci/devices/0000:01:00.0/class": "0x030000\n"})  # fmt: skip


def test_devices_of_a_driver(machine, driver, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver))
    old, new = cuda_devices().devices
    assert cuda_devices().problem == "" and len(cuda_devices().devices) == 2
    assert old == CudaDevice(0, "NVIDIA GeForce GTX 1660 Ti", (7, 5), 6 << 30) and old.name == "cuda:0"
    assert (old.fp16_works, new.fp16_works) == (False, True)


@pytest.mark.parametrize(
    ("fake", "built", "words"),
    [
        ({"FAKE_ERROR": "803"}, "12.8", "cuInit failed with 803 (CUDA_ERROR_SYSTEM_DRIVER_MISMATCH: system has"),
        ({"FAKE_ERROR": "803"}, "12.8", "the kernel has driver 550.54.15, the library is 535.129.03: restart"),
        ({"FAKE_ERROR": "100"}, "12.8", "cuInit failed with 100"),
        ({"FAKE_CRASH": "1"}, "12.8", "cuInit ended with signal 6"),
        ({"FAKE_VERSION": "12040"}, "13.0", "too old: it supports CUDA 12.4, and this PyTorch is built for 13.0"),
        ({"FAKE_CAPABILITY": "61"}, "13.0", "RTX 4090 is too old for this PyTorch, which is built for CUDA 13.0"),
        ({}, None, "an NVIDIA GPU is here, but this PyTorch is built for the CPU"),
    ],
)
def test_a_driver_that_cannot_be_used_is_named_with_its_number(machine, driver, monkeypatch, fake, built, words):
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver))
    monkeypatch.setattr(devices, "torch_cuda_version", lambda: built)
    for name, value in fake.items():
        monkeypatch.setenv(name, value)
    add_gpu(machine, "0x10de")
    version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56\nGCC version: 12\n"
    write(machine, {"proc/driver/nvidia/version": version})
    found = cuda_devices()
    assert words in found.problem and "\n" not in found.problem
    assert [device.index for device in found.devices] == ([0] if "FAKE_CAPABILITY" in fake else [])


def test_a_library_that_is_no_driver(machine, tmp_path, monkeypatch):
    (tmp_path / "libcuda.so.1").write_bytes(b"\x7fELF, and then nothing")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    assert "the CUDA driver does not work: " in cuda_devices().problem


def test_without_a_gpu_nothing_is_said(machine, driver, monkeypatch):
    assert cuda_devices() == devices.CudaProbe()
    cuda_devices.cache_clear()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver))
    monkeypatch.setenv("FAKE_ERROR", "100")  # the library alone, as on a login node
    assert cuda_devices() == devices.CudaProbe()


def test_a_gpu_without_a_driver_is_said(machine):
    add_gpu(machine, "0x10de")
    assert "no CUDA driver" in cuda_devices().problem


@pytest.mark.parametrize(
    ("name", "capability", "works"),
    [
        ("NVIDIA GeForce GTX 1650 with Max-Q Design", (7, 5), False),
        ("NVIDIA T600 Laptop GPU", (7, 5), False),
        ("Quadro T1000", (7, 5), False),
        ("Tesla T4", (7, 5), True),
        ("NVIDIA GeForce RTX 2080 Ti", (7, 5), True),
        ("Quadro RTX 4000", (7, 5), True),
        ("NVIDIA GeForce GTX 1080 Ti", (6, 1), True),
    ],
)
def test_cards_whose_fp16_does_not_work(name, capability, works):
    assert fp16_works(name, capability) == works


@pytest.fixture
def amd(machine, monkeypatch) -> Path:
    """A machine with a ROCm build of torch, an AMD CPU and two GPUs."""
    monkeypatch.setattr(devices, "torch_rocm_version", lambda: "6.4.43482")
    nodes = "sys/class/kfd/kfd/topology/nodes"
    write(machine, {
        "dev/kfd": "",
        f"{nodes}/0/properties": "cpu_cores_count 32\nsimd_count 0\ngfx_target_version 0\n",
        f"{nodes}/1/properties": "cpu_cores_count 0\nsimd_count 192\ngfx_target_version 110000\n",
        f"{nodes}/1/mem_banks/0/properties": f"heap_type 1\nsize_in_bytes {24 << 30}\n",
        f"{nodes}/2/properties": "simd_count 8\ngfx_target_version 90012\n",
    })  # fmt: skip
    return machine


def test_rocm_devices_count_as_cudas(amd):
    assert cuda_devices().devices == (
        CudaDevice(0, "AMD gfx1100", (0, 0), 24 << 30),
        CudaDevice(1, "AMD gfx90c", (0, 0), 0),
    )


@pytest.mark.parametrize(
    ("variables", "count"),
    [
        ({"HIP_VISIBLE_DEVICES": "1"}, 1),
        ({"HIP_VISIBLE_DEVICES": ""}, 0),
        ({"CUDA_VISIBLE_DEVICES": "0,1,7"}, 2),
        ({"ROCR_VISIBLE_DEVICES": "GPU-abc", "HIP_VISIBLE_DEVICES": "0,1"}, 1),
        ({"HIP_VISIBLE_DEVICES": "0,1", "CUDA_VISIBLE_DEVICES": "-1"}, 2),
    ],
)
def test_rocm_devices_that_a_variable_hides(amd, monkeypatch, variables, count):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert len(cuda_devices().devices) == count


def test_rocm_without_a_driver_or_a_permission_is_said(amd, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "groups render and video" in cuda_devices().problem
    cuda_devices.cache_clear()
    (amd / "dev/kfd").unlink()
    add_gpu(amd, "0x1002")
    assert "not its driver (/dev/kfd)" in cuda_devices().problem


# The commands


@pytest.fixture(scope="module")
def upscale_on(tmp_path_factory, driver):
    """The command on a small clip with a small network, as the fake driver answers."""
    folder = tmp_path_factory.mktemp("run")
    clip = clips.make_clip(folder / "in.mkv", frames=2)
    model = nets.save_pth(nets.compact(scale=2), folder / "net.pth")

    def run(fake: dict[str, str], *options: str) -> Run:
        environment = {"LD_LIBRARY_PATH": str(driver), "CUDA_VISIBLE_DEVICES": "", **fake}
        arguments = [clip, folder / "out.mkv", "2", "--model", model, "--workers", "1", "--overwrite", *options]
        return Run(folder, *arguments, env=environment)

    return run


def test_a_driver_that_does_not_work_is_a_warning_even_with_q(upscale_on):
    said = upscale_on({"FAKE_ERROR": "999"}, "-q").succeed().errors.splitlines()
    assert len(said) == 1 and said[0].startswith(
        "upscale: warning: the CUDA driver does not work: cuInit failed with 999"
    )


def test_a_device_that_was_named_needs_no_warning(machine, driver, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver))
    monkeypatch.setenv("FAKE_ERROR", "999")
    for device, warnings in (("auto", 1), ("cpu", 0)):
        assert len(choose(device, "torch", "auto", "realesr-animevideov3", None, 1).warnings) == warnings


def test_a_device_that_was_asked_for_is_not_replaced(upscale_on):
    line = upscale_on({"FAKE_ERROR": "999"}, "--device", "cuda").fail(2)
    assert "no CUDA device (the CUDA driver does not work: cuInit failed with 999" in line


def test_the_precision_of_cards_whose_fp16_does_not_work(machine, driver, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver))
    assert [resolved_precision("auto", name) for name in ("cuda:0", "cuda:1")] == ["fp32", "fp16"]
    assert resolved_precision("fp16", "cuda:0") == "fp16"
