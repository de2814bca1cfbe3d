"""--slurm: the parts of a video as tasks of a Slurm array job, and a job that joins them."""

import sys
import time
from collections.abc import Sequence

from upscaling.cli.progress import Progress, put
from upscaling.cli.run import Result
from upscaling.cli.signals import Signals, invocation
from upscaling.cluster import slurm
from upscaling.cluster.watch import PartsFailed, Watch
from upscaling.common.errors import BusyError, InputError, Stopped
from upscaling.common.text import many
from upscaling.decode.packet_index import read_packet_index
from upscaling.inference.settings import LANCZOS
from upscaling.job.join import whole_plan
from upscaling.job.notation import MAX_PARTS
from upscaling.job.options import Options
from upscaling.job.parts import remove_parts
from upscaling.job.plan import Plan
from upscaling.job.sources import VideoSource

PART_SECONDS = 180  # of work in a part, if the user does not say how many parts there are
# Pixels of input a second of one task, for that estimate: a V100 does 22.6 frames/s of 720p.
GPU_RATE, CPU_RATE, LANCZOS_RATE = 20e6, 0.5e6, 20e6
SWITCHES = {"--slurm", "--detach", "--restart"}  # not for the tasks
VALUES = {"--parts", "--at-once", "--sbatch", "--work-dir", "--progress", "--log-file"}


def run_on_slurm(options: Options, argv: Sequence[str], progress: Progress, signals: Signals) -> Result | None:
    """Submit what is not submitted or finished yet, and wait for the output; None with --detach."""
    started = time.monotonic()
    words = slurm.check_options(options.sbatch or "")
    plan = whole_plan(options)
    work = make_work(options, plan, words, argv, progress)
    if options.restart:
        restart(work)
    while True:
        jobs = slurm.find(work)
        was_running = bool(jobs.numbers)
        finished = work.finished()
        missing = [number for number in range(1, work.count + 1) if number not in finished]
        try:
            slurm.submit(work, jobs, missing)
            tell(work, jobs, missing, was_running, progress)
            if options.detach:
                put(sys.stdout, f"array job {jobs.array or 'none'}, join job {jobs.join}")
                return None
            watch = Watch(work, jobs, finished, progress.say)
            watch.run()
            break
        except PartsFailed:
            if not was_running:  # else they failed before this command watched them
                raise
        except Stopped:
            stopped(work, jobs, signals, progress)
            raise
    counts = [watch.done.get(number) for number in range(1, work.count + 1)]
    frames = sum(filter(None, counts))
    if None in counts:  # the join was quicker than this watch
        frames = int(read_packet_index(plan.output).shown.sum())
    seconds = time.monotonic() - started
    rate = round(frames / seconds, 3)
    return Result(plan.output, frames, round(seconds, 3), plan.warnings, frames_per_second=rate)


def tell(work: slurm.Work, jobs: slurm.Jobs, missing: list[int], was_running: bool, progress: Progress) -> None:
    """Say which jobs there are."""
    found = "found" if was_running else "submitted"
    array = f"array job {jobs.array} ({len(missing)} of {many(work.count, 'part')} to do) and " if jobs.array else ""
    progress.say(f"{found} {array}join job {jobs.join}")


def stopped(work: slurm.Work, jobs: slurm.Jobs, signals: Signals, progress: Progress) -> None:
    """Ctrl-C cancels the jobs; any other signal leaves them to finish."""
    if signals.received != signals.NUMBERS[0]:
        progress.say(f"Slurm jobs {' and '.join(jobs.numbers)} go on; the same command finds them")
        return
    jobs = slurm.find(work)  # one may have been submitted just now
    slurm.cancel(jobs)
    progress.say(f"cancelled Slurm jobs {' and '.join(jobs.numbers)}")


def restart(work: slurm.Work) -> None:
    """Forget finished parts; BusyError if jobs are at work on them."""
    if numbers := slurm.find(work).numbers:
        raise BusyError(f"Slurm jobs {' and '.join(numbers)} are at work on this output; wait for them or scancel them")
    remove_parts(work.output, work.count)


def make_work(options: Options, plan: Plan, words: list[str], argv: Sequence[str], progress: Progress) -> slurm.Work:
    """What Slurm is to do."""
    if not isinstance(plan.source, VideoSource) or plan.target is not None:
        raise InputError("--slurm takes a video and makes a video, not pictures")
    count = options.parts or default_parts(plan, options, progress)
    arguments = ["--progress", "plain", *task_arguments(argv)]
    disk = slurm.NODE_DISK if options.work_dir is None else slurm.quoted(options.work_dir)
    return slurm.Work(plan.output, plan.identity, count, options.at_once, words, invocation(), arguments, disk)


def default_parts(plan: Plan, options: Options, progress: Progress) -> int:
    """So many parts that each has a few minutes of work; said in one line."""
    index = read_packet_index(plan.options.input)
    frames, most = int(index.shown.sum()), max(2, int(index.key.sum()))
    on_gpu = "gpu" in (options.sbatch or "") or "gres" in (options.sbatch or "") or options.device.startswith("cuda")
    rate = LANCZOS_RATE if options.model == LANCZOS else GPU_RATE if on_gpu else CPU_RATE
    seconds = frames * plan.info.width * plan.info.height / rate
    count = min(max(2, round(seconds / PART_SECONDS)), most, MAX_PARTS)
    minutes = max(1, round(seconds / count / 60))
    device = "GPU" if on_gpu else "CPU"
    progress.say(f"{count} parts, each about {many(minutes, 'minute')} of work for a {device} task; --parts sets it")
    return count


def task_arguments(argv: Sequence[str]) -> list[str]:
    """The words of this command that are the tasks' too."""
    end = argv.index("--") if "--" in argv else len(argv)
    kept, words = [], iter(argv[:end])
    for word in words:
        if word in VALUES:
            next(words, None)
        elif word not in SWITCHES and word.partition("=")[0] not in VALUES:
            kept.append(word)
    return kept + list(argv[end:])
