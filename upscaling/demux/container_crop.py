"""The crop that a container states for its video: MP4's clean aperture (clap), Matroska's PixelCrop elements.

PyAV does not return it, and FFmpeg ignores a clean aperture that is larger than the frame without a word, and refuses a
Matroska file whose PixelCrop is.
"""

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

# Boxes of MP4 on the way to a sample entry, with the bytes before the boxes inside them (ISO/IEC 14496-12).
_BOXES = {b"moov": 0, b"trak": 0, b"mdia": 0, b"minf": 0, b"stbl": 0, b"stsd": 8}
_SAMPLE_ENTRY = 78  # bytes of a VisualSampleEntry before the boxes inside it; width and height are at 24
# Elements of Matroska (RFC 9559).
_EBML, _SEGMENT, _TRACKS, _TRACK, _VIDEO = 0x1A45DFA3, 0x18538067, 0x1654AE6B, 0xAE, 0xE0
_CLUSTER, _WIDTH, _HEIGHT = 0x1F43B675, 0xB0, 0xBA
_SIDES = {0x54CC: "left", 0x54BB: "top", 0x54DD: "right", 0x54AA: "bottom"}
_MAX_ELEMENT = 1 << 24  # bytes of Tracks; more is damage


@dataclass(frozen=True)
class ContainerCrop:
    """Pixels that are left out at each side of frames of (width, height); all as coded, before rotation."""

    width: int
    height: int
    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0
    places: tuple[tuple[int, int], ...] = field(default=(), compare=False)
    """(position in the file, length) of the numbers that say so, in Matroska."""

    def __bool__(self) -> bool:
        return any((self.left, self.top, self.right, self.bottom))

    @property
    def fits(self) -> bool:
        """Whether something is left of a frame."""
        sides = (self.left, self.top, self.right, self.bottom)
        return min(sides) >= 0 and self.left + self.right < self.width and self.top + self.bottom < self.height


def read_crops(path: Path) -> dict[int, ContainerCrop]:
    """The crops of a file's tracks; empty if there are none.

    They are numbered as FFmpeg's streams are: in MP4 by `Stream.id`, in Matroska by `Stream.index`.
    """
    with contextlib.suppress(OSError, ValueError, struct.error, ZeroDivisionError), path.open("rb") as file:
        head = file.read(12)
        if head[:4] == _EBML.to_bytes(4, "big"):
            return dict(_matroska_crops(file))
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp"):
            return dict(_mp4_crops(file))
    return {}


# MP4


def _mp4_crops(file: BinaryIO) -> Iterator[tuple[int, ContainerCrop]]:
    end = file.seek(0, 2)
    for kind, at, stop in _boxes(file, 0, end):
        if kind == b"moov":
            for box, first, last in _boxes(file, at, stop):
                if box == b"trak" and (crop := _clean_aperture(file, first, last)):
                    yield _track_number(file, first, last), crop


def _boxes(file: BinaryIO, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of the contents of the boxes in a part of the file."""
    while at + 8 <= end:
        file.seek(at)
        size, kind = struct.unpack(">I4s", file.read(8))
        start = at + 8
        if size == 1:
            size, start = struct.unpack(">Q", file.read(8))[0], at + 16
        size = size or end - at
        if size < start - at:
            return
        yield kind, start, min(at + size, end)
        at += size


def _track_number(file: BinaryIO, at: int, end: int) -> int:
    """track_ID of the track header (8.3.2)."""
    start = next(start for kind, start, _ in _boxes(file, at, end) if kind == b"tkhd")
    file.seek(start)
    header = file.read(24)
    return int.from_bytes(header[20:24] if header[0] == 1 else header[12:16], "big")


def _clean_aperture(file: BinaryIO, at: int, end: int) -> ContainerCrop | None:
    """The crop of the first sample entry inside a box."""
    for kind, start, stop in _boxes(file, at, end):
        if kind == b"stsd":
            entry = next(_boxes(file, start + _BOXES[kind], stop), None)
            return _entry_aperture(file, entry[1], entry[2]) if entry else None
        if kind in _BOXES and (crop := _clean_aperture(file, start, stop)):
            return crop
    return None


def _entry_aperture(file: BinaryIO, at: int, end: int) -> ContainerCrop | None:
    """The clean aperture is (w, h) pixels around a centre that is off the frame's by (x, y) (12.1.4)."""
    file.seek(at)
    width, height = struct.unpack(">24xHH", file.read(28))
    for kind, start, _ in _boxes(file, at + _SAMPLE_ENTRY, end):
        if kind == b"clap":
            file.seek(start)
            numbers = struct.unpack(">IIIIiIiI", file.read(32))
            w, h, x, y = (Fraction(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True))
            left, right = _sides(width, w, x)
            top, bottom = _sides(height, h, y)
            return ContainerCrop(width, height, left, top, right, bottom)
    return None


def _sides(length: int, inside: Fraction, offset: Fraction) -> tuple[int, int]:
    """Pixels before and after the aperture, of `length`; one that begins within a pixel is as wide all the same."""
    before = (length - inside) / 2 + offset
    first = before.numerator // before.denominator
    return first, length - first - round(inside)


# Matroska


def _matroska_crops(file: BinaryIO) -> Iterator[tuple[int, ContainerCrop]]:
    file.seek(0)
    while True:
        ident, size = _element(file)
        if ident == _CLUSTER:
            return  # tracks come before it
        if ident == _TRACKS:
            start = file.tell()
            entries = list(_elements(file, start, start + min(size, _MAX_ELEMENT)))
            for index, (_, at, stop) in enumerate(entry for entry in entries if entry[0] == _TRACK):
                if crop := _track_crop(file, at, stop):
                    yield index, crop
            return
        if ident != _SEGMENT:
            file.seek(size, 1)


def _track_crop(file: BinaryIO, at: int, end: int) -> ContainerCrop | None:
    """The crop in a TrackEntry."""
    values, places = {}, []
    for ident, start, stop in list(_elements(file, at, end)):
        if ident == _VIDEO:
            for inner, first, last in list(_elements(file, start, stop)):
                values[inner] = _number(file, first, last) if last - first <= 8 else 0
                places += [(first, last - first)] if inner in _SIDES else []
    sides = {name: values[ident] for ident, name in _SIDES.items() if ident in values}
    if not sides:
        return None
    return ContainerCrop(values.get(_WIDTH, 0), values.get(_HEIGHT, 0), **sides, places=tuple(places))


def _elements(file: BinaryIO, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(identifier, start, end) of the contents of the elements in a part of the file."""
    while at < end:
        file.seek(at)
        ident, size = _element(file)
        start = file.tell()
        yield ident, start, min(start + size, end)
        at = start + size


def _element(file: BinaryIO) -> tuple[int, int]:
    """(identifier, length of the content) of the element at the file's position; ValueError at the end."""
    return _vint(file, keep_marker=True), _vint(file, keep_marker=False)


def _vint(file: BinaryIO, *, keep_marker: bool) -> int:
    first = file.read(1)
    if not first or not first[0]:
        raise ValueError("no element")
    length = 9 - first[0].bit_length()
    value = int.from_bytes(first + file.read(length - 1), "big")
    return value if keep_marker else value & (1 << 7 * length) - 1


def _number(file: BinaryIO, start: int, end: int) -> int:
    file.seek(start)
    return int.from_bytes(file.read(end - start), "big")
