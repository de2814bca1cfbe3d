"""The machine: CUDA devices, CPU cores, memory limits, and glibc's allocator. Never imports torch."""

import contextlib
import ctypes
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path

from upscaling.common.errors import InputError

# mallopt(3)
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
MMAP_THRESHOLDS = (1 << 30, 32 << 20)  # bytes; older glibc refuses more than the second (HEAP_MAX_SIZE / 2)

EXIT_SECONDS = 9.5  # after a signal, for everything


# Devices


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


def core_share(workers: int) -> int:
    """CPU threads for each of `workers` workers: max(1, cores // workers), of the cores this process may use."""
    return max(1, (core_limit() or len(os.sched_getaffinity(0))) // workers)


def core_limit() -> int:
    """The cores that Slurm gives this task (SLURM_CPUS_PER_TASK) if it may run on more than those, else 0.

    A Slurm without a task plugin binds no task to its cores.
    """
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    cores = int(given) if given.isascii() and given.isdigit() else 0
    return cores if cores < len(os.sched_getaffinity(0)) else 0


def cpu_has_bf16() -> bool:
    """Whether the CPU has bf16 instructions (proc_cpuinfo(5)); without them torch emulates bf16, slower than fp32."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            words = next((line.split() for line in file if line.startswith(("flags", "Features"))), [])
    except OSError:
        return False
    return any(flag in words for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def exit_seconds() -> float:
    """Seconds until a run has ended after a signal: UPSCALE_EXIT_SECONDS, which a Slurm task's script sets, or 9.5."""
    try:
        return max(EXIT_SECONDS, float(os.environ.get("UPSCALE_EXIT_SECONDS", "")))
    except ValueError:
        return EXIT_SECONDS


# Memory


def available_memory() -> int | None:
    """Bytes that can be allocated without swapping (MemAvailable of proc_meminfo(5)); None if unknown."""
    try:
        match = re.search(r"^MemAvailable:\s*([0-9]+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None


def retain_freed_memory() -> None:
    """Make glibc keep freed memory instead of returning it to the kernel at each free.

    By default each layer's output and each frame is mapped, page-faulted and unmapped anew, which takes a sixth of
    the network's time for one 320x180 frame and a third for a batch of 8. Does nothing without glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    any(mallopt(M_MMAP_THRESHOLD, size) for size in MMAP_THRESHOLDS)  # the first that glibc accepts
    mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


@contextlib.contextmanager
def scheduling_kept() -> Iterator[None]:
    """Within, no library changes how this process is scheduled; threads that it starts are scheduled as the caller.

    SVT-AV1 run by root makes the calling thread and its own threads real-time (SCHED_FIFO, priority 99): they
    starve everything else, `nice` or not, and processes started later inherit that.
    """
    before = {thread: _scheduling(thread) for thread in _threads()}
    own = _scheduling(0)  # of the calling thread
    try:
        yield
    finally:
        for thread in _threads():
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                wanted = before.get(thread, own)
                if _scheduling(thread) != wanted:
                    os.sched_setscheduler(thread, wanted[0], os.sched_param(wanted[1]))


def _threads() -> list[int]:
    return [int(name) for name in os.listdir("/proc/self/task")]


def _scheduling(thread: int) -> tuple[int, int]:
    """(policy, real-time priority) of a thread."""
    return os.sched_getscheduler(thread), os.sched_getparam(thread).sched_priority
