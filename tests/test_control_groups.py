"""Limits of control groups, on made-up trees of both versions and on a real group if this machine permits one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs import ROOT

from upscaling.common import control_groups
from upscaling.common.system import available_memory, core_limit, core_share, usable_cores
from upscaling.frames.conversion import FrameConversion
from upscaling.frames.layout import FrameLayout
from upscaling.job.options import Options
from upscaling.pipeline.plan import window_frames

GIB = 1 << 30
V2 = "30 23 0:26 {root} {mount} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "35 31 0:32 {root} {mount}/{name} rw,relatime - cgroup cgroup rw,{name}\n"


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Make /proc/self say `cgroup` and `mountinfo`, and write the files of groups, by path below the mount."""

    def make(cgroup: str, mountinfo: str, files: dict[str, str], **fields: str) -> Path:
        proc, mount = tmp_path / "proc", tmp_path / "cg roup"
        proc.mkdir()
        fields = {"root": "/", "mount": str(mount).replace(" ", r"\040")} | fields
        others = "23 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        (proc / "cgroup").write_text(cgroup)
        (proc / "mountinfo").write_text(others + mountinfo.format(**fields))
        for name, text in files.items():
            path = mount / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        monkeypatch.setattr(control_groups, "PROC", proc)
        return mount

    return make


