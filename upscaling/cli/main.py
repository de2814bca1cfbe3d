"""The command and the Python function: one run, from its options to its output in place."""

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from upscaling.cli.run import Result, join_segments, run, upscale_video
from upscaling.cli.signals import Signals, exit_now, open_standard_streams, stopped_line, why
from upscaling.common.errors import BusyError, InputError, Stopped, UpscaleError
from upscaling.common.system import retain_freed_memory
from upscaling.job.options import Options

# Everything else is imported where it is used: --help and a wrong option must not wait for FFmpeg and numpy.
if TYPE_CHECKING:
    from upscaling.cli.arguments import Query
    from upscaling.cli.progress import Progress
    from upscaling.workers.pool_cache import PoolCache

__all__ = ["BusyError", "InputError", "Result", "UpscaleError", "upscale_video"]


def is_same(first: Path, second: Path) -> bool:
    """Whether two names are those of one file that is there."""
    return first.exists() and second.exists() and os.path.samefile(first, second)


# The command


def command(options: Options, progress: "Progress", signals: Signals) -> int:
    """What the options ask for: a look, a folder, or one job; the exit status."""
    from upscaling.cli import folder

    retain_freed_memory()

    def one(options: Options, pool_cache: "PoolCache | None" = None) -> Result:
        return run(options, progress, signals, pool_cache)

    if options.dry_run:
        from upscaling.cli.dry_run import report

        lines, found = folder.report(options) if folder.is_folder_run(options) else report(options)
        progress.plan(lines, **found)
        return 0
    if folder.is_folder_run(options):
        status, summary = folder.run_folder(options, one, progress)
        progress.done(**summary)
        return status
    result = join_segments(options, progress) if options.join_segments else one(options)
    if not result.skipped or options.progress == "json":
        progress.done(**result.facts())
    return 0


def answer(query: "Query") -> int:
    """What the command is asked for instead of a run; the exit status."""
    try:
        if query.status is not None:
            from upscaling.cli.status_command import show_status

            return show_status(query.status, query.watch, query.json)
        from upscaling.cli.models_command import fetch_model, list_models

        return list_models() if query.list_models else fetch_model(query.fetch_model or "")
    except Stopped as stopped:  # nothing to resume, nothing to say
        return stopped.exit_status


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    from upscaling.cli.progress import Progress

    open_standard_streams()
    # NumPy's, for products of matrices, of which there are none; they spin for a while where they start.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    argv = sys.argv[1:] if argv is None else list(argv)
    progress, signals = Progress(), Signals()
    signals.install(progress, argv)  # before anything that takes time is imported
    try:
        from upscaling.cli.arguments import Query, parse_arguments

        options = parse_arguments(argv)
        if isinstance(options, Query):
            return answer(options)
        from upscaling.cli.reporters import make_progress

        if options.log_file is not None and is_same(options.log_file, options.input):
            raise InputError(f"--log-file {options.log_file} is the input, which is only read; name another file")
        progress = signals.progress = make_progress(options.progress, options.verbosity, options.log_file)
        return command(options, progress, signals)
    except Exception as error:
        if signals.received:  # whatever the exception that it was has become on its way
            progress.error(stopped_line(signals.received, argv), 128 + signals.received)
            return 128 + signals.received
        if isinstance(error, UpscaleError):
            progress.error(why(error), error.exit_status)
            return error.exit_status
        if progress.verbosity > 0:
            traceback.print_exc()
        progress.error(why(error), 1)
        return 1
    finally:
        progress.finish()


def console() -> NoReturn:
    """The command, as a process: never returns."""
    exit_now(main())
