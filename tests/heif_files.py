"""HEIC files for tests: HEVC tiles in the boxes of ISO/IEC 23008-12, written here."""

import struct
from io import BytesIO
from pathlib import Path

import av
import numpy as np


def box(kind: bytes, *contents: bytes) -> bytes:
    content = b"".join(contents)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def full(kind: bytes, *contents: bytes, version: int = 0, flags: int = 0) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), *contents)


def hevc(samples: np.ndarray, pix_fmt: str = "yuv444p") -> tuple[bytes, bytes]:
    """(hvcC, coded picture) of gray (height, width) or RGB (height, width, 3) uint8 samples, BT.601 full range."""
    file = BytesIO()
    with av.open(file, "w", format="matroska") as out:
        params = "lossless=1:log-level=none"
        stream = out.add_stream("libx265", rate=1, options={"x265-params": params, "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = samples.shape[1], samples.shape[0], pix_fmt
        stream.codec_context.color_range = 2
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(samples), "gray" if samples.ndim == 2 else "rgb24")
        frame = frame.reformat(format=pix_fmt, dst_colorspace=5, dst_color_range=2)
        for packet in stream.encode(frame) + stream.encode(None):
            out.mux(packet)
    file.seek(0)
    with av.open(file) as source:
        coded = next(bytes(packet) for packet in source.demux(video=0) if packet.size)
        return source.streams.video[0].codec_context.extradata, coded


def ispe(width: int, height: int) -> bytes:
    return full(b"ispe", struct.pack(">2I", width, height))


NCLX = box(b"colr", b"nclx", struct.pack(">3HB", 1, 13, 6, 0x80))


def write_heic(
    path: Path, items: list[tuple[bytes, bytes, list[bytes]]], references: list[tuple[bytes, int, list[int]]]
):
    """`items` are (type, content, property boxes), numbered from 1; the first is the main picture."""
    properties: list[bytes] = []
    associations, entries, locations, data = b"", b"", [], b""
    for number, (kind, content, own) in enumerate(items, 1):
        indices = []
        for one in own:
            if one not in properties:
                properties.append(one)
            indices.append(properties.index(one) + 1)
        associations += struct.pack(">HB", number, len(indices)) + bytes(indices)
        mime = b"\0application/rdf+xml\0" if kind == b"mime" else b"\0"
        entries += full(b"infe", struct.pack(">HH4s", number, 0, kind), mime, version=2)
        locations.append((number, len(data), len(content)))
        data += content
    iref = full(b"iref", *(box(k, struct.pack(f">HH{len(to)}H", source, len(to), *to)) for k, source, to in references))

    def meta(start: int) -> bytes:
        places = b"".join(struct.pack(">HHHII", n, 0, 1, start + at, size) for n, at, size in locations)
        return full(
            b"meta",
            full(b"hdlr", bytes(4), b"pict", bytes(13)),
            full(b"pitm", struct.pack(">H", 1)),
            full(b"iinf", struct.pack(">H", len(items)), entries),
            full(b"iloc", b"\x44\0", struct.pack(">H", len(items)), places),
            iref if references else b"",
            box(b"iprp", box(b"ipco", *properties), full(b"ipma", struct.pack(">I", len(items)), associations)),
        )

    head = box(b"ftyp", b"heic", bytes(4), b"mif1heic")
    start = len(head) + len(meta(0)) + 8
    path.write_bytes(head + meta(start) + box(b"mdat", data))
    return path


def tiled(path: Path, samples: np.ndarray, transforms: list[bytes], more=(), references=()) -> Path:
    """A grid of 2x2 HEVC tiles of 64x64 that is cropped to the samples, (height, width, 3) uint8."""
    height, width = samples.shape[:2]
    padded = np.pad(samples, ((0, 128 - height), (0, 128 - width), (0, 0)), mode="edge")
    items = [(b"grid", struct.pack(">4B2H", 0, 0, 1, 1, width, height), [ispe(width, height), NCLX, *transforms])]
    for row in (0, 64):
        for column in (0, 64):
            configuration, coded = hevc(padded[row : row + 64, column : column + 64])
            items.append((b"hvc1", coded, [box(b"hvcC", configuration), ispe(64, 64)]))
    return write_heic(path, [*items, *more], [(b"dimg", 1, [2, 3, 4, 5]), *references])
