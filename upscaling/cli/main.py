"""The command and the Python function: one run, from its options to its output in place."""

import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from upscaling.cli.signals import Signals, leave, open_standard_streams, stopped_line, why
from upscaling.common.allocator import steady_malloc
from upscaling.common.errors import BusyError, InputError, Stopped, UpscaleError
from upscaling.job.notation import FrameRange, Scale, TimeRange
from upscaling.job.options import Options, make_options

# Everything else is imported where it is used: --help and a wrong option must not wait for FFmpeg and numpy.
if TYPE_CHECKING:
    from upscaling.cli.progress import Progress
    from upscaling.job.pipeline import Tally
    from upscaling.job.plan import Plan
    from upscaling.job.work_dir import Job
    from upscaling.workers.pool import Crew
    from upscaling.workers.pool_cache import Crews

__all__ = ["BusyError", "InputError", "Result", "UpscaleError", "upscale_video"]


@dataclass(frozen=True)
class Result:
    """What a run did: frames of the result, seconds that it took, the output, and the warnings it gave."""

    output: Path
    frames: int
    seconds: float
    warnings: tuple[str, ...] = ()
    skipped: bool = False  # no_clobber, and the output was there
    frames_per_second: float = 0.0  # of this run: frames that an earlier one had done are not counted
    held_frames: int = 0  # frames equal to the one before, which no worker saw
    restarts: int = 0  # workers that died and were replaced

    def facts(self) -> dict:
        """As Progress.done takes them; JSON-able."""
        return {**vars(self), "output": text(self.output), "warnings": list(self.warnings)}


def upscale_video(
    source: str | os.PathLike[str], output: str | os.PathLike[str], scale: str | float | Fraction | Scale = 2, *,
    model: str = Options.model, denoise: float | None = None, strength: float = Options.strength,
    workers: int = Options.workers, batch_size: int = Options.batch_size, patch_size: int = Options.patch_size,
    device: str = Options.device, precision: str = Options.precision, compile: bool = False,
    codec: str = Options.codec, crf: float | None = None, preset: str | None = None, pix_fmt: str | None = None,
    deinterlace: str = Options.deinterlace, frame_rate: str | float | Fraction | None = None,
    frames: str | FrameRange | None = None, time: str | TimeRange | None = None,
    compare: str | os.PathLike[str] | None = None,
    work_dir: str | os.PathLike[str] | None = None, work_space: str | int | None = None,
    frame_format: str = Options.frame_format, keep_work: bool = False, restart: bool = False,
    no_clobber: bool = False, stall_timeout: float = Options.stall_timeout,
    segment_frames: int = Options.segment_frames,
    progress: str = "none", log_file: str | os.PathLike[str] | None = None, verbosity: int = 0,
) -> Result:  # fmt: skip
    """Upscale one video or picture, or numbered pictures; the keywords are the command's options.

    Raises InputError (bad usage or input, nothing was touched), BusyError (another run holds this job), or
    UpscaleError, their base (it failed: call again to resume). Worker processes are started with the method
    "forkserver": call it from below `if __name__ == "__main__":`.
    """
    values = dict(locals())
    options = make_options(input=values.pop("source"), **values)
    from upscaling.cli.reporters import make_progress

    reporter = make_progress(options.progress, options.verbosity, options.log_file)
    try:
        result = run(options, reporter, Signals())
        reporter.done(**result.facts())
        return result
    finally:
        reporter.finish()


def run(options: Options, progress: "Progress", signals: Signals, crews: "Crews | None" = None) -> Result:
    """One job, from its options to its output in place; a folder run brings a crew along."""
    from upscaling.cli.compare import write_comparison
    from upscaling.job.plan import make_plan
    from upscaling.job.work_dir import Job
    from upscaling.workers.pool_cache import Crews

    if options.no_clobber and is_there(options.output):
        progress.say(f"{text(options.output)} is there already and is left as it is (--no-clobber)")
        return Result(options.output, 0, 0.0, skipped=True)
    started = time.monotonic()
    plan = make_plan(options)
    job = Job(plan.work_dir).open(plan.identity, plan.output, options.restart)
    try:
        with (crews or Crews()).lend(plan, job.directory) as crew:
            tally, late_warnings = upscale(plan, job, crew, progress, signals)
        if options.compare is not None:
            write_comparison(plan, job, options.compare)
        for line in late_warnings:
            progress.say(line)
        if not options.keep_work and options.segment_of is None:
            clean_up(job, progress, signals)
    except BaseException as error:
        job.remove_frames()
        if isinstance(error, InputError) and not job.records:
            job.remove()  # nothing was touched
        if not isinstance(error, Stopped | InputError):
            error.logs = job.folder("logs")  # for the error line
        raise
    finally:
        progress.close()
        job.close()
    seconds = time.monotonic() - started
    rate = (job.frames_done - tally.kept) / seconds
    return Result(plan.output, job.frames_done, round(seconds, 3), (*plan.warnings, *late_warnings), False,
                  round(rate, 3), tally.held, tally.restarts)  # fmt: skip


