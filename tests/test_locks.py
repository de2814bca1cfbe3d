"""Locks between processes: one owner at a time, told with its pid, released when it ends."""

import os

import pytest

from upscaling.common.errors import BusyError
from upscaling.common.locks import claim_name, lock_file


def test_a_file_is_claimed_once_under_all_its_names(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "out.mp4").symlink_to("real/out.mp4")
    claim = claim_name(tmp_path / "real" / "out.mp4")
    for name in ("real/out.mp4", "link/out.mp4", "out.mp4", "real/../link/out.mp4"):
        with pytest.raises(BusyError, match=f"pid {os.getpid()}\\)"):
            claim_name(tmp_path / name)
    os.close(claim_name(tmp_path / "real" / "other.mp4"))
    os.close(claim)
    os.close(claim_name(tmp_path / "out.mp4"))
    assert os.listdir(tmp_path / "real") == []


def test_a_lock_file_has_one_owner_and_its_pid(tmp_path):
    lock = lock_file(tmp_path / "lock")
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    with pytest.raises(BusyError, match=f"pid {os.getpid()}\\)"):
        lock_file(tmp_path / "lock")
    os.close(lock)
    os.close(lock_file(tmp_path / "lock"))


def test_a_lock_file_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic link"):
        lock_file(tmp_path / "lock")
    assert not (tmp_path / "precious").exists()
