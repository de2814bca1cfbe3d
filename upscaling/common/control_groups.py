"""Limits that control groups (cgroups(7)) set this process: CPU time and memory of containers and batch jobs.

A group's limits hold for all groups below it, so the tightest one of this process's group and of every parent that can
be seen counts. Version 1 has a tree for each controller, version 2 one tree; a machine may have both.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc/self")
UNLIMITED = 1 << 60  # bytes: version 1 writes a huge number for "no limit"


def cpu_quota() -> float | None:
    """The CPUs that this process may use on average, such as 1.5; None without a limit."""
    quotas = []
    for folder in _groups("cpu"):
        quota, period = (_read(folder / "cpu.max").split() or ["", ""])[:2]  # version 2, "150000 100000"
        if not quota:
            quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(quota) and int(period):  # "max" and -1: no limit
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def quota_cores() -> int | None:
    """The threads that use up `cpu_quota`: rounded up, as a fraction of a CPU is worth a thread; None without one."""
    quota = cpu_quota()
    return None if quota is None else math.ceil(quota)


def memory_limit() -> int | None:
    """Bytes that the control group may use; None without a limit."""
    return min((limit for limit, _ in _memory()), default=None)


def memory_left() -> int | None:
    """Bytes that the control group may still allocate; None without a limit.

    Pages of files that were not used lately do not count as used: the kernel drops them first.
    """
    return min((max(0, limit - used) for limit, used in _memory()), default=None)


def oom_kills() -> int:
    """How many processes of the control group the kernel has killed because memory ran out."""
    for folder in _groups("memory"):  # the innermost that says it: parents count the kills of others
        for name in ("memory.events", "memory.oom_control"):
            if match := re.search(r"^oom_kill ([0-9]+)", _read(folder / name), re.M):
                return int(match[1])
    return 0


def _memory() -> Iterator[tuple[int, int]]:
    """(limit, used), in bytes, of each group that has a limit."""
    for folder in _groups("memory"):
        for limit_file, used_file, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, used = _read(folder / limit_file), _read(folder / used_file)
            if limit.isdecimal() and used.isdecimal() and int(limit) < UNLIMITED:
                match = re.search(rf"^{cached} ([0-9]+)", _read(folder / "memory.stat"), re.M)
                yield int(limit), int(used) - (int(match[1]) if match else 0)


def _groups(controller: str) -> Iterator[Path]:
    """The directories of this process's group and of its parents, in each tree that may have the controller.

    A container may see a part of the tree only: its mount's root is a group, which /proc/self/mountinfo names
    (proc_pid_mountinfo(5)). A group outside the mount is shown as the mount itself.
    """
    own = {}  # path of this process's group by controller; "" is version 2
    for line in _read(PROC / "cgroup").splitlines():
        _, names, path = line.split(":", 2)
        own |= dict.fromkeys(names.split(","), path)
    for line in _read(PROC / "mountinfo").splitlines():
        fields, _, kind = line.partition(" - ")
        root, mount = [re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), word) for word in fields.split()[3:5]]
        version, *_, options = kind.split()
        name = "" if version == "cgroup2" else controller
        if version not in ("cgroup", "cgroup2") or name not in own:
            continue
        if version == "cgroup" and controller not in options.split(","):
            continue
        path, top = Path(own[name]), Path(mount)
        inside = path.is_relative_to(root) and ".." not in path.parts
        folder = top / path.relative_to(root) if inside else top
        yield from (group for group in (folder, *folder.parents) if group.is_relative_to(top))


def _read(path: Path) -> str:
    """A file's text without white space around it; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
