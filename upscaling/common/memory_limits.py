"""Too little memory: which errors mean it, how close this process is to a limit."""

import errno
import re
import resource
from collections.abc import Iterator
from pathlib import Path

from upscaling.common import control_groups
from upscaling.common.errors import InputError, UpscaleError

MIB = 1 << 20
MIN_ADDRESS_SPACE = 384 * MIB  # for the main process with FFmpeg's libraries
MIN_CGROUP = 96 * MIB  # for the same in real memory
SHORT = 256 * MIB  # of a limit left: libraries fail with less, and say anything (FFmpeg: "invalid data")
# Of CPython, of the dynamic linker (dl-load.c), and of PyTorch's allocator (c10/core/CPUAllocator.cpp).
MESSAGES = ("can't start new thread", "failed to map segment", "annot allocate memory", "can't allocate memory")


class OutOfMemory(UpscaleError):
    """There is too little memory; with more of it the same command resumes."""


def check_limits() -> None:
    """Raise OutOfMemory if the limits are too low to start: below them libraries crash."""
    space, group = resource.getrlimit(resource.RLIMIT_AS)[0], control_groups.memory_limit()
    if space not in (resource.RLIM_INFINITY, -1) and space < MIN_ADDRESS_SPACE:
        raise OutOfMemory(
            _too_little(f"virtual memory is limited to {space // MIB} MiB (ulimit -v)", MIN_ADDRESS_SPACE)
        )
    if group is not None and group < MIN_CGROUP:
        raise OutOfMemory(_too_little(f"the control group allows {group // MIB} MiB", MIN_CGROUP))


def _too_little(limit: str, needed: int) -> str:
    return f"too little memory to start: {limit}, and at least {needed // MIB} MiB are needed; raise the limit"


def check_memory(error: BaseException) -> None:
    """Raise OutOfMemory if a library's error is due to a lack of memory; for callers that go on after errors."""
    if (found := memory_error(error)) is not None:
        raise found from error


def memory_error(error: BaseException) -> OutOfMemory | None:
    """The error to report if this one, or one of its causes, is due to a lack of memory; None otherwise.

    A library that fails for lack of memory may say that its input is invalid. So an error of a library counts if
    this process has nearly reached a limit. MemoryError alone does not count for FFmpeg's: it refuses sizes in damaged
    files that way.
    """
    if isinstance(error, UpscaleError) and not isinstance(error, OutOfMemory | InputError):
        return None  # it says already what happened
    for link in _chain(error):
        if isinstance(link, OutOfMemory):
            return link
        short = shortage()
        if (short and _of_library(link)) or _means_memory(link):
            text = " ".join(str(link).split())[:300]
            found = OutOfMemory(f"too little memory{short and f': {short}'} ({type(link).__name__}: {text})")
            for note in getattr(error, "__notes__", ()):
                found.add_note(note)
            return found
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _of_ffmpeg(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] == "av"


def _of_library(error: BaseException) -> bool:
    return _of_ffmpeg(error) or isinstance(error, MemoryError | RuntimeError | ImportError | SystemError)


def _means_memory(error: BaseException) -> bool:
    if _of_ffmpeg(error):
        return False
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError | ImportError) and any(words in str(error) for words in MESSAGES)


def shortage() -> str:
    """The limit that this process has nearly reached, in words; empty if there is none."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    for name, number, field in (("-v", resource.RLIMIT_AS, "VmPeak"), ("-d", resource.RLIMIT_DATA, "VmData")):
        limit = resource.getrlimit(number)[0]
        used = re.search(rf"^{field}:\s*([0-9]+) kB", status, re.MULTILINE)
        if limit not in (resource.RLIM_INFINITY, -1) and used and limit - int(used[1]) * 1024 < SHORT:
            return f"the limit is {limit // MIB} MiB (ulimit {name})"
    return ""
