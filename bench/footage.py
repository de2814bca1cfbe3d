"""Clips of any size and length for bench/run.py, cut from one source clip, which is played to and fro."""

import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = Fraction(25)
CORNER = 4  # of a screen recording this part of the width and of the height moves


def make_clip(source: Path, target: Path, width: int, height: int, frames: int, kind: str = "film") -> Path:
    """`target`, H.264 in Matroska without loss of what the kind says: there already, it is taken as it is.

    `kind`: "film" (no frame like the one before), "twos" (each frame twice), "screen" (all but a corner stands still).
    """
    if target.exists():
        return target
    pictures = list(_scaled(source, width, height, frames))
    order = itertools.cycle([*range(len(pictures)), *range(len(pictures) - 2, 0, -1)])
    partial = target.with_suffix(".part")
    with av.open(str(partial), "w", format="matroska") as out:
        quality = "0" if kind != "film" else "12"  # lossless, so that what stands still stays the same
        stream = out.add_stream("libx264", rate=RATE, options={"crf": quality, "preset": "fast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number, index in zip(range(frames), order, strict=False):
            picture = pictures[index]
            if kind == "twos":
                picture = pictures[number // 2 % len(pictures)]
            elif kind == "screen":
                picture = pictures[0].copy()
                rows, columns = height // CORNER, width // CORNER
                picture[:rows, :columns] = pictures[index][:rows, :columns]
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts, frame.time_base = number, 1 / RATE
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return partial.rename(target)


def _scaled(source: Path, width: int, height: int, frames: int) -> Iterator[np.ndarray]:
    with av.open(str(source)) as container:
        for frame in itertools.islice(container.decode(video=0), frames):
            yield frame.reformat(width, height, format="yuv420p").to_ndarray()
