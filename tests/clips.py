"""Tiny test clips, made with PyAV: one function a property, each a few frames with a recognisable number.

Frame i of a clip shows `i` twice: as flat luma (see `luma_of`) and as bright 8x8 blocks along the top edge,
one a bit of i, so that a test can tell which frame it has whatever a codec did to it (`number_of`).
Times are integer ticks of the clip's time base; sizes are in pixels.
"""

import random
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
    stream.bit_rate = 64000
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
        base = stream.codec_context.time_base = stream.time_base = time_base or 1 / Fraction(rate)
        stream.codec_context.thread_count = 1
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        packets = (setup(out, stream) if setup else None) or []
        if sound:
            seconds = Fraction(frames) / Fraction(rate)
            packets += add_sound(out, seconds, "aac" if sound is True else sound, sound_start)[1]
        pictures = pictures or [video_frame(index, width, height, pix_fmt) for index in range(frames)]
        for frame, frame_pts in zip(pictures, pts or range(frames), strict=True):
            frame.pts, frame.time_base = frame_pts, base
            for name, value in (tags or {}).items():
                setattr(frame, name, value)
            packets += stream.encode(frame)
        for packet in sorted(packets + stream.encode(None), key=lambda p: p.dts * p.time_base):
            out.mux(packet)
    return path


def vfr(path) -> tuple[Path, list[int]]:
    """Frames at uneven times with a gap of 5 s, as screen recorders make them; (path, times in ms)."""
    times = [0, 16, 50, 51, 1000, 6000, 6040]
    return make_clip(path, len(times), codec="ffv1", time_base=Fraction(1, 1000), pts=times), times


def late(path) -> tuple[Path, list[int]]:
    """The first frame comes at 10 s; (path, times in ms)."""
    times = [10000, 10040, 10080, 10120]
    return make_clip(path, len(times), codec="ffv1", time_base=Fraction(1, 1000), pts=times), times


def negative(path) -> tuple[Path, list[int]]:
    """A .ts whose clock wraps around after three frames: the first times are negative; (path, times in 1/90000 s)."""
    times = [-10800, -7200, -3600, 0, 3600]
    pts = [time + (1 << 33) for time in times]
    options = {"crf": "10", "preset": "ultrafast", "bf": "0"}
    return make_clip(path, len(times), time_base=Fraction(1, 90000), pts=pts, options=options), times


def trimmed(path, first: int, frames: int = 12) -> Path:
    """An .mp4 whose edit list starts at frame `first`: the ones before it are there, but not shown."""
    make_clip(path, frames, options={"crf": "10", "preset": "ultrafast", "bf": "0", "g": "100"})
    data = bytearray(Path(path).read_bytes())
    at = data.index(b"elst") + 4 + 4 + 4 + 4  # type, version and flags, count, duration (ISO/IEC 14496-12 8.6.6)
    ticks = int.from_bytes(data[at : at + 4], "big") + first * 512  # 1/12800 s at 25 frames/s
    data[at : at + 4] = ticks.to_bytes(4, "big")
    Path(path).write_bytes(data)
    return Path(path)


def wrong_times(path, times: Sequence[int]) -> Path:
    """An .mkv whose frames carry exactly these times in ms, duplicate and backward ones too."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        packets = [p for i in range(len(times)) for p in stream.encode(video_frame(i, pix_fmt="yuvj420p"))]
        for index, (packet, time) in enumerate(zip(packets + stream.encode(None), times, strict=True)):
            packet.time_base = Fraction(1, 1000)
            packet.pts, packet.dts = time, -1000 + index
            out.mux_one(packet)
    return Path(path)


def rotated(path, degrees: int, mirror_x: bool = False, mirror_y: bool = False, **more) -> Path:
    """Turned counterclockwise by the display matrix, then mirrored."""
    return make_clip(path, setup=lambda _, s: s.set_display_rotation(degrees, mirror_x, mirror_y), **more)


def encoded(container, codec: str, pix_fmt: str, size: tuple[int, int], frames: int, first: int = 0):
    """(stream, packets) of one more video stream of numbered pictures."""
    stream = container.add_stream(codec, rate=25)
    stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
    packets = []
    for index in range(frames):
        frame = video_frame(first + index, *size, pix_fmt)
        frame.pts, frame.time_base = index, Fraction(1, 25)
        packets += stream.encode(frame)
    return stream, packets + stream.encode(None)


def with_cover(path) -> Path:
    """A 64x48 video, and cover art that is bigger."""

    def cover(out, _):
        stream, packets = encoded(out, "mjpeg", "yuvj420p", (256, 256), 1)
        stream.disposition = 0x400  # attached_pic
        return packets

    return make_clip(path, setup=cover)


def two_pictures(path, default: int | None) -> Path:
    """An .mkv with two videos: 64x48 showing 0, 1, … and 128x96 showing 20, 21, …; `default` is the one so flagged."""

    def second(out, stream):
        other, packets = encoded(out, "ffv1", "yuv420p", (128, 96), 6, first=20)
        for index, each in enumerate((stream, other)):
            each.disposition = int(index == default)
        return packets

    return make_clip(path, codec="ffv1", setup=second, container_options={"default_mode": "passthrough"})


def with_alpha(path, codec: str, pix_fmt: str, frames: int = 4, options: dict[str, str] | None = None) -> Path:
    """Numbered pictures whose alpha is 100 of 255 everywhere."""
    pictures = []
    for index in range(frames):
        frame, shown = av.VideoFrame(WIDTH, HEIGHT, "yuva444p"), video_frame(index, pix_fmt="yuv444p")
        for plane, source in zip(frame.planes, shown.planes, strict=False):
            fill_plane(plane, np.frombuffer(source, np.uint8).reshape(-1, source.line_size)[:, :WIDTH])
        fill_plane(frame.planes[3], np.full((HEIGHT, WIDTH), 100, np.uint8))
        pictures.append(frame.reformat(format=pix_fmt))
    return make_clip(path, frames, codec=codec, pix_fmt=pix_fmt, pictures=pictures, options=options or {})


def resized_on_the_way(path) -> Path:
    """A transport stream of six frames of 64x48, then six of 128x96 (showing 20, 21, …)."""
    parts = []
    for name, size, first in (("a", (64, 48), 0), ("b", (128, 96), 20)):
        part = Path(f"{path}.{name}.ts")
        pictures = [video_frame(first + i, *size) for i in range(6)]
        pts = list(range(first, first + 6))
        parts.append(make_clip(part, 6, width=size[0], height=size[1], pictures=pictures, pts=pts))
    Path(path).write_bytes(b"".join(part.read_bytes() for part in parts))
    return Path(path)


def damaged(path, frames: int = 30) -> Path:
    """An .mp4 of intra frames; the second half of frame 10 is overwritten."""
    make_clip(path, frames, options={"g": "1", "crf": "5", "preset": "ultrafast"})
    with av.open(str(path)) as container:
        packet = [p for p in container.demux(video=0) if p.size][10]
        start, size = packet.pos, packet.size
    data = bytearray(Path(path).read_bytes())
    data[start + size // 2 : start + size] = random.Random(1).randbytes(size - size // 2)
    Path(path).write_bytes(data)
    return Path(path)


def truncated(path, frames: int = 30, keep: float = 0.6) -> Path:
    """An .mkv that was cut off in the middle of a frame."""
    make_clip(path, frames, options={"crf": "10", "preset": "medium", "bf": "2"})
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: int(len(data) * keep)])
    return Path(path)
