"""What is known of the machine's cores and memory."""

import os
import resource

import pytest
from runs import ROOT, Run

from upscaling.common import memory_limits
from upscaling.common.errors import InputError
from upscaling.common.system import (
    available_memory,
    core_limit,
    core_share,
    exit_seconds,
    usable_cores,
)


def test_core_share():
    cores = usable_cores()
    assert core_share(1) == cores and core_share(cores) == 1 and core_share(10 * cores) == 1


def test_a_slurm_task_takes_the_cores_it_is_given(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr("upscaling.common.control_groups.quota_cores", lambda: None)
    for given, share, limit in (("4", 2, 4), ("16", 8, 0), ("64", 8, 0), ("", 8, 0), ("x", 8, 0)):
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", given)
        assert (core_share(2), core_limit()) == (share, limit), given


def test_a_slurm_task_has_more_time_to_end(monkeypatch):
    for given, seconds in (("45", 45.0), ("1", 9.5), ("", 9.5), ("soon", 9.5)):
        monkeypatch.setenv("UPSCALE_EXIT_SECONDS", given)
        assert exit_seconds() == seconds, given


def test_available_memory_is_part_of_the_machines():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < available_memory() <= total


def run_with_memory(tmp_path, megabytes: int, *arguments: str) -> Run:
    limit = megabytes << 20
    return Run(tmp_path, ROOT / "elk.mp4", tmp_path / "out.mp4", "2", "--workers", "1", *arguments,
               preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))  # fmt: skip


@pytest.mark.parametrize("megabytes", [120, 300])
def test_too_little_memory_to_start_is_said_as_that(tmp_path, megabytes):
    """FFmpeg would say that the input is damaged, or crash."""
    line = run_with_memory(tmp_path, megabytes, "--model", "lanczos").fail(1)
    assert "too little memory" in line and "ulimit -v" in line


def test_too_little_memory_for_pytorch_is_said_as_that(tmp_path):
    line = run_with_memory(tmp_path, 800).fail(1)
    assert "could not start" in line and "too little memory: the limit is 800 MiB (ulimit -v)" in line


class InvalidData(ValueError):
    __module__ = "av.error"  # a stand-in for FFmpeg's


@pytest.mark.parametrize(
    ("error", "short", "expected"),
    [
        (MemoryError(), "", True),
        (OSError(12, "Cannot allocate memory"), "", True),
        (RuntimeError("can't start new thread"), "", True),
        (ImportError("libx.so: failed to map segment from shared object"), "", True),
        (InvalidData("Invalid data found"), "", False),  # the file is damaged
        (InvalidData("Invalid data found"), "the limit is 300 MiB", True),
        (FileNotFoundError(2, "No such file"), "the limit is 300 MiB", False),
        (InputError("no such option"), "the limit is 300 MiB", False),
    ],
)
def test_errors_that_mean_too_little_memory(monkeypatch, error, short, expected):
    monkeypatch.setattr(memory_limits, "shortage", lambda: short)
    wrapped = InputError("in.mp4 is damaged")
    wrapped.__cause__ = error
    for one in (error, wrapped):
        found = memory_limits.memory_error(one)
        assert (found is not None) == expected
        assert found is None or (found.exit_status == 1 and short in str(found))
