"""All parts of a video joined into the output: packets are copied, the other streams come from the input."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from upscaling.common.errors import UpscaleError
from upscaling.common.text import printable
from upscaling.demux.packet_index import read_packet_index
from upscaling.job.identity import identity_elsewhere
from upscaling.job.options import Options
from upscaling.job.parts import PartRun, chain, parts_directory, remove_parts
from upscaling.job.work_dir import open_work_dir
from upscaling.mux.video_track import Segment
from upscaling.pipeline.plan import Plan, make_plan
from upscaling.pipeline.segments import join_into_output


def join_parts(options: Options, say: Callable[[str], None]) -> tuple[Plan, int]:
    """Join the finished parts of --part; (the whole video's plan, its frames).

    UpscaleError if a part is missing, damaged, or was made with other options or from another input: nothing is
    touched then. The parts are removed afterwards, unless --keep-work says otherwise.
    """
    count = options.join or 0
    plan = whole_plan(options)
    runs = list(chain(plan.output, plan.identity, count))
    segments = [segment for number, run in enumerate(runs, 1) for segment in _segments(run, number, count)]
    work_dir = open_work_dir(plan.work_dir, plan.identity, plan.output, options.restart, plan.asked)
    try:
        for line in (*work_dir.notes, *join_into_output(segments, plan, work_dir)):
            say(line)
        work_dir.remove()
    finally:
        if work_dir.held and not work_dir.records:
            work_dir.remove()
        work_dir.close()
    if not options.keep_work and not remove_parts(plan.output, count):
        say(f"{printable(parts_directory(plan.output))} holds other files and is not removed")
    return plan, sum(run.frames for run in runs)


def frames_and_keyframes(path: Path) -> tuple[int, int]:
    """How many frames and keyframes a video has, by its packets."""
    index = read_packet_index(path)
    return int(index.shown.sum()), int((index.key & index.shown).sum())


def whole_plan(options: Options) -> Plan:
    """The plan of the whole video, on a machine that needs none of the devices on which the parts are made."""
    plan = make_plan(replace(options, part=None, join=None, restart=False, device="cpu"))
    return replace(plan, options=options, identity=identity_elsewhere(plan.identity, options))


def _segments(run: PartRun, number: int, count: int) -> list[Segment]:
    """A part's segments; UpscaleError if one is damaged."""
    for record in run.records:
        if not run.is_intact(record):
            (run.directory / "part.json").unlink(missing_ok=True)  # it is not finished any more
            path = printable(run.path(record))
            raise UpscaleError(f"part {number} of {count} is damaged ({path}); run --part {number}/{count} again")
    return [Segment(run.path(record), record.pts) for record in run.records]
