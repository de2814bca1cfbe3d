"""The Python functions `upscale_video`, `upscale_folder` and `dry_run`, and the reporter of a run."""

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import Field, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

from upscaling.cli.run import Result, run
from upscaling.common.errors import InputError, UpscaleError
from upscaling.common.memory_limits import memory_error
from upscaling.common.notation import Scale
from upscaling.job.options import FOLDERS, Options, make_options
from upscaling.terminal.progress import LOGGER, Events, Json, Plain, Progress, Quiet, file_logger
from upscaling.terminal.signals import Signals, error_line

F = TypeVar("F", bound=Callable)
Listener = Callable[[dict], object]


@dataclass(frozen=True)
class FolderResult:
    """The result of a folder run: how many files ended how, and its exit status as the command has it."""

    output: Path
    exit_status: int  # 0, 1 if a file failed, 75 if other runs hold all files that are due
    seconds: float
    files_done: int
    files_skipped: int  # done by an earlier run
    files_waiting: int  # modified a moment ago, see `settle`
    files_busy: int  # other runs are working on them
    files_failed: int


def _with_option_keywords(*groups: str) -> Callable[[F], F]:
    """Put a keyword for each option of the library, and of these groups, into a function's signature and docstring."""

    def decorate(function: F) -> F:
        *positional, _ = inspect.signature(function).parameters.values()
        declarations = {one.name: one.metadata["option"] for one in fields(Options)}
        wanted = {name for name, option in declarations.items() if option.keyword or option.group in groups}
        options = [one for one in fields(Options) if one.name in wanted][len(positional) :]
        keywords = [_keyword(one) for one in options]
        returned = function.__annotations__["return"]
        function.__signature__ = inspect.Signature([*positional, *keywords], return_annotation=returned)
        lines = [f"    {one.name}: {declarations[one.name].help}" for one in options]
        function.__doc__ = "\n".join([inspect.cleandoc(function.__doc__ or ""), *lines])
        return function

    return decorate


def _keyword(one: Field) -> inspect.Parameter:
    default, kind = one.default, str | one.type if one.metadata["option"].metavar else one.type
    if one.name == "progress":
        default, kind = "none", str | Listener
    return inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


PathLike = str | bytes | os.PathLike
ScaleLike = str | float | Fraction | Scale


@_with_option_keywords()
def upscale_video(source: PathLike, output: PathLike, scale: ScaleLike = 2, **keywords) -> Result:
    """Upscale one video or picture, or numbered pictures; the keywords are the command's options.

    Raises InputError (bad usage or input, nothing was touched), BusyError (another run holds this job), or
    UpscaleError, their base class (it failed: call again to resume).

    Values may be written as on the command line (time="00:10-00:20", work_space="2G"). `progress` may be a function:
    it is called with each event of --progress json as a dictionary; what it raises ends the run. Keywords:
    """
    with _reported(upscale_video, source, output, scale, keywords) as (options, reporter):
        result = run(options, reporter, Signals())
        reporter.done(**result.facts())
        return result


@_with_option_keywords(FOLDERS)
def upscale_folder(source: PathLike, output: PathLike, scale: ScaleLike = 2, **keywords) -> FolderResult:
    """Upscale every video and picture of a folder that is not done yet, as the command does.

    A file that fails does not end the run; the events of `progress` say which and why. Errors and keywords are those
    of `upscale_video`, with those for folders. Keywords:
    """
    from upscaling.cli.folder import run_folder

    with _reported(upscale_folder, source, output, scale, keywords) as (options, reporter):
        status, summary = run_folder(options, lambda one, pools: run(one, reporter, Signals(), pools), reporter)
        reporter.done(**summary)
        names = {one.name for one in fields(FolderResult)}
        counts = {name: value for name, value in summary.items() if name in names}
        return FolderResult(**{**counts, "output": options.output.resolve(), "exit_status": status})


@_with_option_keywords(FOLDERS)
def dry_run(source: PathLike, output: PathLike, scale: ScaleLike = 2, **keywords) -> dict:
    """What a run would do with a video, a picture or a folder: the facts of --dry-run --progress json.

    Errors and keywords are those of `upscale_folder`. Keywords:
    """
    from upscaling.cli import dry_run, folder

    if keywords.get("report") is not None:
        raise InputError("--report is for a run, not for a dry run")
    with _reported(globals()["dry_run"], source, output, scale, keywords) as (options, _):
        plan = folder.dry_run if folder.is_folder_run(options) else dry_run.dry_run
        return plan(options)[1]


@contextmanager
def _reported(
    function: Callable, source: PathLike, output: PathLike, scale: ScaleLike, keywords: dict
) -> Iterator[tuple[Options, Progress]]:
    """The options of a call and its reporter, which is told of an error; TypeError for an unknown keyword."""
    inspect.signature(function).bind(source, output, scale, **keywords)
    listener = keywords.pop("progress") if callable(keywords.get("progress")) else None
    options = make_options(**{"input": source, "output": output, "scale": scale, "progress": "none", **keywords})
    reporter = make_reporter(options, quiet=Progress, listener=listener)
    try:
        yield options, reporter
    except Exception as error:
        found = memory_error(error) or error
        reporter.failed(error_line(found), found.exit_status if isinstance(found, UpscaleError) else 1)
        if found is not error:
            raise found from error
        raise
    finally:
        reporter.finish()


def make_reporter(options: Options, quiet: type[Progress] = Quiet, listener: Listener | None = None) -> Progress:
    """The run's reporter; InputError if the log or the page is read or written otherwise, or cannot be written."""
    if options.log_file is not None or options.report is not None:
        from upscaling.pipeline.checks import check_log_and_report

        check_log_and_report(options)
    if listener is not None:
        loggers = [LOGGER] if options.log_file is None else [LOGGER, file_logger(options.log_file)]
        progress: Progress = Events(listener, loggers)
    else:
        progress = make_progress(options.progress, options.verbosity, options.log_file, quiet)
    if options.report is not None:
        from upscaling.report.recorder import Recorder

        progress.watcher = Recorder(options, progress.warn)
    return progress


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
