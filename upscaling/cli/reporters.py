"""Which reporter a run gets, and the log file beside it."""

import logging
import sys
import time
from pathlib import Path

from upscaling.cli.progress import PLAIN_SECONDS, Json, Plain, Progress, done_line, file_line, running_line, start_line
from upscaling.common.errors import InputError


def make_progress(mode: str, verbosity: int = 0, log_file: Path | None = None) -> "Progress":
    """The reporter for --progress auto, bars, plain, json or none; InputError where the log file can't be written."""
    if mode == "auto":
        mode = "bars" if sys.stderr is not None and sys.stderr.isatty() else "plain"
    if verbosity < 0 and mode != "json":
        mode = "none"
    if mode == "bars":
        from upscaling.cli.bars import Bars

        progress: Progress = Bars(verbosity)
    else:
        progress = {"plain": Plain, "json": Json, "none": Progress}[mode](verbosity)
    return Logged(progress, log_file) if log_file is not None else progress


class Logged(Progress):
    """Another reporter, and beside it a log file that everything is appended to, with times, whatever -q says."""

    def __init__(self, progress: Progress, path: Path):
        super().__init__(progress.verbosity)
        self.progress = progress
        self.last_time = time.monotonic()
        try:
            handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise InputError(f"--log-file {path} can't be written: {error.strerror}") from error
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.log = logging.Logger("upscale")  # one of its own: the root logger is the caller's
        self.log.addHandler(handler)
        self.handler = handler

    def say(self, line: str) -> None:
        self.log.info("%s", line)
        self.progress.say(line)

    def detail(self, line: str) -> None:
        self.log.info("%s", line)
        self.progress.detail(line)

    def start(self, **facts) -> None:
        self.log.info("%s", start_line(facts))
        self.progress.start(**facts)

    def show(self, counts, rows) -> None:
        if time.monotonic() - self.last_time >= PLAIN_SECONDS:
            self.last_time = time.monotonic()
            self.log.info("%s", running_line(counts))
        self.progress.show(counts, rows)

    def close(self) -> None:
        self.progress.close()

    def suspend(self) -> None:
        self.progress.suspend()

    def resume(self) -> None:
        self.progress.resume()

    def file(self, **facts) -> None:
        self.log.log(logging.ERROR if facts["status"] == "failed" else logging.INFO, "%s", file_line(facts))
        self.progress.file(**facts)

    def show_dry_run(self, lines: list[str], **facts) -> None:
        for line in lines:
            self.log.info("%s", line)
        self.progress.show_dry_run(lines, **facts)

    def done(self, **facts) -> None:
        self.log.info("%s", done_line(facts))
        self.progress.done(**facts)

    def error(self, message: str, exit_status: int) -> None:
        self.log.error("%s (exit status %d)", message, exit_status, exc_info=exit_status == 1)
        self.progress.error(message, exit_status)

    def finish(self) -> None:
        self.handler.close()
        self.progress.finish()
