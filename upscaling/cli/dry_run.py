"""--dry-run: what a run would do, with time and disk estimated from a few frames that are really upscaled and encoded.

Nothing is written but a few encoded frames in the temp directory, for a moment.
"""

import os
import tempfile
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from upscaling.common.errors import InputError
from upscaling.common.text import clock, many
from upscaling.decode.reader import open_input
from upscaling.encode.segment_writer import SegmentWriter
from upscaling.encode.stream_copy import describe
from upscaling.encode.stream_selection import select_streams
from upscaling.inference.engine import make_upscaler
from upscaling.job.options import Options
from upscaling.job.plan import Plan, make_plan

MEASURED = 4  # frames
SECONDS = 20.0  # no further frame is measured after that


@dataclass(frozen=True)
class Measure:
    """What one frame takes: seconds of decoding, of one worker and of encoding, and bytes of the result.

    `load` is how many seconds a worker takes before its first frame.
    """

    frames: int
    load: float
    decode: float
    work: float
    encode: float
    size: float


def dry_run(options: Options) -> tuple[list[str], dict]:
    """Lines for a person and facts for JSON. InputError and UpscaleError as for a run."""
    plan = make_plan(options)
    measure = measure_frames(plan)
    return lines(plan, measure), facts(plan, measure)


def measure_frames(plan: Plan) -> Measure:
    """Upscale and encode the first few frames as one worker would; the first one, which warms up, does not count."""
    started = time.monotonic()
    frames = []
    with plan.source.open(0) as decoder:
        for decoded in islice(decoder, MEASURED + 1):
            frames.append((decoded.pts, np.concatenate([np.ravel(plane) for plane in decoded.planes])))
    if not frames:
        raise InputError(f"{plan.options.input}: no frame of it decodes")
    decode = (time.monotonic() - started) / len(frames)
    started = time.monotonic()
    upscaler = make_upscaler(plan.models[0], lambda: None)
    upscaler.submit([frames[0][1]], plan.conversion)
    warm = [upscaler.collect()[0].copy()]
    load, started = time.monotonic() - started, time.monotonic()
    results = []
    for _, samples in frames[1:] or frames:
        upscaler.submit([samples], plan.conversion)
        results.append(upscaler.collect()[0].copy())
        if time.monotonic() - started > SECONDS:
            break
    work = (time.monotonic() - started) / len(results)
    kept = [*warm, *results][: len(frames)]
    encode, size = encode_frames(plan, [pts for pts, _ in frames[: len(kept)]], kept)
    return Measure(len(results), load, decode, work, encode, size)


def encode_frames(plan: Plan, times: list[int], results: list[np.ndarray]) -> tuple[float, float]:
    """(seconds, bytes) a frame of encoding these."""
    layout = plan.conversion.target.padded
    with tempfile.TemporaryDirectory(prefix="upscale-") as folder:
        path = Path(folder) / "segment.mkv"
        started = time.monotonic()
        with SegmentWriter(path, plan.encoding) as writer:
            for pts, samples in zip(times, results, strict=True):
                writer.write(layout.planes(samples), pts)
        return (time.monotonic() - started) / len(results), path.stat().st_size / len(results)


def seconds_in_all(plan: Plan, measure: Measure) -> float | None:
    """An estimate of the whole run: its slowest stage, all of them overlap; None where the length is not known."""
    count = plan.info.frame_count
    if count is None:
        return None
    devices = {model.device for model in plan.models}
    # On a CPU every worker was given its share of the cores; on a GPU workers share one device.
    side_by_side = len(plan.models) if devices == {"cpu"} else len(devices)
    if devices == {"cpu"}:
        side_by_side = min(side_by_side, len(os.sched_getaffinity(0)))
    return measure.load + count * max(measure.decode, measure.work / side_by_side, measure.encode)


def facts(plan: Plan, measure: Measure) -> dict:
    """The dry run's JSON."""
    info, target, count = plan.info, plan.conversion.target, plan.info.frame_count
    seconds = seconds_in_all(plan, measure)
    window = min(plan.window, count or plan.window)
    return {
        "input": str(plan.options.input),
        "output": str(plan.output),
        "streams": streams(plan),
        "input_size": f"{info.width}x{info.height}",
        "output_size": f"{target.width}x{target.height}",
        "frames": count,
        "frames_per_second_of_video": str(info.frame_rate) if info.frame_rate else None,
        "pixel_format": plan.encoding.pixel_format,
        "codec": plan.target.extension if plan.target else plan.encoding.codec,
        "model": plan.options.model,
        "workers": len(plan.models),
        "device": ",".join(dict.fromkeys(model.device for model in plan.models)),
        "measured_frames": measure.frames,
        "seconds": round(seconds, 1) if seconds is not None else None,
        "output_bytes": int(count * measure.size) if count else None,
        "work_bytes": int(window * plan.frame_bytes + (count or 0) * measure.size),
        "warnings": list(plan.warnings),
    }


def streams(plan: Plan) -> list[str]:
    """One line for each stream of the input: what it is and what becomes of it."""
    if plan.target is not None:
        return []
    container = plan.output.suffix.lower().lstrip(".")
    with open_input(plan.info.path) as source:
        copiers, _ = select_streams(source, plan.info, container)
        outcomes = {copier.stream.index: copier.outcome for copier in copiers} | {plan.info.stream_index: "upscaled"}
        return [f"{describe(stream)}: {outcomes.get(stream.index, 'left out')}" for stream in source.streams]


def lines(plan: Plan, measure: Measure) -> list[str]:
    """What a person reads."""
    found = facts(plan, measure)
    info = plan.info
    rate = f"{float(info.frame_rate):.3f} frames/s, " if info.frame_rate else ""
    length = f"{clock(float(info.duration))}, " if info.duration else ""
    count = f"about {many(info.frame_count, 'frame')}" if info.frame_count else "an unknown number of frames"
    colour = f"{info.pixel_format} {info.colour.matrix} {'full' if info.colour.full_range else 'limited'} range"
    result = [
        f"input    {found['input']}: {info.codec}, {found['input_size']}, {colour}, {rate}{length}{count}",
        *(f"stream   {line}" for line in found["streams"]),
        f"output   {found['output']}: {found['codec']}, {found['output_size']}, {found['pixel_format']}",
        f"model    {found['model']}, {many(found['workers'], 'worker')} on {found['device']}",
    ]
    one = f"one frame: {measure.work:.3f} s of a worker, {measure.encode:.3f} s of the encoder"
    result.append(f"measured {many(measure.frames, 'frame')}; {one}")
    if found["seconds"] is not None:
        result.append(f"time     about {clock(found['seconds'])}")
        result.append(
            f"disk     about {megabytes(found['output_bytes'])} for the output's video, "
            f"{megabytes(found['work_bytes'])} in the work directory meanwhile"
        )
    return result + [f"note     {line}" for line in plan.warnings]


def megabytes(count: int) -> str:
    """Bytes as MiB or GiB."""
    return f"{count / 2**20:.1f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"
