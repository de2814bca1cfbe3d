"""Which devices there are, and which worker gets which; without importing torch."""

import ctypes
import importlib.util
import os
import re
from pathlib import Path

from upscaling.common.errors import InputError


def cuda_device_count() -> int:
    """CUDA devices that torch can use here: 0 without a driver, or where torch was built without CUDA.

    Asks the driver itself (cuInit, cuDeviceGetCount of the CUDA Driver API, which honour
    CUDA_VISIBLE_DEVICES), because torch takes seconds to import and the main process must not hold a device.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return 0
    version = Path(spec.submodule_search_locations[0], "version.py").read_text(encoding="utf-8")
    if re.search(r"^cuda\b.*=\s*None", version, re.MULTILINE):
        return 0
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def choose_devices(requested: str, workers: int, gpus: int) -> list[str]:
    """The device of each worker: worker i on `cuda:(i mod GPUs)`, or all on the CPU.

    `requested` is auto, cpu, cuda, or a list such as cuda:0,cuda:1; `gpus` is how many there are.
    InputError where something else is asked for or the GPU is not there.
    """
    if requested == "cpu" or (requested == "auto" and gpus == 0):
        return ["cpu"] * workers
    if requested in ("auto", "cuda"):
        names = [f"cuda:{i}" for i in range(gpus)]
    else:
        names = requested.split(",")
        if not all(n.startswith("cuda:") and n[5:].isascii() and n[5:].isdigit() for n in names):
            raise InputError(f"--device {requested}: choose auto, cpu, cuda, or a list such as cuda:0,cuda:1")
    there = ", ".join(f"cuda:{i}" for i in range(gpus)) or "no CUDA device, only the cpu"
    if missing := [n for n in names if int(n[5:]) >= gpus] or ([] if names else [requested]):
        raise InputError(f"--device {requested}: {missing[0]} is not there; this machine has {there}")
    return [names[i % len(names)] for i in range(workers)]


def core_share(workers: int) -> int:
    """CPU threads for each of `workers` workers: max(1, cores // workers), of the cores this process may use."""
    return max(1, len(os.sched_getaffinity(0)) // workers)