def upscale(
    plan: "Plan", job: "Job", crew: "Crew", progress: "Progress", signals: Signals
) -> "tuple[Tally, list[str]]":
    """All frames through the crew's workers, and the result into place; the counts, and what to warn of."""
    from upscaling.job.pipeline import Pipeline

    progress.start(**facts(plan))
    pipeline = Pipeline(plan, job, crew, progress.say, progress.show)
    with signals.flagged(pipeline):
        announce(plan, job, progress, pipeline.check)  # the workers load while an earlier run's segments are verified
        pipeline.run()
        progress.close()
        return pipeline.tally, [*pipeline.warnings, *pipeline.finish()]


def join_segments(options: Options, progress: "Progress") -> Result:
    """The parts that --segment-of has made, joined into the output."""
    from upscaling.job.rejoin import join_parts

    started = time.monotonic()
    plan, frames = join_parts(options, progress.say)
    return Result(plan.output, frames, round(time.monotonic() - started, 3), plan.warnings)


def clean_up(job: "Job", progress: "Progress", signals: Signals) -> None:
    """Remove the work directory of a job whose output is in place."""
    with signals.too_late():
        if not job.remove():
            progress.say(f"{text(job.directory)} holds files that are not this job's, and stays")


def is_there(output: Path) -> bool:
    """Whether there is a result already: the file, or any of a pattern's."""
    from upscaling.frames.image_files import files_of_pattern, is_pattern

    try:
        return bool(files_of_pattern(output)) if is_pattern(output) else output.exists()
    except InputError:
        return False


def is_same(first: Path, second: Path) -> bool:
    """Whether two names are those of one file that is there."""
    return first.exists() and second.exists() and os.path.samefile(first, second)


def announce(plan: "Plan", job: "Job", progress: "Progress", check: Callable[[], None]) -> None:
    """Say what is kept of an earlier run, what space the run takes, and what the user should know of the input."""
    from upscaling.cli.progress import many
    from upscaling.job.segments import verify

    if job.afresh:
        progress.say(f"starting afresh, nothing of the earlier run is kept ({job.afresh})")
    elif job.records:
        verify(job, progress.say, check)
        total = plan.info.frame_count
        to_do = f"about {max(0, total - job.frames_done)}" if total else "an unknown number"
        progress.say(f"resuming: {job.frames_done} frames kept, {to_do} to do")
    window = min(plan.window, plan.info.frame_count or plan.window)
    megabytes = window * plan.frame_bytes / 2**20
    progress.say(f"up to {many(window, 'frame')} at a time in {text(job.directory)}: {megabytes:.1f} MiB")
    encoding = plan.encoding
    progress.detail(f"input: {plan.info.codec} {plan.info.pixel_format}, {plan.info.colour}")
    progress.detail(f"output: {encoding.codec} {encoding.pixel_format}, {encoding.options}")
    for line in plan.warnings:
        progress.say(line)


def facts(plan: "Plan") -> dict:
    """What progress.start is told of a run; JSON-able."""
    picture, options = plan.picture, plan.options
    return {
        "input": text(options.input),
        "output": text(plan.output),
        "frames": plan.info.frame_count,
        "input_size": f"{picture.width}x{picture.height}",
        "output_size": f"{picture.out_width}x{picture.out_height}",
        "model": text(options.model),
        "codec": plan.target.extension if plan.target else plan.encoding.codec,
        "workers": len(plan.models),
        "device": ",".join(dict.fromkeys(model.device for model in plan.models)),
    }


def text(path: str | os.PathLike[str]) -> str:
    """A path that can be printed: bytes that are no UTF-8 as replacement characters."""
    return os.fsencode(path).decode("utf-8", "replace")


# The command


def command(options: Options, progress: "Progress", signals: Signals) -> int:
    """What the options ask for: a look, a folder, or one job; the exit status."""
    from upscaling.cli import folder

    steady_malloc()

    def one(options: Options, crews: "Crews | None" = None) -> Result:
        return run(options, progress, signals, crews)

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
        from upscaling.cli.arguments import parse_options

        options = parse_options(argv)
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
    leave(main())
