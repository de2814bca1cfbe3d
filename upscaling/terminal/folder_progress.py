"""Where a run over many files is: files and work done, and the time left."""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from upscaling.common.text import clock

if TYPE_CHECKING:
    from upscaling.pipeline.stages import RunCounts


@dataclass
class FolderProgress:
    """The progress of a run over files that are due; `works` are their shares of the work, in any unit."""

    name: str
    works: list[float]
    begun: int = 0  # files, the current one included
    done_work: float = 0.0  # of the files before the current one
    started: float = field(default_factory=time.monotonic)

    @property
    def files(self) -> int:
        return len(self.works)

    def begin(self) -> None:
        """The next file begins; the ones before it have ended."""
        self.done_work = sum(self.works[: self.begun])
        self.begun += 1

    def done(self, counts: "RunCounts | None") -> float:
        """The share of the work that is done, from 0 to 1; `counts` are those of the current file, None before it."""
        current = self.works[self.begun - 1] if self.begun else 0.0
        part = min(1.0, counts.done / counts.total) if counts and counts.total else 0.0
        return (self.done_work + current * part) / max(sum(self.works), 1e-9)

    def seconds_left(self, counts: "RunCounts | None") -> int | None:
        """The estimated rest in whole seconds; None if nothing is done yet."""
        done = self.done(counts)
        return int((time.monotonic() - self.started) * (1 - done) / done) if done else None

    @property
    def place(self) -> str:
        """`file 3 of 12`."""
        return f"file {self.begun} of {self.files}"

    def facts(self, counts: "RunCounts | None") -> dict:
        """JSON-able."""
        percent = round(100 * self.done(counts), 1)
        return {
            "file": self.begun, "files": self.files, "folder_percent": percent,
            "folder_seconds_left": self.seconds_left(counts),
        }  # fmt: skip

    def text(self, counts: "RunCounts | None") -> str:
        """`file 3 of 12, 0:06:30 left`."""
        left = self.seconds_left(counts)
        return self.place + (f", {clock(left)} left" if left is not None else "")
