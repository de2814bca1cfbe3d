"""Which devices torch can use, and which worker gets which. Never imports torch."""

import ctypes
import importlib.util
import re
from pathlib import Path

from upscaling.common.errors import InputError


def torch_cuda_version() -> str | None:
    """The CUDA version that torch was built with, such as "12.8"; None without torch or for a CPU build.

    Read from torch/version.py as text, because importing torch takes seconds.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    text = Path(spec.submodule_search_locations[0], "version.py").read_text(encoding="utf-8")
    match = re.search(r"^cuda\b[^=]*=\s*['\"]([0-9.]+)['\"]", text, re.MULTILINE)
    return match[1] if match else None


def cuda_device_count() -> int:
    """The number of CUDA devices that torch can use; 0 without a driver or with a CPU build of torch.

    Asks the driver itself, which honours CUDA_VISIBLE_DEVICES (cuInit and cuDeviceGetCount of the CUDA Driver
    API): importing torch takes seconds, and the main process must not hold a device.
    """
    if torch_cuda_version() is None:
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
    """The device of each worker: `cuda:(i mod GPUs)` for worker i, or "cpu" for all.

    `requested` is auto, cpu, cuda, or a list such as cuda:0,cuda:1; `gpus` is the number of CUDA devices.
    Raises InputError for anything else, and for a device that this machine does not have.
    """
    if requested == "cpu" or (requested == "auto" and gpus == 0):
        return ["cpu"] * workers
    if requested in ("auto", "cuda"):
        names = [f"cuda:{i}" for i in range(gpus)]
    else:
        names = requested.split(",")
        if not all(n.startswith("cuda:") and n[5:].isascii() and n[5:].isdigit() for n in names):
            raise InputError(f"--device {requested}: choose auto, cpu, cuda, or a list such as cuda:0,cuda:1")
    if missing := [n for n in names if int(n[5:]) >= gpus] or ([] if names else [requested]):
        present = ", ".join(f"cuda:{i}" for i in range(gpus)) or "no CUDA device, only the cpu"
        raise InputError(f"--device {requested}: {missing[0]} not found; this machine has {present}")
    return [names[i % len(names)] for i in range(workers)]
