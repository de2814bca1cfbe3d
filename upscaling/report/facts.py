"""What a page says of a job's input and output, from its plan."""

from pathlib import Path

from upscaling.common.text import clock
from upscaling.mux.stream_copy import describe
from upscaling.mux.stream_selection import open_streams, select_streams
from upscaling.pipeline.images import existing_files, is_pattern
from upscaling.pipeline.plan import Plan


def describe_streams(plan: Plan) -> list[str]:
    """One line for each stream of the input: its kind and what happens to it. Errors as for opening the input."""
    if plan.target is not None:
        return []
    container = plan.output.suffix.lower().lstrip(".")
    with open_streams(plan.info) as source:
        outcomes = select_streams(source.container, plan.info, container, plan.streams).outcomes
        return [f"{describe(stream)}: {outcomes[stream.index]}" for stream in source.container.streams]


def details(plan: Plan) -> list[tuple[str, str]]:
    """(name, text) of the input's and the output's format, and of the options that change the result."""
    info, encoding = plan.info, plan.encoding
    rate = [f"{float(info.frame_rate):.6g} frames/s"] if info.frame_rate else []
    length = [clock(float(info.duration)) + " long"] if info.duration and not plan.target else []
    settings = [f"{name} {encoding.options[name]}" for name in ("crf", "qp", "preset") if name in encoding.options]
    codec = plan.target.extension if plan.target else encoding.codec
    asked = [name if value == "True" else f"{name} {value}" for name, value in plan.asked.items()]
    return [
        ("input", ", ".join([f"{info.codec} {info.pixel_format}", *rate, *length])),
        ("output", ", ".join([f"{codec} {encoding.pixel_format}", *([] if plan.target else settings)])),
        ("options", ", ".join(asked).replace("_", "-")),
    ]


def input_bytes(plan: Plan) -> int:
    """The size of the files that are read, in bytes."""
    return sum(path.stat().st_size for path in plan.source.paths)


def output_bytes(output: Path) -> int | None:
    """The size of a result, of all numbered pictures of a pattern; None if its name is not that of a file."""
    paths = [path for _, path in existing_files(output)] if is_pattern(output) else [output]
    return sum(path.stat().st_size for path in paths) if all(path.is_file() for path in paths) else None
