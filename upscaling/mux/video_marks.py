"""Stereo and 360° marks of the video: which of them the output's container holds, and what libavformat gets wrong.

Stereo modes and the Projection element are Matroska's (RFC 9559), as `stream_marks` returns them.
"""

import struct
from collections.abc import Iterator, Mapping
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from upscaling.demux.ebml import children, put
from upscaling.encode.settings import EncodeSettings

_PROJECTION_TYPE, _PROJECTION_PRIVATE = 0x7671, 0x7672
_EQUIRECTANGULAR, _CUBEMAP = 1, 2
# StereoMode → what the st3d box says (Google's Spherical Video V2 RFC); it has no other arrangements of two views.
_ST3D = {1: 2, 3: 1}
_STEREO_MODES = {"mp4": set(_ST3D), "mov": set(_ST3D), "webm": {1, 2, 3, 11}, "mkv": set(range(1, 15))}
_DOUBLE_WIDTH, _DOUBLE_HEIGHT = {1, 8, 9, 11}, {2, 3, 6, 7}  # the stereo modes of which a frame holds both views


def fitting_marks(container: str, settings: EncodeSettings, scale: Fraction) -> dict[str, dict]:
    """What the container holds of the settings' side data, for pictures `scale` times as large."""
    side_data = settings.side_data
    kept = {name: side_data[name] for name in ("mastering_display", "content_light_level") if name in side_data}
    if settings.placement is not None:
        return kept  # the views, or the sphere, are not the whole frame any more
    stereo, projection = side_data.get("stereo"), side_data.get("projection")
    if stereo and stereo["mode"] in _STEREO_MODES[container]:
        kept["stereo"] = stereo
    if projection:
        element = bytes.fromhex(projection["element"])
        if _holds_projection(container, element):
            kept["projection"] = {"element": _scaled_projection(element, scale).hex()}
    return kept


def lost_marks(container: str, settings: EncodeSettings) -> list[str]:
    """One line for each mark in the settings' side data that the container can't hold."""

    lines = []
    if "icc_profile" in settings.side_data:
        lines.append("its ICC colour profile is dropped: videos written here have colour tags only")
    held = {other: fitting_marks(other, settings, Fraction(1)) for other in _STEREO_MODES}
    for name, words in (("stereo", "stereo mark"), ("projection", "360° mark")):
        if name in settings.side_data and name not in held[container]:
            others = ", ".join(other for other, marks in held.items() if name in marks)
            why = f"{container} can't hold it, {others} could" if others else "the picture is padded or cropped"
            lines.append(f"its {words} is dropped: {why}")
    return lines


def view_size(width: int, height: int, marks: Mapping[str, dict]) -> tuple[int, int]:
    """(width, height) of one view of a frame in pixels, as Matroska's display size counts them."""
    mode = marks.get("stereo", {}).get("mode", 0)
    return width // (2 if mode in _DOUBLE_WIDTH else 1), height // (2 if mode in _DOUBLE_HEIGHT else 1)


def _holds_projection(container: str, element: bytes) -> bool:
    fields = dict(children(element))
    kind = int.from_bytes(fields.pop(_PROJECTION_TYPE, b""), "big")
    if container == "mp4":
        return kind in (_EQUIRECTANGULAR, _CUBEMAP)
    # In MOV libavformat writes Apple's box: the whole sphere, and looking straight ahead.
    return container != "mov" or (kind == _EQUIRECTANGULAR and not any(any(body) for body in fields.values()))


def _scaled_projection(element: bytes, scale: Fraction) -> bytes:
    """The content of a Projection element for pictures `scale` times as large: a cubemap's padding is in pixels."""
    content = b""
    fields = dict(children(element))
    for ident, body in fields.items():
        if ident == _PROJECTION_PRIVATE and fields.get(_PROJECTION_TYPE) == bytes([_CUBEMAP]) and len(body) == 12:
            body = body[:8] + round(int.from_bytes(body[8:], "big") * scale).to_bytes(4, "big")
        content += put(ident, body)
    return content


# MP4 and MOV: libavformat 62 writes Apple's vexu box for any stereo or 360° video, without saying where the two views
# lie in the frame and where the sphere is turned to. Readers that know the box take that for all there is to know,
# whatever the boxes st3d and sv3d beside it say, which MP4 has and MOV has not.

_VIDEO_ENTRY = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")  # the boxes around a video's sample entry
_BEFORE_ENTRIES, _BEFORE_BOXES = 8, 78  # bytes in stsd, and in a video's sample entry (ISO/IEC 14496-12 12.1.3)


def complete_marks(path: Path, marks: Mapping[str, dict]) -> None:
    """Replaces vexu boxes in a finished MP4 or MOV file, by st3d if there is none. `marks` are `fitting_marks`."""
    with open(path, "r+b") as file:
        for start, size, beside in _vexu_boxes(file):
            file.seek(start + 8)
            body = file.read(size - 8)
            boxes = {name: body[at : at + length] for at, length, name in _boxes(BytesIO(body), 0, len(body))}
            if b"pack" in boxes.get(b"eyes", b""):
                continue
            new = b""
            if not beside & {b"st3d", b"sv3d"}:
                others = b"".join(box for name, box in boxes.items() if name != b"eyes")
                new += _box(b"vexu", others) if others else b""
                new += _box(b"st3d", bytes([0, 0, 0, 0, _ST3D[marks["stereo"]["mode"]]])) if b"eyes" in boxes else b""
            if new != _box(b"vexu", body):
                file.seek(start)
                file.write(new + _box(b"free", bytes(size - len(new) - 8)))


def _vexu_boxes(file: BinaryIO) -> Iterator[tuple[int, int, set[bytes]]]:
    """(position, size, types of the boxes beside it) of the vexu box of each video's sample entry."""
    places = [(0, file.seek(0, 2))]  # (start, end)
    for parent in _VIDEO_ENTRY:
        skip = _BEFORE_ENTRIES if parent == b"stsd" else 0
        places = [
            (at + 8 + skip, at + size)
            for start, end in places
            for at, size, name in _boxes(file, start, end)
            if name == parent
        ]
    for start, end in places:
        for at, size, _ in _boxes(file, start, end):
            boxes = list(_boxes(file, at + 8 + _BEFORE_BOXES, at + size))
            names = {name for _, _, name in boxes}
            yield from ((where, length, names) for where, length, name in boxes if name == b"vexu")


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, bytes]]:
    """(position, size in bytes, type) of the boxes between two positions; what is no box ends them."""
    while start + 8 <= end:
        file.seek(start)
        size, name = struct.unpack(">I4s", file.read(8))
        if size == 1:  # a 64-bit size follows
            size = int.from_bytes(file.read(8), "big")
        size = size or end - start
        if not 8 <= size <= end - start:
            return
        yield start, size, name
        start += size


def _box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), name) + content
