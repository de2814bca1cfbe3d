"""What a run reports: to the logger "upscaling", as plain lines, or as JSON objects (bars are in bars.py).

Plain lines go to stderr: one at the start, one now and then, one at the end. JSON objects go to stdout, one per
line; docs/USAGE.md documents them. A line that cannot be written (closed pipe, full disk) is dropped: the run goes
on without an audience.
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from upscaling.common.errors import InputError
from upscaling.common.text import LineFormatter, Loss, one_line, printable
from upscaling.terminal.lines import done_line, file_line, running_line, stage, start_line, step_line
from upscaling.terminal.watcher import Watcher

if TYPE_CHECKING:
    from upscaling.pipeline.stages import RunCounts
    from upscaling.terminal.folder_progress import FolderProgress

LOGGER = logging.getLogger("upscaling")
LOGGER.addHandler(logging.NullHandler())  # no output unless the caller of the library asks for some

PLAIN_SECONDS = 30.0  # minimum between two plain lines
PLAIN_SHARE = 0.05  # of the video, minimum between two plain lines
JSON_SECONDS = 1.0


class Progress:
    """Reports to loggers, and errors to stderr; the base of the reporters that show more. Facts are JSON-able."""

    in_terminal = False  # whether a person watches

    def __init__(self, verbosity: int = 0, loggers: Sequence[logging.Logger] = (LOGGER,)):
        self.verbosity = verbosity
        self.loggers = loggers
        self.warned: set[str] = set()
        self.folder: FolderProgress | None = None  # of a run over many files
        self.watcher = Watcher()
        self._logged = time.monotonic()

    def log(self, level: int, line: str, **more) -> None:
        for logger in self.loggers:
            logger.log(level, "%s", one_line(line), **more)

    def write(self, line: str) -> None:
        """Show one line to the user; this reporter shows none."""

    def say(self, line: str) -> None:
        """One line for the user."""
        self.log(logging.INFO, line)
        self.watcher.line(logging.INFO, line)
        self.write(line)

    def warn(self, line: str) -> None:
        """One line about something that the user should look at; the run goes on. A `Loss` is shown even with -q."""
        self.log(logging.WARNING, line)
        self.watcher.line(logging.WARNING, line)
        self.write(line)

    def alert(self, line: str) -> None:
        """A warning that must not be missed, that the result lacks something or a GPU is idle; shown even with -q."""
        self.warn(line)

    def alert_once(self, line: str) -> None:
        """An alert that is the same for every file of a folder run: only the first is shown."""
        if line not in self.warned:
            self.warned.add(line)
            self.alert(line)

    def warn_once(self, line: str) -> None:
        """A warning that is the same for every file of a folder run: only the first is shown."""
        if line not in self.warned:
            self.warned.add(line)
            self.warn(line)

    def hint(self, line: str) -> None:
        """One line for a person who watches a terminal with -q; without -q other lines say it, file by file."""

    def detail(self, line: str) -> None:
        """One line that only -v shows."""
        self.log(logging.INFO, line)
        self.watcher.line(logging.INFO, line)
        if self.verbosity > 0:
            self.write(line)

    def start(self, **facts) -> None:
        """A job begins."""
        self.log(logging.INFO, start_line(facts))
        self.watcher.start(facts)

    def show(self, counts: "RunCounts", rows) -> None:
        """Called a few times a second with the counts and the rows of the status array."""
        self.watcher.show(counts, rows)
        if time.monotonic() - self._logged >= PLAIN_SECONDS:
            self._logged = time.monotonic()
            self.log(logging.INFO, running_line(counts, rows, self.folder))

    def step(self, done: int, total: int, what: str) -> None:
        """A preview has done so many of its steps and begins another one."""
        self.log(logging.INFO, step_line(done, total, what))

    def close(self) -> None:
        """Stop drawing for this job."""

    def suspend(self, stop: Callable[[], None]) -> None:
        """Clear the screen, then call `stop`, which stops the process until it is continued (Ctrl-Z)."""
        stop()

    def resume(self) -> None:
        """The process continues after a stop."""

    def file(self, **facts) -> None:
        """A file of a folder run has ended: `status` is one of FILE_COUNTS.

        The command shows a failure even with -q: cron mails it.
        """
        self.watcher.file(facts)
        failed = facts["status"] == "failed"
        self.log(logging.ERROR if failed else logging.INFO, file_line(facts))
        if failed:
            self.write_failure(file_line(facts))

    def write_failure(self, line: str) -> None:
        """Show the failure of one file of a folder run; this reporter shows none."""

    def show_dry_run(self, lines: list[str], **facts) -> None:
        """What --dry-run found; to stdout in every mode."""
        for line in lines:
            self.log(logging.INFO, line)
            put(sys.stdout, line)

    def done(self, **facts) -> None:
        """The run has succeeded."""
        self.log(logging.INFO, done_line(facts))
        self.watcher.done(facts)

    def error(self, message: str, exit_status: int) -> None:
        """The run has failed; its one line goes to stderr in every mode."""
        self.log(logging.ERROR, f"{message} (exit status {exit_status})", exc_info=exit_status == 1)
        self.watcher.failed(message, exit_status)
        put(sys.stderr, f"upscale: error: {message}")

    def failed(self, message: str, exit_status: int) -> None:
        """A call of the library has failed and raises; nothing is printed."""
        self.log(logging.ERROR, message)
        self.watcher.failed(message, exit_status)

    def finish(self) -> None:
        """Nothing more will be reported: close the log file."""
        self.watcher.finish()
        for logger in self.loggers:
            if logger is not LOGGER:
                for handler in logger.handlers:
                    handler.close()


def file_logger(path: Path) -> logging.Logger:
    """A logger of its own that appends to a file, with times: the levels of LOGGER and the root are the caller's."""
    try:
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise InputError(f"cannot write --log-file {printable(path)}: {error.strerror}") from error
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.Logger("upscaling")
    logger.addHandler(handler)
    return logger


