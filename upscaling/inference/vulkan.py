"""The Vulkan devices of this machine as ncnn numbers them, asked in a process of their own.

A driver may crash or hang when it is loaded, and must not be loaded before workers are forked: so the main process
never calls ncnn. A worker uses its device's number in ncnn directly.
"""

import importlib.util
import json
import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from upscaling.common.driver_process import DriverSilent, ask_driver, exit_text
from upscaling.common.text import one_line

PROBE_SECONDS = 30.0  # a driver that has not answered by then hangs
MIB = 1 << 20  # bytes; ncnn gives memory in MiB
SOFTWARE = "software"
KINDS = ("discrete GPU", "integrated GPU", "virtual GPU", SOFTWARE)  # GpuInfo.type() of ncnn (src/gpu.h)
# Device files of GPUs: of Linux's own drivers, of NVIDIA's and of WSL. Without one, only software can be found.
GPU_FILES = ("dri/renderD*", "nvidia[0-9]*", "dxg")
# The answer is the last line: ncnn and drivers may print before it.
_PROBE = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
import ncnn
found = []
for index in range(ncnn.get_gpu_count()):
    info, device = ncnn.get_gpu_info(index), ncnn.get_gpu_device(index)
    found.append([info.device_name(), info.type(), device.get_heap_budget()])
print(json.dumps(found), flush=True)
import os
os._exit(0)
"""


@dataclass(frozen=True)
class VulkanDevice:
    """A device that ncnn can use: its number there, the driver's name for it, one of KINDS, and bytes to be used."""

    index: int
    description: str
    kind: str
    memory: int

    @property
    def name(self) -> str:
        """As --device takes it."""
        return f"vulkan:{self.index}"


@dataclass(frozen=True)
class VulkanProbe:
    """What was found, and in a few words why it may be less than there is; empty if all went well."""

    devices: tuple[VulkanDevice, ...] = ()
    problem: str = ""

    @property
    def gpus(self) -> tuple[VulkanDevice, ...]:
        """The devices to use if none is named: the discrete GPUs, or else all GPUs, but no software."""
        real = tuple(device for device in self.devices if device.kind != SOFTWARE)
        return tuple(device for device in real if device.kind == KINDS[0]) or real


def ncnn_installed() -> bool:
    return importlib.util.find_spec("ncnn") is not None


def gpu_files() -> list[Path]:
    """The device files of GPUs, whoever made them."""
    return sorted(file for pattern in GPU_FILES for file in Path("/dev").glob(pattern))


@lru_cache(maxsize=1)
def vulkan_devices() -> VulkanProbe:
    """The Vulkan devices; takes part of a second, and at most PROBE_SECONDS if a driver hangs."""
    if not ncnn_installed():
        return VulkanProbe(problem="ncnn is not installed")
    path = json.dumps([os.path.abspath(entry) for entry in sys.path])
    try:
        done = ask_driver(["-P", "-c", _PROBE, path], PROBE_SECONDS)
    except DriverSilent:
        return VulkanProbe(problem=f"the Vulkan driver did not answer within {PROBE_SECONDS:.0f} s")
    except OSError as error:
        return VulkanProbe(problem=f"Vulkan could not be asked ({error.strerror})")
    if done.returncode:
        words = one_line((done.stderr.strip().splitlines() or ["no message"])[-1])[:200]
        return VulkanProbe(problem=f"the Vulkan driver ended with {exit_text(done.returncode)}: {words}")
    found = json.loads(done.stdout.splitlines()[-1])
    devices = tuple(
        VulkanDevice(index, one_line(name), KINDS[min(kind, len(KINDS) - 1)], budget * MIB)
        for index, (name, kind, budget) in enumerate(found)
    )
    return VulkanProbe(devices, _unreadable() if all(device.kind == SOFTWARE for device in devices) else "")


def _unreadable() -> str:
    """Which device file this user may not open; empty if there is none."""
    closed = [file for file in gpu_files() if not os.access(file, os.R_OK | os.W_OK)]
    return f"no permission for {closed[0]}" if closed else ""
