"""A video as several jobs, for more than one machine can decode and encode: which frames each of them has.

    python upscale.py in.mp4 out.mp4 2 --segment-of 1/4       # on one machine, 2/4 on the next, …
    python upscale.py in.mp4 out.mp4 2 --join-segments 4      # when all are done

The parts begin at keyframes, as near to equal shares as those lie. Every job finds the same parts, because it
counts the same packets; each decodes from the video's start and takes the frames of its part by their numbers,
so that together they have every frame once, whatever the keyframes are.
"""

import json
from dataclasses import replace
from pathlib import Path

from upscaling.common.errors import InputError, UpscaleError
from upscaling.common.files import replace_file
from upscaling.decode.reader import Reader
from upscaling.job.fingerprint import differences
from upscaling.job.notation import FrameRange
from upscaling.job.options import Options
from upscaling.job.work_dir import WorkDir

COMPLETE = "complete.json"  # in a part's work directory, once all its frames are in segments


def part_options(options: Options) -> Options:
    """The options of one part's job: its frames, and names of its own for output and work directory."""
    number, count = options.segment_of
    if options.frames or options.time or options.compare:
        raise InputError("--segment-of splits a whole video: leave out --frames, --time and --compare")
    output = options.output
    name = f"{output.stem}.{number}of{count}{output.suffix}"
    return replace(options, frames=frame_range(options.input, number, count), output=output.with_name(name))


def frame_range(path: Path, number: int, count: int) -> FrameRange:
    """The frames of part `number` (from 1) of `count`; the last one goes to the video's end.

    InputError where there are not enough keyframes for so many parts.
    """
    with Reader(path, threads=1) as reader:
        packets = [
            (packet.pts if packet.pts is not None else packet.dts, packet.is_keyframe)
            for packet in reader.packets()
            if not packet.is_discard
        ]
    if all(pts is not None for pts, _ in packets):
        packets.sort(key=lambda packet: packet[0])  # the order of presentation
    keyframes = [index for index, (_, is_key) in enumerate(packets) if is_key and index > 0]
    starts = [0]
    for part in range(1, count):
        wanted = part * len(packets) / count
        later = [index for index in keyframes if index > starts[-1]]
        if not later:
            raise InputError(
                f"{path} can't be split into {count} parts: it has {len(keyframes) + 1} keyframes, choose fewer parts"
            )
        starts.append(min(later, key=lambda index: abs(index - wanted)))
    last = starts[number] if number < count else None
    return FrameRange(starts[number - 1] + 1, last)


def mark_complete(work_dir: WorkDir, options: Options) -> str:
    """Note that all frames of a part are in segments; the line for the user."""
    number, count = options.segment_of
    replace_file(work_dir.folder(COMPLETE), json.dumps({"frames": work_dir.frames_done}) + "\n")
    return (
        f"part {number} of {count} is done: {work_dir.frames_done} frames, kept in {work_dir.directory}; "
        f"join all parts with --join-segments {count} in place of --segment-of"
    )


def check_part(work_dir: Path, identity: dict, name: str) -> None:
    """UpscaleError where a part was not run, was run with other options, or is not done."""
    try:
        old = json.loads((work_dir / "job.json").read_bytes())["identity"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UpscaleError(f"{name} has not been run: there is no job in {work_dir}") from error
    if changed := differences(old, json.loads(json.dumps(identity))):
        raise UpscaleError(f"{name} was run with other options or input (changed: {', '.join(changed)})")


def is_complete(work_dir: WorkDir) -> bool:
    """Whether an opened job of a part has all its frames."""
    try:
        return json.loads(work_dir.folder(COMPLETE).read_bytes())["frames"] == work_dir.frames_done
    except (OSError, ValueError, KeyError, TypeError):
        return False