def put(stream: TextIO | None, line: str) -> None:
    """Print a line if that is possible."""
    if stream is None:
        return
    try:
        print(one_line(line), file=stream, flush=True)
    except (OSError, ValueError):
        pass


class Quiet(Progress):
    """Nothing but what must not be missed, on stderr."""

    _input = ""  # of the job that is running

    def start(self, **facts) -> None:
        super().start(**facts)
        self._input = f"{facts['input']}: "

    def warn(self, line: str) -> None:
        super().warn(line)
        if isinstance(line, Loss):
            put(sys.stderr, f"upscale: warning: {self._input}{line}")

    def alert(self, line: str) -> None:
        super().alert(line)
        put(sys.stderr, f"upscale: warning: {line}")

    def hint(self, line: str) -> None:
        if sys.stderr is not None and sys.stderr.isatty():
            put(sys.stderr, f"upscale: {line}")

    def write_failure(self, line: str) -> None:
        put(sys.stderr, f"upscale: error: {line}")


class Plain(Progress):
    """A line at the start, a line now and then, a line at the end; all to stderr."""

    last_time = 0.0  # time.monotonic() of the last line
    last_done = 0  # frames done at the last line

    def write(self, line: str) -> None:
        put(sys.stderr, f"upscale: {line}")

    def start(self, **facts) -> None:
        super().start(**facts)
        self.last_time, self.last_done = time.monotonic(), 0
        self.write((f"{self.folder.place}: " if self.folder else "") + start_line(facts))

    def show(self, counts: "RunCounts", rows) -> None:
        super().show(counts, rows)
        now = time.monotonic()
        share = (counts.done - max(self.last_done, counts.resumed)) / counts.total if counts.total else 1.0
        if now - self.last_time >= PLAIN_SECONDS and share >= PLAIN_SHARE:
            self.last_time, self.last_done = now, counts.done
            self.write(running_line(counts, rows, self.folder))

    def step(self, done: int, total: int, what: str) -> None:
        super().step(done, total, what)
        self.write(step_line(done, total, what))

    def file(self, **facts) -> None:
        super().file(**facts)
        if facts["status"] != "failed":
            self.write(file_line(facts))

    def write_failure(self, line: str) -> None:
        self.write(line)

    def done(self, **facts) -> None:
        super().done(**facts)
        self.write(done_line(facts))


class Json(Progress):
    """One object per line on stdout."""

    last_time = 0.0

    def _put(self, event: str, **facts) -> None:
        put(sys.stdout, json.dumps({"event": event, **facts}))

    def write(self, line: str) -> None:
        self._put("message", text=line)

    def start(self, **facts) -> None:
        super().start(**facts)
        place = {"file": self.folder.begun, "files": self.folder.files} if self.folder else {}
        self._put("start", **facts, **place)

    def show(self, counts: "RunCounts", rows) -> None:
        super().show(counts, rows)
        now = time.monotonic()
        if now - self.last_time >= JSON_SECONDS:
            self.last_time = now
            folder = self.folder.facts(counts) if self.folder else {}
            self._put("progress", stage=stage(counts, rows), **counts.facts(), **folder)

    def step(self, done: int, total: int, what: str) -> None:
        super().step(done, total, what)
        self._put("step", done=done, total=total, stage=what)

    def file(self, **facts) -> None:
        super().file(**facts)
        self._put("file", **facts)

    def show_dry_run(self, lines: list[str], **facts) -> None:
        for line in lines:
            self.log(logging.INFO, line)
        self._put("plan", **facts)

    def done(self, **facts) -> None:
        super().done(**facts)
        self._put("done", **facts)

    def error(self, message: str, exit_status: int) -> None:
        super().error(message, exit_status)
        self._put("error", message=message, exit_status=exit_status)


class Events(Json):
    """The objects of `Json` as dictionaries, each passed to a function of the library's caller."""

    def __init__(self, listener: Callable[[dict], object], loggers: Sequence[logging.Logger] = (LOGGER,)):
        super().__init__(0, loggers)
        self._listener = listener

    def _put(self, event: str, **facts) -> None:
        self._listener({"event": event, **facts})

    def failed(self, message: str, exit_status: int) -> None:
        super().failed(message, exit_status)
        self._put("error", message=message, exit_status=exit_status)
