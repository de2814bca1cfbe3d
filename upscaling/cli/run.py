"""One job, from its options to its output in place."""

import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from upscaling.common.errors import InputError, Stopped
from upscaling.common.text import many, printable
from upscaling.job.options import Options
from upscaling.terminal.progress import Progress, put
from upscaling.terminal.signals import Signals, invocation

# Everything else is imported when it is needed: --help and a wrong option must not wait for FFmpeg and NumPy.
if TYPE_CHECKING:
    from upscaling.job.work_dir import WorkDir
    from upscaling.pipeline.plan import Plan
    from upscaling.pipeline.stages import RunCounts
    from upscaling.workers.pool import WorkerPool
    from upscaling.workers.pool_cache import PoolCache


@dataclass(frozen=True)
class Result:
    """The result of a run."""

    output: Path
    frames: int  # of the whole result
    seconds: float  # that this run took
    warnings: tuple[str, ...] = ()
    skipped: bool = False  # the output existed (no_clobber)
    frames_per_second: float = 0.0  # of this run, without frames that were resumed
    repeated_frames: int = 0  # frames equal to the one before: they are upscaled once
    restarts: int = 0  # workers that died and were replaced
    missing_frames: int = 0  # that the container lists and that were not decoded, if these are many

    def facts(self) -> dict:
        """The result for Progress.done; JSON-able."""
        return {**vars(self), "output": printable(self.output), "warnings": list(self.warnings)}


def run(options: Options, progress: Progress, signals: Signals, pool_cache: "PoolCache | None" = None) -> Result:
    """One job, from its options to its output in place; a folder run passes the cache of its worker pools."""
    from upscaling.demux.input_file import tell_if_slow
    from upscaling.job.work_dir import open_work_dir
    from upscaling.pipeline.plan import make_plan
    from upscaling.pipeline.stages import incomplete_line, missing_frames
    from upscaling.workers.pool_cache import PoolCache

    if (skipped := skipped_output(options, progress)) is not None:
        return skipped
    started = time.monotonic()
    with tell_if_slow(progress.say):
        plan = make_plan(options)
    if options.part is not None and (finished := finished_part(plan)) is not None:
        progress.say(f"this part is finished already: {printable(plan.output)}")
        return Result(plan.output, finished, 0.0, plan.warnings)
    work_dir = open_work_dir(plan.work_dir, plan.identity, plan.output, options.restart, plan.asked)
    try:
        counts, late_warnings = complete(plan, work_dir, pool_cache or PoolCache(), progress, signals)
    except BaseException as error:
        work_dir.remove_frames()
        if isinstance(error, InputError) and not work_dir.records:
            work_dir.remove()  # nothing was touched
        if not isinstance(error, Stopped | InputError):
            error.add_note(f"workers' logs: {printable(work_dir.folder('logs'))}")
        raise
    finally:
        progress.close()
        work_dir.close()
    seconds = time.monotonic() - started
    missing = missing_frames(plan, work_dir.frames_done)
    if missing:
        late_warnings.append(incomplete_line(plan, missing))
        progress.alert(late_warnings[-1])
    return Result(
        plan.output, work_dir.frames_done, round(seconds, 3), (*plan.choice.warnings, *plan.warnings, *late_warnings),
        frames_per_second=round((work_dir.frames_done - counts.resumed) / (seconds - counts.skipping), 3),
        repeated_frames=counts.repeated, restarts=counts.restarts, missing_frames=missing,
    )  # fmt: skip


def complete(
    plan: "Plan", work_dir: "WorkDir", pool_cache: "PoolCache", progress: Progress, signals: Signals
) -> "tuple[RunCounts, list[str]]":
    """Upscale what is left of a job, put the result in place and clean up; (the counts, warnings)."""
    from upscaling.cli.compare import write_comparison
    from upscaling.job.parts import begin_part, done_line
    from upscaling.pipeline.stages import RunCounts

    options = plan.options
    part_run = None
    if options.part is not None:
        part_run = begin_part(plan.output, plan.identity, work_dir, options.restart, plan.asked)
    if plan.part is not None and plan.part.is_empty:
        counts, warnings = RunCounts(0), []
    else:
        with pool_cache.borrow(plan.models, options.stall_timeout, work_dir.directory) as pool:
            counts, warnings = upscale(plan, work_dir, pool, progress, signals)
    if part_run is not None:
        part_run.finish()
        progress.say(done_line(options, part_run))
    if options.compare is not None:
        write_comparison(plan, work_dir, options.compare)
        progress.say(f"comparison: {printable(options.compare)}")
    for line in warnings:
        progress.warn(line)
    if not options.keep_work:
        clean_up(work_dir, pool_cache, progress, signals)
    return counts, warnings


def upscale(
    plan: "Plan", work_dir: "WorkDir", pool: "WorkerPool", progress: Progress, signals: Signals
) -> "tuple[RunCounts, list[str]]":
    """Send all frames through the workers and put the result in place; (the counts, warnings)."""
    from upscaling.pipeline.pipeline import Pipeline

    progress.start(**facts(plan))
    look = progress.watcher.plan(plan)
    pipeline = Pipeline(plan, work_dir, pool, progress.warn, progress.show, look)
    with signals.sent_to(pipeline):
        announce(plan, work_dir, progress, pipeline.check)  # meanwhile the workers load the model
        pipeline.run()
        progress.close()
        return pipeline.counts, [*pipeline.warnings, *pipeline.finish()]


