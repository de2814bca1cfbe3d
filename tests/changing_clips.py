"""Test clips in which something changes on the way, or that are coded as fields; made of joined transport streams."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import clips
import field_clips
import numpy as np
import paff
from av.bitstream import BitStreamFilterContext
from clips import fill_plane, make_clip, picture

TICKS = 3600  # of 90 kHz: a frame at 25 frames/s
LOSSLESS = {"qp": "0", "preset": "ultrafast", "bf": "0"}


def joined(path, parts: Sequence[dict]) -> Path:
    """A transport stream of H.264 clips that follow one another without a gap.

    Each of `parts` is make_clip's arguments, and `sar`, `filter` (a bitstream filter), and `frames`.
    """
    path, data, start = Path(path), b"", 0
    for number, part in enumerate(parts):
        more = {"width": 160, "height": 120, "options": LOSSLESS} | part
        sar, change, frames = more.pop("sar", None), more.pop("filter", None), more.pop("frames", 12)
        name = path.with_name(f"{path.stem}.{number}.ts")

        def setup(_, stream, sar=sar):
            if sar:
                stream.codec_context.sample_aspect_ratio = Fraction(*sar)

        pts = [(start + index) * TICKS for index in range(frames)]
        make_clip(name, frames, time_base=Fraction(1, 90000), pts=pts, setup=setup, **more)
        data += (filtered(name, change) if change else name).read_bytes()
        start += frames
    path.write_bytes(data)
    return path


def filtered(path: Path, change: str) -> Path:
    """A clip whose packets have passed a bitstream filter."""
    target = path.with_name(f"{path.stem}.filtered{path.suffix}")
    with av.open(str(path)) as source, av.open(str(target), "w") as out:
        stream = source.streams.video[0]
        copy, context = out.add_stream_from_template(stream), BitStreamFilterContext(change, stream)
        for packet in [p for p in source.demux(stream) if p.size]:
            for done in context.filter(packet):
                done.stream = copy
                out.mux_one(done)
    return target


def flat(colour: Sequence[int], frames: int = 12, pix_fmt: str = "yuv420p") -> list[av.VideoFrame]:
    """Frames of one colour (Y, U, V)."""
    result = []
    for _ in range(frames):
        frame = av.VideoFrame(160, 120, "yuv420p")
        for plane, value in zip(frame.planes, colour, strict=True):
            fill_plane(plane, np.full((plane.height, plane.width), value, np.uint8))
        result.append(frame if pix_fmt == "yuv420p" else frame.reformat(format=pix_fmt))
    return result


def interlaced_stretches(path, pattern: Sequence[tuple[bool, int]], size: str = "160x128") -> Path:
    """An MPEG-2 transport stream of stretches (interlaced, frames): moving content, flagged frame by frame."""
    width, height = map(int, size.split("x"))
    data, start = b"", 0
    for number, (interlaced, frames) in enumerate(pattern):
        times = range(2 * start, 2 * (start + frames))
        fields = [field_clips.moving(time, size) for time in times]
        if interlaced:
            pictures = [field_clips.woven(a, b) for a, b in zip(fields[0::2], fields[1::2], strict=True)]
            pictures = field_clips.flagged_as(pictures, "tff")
        else:
            pictures = fields[0::2]
        options = {"q": "2", "bf": "0", "g": "6"} | ({"flags": "+ildct+ilme"} if interlaced else {})
        name = Path(f"{path}.{number}.ts")
        make_clip(name, frames, codec="mpeg2video", width=width, height=height, pictures=pictures, options=options,
                  pts=range(start, start + frames))  # fmt: skip
        data += name.read_bytes()
        start += frames
    Path(path).write_bytes(data)
    return Path(path)


# Fields


def planes(number: int, width: int = 64, height: int = 48) -> list[np.ndarray]:
    """A numbered picture as (Y, U, V)."""
    chroma = (height // 2, width // 2)
    return [picture(number, width, height), np.full(chroma, 110, np.uint8), np.full(chroma, 140, np.uint8)]


def moving_planes(frame: int, size: tuple[int, int] = (64, 48)) -> list[np.ndarray]:
    """Two fields of moving content, woven, as (Y, U, V)."""
    a, b = (field_clips.moving(2 * frame + n, f"{size[0]}x{size[1]}") for n in (0, 1))
    woven = field_clips.woven(a, b)
    return [np.frombuffer(p, np.uint8).reshape(-1, p.line_size)[:, : p.width] for p in woven.planes]


def paff_clip(path, frames: int = 24, first: str = paff.TOP, mixed: bool = False, mbaff: bool = False, **how) -> Path:
    """H.264 field pictures that show 0, 1, …; `mixed`: every second pair of frames is coded as frames."""
    pictures: list[paff.Picture] = []
    for number in range(frames):
        if mixed and number % 4 >= 2:
            pictures.append(paff.Picture(paff.FRAME, number, planes(number)))
        else:
            pictures += paff.fields(number, planes(number), first)
    return paff.Stream(64, 48, gop=6, mbaff=mbaff).write(path, pictures, **how)


def hevc_fields(path, frames: int = 20, order: str = "tff") -> Path:
    """HEVC pictures that are fields of moving content, 50 a second."""
    pictures = []
    for time in range(2 * frames):
        whole = field_clips.moving(time, "160x128")
        field = av.VideoFrame(160, 64, "yuv420p")
        odd = (time + (order == "bff")) % 2
        for plane, source in zip(field.planes, whole.planes, strict=True):
            fill_plane(plane, np.frombuffer(source, np.uint8).reshape(-1, source.line_size)[odd::2, : source.width])
        pictures.append(field)
    options = {"preset": "ultrafast", "x265-params": f"log-level=none:interlace={order}:keyint=8:min-keyint=8:crf=4"}
    return make_clip(path, 2 * frames, width=160, height=64, codec="libx265", pictures=pictures, rate=Fraction(50),
                     options=options)  # fmt: skip


# Crop


def with_clap(path, sides: tuple[int, int, int, int], size: tuple[int, int] = (160, 120), **how) -> Path:
    """An MP4 whose clean aperture leaves out (left, top, right, bottom) pixels (ISO/IEC 14496-12, 12.1.4)."""
    left, top, right, bottom = sides
    width, height = size
    numbers = (width - left - right, 1, height - top - bottom, 1, left - right, 2, top - bottom, 2)
    box = b"".join((number % (1 << 32)).to_bytes(4, "big") for number in numbers)
    clips.make_clip(path, width=width, height=height, **how)
    data = bytearray(Path(path).read_bytes())
    entry = data.index(b"avc1", data.index(b"stsd")) - 4
    end = entry + int.from_bytes(data[entry : entry + 4], "big")
    data[end:end] = (len(box) + 8).to_bytes(4, "big") + b"clap" + box
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
        at = data.index(name, data.index(b"moov")) - 4
        data[at : at + 4] = (int.from_bytes(data[at : at + 4], "big") + len(box) + 8).to_bytes(4, "big")
    Path(path).write_bytes(data)
    return Path(path)


def with_pixel_crop(path, sides: tuple[int, int, int, int], *, patched: int | None = None, **how) -> Path:
    """A Matroska file whose track leaves out (left, top, right, bottom) pixels (RFC 9559, PixelCrop).

    `patched` is what it says of the right side instead.
    """
    source = with_clap(Path(f"{path}.mp4"), sides, **how)
    with av.open(str(source)) as clip, av.open(str(path), "w") as out:
        stream = clip.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for packet in [p for p in clip.demux(stream) if p.size]:
            packet.stream = copy
            out.mux(packet)
    data = bytearray(Path(path).read_bytes())
    at = data.index(b"\x54\xdd\x81")  # PixelCropRight, one byte
    assert data[at + 3] == sides[2]
    data[at + 3] = sides[2] if patched is None else patched
    Path(path).write_bytes(data)
    return Path(path)
