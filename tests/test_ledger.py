"""The ledger: what a torn, damaged or foreign line costs."""

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upscaling.job.ledger import SegmentRecord, ledger_line, read_ledger


@pytest.fixture
def records():
    return [
        SegmentRecord(0, "segment_000000.mkv", 1, (0, 10, 20), 9, "a" * 64),
        SegmentRecord(1, "segment_000001.mkv", 4, (30, 40), 8, "b" * 64),
        SegmentRecord(2, "segment_000002.mkv", 6, (50, 60, 70, 80), 7, "c" * 64),
    ]


@pytest.fixture
def path(tmp_path, records):
    path = tmp_path / "ledger.jsonl"
    path.write_text("".join(map(ledger_line, records)))
    return path


def test_a_torn_line_loses_one_segment_at_most(path, records):
    whole = path.read_bytes()
    starts = [0] + [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        complete = sum(start <= cut for start in starts[1:])
        assert read_ledger(path) == records[:complete]


def test_a_changed_byte_ends_the_ledger(path, records):
    whole = path.read_bytes()
    second = whole.index(b"\n") + 1
    for at in range(second, whole.index(b"\n", second)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert read_ledger(path) == records[:1]
    path.write_bytes(whole[second:])
    assert read_ledger(path) == []


@given(st.binary(max_size=300))
def test_random_bytes_never_raise(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    path.write_bytes(data)
    assert read_ledger(path) == []


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(
    st.sampled_from(["segment", "file", "first", "pts", "size", "sha256"]), s)))  # fmt: skip
def test_nonsense_with_a_right_checksum_never_raises(tmp_path_factory, value):
    text = json.dumps(value)
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    path.write_text(f"{text}\t{zlib.crc32(text.encode()):08x}\n")
    assert read_ledger(path) == []
