"""`upscale --list-devices`: every device with its kind, its memory and the engine that would be used on it."""

import platform
import re
from pathlib import Path

from upscaling.common.devices import cuda_devices
from upscaling.common.system import available_memory, usable_cores
from upscaling.common.text import many
from upscaling.inference.device_choice import cpu_engine
from upscaling.inference.settings import NCNN, TORCH
from upscaling.inference.vulkan import vulkan_devices


def list_devices() -> int:
    """Print one line per device: its name, engine, kind, memory and the driver's name for it; the exit status."""
    cuda, probe = cuda_devices(), vulkan_devices()
    for device in cuda.devices:
        _print(device.name, TORCH, "CUDA", device.memory, device.description)
    for device in probe.devices:
        _print(device.name, NCNN, device.kind, device.memory, device.description)
    engine, reason = cpu_engine()
    _print("cpu", engine, "CPU", available_memory(), f"{many(usable_cores(), 'core')} of {_processor()}; {reason}")
    for problem in filter(None, (cuda.problem, probe.problem)):
        print(problem)
    return 0


def _print(name: str, engine: str, kind: str, memory: int | None, description: str) -> None:
    size = f"{memory / 2**30:.1f} GiB" if memory is not None else "unknown"
    print(f"{name:10} {engine:6} {kind:15} {size:>10}  {description}")


def _processor() -> str:
    try:
        match = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE)
    except OSError:
        match = None
    return match[1].strip() if match else platform.machine()
