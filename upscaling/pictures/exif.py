"""EXIF (CIPA DC-008) as fields by tag: read from a block or a TIFF file, made true of a result, and written.

Values are kept as bytes, so no field is lost because its meaning is not known. The maker's note stays where it was in
the block if possible: the offsets in it count from the block's start.
"""

import struct
from dataclasses import dataclass, field

from upscaling.common.text import SOFTWARE

PREFIX = b"Exif\0\0"  # before the block, in JPEG and some WebP files
SOFTWARE_TAG = 305  # TIFF 6.0, section 8; EXIF has it too
ORIENTATION = 274
_EXIF_IFD, _GPS_IFD, _INTEROP_IFD = 34665, 34853, 40965
_MAKER_NOTE = 37500
_WIDTH, _HEIGHT = 40962, 40963  # of the picture, in pixels
ASCII, SHORT, LONG, RATIONAL, UNDEFINED = 2, 3, 4, 5, 7  # TIFF's field types
_ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 1, 7: 1, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8, 13: 4}  # RATIONAL: of halves
_COUNT_BYTES = {**_ITEM_BYTES, RATIONAL: 8, 10: 8}
_LAST_NOTE = 1 << 16  # offset from which on a maker's note moves: in a TIFF file it may be anywhere
_MAX_FIELDS, _MAX_BYTES = 500, 1 << 24  # of a directory; damaged files name more
# Fields of a TIFF file that tell how its samples are stored, where its thumbnails are, or that are written apart.
_STORAGE = {
    *range(254, 260), 262, 263, 264, 265, 266, 273, *range(277, 282), *range(284, 288), *range(288, 293), 297, 301,
    *range(317, 326), 330, 332, 338, 339, 340, 341, 342, 347, 400, *range(512, 533), 700, 33723, 34377, 34675, 37724,
    *range(50706, 51200),
}  # fmt: skip

Fields = dict[int, tuple[int, bytes]]  # tag → (TIFF's field type, its value with the low byte first)


@dataclass
class Exif:
    """The fields of a picture; `order` is that of the bytes in the block they were read from, '<' or '>'."""

    order: str = "<"
    main: Fields = field(default_factory=dict)
    exif: Fields = field(default_factory=dict)
    gps: Fields = field(default_factory=dict)
    interop: Fields = field(default_factory=dict)
    maker_note_at: int = 0  # its offset in the block; 0 if there is none

    def __bool__(self) -> bool:
        return bool(self.main or self.exif or self.gps)

    @property
    def orientation(self) -> int:
        """1 to 8; 1, upright, if there is none."""
        value = self.main.get(ORIENTATION, (SHORT, b"\1"))[1]
        number = int.from_bytes(value[:2], "little")
        return number if 1 <= number <= 8 else 1

    def of_result(self, width: int, height: int) -> "Exif":
        """The fields of a result of width × height pixels: upright, without a thumbnail, with this program's mark."""
        main = {tag: value for tag, value in self.main.items() if tag not in _STORAGE}
        if ORIENTATION in main:
            main[ORIENTATION] = (SHORT, b"\1\0")
        main[SOFTWARE_TAG] = (ASCII, SOFTWARE.encode("ascii") + b"\0")
        exif = dict(self.exif)
        for tag, size in ((_WIDTH, width), (_HEIGHT, height)):
            if tag in exif:
                exif[tag] = (LONG, struct.pack("<I", size))
        return Exif(self.order, main, exif, dict(self.gps), dict(self.interop), self.maker_note_at)


# Reading


def read_block(block: bytes) -> Exif:
    """The fields of an EXIF block, with or without its prefix; none if it is damaged."""
    return read_tiff(block.removeprefix(PREFIX))


def read_tiff(data: bytes) -> Exif:
    """The fields of a TIFF file's first directory and of those it points to; none if it is damaged."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None or len(data) < 8:
        return Exif()
    exif = Exif(order)
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    exif.main = _read_fields(data, start, order, exif)
    for tag, fields in ((_EXIF_IFD, exif.exif), (_GPS_IFD, exif.gps)):
        if tag in exif.main:
            fields.update(_read_fields(data, _pointer(exif.main.pop(tag)), order, exif))
    if _INTEROP_IFD in exif.exif:
        exif.interop = _read_fields(data, _pointer(exif.exif.pop(_INTEROP_IFD)), order, exif)
    return exif


def _pointer(value: tuple[int, bytes]) -> int:
    return int.from_bytes(value[1][:4], "little")


def _read_fields(data: bytes, start: int, order: str, exif: Exif) -> Fields:
    fields: Fields = {}
    if not 8 <= start <= len(data) - 2:
        return fields
    (count,) = struct.unpack_from(f"{order}H", data, start)
    for at in range(start + 2, start + 2 + 12 * min(count, _MAX_FIELDS), 12):
        if at + 12 > len(data):
            break
        tag, kind, items = struct.unpack_from(f"{order}HHI", data, at)
        size = items * _COUNT_BYTES.get(kind, 0)
        offset = at + 8 if size <= 4 else struct.unpack_from(f"{order}I", data, at + 8)[0]
        if 0 < size <= _MAX_BYTES and offset + size <= len(data):
            fields[tag] = (kind, swapped(data[offset : offset + size], kind, order))
            if tag == _MAKER_NOTE and offset < _LAST_NOTE:
                exif.maker_note_at = offset
    return fields


def swapped(value: bytes, kind: int, order: str) -> bytes:
    """A field's value from an order of bytes to the low byte first, or back."""
    size = _ITEM_BYTES[kind]
    if order == "<" or size == 1:
        return value
    return b"".join(value[at : at + size][::-1] for at in range(0, len(value), size))


