"""The Python function `upscale_video`, and the reporter of a run."""

import inspect
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

from upscaling.cli.run import Result, run
from upscaling.common.memory_limits import memory_error
from upscaling.common.notation import Scale
from upscaling.job.options import Options, make_options
from upscaling.terminal.progress import LOGGER, Json, Plain, Progress, Quiet, file_logger
from upscaling.terminal.signals import Signals, error_line

F = TypeVar("F", bound=Callable)


def _with_option_keywords(function: F) -> F:
    """Put a keyword for each option of the library into a function's signature and documentation."""
    *positional, _ = inspect.signature(function).parameters.values()
    options = [one for one in fields(Options) if one.metadata["option"].keyword]
    keywords = [
        inspect.Parameter(
            one.name,
            inspect.Parameter.KEYWORD_ONLY,
            default="none" if one.name == "progress" else one.default,
            annotation=str | one.type if one.metadata["option"].metavar else one.type,
        )
        for one in options[len(positional) :]
    ]
    function.__signature__ = inspect.Signature([*positional, *keywords], return_annotation=Result)
    lines = [f"    {one.name}: {one.metadata['option'].help}" for one in options[len(positional) :]]
    function.__doc__ = "\n".join([inspect.cleandoc(function.__doc__ or ""), *lines])
    return function


@_with_option_keywords
def upscale_video(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    scale: str | float | Fraction | Scale = 2,
    **keywords,
) -> Result:
    """Upscale one video or picture, or numbered pictures; the keywords are the command's options.

    Raises InputError (bad usage or input, nothing was touched), BusyError (another run holds this job), or
    UpscaleError, their base class (it failed: call again to resume).

    Values may be written as on the command line (time="00:10-00:20", work_space="2G"). Keywords:
    """
    inspect.signature(upscale_video).bind(source, output, scale, **keywords)  # TypeError: unknown keyword
    options = make_options(**{"input": source, "output": output, "scale": scale, "progress": "none", **keywords})
    reporter = make_reporter(options, quiet=Progress)
    try:
        result = run(options, reporter, Signals())
        reporter.done(**result.facts())
        return result
    except Exception as error:
        found = memory_error(error) or error
        reporter.log(logging.ERROR, error_line(found))
        if found is not error:
            raise found from error
        raise
    finally:
        reporter.finish()


def make_reporter(options: Options, quiet: type[Progress] = Quiet) -> Progress:
    """The run's reporter; InputError if the log file is read or written otherwise, or cannot be written."""
    if options.log_file is not None:
        from upscaling.pipeline.checks import check_log_file

        check_log_file(options)
    return make_progress(options.progress, options.verbosity, options.log_file, quiet)


def make_progress(
    mode: str, verbosity: int = 0, log_file: Path | None = None, quiet: type[Progress] = Quiet
) -> Progress:
    """The reporter for --progress auto, bars, plain, json or none; InputError if the log file cannot be written.

    `quiet` is the one for none and -q: the library's writes nothing at all.
    """
    loggers = [LOGGER] if log_file is None else [LOGGER, file_logger(log_file)]
    if mode == "auto":
        mode = "bars" if sys.stderr is not None and sys.stderr.isatty() else "plain"
    if verbosity < 0 and mode != "json":
        mode = "none"
    if mode == "bars":
        from upscaling.terminal.bars import Bars

        return Bars(verbosity, loggers)
    return {"plain": Plain, "json": Json, "none": quiet}[mode](verbosity, loggers)
