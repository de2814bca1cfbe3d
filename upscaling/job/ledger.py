"""The ledger of a job: one line per closed segment, appended and never changed.

Each line has a CRC-32 (files.checked_line). A torn or damaged line ends the ledger: its segment and those after it
are encoded again.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from upscaling.common.errors import UpscaleError
from upscaling.common.files import checked_line, file_sha256, parse_checked_line


@dataclass(frozen=True)
class SegmentRecord:
    """A closed segment: frames `first` to `first + len(pts) - 1` (1-based), pts in ticks of the time base."""

    segment: int
    file: str
    first: int
    pts: tuple[int, ...]
    size: int  # bytes
    sha256: str
    encoder: str = ""  # SegmentWriter.encoder; empty if unknown

    def is_intact(self, path: Path) -> bool:
        """Whether `path` is the file that was entered, with all its bytes."""
        try:
            return not path.is_symlink() and path.stat().st_size == self.size and file_sha256(path) == self.sha256
        except OSError:
            return False


def read_ledger(path: Path) -> list[SegmentRecord]:
    """The records from the start of a ledger up to the first line that is torn, damaged or out of order."""
    records: list[SegmentRecord] = []
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return records
    except OSError as error:
        raise UpscaleError(f"cannot read {path}: {error.strerror}") from error
    for line in data.split(b"\n")[:-1]:  # anything after the last line break is torn
        record = _parse_line(line)
        if record is None or not _follows(record, records):
            break
        records.append(record)
    return records


def frames_in(records: Sequence[SegmentRecord]) -> int:
    """Frames in closed segments."""
    return records[-1].first + len(records[-1].pts) - 1 if records else 0


def ledger_line(record: SegmentRecord) -> str:
    """A record as a line of the ledger."""
    return checked_line(asdict(record))


def _parse_line(line: bytes) -> SegmentRecord | None:
    """The record in a line; None if the line is damaged or holds anything else."""
    value = parse_checked_line(line)
    if not isinstance(value, dict):
        return None
    try:
        record = SegmentRecord(**{**value, "pts": tuple(value["pts"])})
        integers = [record.segment, record.first, record.size, *record.pts]
        increasing = all(a < b for a, b in pairwise(record.pts))
        named = re.fullmatch(r"segment_[0-9]{6,}\.mkv", record.file)
    except (TypeError, KeyError):
        return None
    return record if record.pts and increasing and named and all(type(n) is int for n in integers) else None


def _follows(record: SegmentRecord, records: list[SegmentRecord]) -> bool:
    """Whether a record is the next one after `records`."""
    if not records:
        return record.segment == 0 and record.first == 1
    last = records[-1]
    in_order = record.segment == len(records) and record.first == last.first + len(last.pts)
    return in_order and record.pts[0] > last.pts[-1]