# Writing


class _Block:
    """A TIFF structure that grows at its end, but not into the place of the maker's note."""

    def __init__(self, order: str, first: int, reserved: tuple[int, int]):
        """`first` is the offset of what is written first, `reserved` (start, end) of the place left free."""
        self._order, self._start, self._next, self._reserved = order, first, first, reserved
        self._parts: dict[int, bytes] = {}

    def place(self, data: bytes) -> int:
        """Add data; return its offset."""
        at = self._next + self._next % 2  # offsets are even (TIFF 6.0, section 2)
        start, end = self._reserved
        if at < end and at + len(data) > start:
            at = end + end % 2
        self._parts[at] = data
        self._next = at + len(data)
        return at

    def directory(self, fields: Fields, maker_note_at: int = 0) -> int:
        """Add a directory after its values; return its offset."""
        entries = []
        for tag, (kind, value) in sorted(fields.items()):
            data = swapped(value, kind, self._order)
            if tag == _MAKER_NOTE and maker_note_at:
                self._parts[maker_note_at] = data
                content = struct.pack(f"{self._order}I", maker_note_at)
            else:
                content = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack(f"{self._order}I", self.place(data))
            entries.append(struct.pack(f"{self._order}HHI", tag, kind, len(data) // _COUNT_BYTES[kind]) + content)
        return self.place(struct.pack(f"{self._order}H", len(entries)) + b"".join(entries) + bytes(4))

    def content(self) -> bytes:
        """Everything from `first` on."""
        end = max(at + len(data) for at, data in self._parts.items())
        whole = bytearray(end - self._start)
        for at, data in self._parts.items():
            whole[at - self._start : at - self._start + len(data)] = data
        return bytes(whole)


def write_block(exif: Exif) -> bytes:
    """An EXIF block, without its prefix."""
    note = exif.exif.get(_MAKER_NOTE, (UNDEFINED, b""))[1]
    at = exif.maker_note_at if len(note) > 4 and exif.maker_note_at >= 8 else 0
    block = _Block(exif.order, 8, (at, at + len(note) if at else 0))
    start = block.directory(_with_pointers(exif, block, at))
    mark = b"II*\0" if exif.order == "<" else b"MM\0*"
    return mark + struct.pack(f"{exif.order}I", start) + block.content()


def append_to_tiff(data: bytes, exif: Exif, more: Fields) -> bytes:
    """A little-endian TIFF file of one picture, with a new directory at its end that has the fields, too."""
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    data += bytes(len(data) % 2)
    block = _Block("<", len(data), (0, 0))
    fields = _with_pointers(exif, block, 0) | more
    entries = {}  # by tag; the file's own stay as they are, with their offsets
    for at in range(start + 2, start + 2 + 12 * count, 12):
        entries[struct.unpack_from("<H", data, at)[0]] = data[at : at + 12]
    for tag, (kind, value) in fields.items():
        content = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", block.place(value))
        entries[tag] = struct.pack("<HHI", tag, kind, len(value) // _COUNT_BYTES[kind]) + content
    directory = struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    start = block.place(directory)
    return data[:4] + struct.pack("<I", start) + data[8:] + block.content()


def _with_pointers(exif: Exif, block: _Block, maker_note_at: int) -> Fields:
    """The main fields, with pointers to the other directories, which are added to the block."""
    main, sub = dict(exif.main), dict(exif.exif)
    if exif.interop:
        sub[_INTEROP_IFD] = (LONG, struct.pack("<I", block.directory(exif.interop)))
    if sub:
        main[_EXIF_IFD] = (LONG, struct.pack("<I", block.directory(sub, maker_note_at)))
    if exif.gps:
        main[_GPS_IFD] = (LONG, struct.pack("<I", block.directory(exif.gps)))
    return main
