"""One output made by Slurm: what is not submitted or finished yet is submitted, then watched until it is joined."""

from collections.abc import Callable, Sequence

from upscaling.cluster import slurm
from upscaling.cluster.join import frames_and_keyframes, whole_plan
from upscaling.cluster.watch import PartsFailed, Watch
from upscaling.common.errors import BusyError, InputError
from upscaling.common.notation import MAX_PARTS
from upscaling.common.text import many
from upscaling.job.options import Options
from upscaling.job.parts import remove_parts
from upscaling.mux.stream_selection import EVERYTHING
from upscaling.pipeline.plan import Plan
from upscaling.pipeline.sources import VideoSource

PART_SECONDS = 180  # of work in a part, if the user does not say how many parts there are
# Pixels of input per second of one task, for that estimate: a V100 upscales 22.6 frames/s of 720p.
GPU_RATE, CPU_RATE, LANCZOS_RATE = 20e6, 0.5e6, 20e6
SWITCHES = {"--slurm", "--detach", "--restart"}  # not for the tasks
VALUES = {"--parts", "--at-once", "--sbatch", "--work-dir", "--progress", "--log-file"}


class Coordinator:
    """Submits and watches the jobs of one output. `command` and `argv` are the words that this command was given."""

    def __init__(self, options: Options, command: Sequence[str], argv: Sequence[str], say: Callable[[str], None]):
        self.options, self.say = options, say
        words = slurm.check_options(options.sbatch or "")
        self.plan = whole_plan(options)
        if not isinstance(self.plan.source, VideoSource) or self.plan.target is not None:
            raise InputError("--slurm takes a video and makes a video, not pictures")
        count = options.parts or default_parts(self.plan, options, say)
        disk = slurm.NODE_DISK if options.work_dir is None else slurm.quoted(options.work_dir)
        arguments = ["--progress", "plain", *task_arguments(argv)]
        streams = "" if self.plan.streams == EVERYTHING else repr(self.plan.streams)
        self.work = slurm.Work(
            self.plan.output, self.plan.identity, count, options.at_once, words, command, arguments, disk, streams
        )
        self.jobs = slurm.Jobs()

    def run(self) -> int | None:
        """Frames of the output, which is in place; None with --detach."""
        work = self.work
        if self.options.restart:
            self._forget()
        while True:
            self.jobs = slurm.find(work)
            was_running = bool(self.jobs.numbers)
            finished = work.finished()
            missing = [number for number in range(1, work.count + 1) if number not in finished]
            slurm.submit(work, self.jobs, missing)
            self._tell(len(missing), was_running)
            if self.options.detach:
                return None
            watch = Watch(work, self.jobs, finished, self.say)
            try:
                watch.run()
            except PartsFailed:
                if was_running:  # they may have failed before this command watched them
                    continue
                raise
            counts = [watch.done.get(number) for number in range(1, work.count + 1)]
            if None in counts:  # the join was quicker than the watch
                return frames_and_keyframes(work.output)[0]
            return sum(filter(None, counts))

    def stop(self, cancel: bool) -> None:
        """Cancel the jobs, or say that they go on."""
        if cancel:
            self.jobs = slurm.find(self.work)  # one may have been submitted just now
            slurm.cancel(self.jobs)
            self.say(f"cancelled Slurm jobs {self._numbers()}")
        elif self.jobs.numbers:
            self.say(f"Slurm jobs {self._numbers()} go on; the same command finds them")

    def _numbers(self) -> str:
        return " and ".join(self.jobs.numbers)

    def _tell(self, missing: int, was_running: bool) -> None:
        array = f"array job {self.jobs.array} ({missing} of {many(self.work.count, 'part')} to do) and "
        self.say(
            f"{'found' if was_running else 'submitted'} {array if self.jobs.array else ''}join job {self.jobs.join}"
        )

    def _forget(self) -> None:
        """Remove finished parts; BusyError if jobs are at work on them."""
        self.jobs = slurm.find(self.work)
        if self.jobs.numbers:
            raise BusyError(f"Slurm jobs {self._numbers()} are at work on this output; wait for them or scancel them")
        remove_parts(self.work.output, self.work.count)


def default_parts(plan: Plan, options: Options, say: Callable[[str], None]) -> int:
    """So many parts that each has a few minutes of work; said in one line."""
    frames, keyframes = frames_and_keyframes(options.input)
    asked = options.sbatch or ""
    on_gpu = "gpu" in asked or "gres" in asked or options.device.startswith(("cuda", "vulkan"))
    rate = LANCZOS_RATE if options.model == "lanczos" else GPU_RATE if on_gpu else CPU_RATE
    seconds = frames * plan.info.width * plan.info.height / rate
    count = max(2, min(round(seconds / PART_SECONDS), keyframes, MAX_PARTS))
    minutes = max(1, round(seconds / count / 60))
    device = "GPU" if on_gpu else "CPU"
    say(f"{count} parts, each about {many(minutes, 'minute')} of work for a {device} task; --parts sets their number")
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
