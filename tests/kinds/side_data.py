"""Kinds of video with side data: HDR, Dolby Vision, closed captions, 360° and stereo marks, time code."""

import struct
import zlib
from pathlib import Path

import av
from clips import make_clip

from kinds import Kind, Outcome


def rewritten(source: Path, target: Path, change) -> Path:
    """The video of `source` with every packet's bytes as `change(bytes, number)` returns them."""
    with av.open(str(source)) as original, av.open(str(target), "w") as out:
        stream = original.streams.video[0]
        copy = out.add_stream_from_template(stream, opaque=True)
        for number, packet in enumerate(p for p in original.demux(stream) if p.size):
            new = av.Packet(change(bytes(packet), number))
            new.pts, new.dts, new.duration = packet.pts, packet.dts, packet.duration
            new.time_base, new.is_keyframe, new.stream = packet.time_base, packet.is_keyframe, copy
            out.mux_one(new)
    return target


def side_data(path: Path) -> list[dict[str, bytes]]:
    """The side data of each decoded frame, by name."""
    with av.open(str(path)) as container:
        return [{data.type.name: bytes(data) for data in frame.side_data} for frame in container.decode(video=0)]


# Side data that PyAV has no name for

MASTERING = (34000, 16000, 13250, 34500, 7500, 3000, 15635, 16450, 10000000, 50)  # ST 2086's units


def unknown_kind(folder: Path) -> Path:
    """PNG frames with eXIf, which PyAV has no name for, before their mastering display and light level."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x01\0\0\0\0\0\0"  # an orientation: unchanged
    chunks = chunk(b"eXIf", exif) + chunk(b"mDCV", struct.pack(">8H2I", *MASTERING))
    chunks += chunk(b"cLLI", struct.pack(">2I", 10_000_000, 4_000_000))
    plain = make_clip(folder / "plain.mov", 2, codec="png", pix_fmt="rgb24")
    return rewritten(plain, folder / "in.mov", lambda data, _: data[:33] + chunks + data[33:])


def check_mastering(outcome: Outcome) -> None:
    first = side_data(outcome.output)[0]
    *numbers, _, _ = struct.unpack("=22i", first["MASTERING_DISPLAY_METADATA"])
    values = [a / b for a, b in zip(numbers[::2], numbers[1::2], strict=True)]
    assert values[:8] == [value / 50_000 for value in MASTERING[:8]]
    assert values[8:] == [0.005, 1000]
    assert struct.unpack("=2I", first["CONTENT_LIGHT_LEVEL"]) == (1000, 400)


KINDS = [Kind("mastering display beside an unknown kind of side data", unknown_kind, check_mastering)]
