"""How much work the files of a run are, for its progress: pixels to upscale, from the headers of the files."""

import time
from collections.abc import Sequence
from pathlib import Path

from upscaling.common.errors import UpscaleError
from upscaling.demux.input_file import open_input
from upscaling.demux.main_stream import main_stream
from upscaling.pictures.formats import is_readable_name as is_picture

READING_SECONDS = 3.0  # after that no further header is read
TYPICAL = {True: 2e6, False: 1e9}  # pixels of a picture and of a video of which nothing is known


def estimate_work(files: Sequence[Path]) -> list[float]:
    """Pixels of all frames of each file; files that say nothing count as the mean of their kind."""
    started = time.monotonic()
    found = [work_of(path) if time.monotonic() - started < READING_SECONDS else None for path in files]
    means = {}
    for kind, typical in TYPICAL.items():
        known = [work for path, work in zip(files, found, strict=True) if work and is_picture(path) == kind]
        means[kind] = sum(known) / len(known) if known else typical
    return [work or means[is_picture(path)] for path, work in zip(files, found, strict=True)]


def work_of(path: Path) -> float | None:
    """Pixels of all frames of a file, as its header says; None if it does not."""
    try:
        source = open_input(path)
    except (UpscaleError, OSError):
        return None
    try:
        stream = main_stream(source.container, path)
        pixels = stream.codec_context.width * stream.codec_context.height
        if is_picture(path):
            return float(pixels) or None
        duration = source.container.duration  # in microseconds
        frames = stream.frames or (duration / 1e6 * float(stream.average_rate or 25) if duration else 0)
        return float(pixels * frames) or None
    except UpscaleError:
        return None
    finally:
        source.close()