def finished_part(plan: "Plan") -> int | None:
    """The frames of a part that an earlier run has finished; None if it is not finished or is to be done again.

    InputError if earlier runs have finished frames with other parameters.
    """
    from upscaling.job.parts import check_earlier_runs, finished_run

    if plan.options.restart:
        return None
    check_earlier_runs(plan.output, plan.identity, plan.asked)
    finished = finished_run(plan.output, plan.identity)
    return finished.frames if finished is not None else None


def join(options: Options, progress: Progress) -> Result:
    """Join the parts that --part has made into the output."""
    from upscaling.cluster.join import join_parts

    if (skipped := skipped_output(options, progress)) is not None:
        return skipped
    started = time.monotonic()
    plan, frames = join_parts(options, progress.warn)
    for line in plan.warnings:
        progress.warn(line)
    return Result(plan.output, frames, round(time.monotonic() - started, 3), plan.warnings)


def run_on_slurm(options: Options, argv: Sequence[str], progress: Progress, signals: Signals) -> Result | None:
    """The parts as tasks of Slurm, and their join; None with --detach. `argv` are the command's words."""
    from upscaling.cluster.coordinator import Coordinator

    if (skipped := skipped_output(options, progress)) is not None:
        return skipped
    started = time.monotonic()
    coordinator = Coordinator(options, invocation(), argv, progress.say)
    for line in coordinator.plan.warnings:
        progress.warn(line)
    try:
        frames = coordinator.run()
    except Stopped:
        coordinator.stop(cancel=signals.received == signal.SIGINT)  # other signals leave the jobs to finish
        raise
    if frames is None:
        array, joining = coordinator.jobs.array, coordinator.jobs.join
        facts = {"event": "submitted", "array_job": array, "join_job": joining}
        line = json.dumps(facts) if options.progress == "json" else f"array job {array or 'none'}, join job {joining}"
        put(sys.stdout, line)
        return None
    seconds = time.monotonic() - started
    output, warnings = coordinator.plan.output, coordinator.plan.warnings
    return Result(output, frames, round(seconds, 3), warnings, frames_per_second=round(frames / seconds, 3))


def clean_up(work_dir: "WorkDir", pool_cache: "PoolCache", progress: Progress, signals: Signals) -> None:
    """Remove the work directory of a job whose output is in place."""
    with signals.too_late():
        if work_dir.remove():
            return
        if work_dir.is_held_open():  # NFS: the workers, which go on with the next job, have their logs open
            pool_cache.when_stopped(work_dir.remove)
        else:
            progress.warn(f"{printable(work_dir.directory)} is not removed: it holds files that are not this job's")


def skipped_output(options: Options, progress: Progress) -> Result | None:
    """The result of a run that leaves an existing output alone; None if it is to be made."""
    if not options.no_clobber or not output_exists(options.output):
        return None
    from upscaling.pipeline.checks import resolved

    progress.say(f"{printable(options.output)} exists, skipped (--no-clobber)")
    return Result(resolved(options.output), 0, 0.0, skipped=True)


def output_exists(output: Path) -> bool:
    """Whether the output exists: the file, or any file of a pattern."""
    from upscaling.pipeline.images import existing_files, is_pattern

    try:
        return bool(existing_files(output)) if is_pattern(output) else output.exists()
    except InputError:
        return False


def announce(plan: "Plan", work_dir: "WorkDir", progress: Progress, check: Callable[[], None]) -> None:
    """Report GPUs that are not used, what is resumed, how much space the frames take, and warnings about the input."""
    from upscaling.pipeline.segments import verify

    for line in plan.choice.warnings:
        progress.alert_once(line)
    for note in work_dir.notes:
        progress.warn_once(note)
    if work_dir.discarded:
        progress.say(f"starting over, the earlier run is discarded ({work_dir.discarded})")
    elif work_dir.records:
        verify(work_dir, progress.warn, check)
        progress.say(resuming_line(work_dir.frames_done, plan.info.frame_count))
    window = min(plan.window, plan.info.frame_count or plan.window)
    megabytes = window * plan.frame_bytes / 2**20
    progress.say(f"up to {many(window, 'frame')} at a time in {printable(work_dir.directory)}: {megabytes:.1f} MiB")
    encoding = plan.encoding
    progress.detail(f"input: {plan.info.codec} {plan.info.pixel_format}, {plan.info.colour}")
    settings = " ".join(f"{name}={value}" for name, value in encoding.options.items())
    progress.detail(f"output: {encoding.codec} {encoding.pixel_format}, {settings}")
    for line in plan.warnings:
        progress.warn(line)


def resuming_line(done: int, total: int | None) -> str:
    """One line about a run that goes on after `done` frames; `total` is an estimate."""
    if total and done >= total:
        return f"resuming: all {done} frames are done, only the output is written again"
    return f"resuming: {done} frames done, {f'about {total - done}' if total else 'an unknown number'} left"


def facts(plan: "Plan") -> dict:
    """The facts of a run for Progress.start; JSON-able."""
    source, encoding, options = plan.conversion.source, plan.encoding, plan.options
    return {
        "input": printable(options.input),
        "output": printable(plan.output),
        "frames": plan.info.frame_count,
        "input_size": f"{source.width}x{source.height}",
        "output_size": f"{encoding.width}x{encoding.height}",
        "shape": plan.shape.note,
        "model": printable(options.model),
        "codec": plan.target.extension if plan.target else plan.encoding.codec,
        "workers": len(plan.models),
        "device": ",".join(dict.fromkeys(model.device for model in plan.models)),
        "engine": plan.choice.engine,
        "engine_reason": plan.choice.reason,
    }
