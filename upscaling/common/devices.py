"""The CUDA devices that torch can use, ROCm's included, or why it cannot. Never imports torch."""

import importlib.util
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from upscaling.common import cuda_driver
from upscaling.common.driver_process import DriverSilent, ask_driver, exit_text
from upscaling.common.text import one_line

ROOT = Path("/")
PROBE_SECONDS = 30.0  # a driver that has not answered by then hangs
NVIDIA, AMD = "0x10de", "0x1002"  # PCI vendors
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
CUDA_13_CAPABILITY = (7, 5)  # the least that CUDA 13 compiles for: no Maxwell, Pascal or Volta (its release notes)
# Turing without tensor cores gives NaN in fp16 (pytorch/pytorch#58123; ComfyUI's should_use_fp16 has the same names).
BROKEN_FP16 = re.compile(r"\b(GTX 16[0-9]0|T[0-9]{3,4}|MX450|MX550|CMP 30HX)\b")


@dataclass(frozen=True)
class CudaDevice:
    """A device that torch can use: its number there, the driver's name for it, compute capability, bytes of memory.

    The capability of a ROCm device is (0, 0).
    """

    index: int
    description: str
    capability: tuple[int, int]
    memory: int

    @property
    def name(self) -> str:
        """As --device takes it."""
        return f"cuda:{self.index}"

    @property
    def fp16_works(self) -> bool:
        return fp16_works(self.description, self.capability)


@dataclass(frozen=True)
class CudaProbe:
    """What was found, and in a line why a GPU that seems to be here is not; empty if all went well."""

    devices: tuple[CudaDevice, ...] = ()
    problem: str = ""


def fp16_works(description: str, capability: tuple[int, int]) -> bool:
    """Whether a CUDA device of that name computes networks correctly in half precision."""
    return capability != (7, 5) or not BROKEN_FP16.search(description)


def torch_cuda_version() -> str | None:
    """The CUDA version that torch was built with, such as "12.8"; None without torch or for another build."""
    return _built_with("cuda")


def torch_rocm_version() -> str | None:
    """The HIP version that torch was built with, such as "6.4.43482"; None without torch or for another build."""
    return _built_with("hip")


def _built_with(name: str) -> str | None:
    """Read from torch/version.py as text, because importing torch takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    text = Path(spec.submodule_search_locations[0], "version.py").read_text(encoding="utf-8")
    match = re.search(rf"^{name}\b[^=]*=\s*['\"]([0-9.]+)", text, re.MULTILINE)
    return match[1] if match else None


@lru_cache(maxsize=1)
def cuda_devices() -> CudaProbe:
    """The devices that torch can use as CUDA's; a driver is asked in a process of its own, as it may crash or hang."""
    if torch_rocm_version() is not None:
        return _rocm_devices()
    built = torch_cuda_version()
    present = _pci_gpu(NVIDIA)
    if built is None:
        found = "an NVIDIA GPU is here, but this PyTorch is built for the CPU; install one that is built for CUDA"
        return CudaProbe(problem=found if present else "")
    try:
        done = ask_driver(["-I", "-S", cuda_driver.__file__], PROBE_SECONDS)
    except DriverSilent:
        return CudaProbe(problem=f"the CUDA driver does not work: no answer from cuInit within {PROBE_SECONDS:.0f} s")
    except OSError as error:
        return CudaProbe(problem=f"the CUDA driver could not be asked ({error.strerror})")
    if done.returncode:
        return CudaProbe(problem=f"the CUDA driver does not work: cuInit ended with {exit_text(done.returncode)}")
    return _understood(json.loads(done.stdout.splitlines()[-1]), built, present)