@pytest.mark.parametrize(
    ("files", "quota", "cores"),
    [
        ({"a/b/cpu.max": "150000 100000"}, 1.5, 2),
        ({"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3.0, 3),  # a parent's
        ({"a/b/cpu.max": "400000 100000", "a/cpu.max": "25000 50000"}, 0.5, 1),  # the tightest
        ({"cpu.max": "200000 100000"}, 2.0, 2),  # a container with the root of its own: the mount itself
        ({"a/b/cpu.max": "max 100000"}, None, None),
        ({}, None, None),
    ],
)
def test_the_cpu_quota_of_version_2(groups, monkeypatch, files, quota, cores):
    groups("0::/a/b\n", V2, files)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    assert control_groups.cpu_quota() == quota
    assert (usable_cores(), core_limit(), core_share(2)) == (cores or 16, cores or 0, max(1, (cores or 16) // 2))


def test_affinity_and_slurm_bound_a_wider_quota(groups, monkeypatch):
    groups("0::/a\n", V2, {"a/cpu.max": "800000 100000"})
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)))
    assert (usable_cores(), core_limit()) == (4, 0)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert (usable_cores(), core_limit()) == (3, 3)


@pytest.mark.parametrize(
    ("root", "folder"),
    [("/", "cpu/docker/abc"), ("/docker/abc", "cpu"), ("/another", "cpu"), ("/", "cpu/docker")],
    ids=["host", "container", "outside the mount", "parent"],
)
def test_version_1(groups, root, folder):
    """Docker before version 2: a mount for each controller, whose root is the container's group."""
    mounts = V1.replace("{name}", "cpu") + V1.replace("{name}", "memory")
    memory = folder.replace("cpu", "memory")
    files = {
        f"{folder}/cpu.cfs_quota_us": "250000",
        f"{folder}/cpu.cfs_period_us": "100000",
        f"{memory}/memory.limit_in_bytes": str(4 * GIB),
        f"{memory}/memory.usage_in_bytes": str(3 * GIB),
        f"{memory}/memory.stat": f"inactive_file 5\ntotal_inactive_file {GIB}",
        f"{memory}/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 7",
    }
    groups("5:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n0::/\n", mounts, files, root=root)
    assert control_groups.cpu_quota() == 2.5
    assert (control_groups.memory_limit(), control_groups.memory_left()) == (4 * GIB, 2 * GIB)
    assert control_groups.oom_kills() == 7


def test_no_limits_of_version_1(groups):
    files = {
        "cpu/cpu.cfs_quota_us": "-1",
        "cpu/cpu.cfs_period_us": "100000",
        "memory/memory.limit_in_bytes": "9223372036854771712",
        "memory/memory.usage_in_bytes": "123",
    }
    mounts = V1.replace("{name}", "cpu") + V1.replace("{name}", "memory")
    groups("4:memory:/\n1:cpu:/\n", mounts, files)
    assert (control_groups.cpu_quota(), control_groups.memory_limit(), control_groups.memory_left()) == (None,) * 3


def test_the_tightest_memory_limit_of_version_2(groups):
    files = {
        "a/b/memory.max": "max",
        "a/b/memory.current": str(GIB),
        "a/b/memory.events": "oom 0\noom_kill 2",
        "a/memory.max": str(8 * GIB),
        "a/memory.current": str(6 * GIB),
        "a/memory.stat": f"anon 1\ninactive_file {GIB}\nactive_file 3",
        "a/memory.events": "oom 0\noom_kill 9",
        "memory.max": str(16 * GIB),
        "memory.current": str(20 * GIB),  # over it for a moment
    }
    groups("0::/a/b\n", V2, files)
    assert (control_groups.memory_limit(), control_groups.memory_left()) == (8 * GIB, 0)
    assert control_groups.oom_kills() == 2, "parents count the kills of others"


def test_without_control_groups(groups):
    groups("", "", {})
    assert (control_groups.cpu_quota(), control_groups.memory_left(), control_groups.oom_kills()) == (None, None, 0)


def test_memory_that_is_left_bounds_the_window(groups, tmp_path):
    groups("0::/\n", V2, {"memory.max": str(64 << 20), "memory.current": str(24 << 20)})
    assert available_memory() == 40 << 20
    stored = FrameConversion(FrameLayout(1280, 720, "yuv420p"), FrameLayout(2560, 1440, "yuv420p"))
    one = 1280 * 720 * 5 * 3 // 2  # bytes, in and out
    assert window_frames(Options(tmp_path / "a.mp4", tmp_path / "b.mp4", 2), stored, tmp_path)[1] == (20 << 20) // one


# A real group

SHOW = (
    "from upscaling.common import control_groups as c, system as s;"
    "print(c.cpu_quota(), s.usable_cores(), s.core_limit(), c.memory_limit(), c.memory_left() <= 3 << 29)"
)


@pytest.fixture
def real_group():
    """A child of this process's groups, with a quota of one CPU and 1.5 GiB on its parent; its `cgroup.procs` files."""
    trees = {name: list(control_groups._groups(name))[:1] for name in ("cpu", "memory")}
    made, tasks = [], []
    try:
        for name, (own,) in trees.items():
            parent, child = own / f"upscale-test-{name}", own / f"upscale-test-{name}" / "child"
            for folder in (parent, child):
                if not folder.is_dir():
                    folder.mkdir()
                    made.append(folder)
            if name == "cpu":
                limits = {"cpu.cfs_quota_us": "100000", "cpu.max": "100000 100000"}
            else:
                limits = {"memory.limit_in_bytes": str(3 << 29), "memory.max": str(3 << 29)}
            there = [(parent / file, text) for file, text in limits.items() if (parent / file).exists()]
            if not there:
                pytest.skip(f"no {name} controller in {own}")
            for file, text in there:
                file.write_text(text)
            tasks.append(child / "cgroup.procs")
        yield tasks
    except (OSError, ValueError) as error:
        pytest.skip(f"no control group can be made here ({error})")
    finally:
        for folder in reversed(made):
            folder.rmdir()


def test_in_a_real_group(real_group):
    """The quota and the limit of the parent hold, as the kernel enforces them."""

    def enter():
        for tasks in real_group:
            tasks.write_text("0")

    done = subprocess.run(
        [sys.executable, "-c", SHOW], preexec_fn=enter, cwd=ROOT, capture_output=True, text=True, check=False
    )
    limit = "0" if len(os.sched_getaffinity(0)) == 1 else "1"
    assert done.stdout == f"1.0 1 {limit} {3 << 29} True\n", done.stderr
