"""The parts of a video that several jobs have upscaled, joined into one output without encoding anything again."""

import contextlib
from collections.abc import Callable
from dataclasses import replace

from upscaling.common.errors import UpscaleError
from upscaling.common.files import file_sha256
from upscaling.job.ledger import SegmentRecord
from upscaling.job.options import Options
from upscaling.job.parts import check_part, is_complete
from upscaling.job.plan import Plan, make_plan
from upscaling.job.segments import put_together
from upscaling.job.work_dir import WorkDir, open_work_dir


def join_parts(options: Options, say: Callable[[str], None]) -> tuple[Plan, int]:
    """Join the work directories of all --segment-of jobs; (the whole video's plan, its frames).

    The other streams come from the input, once and whole. UpscaleError where a part is missing, not done, or
    was run with other options: nothing is touched then. The parts' directories are removed afterwards, unless
    --keep-work says otherwise.
    """
    count = options.join_segments
    alone = replace(options, join_segments=None, restart=False)
    whole = make_plan(alone)
    plans = [make_plan(replace(alone, segment_of=(number, count))) for number in range(1, count + 1)]
    for number, plan in enumerate(plans, 1):
        check_part(plan.work_dir, plan.identity, f"part {number} of {count}")
    with contextlib.ExitStack() as stack:
        work_dirs = []
        for plan in plans:
            work_dirs.append(open_work_dir(plan.work_dir, plan.identity, plan.output))
            stack.callback(work_dirs[-1].close)
        segments = []
        for number, work_dir in enumerate(work_dirs, 1):
            if not is_complete(work_dir):
                raise UpscaleError(f"part {number} of {count} is not done yet; run --segment-of {number}/{count} again")
            for record in work_dir.records:
                segments.append((_whole(work_dir, record, f"part {number} of {count}"), record.pts))
        for line in put_together(segments, whole, work_dirs[0]):
            say(line)
        if not options.keep_work:
            for work_dir in work_dirs:
                if not work_dir.remove():
                    say(f"{work_dir.directory} holds files that are not this job's, and stays")
    return whole, sum(len(pts) for _, pts in segments)


def _whole(work_dir: WorkDir, record: SegmentRecord, name: str):
    """The path of a segment that is what the ledger says of it."""
    path = work_dir.folder("segments") / record.file
    if not path.is_file() or path.stat().st_size != record.size or file_sha256(path) != record.sha256:
        raise UpscaleError(f"{name}: {record.file} is damaged; run that part again")
    return path