def _understood(answer: dict, built: str, present: bool) -> CudaProbe:
    """The driver's answer. `built` is torch's CUDA version; `present`: an NVIDIA GPU is on the bus."""
    if "unloadable" in answer:
        reason = one_line(answer["unloadable"])
        if "No such file" not in reason:
            return CudaProbe(problem=f"the CUDA driver does not work: {reason}")
        found = "an NVIDIA GPU is here, but no CUDA driver (libcuda.so.1); in a container: docker run --gpus all"
        return CudaProbe(problem=found if present else "")
    if "error" in answer:
        if answer["error"] == NO_DEVICE and (not present or "CUDA_VISIBLE_DEVICES" in os.environ):
            return CudaProbe()  # the library alone, as on a login node or in a container
        words = one_line(f"{answer['call']} failed with {answer['error']} ({answer['words'] or 'no message'})")
        return CudaProbe(problem=f"the CUDA driver does not work: {words}{_versions_differ(answer['library'])}")
    supported, major = answer["version"] // 1000, int(built.partition(".")[0])
    if supported < major and answer["devices"]:
        version = f"{supported}.{answer['version'] % 1000 // 10}"
        return CudaProbe(
            problem=f"the CUDA driver is too old: it supports CUDA {version}, and this PyTorch is built for {built}; "
            f"update the driver, or install a PyTorch that is built for CUDA {supported}"
        )
    devices, problem = [], ""
    for index, (name, capability, memory) in enumerate(answer["devices"]):
        device = CudaDevice(index, one_line(name), tuple(capability), memory)
        if major >= 13 and device.capability < CUDA_13_CAPABILITY:
            problem = f"{device.description} is too old for this PyTorch, which is built for CUDA {built}; install one "
            problem += "that is built for CUDA 12.6"
        else:
            devices.append(device)
    return CudaProbe(tuple(devices), problem)


def _versions_differ(library: str) -> str:
    """What to do if the kernel's driver is not the library's: after an upgrade the old one stays loaded."""
    text = _text(ROOT / "proc/driver/nvidia/version")
    match = re.search(r"Kernel Module\D*?\s([0-9]+\.[0-9.]+)", text)
    if match and library and match[1] != library:
        return f"; the kernel has driver {match[1]}, the library is {library}: restart the machine"
    return "; nvidia-smi may say more"


# ROCm


def _rocm_devices() -> CudaProbe:
    """AMD's GPUs, as the kernel's KFD lists them for ROCm (drivers/gpu/drm/amd/amdkfd/kfd_topology.c)."""
    kfd = ROOT / "dev/kfd"
    if not kfd.exists():
        return CudaProbe(problem="an AMD GPU is here, but not its driver (/dev/kfd)" if _pci_gpu(AMD) else "")
    if not os.access(kfd, os.R_OK | os.W_OK):
        return CudaProbe(problem="no permission for /dev/kfd; add this user to the groups render and video")
    nodes = list(_kfd_gpus())
    for variable in ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        if variable == "CUDA_VISIBLE_DEVICES" and "HIP_VISIBLE_DEVICES" in os.environ:
            break  # HIP reads the one or the other
        nodes = _visible(nodes, os.environ.get(variable))
    return CudaProbe(tuple(CudaDevice(i, name, (0, 0), memory) for i, (name, memory) in enumerate(nodes)))


def _kfd_gpus() -> Iterator[tuple[str, int]]:
    """(name, bytes of memory) of each node that computes; those of a container's neighbours cannot be read."""
    folders = (ROOT / "sys/class/kfd/kfd/topology/nodes").glob("[0-9]*")
    for node in sorted(folders, key=lambda folder: int(folder.name)):
        properties = dict(line.split()[:2] for line in _text(node / "properties").splitlines() if " " in line)
        if int(properties.get("simd_count", "0")) == 0:
            continue
        target = int(properties.get("gfx_target_version", "0"))  # 110001 is gfx1101
        name = f"AMD gfx{target // 10000}{target // 100 % 100:x}{target % 100:x}"
        banks = [_text(bank) for bank in (node / "mem_banks").glob("*/properties")]
        sizes = [re.search(r"^size_in_bytes ([0-9]+)", bank, re.MULTILINE) for bank in banks]
        yield name, sum(int(size[1]) for size in sizes if size)


def _visible(nodes: list[tuple[str, int]], value: str | None) -> list[tuple[str, int]]:
    """The nodes that a variable leaves: indices or UUIDs up to the first that is neither, as HIP reads it."""
    if value is None:
        return nodes
    kept = []
    for word in value.replace(" ", "").split(","):
        number = int(word) if word.isascii() and word.isdigit() else -1
        if word.startswith("GPU-"):
            number = len(kept)  # which one does not matter here
        if not 0 <= number < len(nodes):
            break
        kept.append(nodes[number])
    return kept


def _pci_gpu(vendor: str) -> bool:
    """Whether a display adapter (PCI class 3) of that vendor is on the bus."""
    return any(
        _text(device / "vendor") == vendor and _text(device / "class").startswith("0x03")
        for device in (ROOT / "sys/bus/pci/devices").glob("*")
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
