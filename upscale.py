"""Upscale a video with Real-ESRGAN on this machine.

    python upscale.py elk.mp4 out.mp4 2

and from cron, at night:

    30 1 * * *  cd /srv/video && nice python /opt/upscale/upscale.py in.mp4 out.mp4 2 >> upscale.log 2>&1

or from Python:

    from upscale import upscale_video
    result = upscale_video("elk.mp4", "out.mp4", 2)
"""

import errno
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from errors import Stopped, UpscaleError
from options import Options, Scale, parse_options, parse_scale

# Everything else is imported where it is used: --help and a wrong option must not wait for FFmpeg and numpy.
if TYPE_CHECKING:
    from job import Job
    from pipeline import Pipeline, Tally
    from plan import Plan
    from progress import Progress


@dataclass(frozen=True)
class Result:
    """What a run did: frames of the video, seconds that it took, the output, and the warnings it gave."""

    output: Path
    frames: int
    seconds: float
    warnings: tuple[str, ...] = ()
    skipped: bool = False  # --no-clobber, and the output was there


def upscale_video(source: str | os.PathLike[str], output: str | os.PathLike[str], scale="2", **options) -> Result:
    """Upscale one video; `options` are the fields of options.Options, `scale` as the command's SCALE.

    Raises errors.UpscaleError and its kinds. Worker processes are started with the method "forkserver":
    call it from below `if __name__ == "__main__":`.
    """
    scale = scale if isinstance(scale, Scale) else parse_scale(str(scale))
    options = {"progress": "none", **options}
    return run(Options(Path(source), Path(output), scale, **options))


def run(options: Options, signals: "Signals | None" = None, progress: "Progress | None" = None) -> Result:
    """One job, from its options to its output in place."""
    from dispatch import Crew
    from job import Job
    from pipeline import Pipeline
    from plan import make_plan
    from progress import make_progress
    from worker import run_worker

    signals, progress = signals or Signals(), progress or make_progress(options.progress, options.verbosity)
    if options.no_clobber and options.output.exists():
        progress.say(f"{options.output} is there already and is left as it is (--no-clobber)")
        return Result(options.output, 0, 0.0, skipped=True)
    started = time.monotonic()
    plan = make_plan(options)
    job = Job(plan.work_dir).open(plan.identity, plan.output, options.restart)
    crew = Crew(plan.models, run_worker, job.directory, options.stall_timeout)
    try:
        crew.start()  # the workers load while the earlier run's segments are verified
        progress.start(**facts(plan))
        announce(plan, job, progress.say)
        pipeline = Pipeline(plan, job, crew, progress.say, progress.show)
        with signals.flagged(pipeline):
            pipeline.run()
        late_warnings = [*pipeline.decoder.warnings, *pipeline.finish()]
    except BaseException:
        job.remove_frames()
        raise
    finally:
        crew.stop()
        progress.close()
        job.close()
    for line in late_warnings:
        progress.say(line)
    if not options.keep_work and not job.remove():
        progress.say(f"{job.directory} holds files that are not this job's, and stays")
    result = Result(plan.output, job.frames_done, time.monotonic() - started, (*plan.warnings, *late_warnings))
    progress.done(**outcome(result, pipeline.tally))
    return result


def announce(plan: "Plan", job: "Job", say: Callable[[str], None]) -> None:
    """Say what is kept of an earlier run, what space the run takes, and what the user should know of the input."""
    from pipeline import verify

    if job.afresh:
        say(f"starting afresh, nothing of the earlier run is kept ({job.afresh})")
    elif job.records:
        verify(job, say)
        total = plan.info.frame_count
        to_do = f"about {max(0, total - job.frames_done)}" if total else "an unknown number"
        say(f"resuming: {job.frames_done} frames kept, {to_do} to do")
    megabytes = plan.window * plan.frame_bytes / 2**20
    say(f"up to {plan.window} frames at a time in {job.directory}: {megabytes:.0f} MiB")
    for line in plan.warnings:
        say(line)


def facts(plan: "Plan") -> dict:
    """What progress.start is told of a run; JSON-able."""
    picture, options = plan.picture, plan.options
    return {
        "input": text(options.input),
        "output": text(plan.output),
        "frames": plan.info.frame_count,
        "input_size": f"{picture.width}x{picture.height}",
        "output_size": "{}x{}".format(*picture.stored_size),
        "model": text(options.model),
        "codec": plan.encoding.codec,
        "workers": options.workers,
        "device": ",".join(dict.fromkeys(model.device for model in plan.models)),
    }


def outcome(result: Result, tally: "Tally") -> dict:
    """What progress.done is told; JSON-able."""
    return {
        "output": text(result.output),
        "frames": result.frames,
        "seconds": round(result.seconds, 3),
        "frames_per_second": round((result.frames - tally.kept) / result.seconds, 3),
        "held_frames": tally.held,
        "restarts": tally.restarts,
        "warnings": list(result.warnings),
    }


def text(path: str | os.PathLike[str]) -> str:
    """A path that can be printed: bytes that are no UTF-8 as replacement characters."""
    return os.fsencode(path).decode("utf-8", "replace")


class Signals:
    """SIGINT, SIGTERM and SIGHUP: the first ends the run in good order, the second at once."""

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self):
        self.pipeline: Pipeline | None = None
        self.received = 0

    def install(self) -> None:
        """Take the signals over; one that is ignored (SIGHUP under nohup) stays ignored."""
        for number in self.NUMBERS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)

    @contextmanager
    def flagged(self, pipeline: "Pipeline"):
        """Within, a signal is only noted for the pipeline, which closes the open segment."""
        self.pipeline = pipeline
        try:
            yield
        finally:
            self.pipeline = None

    def _handle(self, number: int, _frame) -> None:
        if self.received:
            os._exit(128 + number)  # the workers end with this process
        self.received = number
        if self.pipeline is None:
            raise Stopped(number)
        self.pipeline.signal = number
        self.pipeline.wake()


def resume_command(argv: Sequence[str]) -> str:
    """The command that goes on where this one ended; --restart would throw away what is done."""
    return shlex.join(["python", sys.argv[0], *(argument for argument in argv if argument != "--restart")])


def why(error: Exception) -> str:
    """One line for an error that is not one of ours, and what to do about it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"no space left to write to ({error.strerror}); free some, then rerun to resume"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    options = parse_options(argv)
    from progress import make_progress

    progress = make_progress(options.progress, options.verbosity)
    signals = Signals()
    signals.install()
    try:
        run(options, signals, progress)
    except Stopped as error:
        progress.error(f"{error}; to resume: {resume_command(argv)}", error.exit_status)
        return error.exit_status
    except UpscaleError as error:
        progress.error(str(error), error.exit_status)
        return error.exit_status
    except Exception as error:
        if options.verbosity > 0:
            traceback.print_exc()
        progress.error(why(error), 1)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
