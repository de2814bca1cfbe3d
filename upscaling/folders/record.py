"""The record of finished results, `.upscale-finished.jsonl` in the folder of the results.

One line a source with its own CRC-32, appended and fsynced, never changed. So a line costs one write however many
results there are, two runs can append at the same time, and a line torn by a power cut is detected and costs no more
than doing that one file again. Sources that can give no result are recorded too, so that they are told once.
"""

import os
from pathlib import Path

import av

from upscaling.common.errors import InputError
from upscaling.common.files import append_synced, checked_line, parse_checked_line
from upscaling.folders.sources import Item

RECORD_NAME = ".upscale-finished.jsonl"


class Finished:
    """The record, a file that is only appended to."""

    def __init__(self, path: Path):
        self.path = path
        self._by_name: dict[str, dict] = {}
        try:
            lines = path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        for line in lines:
            record = _parse(line)
            if record is not None:
                self._by_name[record["source"]] = record

    def outputs(self) -> dict[str, str]:
        """{source: its result's relative name} of every recorded result."""
        return {name: record["output"] for name, record in self._by_name.items() if record["output"]}

    def has(self, item: Item, key: str) -> bool:
        """Whether the source was done with the same key and its result still exists."""
        record = self._by_name.get(item.name)
        return record is not None and record["key"] == key and bool(record["output"]) and item.output.is_file()

    def unsuitable(self, item: Item, key: str) -> bool:
        """Whether the source was found to give no result with the same key, by the same version of PyAV's FFmpeg."""
        record = self._by_name.get(item.name)
        return record is not None and record["key"] == key and record.get("unsuitable") == av.__version__

    def add(self, item: Item, key: str) -> None:
        """Record a result; it is on the disk when this returns."""
        self._append({"source": item.name, "output": self._relative(item), "key": key})

    def add_unsuitable(self, item: Item, key: str) -> None:
        """Record that the source gives no result; a later version of FFmpeg may read it."""
        self._append({"source": item.name, "output": "", "key": key, "unsuitable": av.__version__})

    def _relative(self, item: Item) -> str:
        return os.path.relpath(item.output, self.path.absolute().parent)

    def _append(self, record: dict) -> None:
        self._by_name[record["source"]] = record
        append_synced(self.path, "\n" + checked_line(record))  # a line break first: the last line may be torn


def _parse(line: bytes) -> dict | None:
    """A record, whose values are all text; None if the line is torn or holds anything else."""
    record = parse_checked_line(line)
    if isinstance(record, dict) and all(isinstance(record.get(name), str) for name in ("source", "output", "key")):
        return record
    return None
