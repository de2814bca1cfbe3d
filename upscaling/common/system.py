"""What this machine has: CUDA devices, cores, memory; and the C library's allocator. Without importing torch."""

import ctypes
import importlib.metadata
import importlib.util
import os
import re
from pathlib import Path

from upscaling.common.errors import InputError


def torch_cuda_version() -> str | None:
    """The CUDA version that torch was built with, from its version.py as text: importing torch takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    text = Path(spec.submodule_search_locations[0], "version.py").read_text(encoding="utf-8")
    match = re.search(r"^cuda\b[^=]*=\s*['\"]([0-9.]+)['\"]", text, re.MULTILINE)
    return match[1] if match else None


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
LARGEST = 1 << 30, 32 << 20  # bytes; older glibc takes no threshold above the second (HEAP_MAX_SIZE / 2)


def retain_freed_memory() -> None:
    """Lets glibc keep freed memory instead of returning it to the kernel at each free.

    By default each layer's output and each frame is mapped and unmapped anew and its pages are faulted in
    again: a sixth of the network's time for one 320x180 frame, a third for a batch of 8. Without glibc
    nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    any(mallopt(M_MMAP_THRESHOLD, size) for size in LARGEST)  # the first that it takes
    mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


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


def _meminfo_available() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:  # not Linux
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def _cgroup_available() -> int | None:
    """What the control group (a container, a batch job) may still take; version 2 only."""
    group = Path("/sys/fs/cgroup")
    try:
        name = Path("/proc/self/cgroup").read_text().strip().split("::", 1)[1].lstrip("/")
        group = next(g for g in (group / name, group) if (g / "memory.max").is_file())
        return int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def available_memory() -> int:
    """Bytes of memory that new work may take without swapping (MemAvailable of proc(5))."""
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return 1 << 62
