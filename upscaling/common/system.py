"""The machine: CPU cores, free memory, glibc's allocator, and scheduling. Never imports torch."""

import contextlib
import ctypes
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

from upscaling.common import control_groups

# mallopt(3)
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
MMAP_THRESHOLDS = (1 << 30, 32 << 20)  # bytes; older glibc refuses more than the second (HEAP_MAX_SIZE / 2)

# OpenMP's threads (of torch and ncnn) busy-wait for each other by default. If other processes use the cores, they
# spin while the thread that they wait for does not run: three workers of two threads on two cores take three times
# as long as with this. Alone it makes no difference that can be measured.
THREADS_SLEEP = {"OMP_WAIT_POLICY": "PASSIVE"}  # an environment variable, for before OpenMP is loaded

EXIT_SECONDS = 9.5  # after a signal, for everything


# Cores


def usable_cores() -> int:
    """The CPU cores that this process may use: bounded by its affinity, a container's CPU quota, and Slurm.

    SLURM_CPUS_PER_TASK counts because a Slurm without a task plugin binds no task to its cores.
    """
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    slurm = int(given) if given.isascii() and given.isdigit() else 0
    limits = [len(os.sched_getaffinity(0)), slurm or None, control_groups.quota_cores()]
    return max(1, min(limit for limit in limits if limit is not None))


def core_share(workers: int) -> int:
    """CPU threads for each of `workers` workers: max(1, usable cores // workers)."""
    return max(1, usable_cores() // workers)


def core_limit() -> int:
    """The threads that a library which knows of the affinity alone must be held to; 0 if it need not be."""
    cores = usable_cores()
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
    """Bytes that can be allocated without swapping, in the machine and in the control group; None if unknown.

    The machine's are MemAvailable of proc_meminfo(5).
    """
    limits = [control_groups.memory_left()]
    with contextlib.suppress(OSError):
        match = re.search(r"^MemAvailable:\s*([0-9]+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        limits.append(int(match[1]) * 1024 if match else None)
    return min((limit for limit in limits if limit is not None), default=None)


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
    before = _schedulings()
    own = before[threading.get_native_id()]
    try:
        yield
    finally:
        for thread, found in _schedulings().items():
            policy, priority = before.get(thread, own)
            if found != (policy, priority):
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.sched_setscheduler(thread, policy, os.sched_param(priority))


def _schedulings() -> dict[int, tuple[int, int]]:
    """{thread: (policy, real-time priority)} of this process; its other threads may end at any moment."""
    found = {}
    for thread in map(int, os.listdir("/proc/self/task")):
        with contextlib.suppress(ProcessLookupError):
            found[thread] = os.sched_getscheduler(thread), os.sched_getparam(thread).sched_priority
    return found
