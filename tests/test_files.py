"""Files: atomic replacement, lines with a checksum, the identity of an input."""

import os

import pytest

from upscaling.common.files import append_synced, checked_line, file_identity, parse_checked_line, replacing
from upscaling.job.identity import differences


def test_a_file_is_replaced_at_the_end_of_the_block(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path, sync=True) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["file"]


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_a_link_under_the_temporary_name_is_not_followed(tmp_path):
    temporary, precious = tmp_path / "file.tmp", tmp_path / "precious"
    precious.write_text("keep")
    temporary.symlink_to(precious)
    with replacing(tmp_path / "file", temporary=temporary) as file:
        file.write(b"new")
    assert precious.read_text() == "keep" and sorted(os.listdir(tmp_path)) == ["file", "precious"]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "file"
    with replacing(path) as first, replacing(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_text() == "first" and os.listdir(tmp_path) == ["file"]  # the one that was renamed last


def test_a_checked_line_gives_its_value_back_and_nothing_else(tmp_path):
    path = tmp_path / "lines"
    for value in ({"a": [1, "\t\n"]}, "é"):
        append_synced(path, checked_line(value))
    first, second, rest = path.read_bytes().split(b"\n")
    assert parse_checked_line(first) == {"a": [1, "\t\n"]} and parse_checked_line(second) == "é" and rest == b""
    for at in range(len(first)):
        assert parse_checked_line(first[:at]) is None
        assert parse_checked_line(first[:at] + bytes([first[at] ^ 1]) + first[at + 1 :]) is None


def test_identity_of_an_input(tmp_path):
    path = tmp_path / "in.mp4"
    path.write_bytes(b"a" * 3_000_000)
    first = file_identity(path)
    with path.open("r+b") as file:
        file.seek(2_999_999)
        file.write(b"b")
    second = file_identity(path)
    assert first["size"] == second["size"] == 3_000_000
    assert "sha256_of_ends" in differences(first, second)
