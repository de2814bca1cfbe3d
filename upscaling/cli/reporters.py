"""Choosing a run's reporter, and its log file."""

import logging
import sys
from pathlib import Path

from upscaling.cli.progress import LOGGER, Json, Plain, Progress
from upscaling.common.errors import InputError
from upscaling.common.text import printable


def make_progress(mode: str, verbosity: int = 0, log_file: Path | None = None) -> Progress:
    """The reporter for --progress auto, bars, plain, json or none; InputError if the log file cannot be written."""
    loggers = [LOGGER] if log_file is None else [LOGGER, file_logger(log_file)]
    if mode == "auto":
        mode = "bars" if sys.stderr is not None and sys.stderr.isatty() else "plain"
    if verbosity < 0 and mode != "json":
        mode = "none"
    if mode == "bars":
        from upscaling.cli.bars import Bars

        return Bars(verbosity, loggers)
    return {"plain": Plain, "json": Json, "none": Progress}[mode](verbosity, loggers)


def file_logger(path: Path) -> logging.Logger:
    """A logger of its own that appends to a file, with times: the levels of LOGGER and the root are the caller's."""
    try:
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise InputError(f"cannot write --log-file {printable(path)}: {error.strerror}") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.Logger("upscaling")
    logger.addHandler(handler)
    return logger
