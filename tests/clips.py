"""Tiny test clips, made with PyAV: one function a property, each a few frames with a recognisable number.

Frame i of a clip shows `i` twice: as flat luma (see `luma_of`) and as bright 8x8 blocks along the top edge,
one a bit of i, so that a test can tell which frame it has whatever a codec did to it (`number_of`).
Times are integer ticks of the clip's time base; sizes are in pixels.
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT = 64, 48
BITS = 6  # blocks along the top edge: numbers up to 63


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Luma of frame `number`, (height, width) uint8 in the limited range: a slope, and the number as blocks."""
    y, x = np.mgrid[0:height, 0:width]
    luma = 40 + (x * 60 // max(width, 1)) + (y * 40 // max(height, 1)) + number % 8 * 4
    for bit in range(BITS):
        luma[0:8, bit * 8 : bit * 8 + 8] = 220 if number >> bit & 1 else 20
    return luma.astype(np.uint8)


def number_of(luma: np.ndarray, depth: int = 8) -> int:
    """The number that a picture of `picture` shows; luma is (height, width), `depth` bits a sample, at 1x scale."""
    blocks = [float(luma[2:6, bit * 8 + 2 : bit * 8 + 6].mean()) for bit in range(BITS)]
    return sum(1 << bit for bit, value in enumerate(blocks) if value > 120 << (depth - 8))


def video_frame(number: int, width: int = WIDTH, height: int = HEIGHT, pix_fmt: str = "yuv420p") -> av.VideoFrame:
    """Frame `number` in any pixel format; chroma is a slope, so that a colour mistake shows."""
    frame = av.VideoFrame(width, height, "yuv444p")
    y, x = np.mgrid[0:height, 0:width]
    planes = [picture(number, width, height), 100 + x * 40 // max(width, 1), 150 - y * 40 // max(height, 1)]
    for plane, values in zip(frame.planes, planes, strict=True):
        fill_plane(plane, values.astype(np.uint8))
    return frame if pix_fmt == "yuv444p" else frame.reformat(format=pix_fmt)


def fill_plane(plane, values: np.ndarray) -> None:
    """Copies a (rows, columns) array into a plane of a frame, whatever the plane's line size is."""
    rows, columns = values.shape[0], values[0].nbytes
    target = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    target[:rows, :columns] = np.ascontiguousarray(values).view(np.uint8).reshape(rows, columns)


def add_sound(container, seconds: Fraction, codec: str = "aac", start: Fraction = Fraction(0), rate: int = 48000):
    """Adds a stream of a 440 Hz tone; returns (stream, its packets), not yet muxed. `start` is in seconds."""
    stream = container.add_stream(codec, rate=rate, layout="mono")
    size, packets = 1024, []
    for first in range(0, int(seconds * rate), size):
        tone = np.sin(2 * np.pi * 440 * np.arange(first, first + size) / rate) * 0.3
        form = stream.codec_context.format.name
        samples = tone.astype(np.float32) if "flt" in form else (tone * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format=form, layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, first + int(start * rate), Fraction(1, rate)
        packets += stream.encode(frame)
    return stream, packets + stream.encode(None)


def make_clip(
    path,
    frames: int = 6,
    *,
    width: int = WIDTH,
    height: int = HEIGHT,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rate: Fraction = Fraction(25),
    time_base: Fraction | None = None,
    pts: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    tags: dict[str, int] | None = None,
    sound: bool | str = False,
    sound_start: Fraction = Fraction(0),
    container: str | None = None,
    container_options: dict[str, str] | None = None,
    setup=None,
    pictures: Sequence[av.VideoFrame] | None = None,
) -> Path:
    """Writes a clip and returns its path.

    `pts` are the frames' times in ticks of `time_base` (default: one tick a frame at `rate`); `tags` are
    codec context attributes (colorspace, color_range, color_primaries, color_trc); `sound` is True for AAC or
    a codec's name; `setup(container, stream)` runs before the first frame (display matrix, metadata,
    more streams); `pictures` replaces the numbered pictures.
    """
    path = Path(path)
    if codec == "libx264" and options is None:
        options = {"crf": "10", "preset": "ultrafast"}
    with av.open(str(path), "w", format=container, container_options=container_options or {}) as out:
        stream = out.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = stream.time_base = time_base or 1 / Fraction(rate)
        stream.codec_context.thread_count = 1
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        if setup:
            setup(out, stream)
        seconds = Fraction(frames) / Fraction(rate)
        sounds = add_sound(out, seconds, "aac" if sound is True else sound, sound_start)[1] if sound else []
        packets = []
        for index in range(frames):
            frame = pictures[index] if pictures else video_frame(index, width, height, pix_fmt)
            frame.pts = pts[index] if pts is not None else index
            frame.time_base = time_base or 1 / Fraction(rate)
            for name, value in (tags or {}).items():
                setattr(frame, name, value)
            packets += stream.encode(frame)
        for packet in sorted(packets + stream.encode(None) + sounds, key=lambda p: p.dts * p.time_base):
            out.mux(packet)
    return path
