"""`--dry-run`: what a run would do, with time and disk space estimated from a few frames.

These frames are upscaled and encoded into a short video in the temp directory, which is removed at once. Nothing
else is written.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from upscaling.common.errors import InputError
from upscaling.common.text import clock, many, printable
from upscaling.encode.speed import encode_frames
from upscaling.inference.engine import make_upscaler
from upscaling.job.options import Options
from upscaling.pipeline.plan import Plan, make_plan
from upscaling.pipeline.worker_count import parallel_workers
from upscaling.report.facts import describe_streams
from upscaling.terminal.lines import engine_text, size_text

MEASURED_FRAMES = 4
MAX_SECONDS = 20.0  # after that no further frame is measured


@dataclass(frozen=True)
class Costs:
    """What one frame costs, as the mean of `frames` frames."""

    frames: int
    startup_seconds: float  # of a worker, until its first frame is done
    decode_seconds: float
    worker_seconds: float
    encode_seconds: float
    encoded_bytes: float


def dry_run(options: Options) -> tuple[list[str], dict]:
    """(lines of text, facts for JSON). InputError and UpscaleError as for a run."""
    plan = make_plan(options)
    facts = gather_facts(plan, measure(plan))
    return describe_plan(plan, facts), facts


def measure(plan: Plan) -> Costs:
    """Upscale and encode the first frames as one worker would; the first one, a warm-up, is not counted."""
    started = time.monotonic()
    frames = []
    with plan.source.open(0) as decoder:
        for decoded in islice(decoder, MEASURED_FRAMES + 1):
            frames.append((decoded.pts, np.concatenate([np.ravel(plane) for plane in decoded.planes])))
    if not frames:
        raise InputError(f"cannot decode any frame of {plan.options.input}")
    decode = (time.monotonic() - started) / len(frames)
    started = time.monotonic()
    upscaler = make_upscaler(plan.models[0], lambda: None)
    upscaler.submit([frames[0][1]], plan.conversion)
    first = upscaler.collect()[0].copy()
    startup, started = time.monotonic() - started, time.monotonic()
    results = []
    for _, samples in frames[1:] or frames:
        upscaler.submit([samples], plan.conversion)
        results.append(upscaler.collect()[0].copy())
        if time.monotonic() - started > MAX_SECONDS:
            break
    if plan.steady:
        inputs = [samples for _, samples in frames[1:] or frames][: len(results)]
        results = list(steadied(plan, inputs, results))
    work = (time.monotonic() - started) / len(results)
    encoded = [first, *results][: len(frames)]
    times = [pts for pts, _ in frames[: len(encoded)]]
    encode, size = encode_frames(plan.encoding, plan.conversion.target.padded, times, encoded)
    return Costs(len(results), startup, decode, work, encode, size)


def steadied(plan: Plan, frames: list[np.ndarray], results: list[np.ndarray]) -> Iterator[np.ndarray]:
    """The steadied results of consecutive flat frames."""
    from upscaling.inference.steady import steady_frames  # imports OpenCV

    return steady_frames(frames, results, range(len(results)), plan.conversion, lambda: None)


def total_seconds(plan: Plan, costs: Costs) -> float | None:
    """An estimate for the whole run: its stages overlap, the slowest one counts. None if the length is unknown."""
    count = plan.info.frame_count
    if count is None:
        return None
    slowest = max(costs.decode_seconds, costs.worker_seconds / parallel_workers(plan.models), costs.encode_seconds)
    return costs.startup_seconds + count * slowest


def gather_facts(plan: Plan, costs: Costs) -> dict:
    """The facts of a dry run, JSON-able."""
    info, encoding, count = plan.info, plan.encoding, plan.info.frame_count
    seconds = total_seconds(plan, costs)
    window = min(plan.window, count or plan.window)
    return {
        "input": printable(plan.options.input),
        "output": printable(plan.output),
        "streams": describe_streams(plan),
        "input_size": f"{info.width}x{info.height}",
        "output_size": f"{encoding.width}x{encoding.height}",
        "shape": plan.shape.note,
        "frames": count,
        "frames_per_second_of_video": str(info.frame_rate) if info.frame_rate else None,
        "pixel_format": plan.encoding.pixel_format,
        "codec": plan.target.extension if plan.target else plan.encoding.codec,
        "model": plan.options.model,
        "workers": len(plan.models),
        "device": ",".join(dict.fromkeys(model.device for model in plan.models)),
        "engine": plan.choice.engine,
        "engine_reason": plan.choice.reason,
        "measured_frames": costs.frames,
        "worker_seconds_per_frame": round(costs.worker_seconds, 4),
        "encoder_seconds_per_frame": round(costs.encode_seconds, 4),
        "seconds": round(seconds, 1) if seconds is not None else None,
        "output_bytes": int(count * costs.encoded_bytes) if count else None,
        "work_bytes": int(window * plan.frame_bytes + (count or 0) * costs.encoded_bytes),
        "warnings": [*plan.choice.warnings, *plan.warnings],
    }


def describe_plan(plan: Plan, facts: dict) -> list[str]:
    """The dry run as text."""
    info = plan.info
    rate = f"{float(info.frame_rate):.3f} frames/s, " if info.frame_rate else ""
    length = f"{clock(float(info.duration))}, " if info.duration else ""
    count = f"about {many(info.frame_count, 'frame')}" if info.frame_count else "an unknown number of frames"
    colour = f"{info.pixel_format} {info.colour.matrix} {'full' if info.colour.full_range else 'limited'} range"
    result = [
        f"input    {facts['input']}: {info.codec}, {facts['input_size']}, {colour}, {rate}{length}{count}",
        *(f"stream   {line}" for line in facts["streams"]),
        f"output   {facts['output']}: {facts['codec']}, {size_text(facts)}, {facts['pixel_format']}",
        f"model    {engine_text(facts)}",
    ]
    per_frame = f"{facts['worker_seconds_per_frame']:.3f} s of a worker, {facts['encoder_seconds_per_frame']:.3f} s"
    result.append(f"measured {many(facts['measured_frames'], 'frame')}; one frame: {per_frame} of the encoder")
    if facts["seconds"] is not None:
        result.append(f"time     about {clock(facts['seconds'])}")
        result.append(
            f"disk     about {megabytes(facts['output_bytes'])} for the output's video, "
            f"{megabytes(facts['work_bytes'])} in the work directory while it runs"
        )
    return result + [f"note     {line}" for line in facts["warnings"]]


def megabytes(count: int) -> str:
    """Bytes as MiB or GiB."""
    return f"{count / 2**20:.1f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"
