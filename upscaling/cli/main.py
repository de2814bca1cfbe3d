"""The command: what a command line asks for, and the exit status it ends with."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from upscaling.cli.arguments import Query, flag, parse_arguments
from upscaling.cli.library import make_reporter
from upscaling.cli.run import Result, join, run, run_on_slurm
from upscaling.common.errors import InputError, Stopped, UpscaleError
from upscaling.common.memory_limits import check_limits, memory_error
from upscaling.common.system import THREADS_SLEEP, retain_freed_memory
from upscaling.common.text import traceback_text
from upscaling.job.options import Options
from upscaling.terminal.progress import Progress
from upscaling.terminal.signals import Signals, error_line, exit_now, open_standard_streams, stopped_line

# Everything else is imported when it is needed: --help and a wrong option must not wait for FFmpeg and NumPy.


def console() -> NoReturn:
    """The command as a process; never returns."""
    exit_now(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    open_standard_streams()
    # OpenBLAS's threads busy-wait after start-up and BLAS is not used: keep it to one.
    for name, value in {"OPENBLAS_NUM_THREADS": "1", **THREADS_SLEEP}.items():
        os.environ.setdefault(name, value)
    argv = sys.argv[1:] if argv is None else list(argv)
    signals = Signals()
    signals.install(argv)  # before anything that takes time is imported
    try:
        options = options_of_run(argv)
        if isinstance(options, int):
            return options
        signals.progress = make_reporter(options)
        return run_command(options, signals.progress, signals, argv)
    except Exception as error:
        if signals.received:  # whatever exception it has become on its way
            line = stopped_line(signals.received, argv, signals.resumable)
            signals.progress.error(line, 128 + signals.received)
            return 128 + signals.received
        error = memory_error(error) or error
        if not isinstance(error, UpscaleError) and signals.progress.verbosity > 0:
            print(traceback_text(error), end="", file=sys.stderr)
        status = error.exit_status if isinstance(error, UpscaleError) else 1
        signals.progress.error(error_line(error), status)
        return status
    finally:
        signals.progress.finish()


def options_of_run(argv: Sequence[str]) -> Options | int:
    """The options of a run; or the exit status of a command line that asked for something else, now done."""
    try:
        try:
            asked = parse_arguments(argv)
            return answer(asked) if isinstance(asked, Query) else asked
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader has closed the pipe, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for the flush when Python ends
        return 0


def run_command(options: Options, progress: Progress, signals: Signals, argv: Sequence[str]) -> int:
    """A preview, a dry run, a folder or one job; the exit status. `argv` are the command's words."""
    check_limits()  # before FFmpeg is imported
    from upscaling.cli import dry_run, first_run, folder
    from upscaling.demux.input_file import tell_if_slow

    retain_freed_memory()
    if options.preview is not None:
        from upscaling.cli.preview_command import run_preview

        signals.resumable = False
        run_preview(options, progress)
        return 0
    is_folder = folder.is_folder_run(options)
    if not is_folder and (options.include or options.exclude):
        raise InputError("--include and --exclude are for a folder or several inputs")
    if options.dry_run:
        with tell_if_slow(progress.say):
            lines, facts = folder.dry_run(options) if is_folder else dry_run.dry_run(options)
        progress.show_dry_run(lines, **facts)
        return 0
    first_run.show_hint(options, progress)
    if is_folder:
        status, summary = folder.run_folder(options, lambda one, pools: run(one, progress, signals, pools), progress)
        progress.done(**summary)
        return status
    result = run_one(options, progress, signals, argv)
    if result is None:
        return 0
    if not result.skipped or options.progress == "json":
        progress.done(**result.facts())
    return 0


def run_one(options: Options, progress: Progress, signals: Signals, argv: Sequence[str]) -> Result | None:
    """One job, a part of one, the join of its parts, or all of that by Slurm; None if that goes on by itself."""
    if chosen := [name for name in ("part", "join", "slurm") if getattr(options, name)][1:]:
        raise InputError(f"choose one of --part, --join and --slurm; --{chosen[0]} is one too many")
    of_slurm = [name for name in ("parts", "at_once", "sbatch", "detach") if getattr(options, name)]
    if of_slurm and not options.slurm:
        raise InputError(f"{flag(of_slurm[0])} requires --slurm")
    if options.slurm:
        return run_on_slurm(options, argv, progress, signals)
    return join(options, progress) if options.join else run(options, progress, signals)


def answer(query: Query) -> int:
    """What the command is asked for instead of a run; the exit status."""
    try:
        if query.status is not None:
            from upscaling.cli.status_command import show_status

            return show_status(query.status, query.watch, query.json)
        if query.list_devices:
            from upscaling.cli.devices_command import list_devices

            return list_devices()
        from upscaling.cli.models_command import fetch_model, list_models

        return list_models() if query.list_models else fetch_model(query.fetch_model or "")
    except Stopped as stopped:  # nothing to resume
        return stopped.exit_status
