"""The ledger of a job: a line for each closed segment, appended, never changed.

Each line is JSON, a tab, and the CRC-32 of the JSON in hexadecimal: a torn or damaged line is recognised, and
costs its segment and those after it.
"""

import re
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from upscaling.common.errors import UpscaleError
from upscaling.common.files import checked_line, parse_checked_line


@dataclass(frozen=True)
class SegmentRecord:
    """A closed segment: frames `first` to `first + len(pts) - 1` (1-based), pts in ticks of the time base."""

    segment: int
    file: str
    first: int
    pts: tuple[int, ...]
    size: int  # bytes
    sha256: str


def read_ledger(path: Path) -> list[SegmentRecord]:
    """The whole records from the start of a ledger; it ends at the first line that is torn or out of order."""
    records: list[SegmentRecord] = []
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return records
    except OSError as error:
        raise UpscaleError(f"cannot read {path}: {error.strerror}") from error
    for line in data.split(b"\n")[:-1]:  # what follows the last line break is torn
        record = _parse_line(line)
        last = records[-1] if records else None
        if (
            record is None
            or record.segment != len(records)
            or record.first != (last.first + len(last.pts) if last else 1)
            or (last and record.pts[0] <= last.pts[-1])
        ):
            break
        records.append(record)
    return records


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
