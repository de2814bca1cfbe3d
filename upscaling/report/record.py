"""What is known of a run and of its files, for the page."""

import logging
import time
from dataclasses import dataclass, field

from upscaling.report.pictures import Pictures
from upscaling.report.speed import Share, Speed

RUNNING, DONE, FAILED, INTERRUPTED = "running", "done", "failed", "interrupted"
LARGE_FILES = 24  # the newest, whose pictures are large
MOST_LINES = 200  # of messages, and of warnings, that are kept for a file and for the run


@dataclass
class Lines:
    """Lines with the times at which they were said, in seconds since the epoch; later ones are only counted."""

    lines: list[tuple[float, str]] = field(default_factory=list)
    left_out: int = 0

    def add(self, line: str) -> None:
        if len(self.lines) < MOST_LINES:
            self.lines.append((time.time(), str(line)))
        else:
            self.left_out += 1


@dataclass
class Messages:
    """What was said of a file or of a run."""

    notes: Lines = field(default_factory=Lines)
    warnings: Lines = field(default_factory=Lines)

    def add(self, level: int, line: str) -> None:
        (self.warnings if level >= logging.WARNING else self.notes).add(line)


@dataclass
class FileRecord:
    """One file. Texts are printable, but not escaped."""

    source: str  # path
    output: str  # path
    status: str = RUNNING  # or one of terminal.lines.FILE_COUNTS, or INTERRUPTED
    message: str = ""  # the line of a failure, or why nothing was done
    started: float = field(default_factory=time.time)  # seconds since the epoch
    facts: dict = field(default_factory=dict)  # of Progress.start; empty if no job began
    details: list[tuple[str, str]] = field(default_factory=list)  # what the input is, what the output is, and the like
    streams: list[str] = field(default_factory=list)  # what becomes of each stream of the input
    messages: Messages = field(default_factory=Messages)
    speed: Speed = field(default_factory=Speed)
    shares: list[Share] = field(default_factory=list)  # of the workers
    frames: int = 0  # of the result so far, resumed ones included
    total: int | None = None  # an estimate while it runs
    resumed: int = 0
    repeated: int = 0
    restarts: int = 0
    seconds: float = 0.0
    rate: float = 0.0  # frames/s of this run
    input_bytes: int | None = None
    output_bytes: int | None = None
    pictures: Pictures | None = None
    no_pictures: str = ""  # why there are none

    @property
    def has_job(self) -> bool:
        """Whether frames were upscaled, or were about to be."""
        return bool(self.facts)


@dataclass
class RunRecord:
    """A run: one file, or many."""

    name: str  # of the input, for the title
    source: str = ""  # path
    output: str = ""  # path
    is_folder: bool = False
    due: int = 0  # files of a run over many that are to be done
    status: str = RUNNING
    message: str = ""  # the line of a failure or a signal
    started: float = field(default_factory=time.time)  # seconds since the epoch
    written: float = 0.0  # when the page was written, likewise
    ended: bool = False
    seconds: float = 0.0
    log_file: str = ""  # path; empty without --log-file
    files: list[FileRecord] = field(default_factory=list)  # those that were due, in order
    passed_over: dict[str, list[str]] = field(default_factory=dict)  # why: names of files
    messages: Messages = field(default_factory=Messages)  # of no file in particular

    def count(self, *statuses: str) -> int:
        """How many files have one of these statuses."""
        return sum(file.status in statuses for file in self.files)
