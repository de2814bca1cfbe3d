"""HEIF and AVIF files: their boxes, and the coded items of the main picture (ISO/IEC 23008-12, ISO/IEC 14496-12).

meta ─ pitm (main item) ─ iinf (items) ─ iloc (their bytes) ─ iref (tiles, alpha, EXIF) ─ iprp (properties)
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from upscaling.common.errors import InputError

_MAX_TILES = 4096
_ALPHA = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1", b"urn:mpeg:avc:2015:auxid:1")


@dataclass
class Item:
    """One item: its type, where its bytes are, and its properties in order as (type, content)."""

    number: int
    kind: bytes = b""  # b"hvc1", b"av01", b"grid", b"Exif", …
    content_type: bytes = b""  # of b"mime" items
    in_idat: bool = False
    extents: list[tuple[int, int]] = field(default_factory=list)  # (offset, length)
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)

    def property(self, kind: bytes) -> bytes | None:
        """The content of the first property of a type."""
        return next((content for name, content in self.properties if name == kind), None)


@dataclass(frozen=True)
class HeifInfo:
    """What a file says beside its samples."""

    profile: bytes | None
    exif: bytes | None  # an EXIF block
    xmp: bytes | None


class HeifFile:
    """The boxes of a file's `meta` box; InputError if they are damaged or there is no picture."""

    def __init__(self, data: bytes):
        self._data = data
        self._idat = b""
        self.items: dict[int, Item] = {}
        self.references: list[tuple[bytes, int, list[int]]] = []  # (type, from, to)
        try:
            meta = next(content for kind, content in boxes(data) if kind == b"meta")
            self._read_meta(meta[4:])
            self.main = self.items[self._main]
        except (StopIteration, KeyError, IndexError, struct.error) as error:
            raise InputError("it has no main picture, or is damaged") from error

    def _read_meta(self, meta: bytes) -> None:
        found = dict(boxes(meta))
        pitm = found[b"pitm"]
        (self._main,) = struct.unpack_from(">I" if pitm[0] else ">H", pitm, 4)
        self._read_items(found[b"iinf"])
        self._read_locations(found[b"iloc"])
        self._idat = found.get(b"idat", b"")
        if b"iref" in found:
            self._read_references(found[b"iref"])
        if b"iprp" in found:
            parts = list(boxes(found[b"iprp"]))
            properties = list(boxes(next(content for kind, content in parts if kind == b"ipco")))
            for kind, content in parts:
                if kind == b"ipma":
                    self._read_associations(content, properties)

    def _read_items(self, iinf: bytes) -> None:
        for kind, content in boxes(iinf[6 if iinf[0] == 0 else 8 :]):
            if kind == b"infe" and content[0] >= 2:
                wide = content[0] >= 3
                (number,) = struct.unpack_from(">I" if wide else ">H", content, 4)
                at = 4 + (4 if wide else 2) + 2
                item = self.items[number] = Item(number, content[at : at + 4])
                if item.kind == b"mime":
                    item.content_type = content[at + 4 :].split(b"\0")[1]

    def _read_locations(self, iloc: bytes) -> None:
        version, sizes, more = iloc[0], iloc[4], iloc[5]
        offset_size, length_size, base_size = sizes >> 4, sizes & 15, more >> 4
        index_size = more & 15 if version in (1, 2) else 0
        reader = _Numbers(iloc, 6)
        for _ in range(reader.take(4 if version == 2 else 2)):
            number = reader.take(4 if version == 2 else 2)
            method = reader.take(2) & 15 if version in (1, 2) else 0
            reader.take(2)  # data reference
            base = reader.take(base_size)
            item = self.items.get(number, Item(number))
            item.in_idat = method == 1
            for _ in range(reader.take(2)):
                reader.take(index_size)
                offset, length = base + reader.take(offset_size), reader.take(length_size)
                item.extents.append((offset, length))

    def _read_references(self, iref: bytes) -> None:
        size = 4 if iref[0] else 2
        for kind, content in boxes(iref[4:]):
            reader = _Numbers(content, 0)
            source = reader.take(size)
            self.references.append((kind, source, [reader.take(size) for _ in range(reader.take(2))]))

    def _read_associations(self, ipma: bytes, properties: list[tuple[bytes, bytes]]) -> None:
        wide, reader = ipma[3] & 1, _Numbers(ipma, 4)
        for _ in range(reader.take(4)):
            number = reader.take(4 if ipma[0] else 2)
            for _ in range(reader.take(1)):
                index = reader.take(2) & 0x7FFF if wide else reader.take(1) & 0x7F
                if 0 < index <= len(properties) and number in self.items:
                    self.items[number].properties.append(properties[index - 1])

    # What is in it

    def content(self, item: Item) -> bytes:
        """The bytes of an item; InputError if the file ends before."""
        source = self._idat if item.in_idat else self._data
        parts = []
        for offset, length in item.extents:
            end = offset + length if length else len(source)
            if end > len(source):
                raise InputError("the file ends early")
            parts.append(source[offset:end])
        return b"".join(parts)

    def tiles(self, item: Item) -> list[Item]:
        """The items that a derived item is made of, in order."""
        numbers = next((to for kind, source, to in self.references if kind == b"dimg" and source == item.number), [])
        if len(numbers) > _MAX_TILES or any(number not in self.items for number in numbers):
            raise InputError("its tiles are damaged")
        return [self.items[number] for number in numbers]

    def alpha(self, item: Item) -> Item | None:
        """The item that holds an item's alpha channel."""
        for auxiliary in self._pointing_at(b"auxl", item):
            if (auxiliary.property(b"auxC") or b"")[4:].split(b"\0")[0] in _ALPHA:
                return auxiliary
        return None

    def info(self) -> HeifInfo:
        """The main picture's profile, EXIF and XMP."""
        profile = next(
            (
                content[4:]
                for kind, content in self.properties(self.main)
                if kind == b"colr" and content[:4] in (b"prof", b"rICC")
            ),
            None,
        )
        block = xmp = None
        for item in self._pointing_at(b"cdsc", self.main):
            if item.kind == b"Exif":
                content = self.content(item)
                block = content[4 + int.from_bytes(content[:4], "big") :]
            elif item.content_type == b"application/rdf+xml":
                xmp = self.content(item)
        return HeifInfo(profile, block, xmp)

    def properties(self, item: Item) -> list[tuple[bytes, bytes]]:
        """The properties of an item, and of its first tile those that it lacks itself."""
        tiles = self.tiles(item)[:1] if item.kind == b"grid" else []
        own = {kind for kind, _ in item.properties}
        return item.properties + [one for tile in tiles for one in tile.properties if one[0] not in own]

    def _pointing_at(self, kind: bytes, item: Item) -> list[Item]:
        sources = (source for name, source, to in self.references if name == kind and item.number in to)
        return [self.items[number] for number in sources if number in self.items]


class _Numbers:
    """Big-endian numbers read one after another."""

    def __init__(self, data: bytes, at: int):
        self._data, self._at = data, at

    def take(self, size: int) -> int:
        """The next number of `size` bytes; 0 for no bytes. struct.error at the end of the data."""
        self._at += size
        if self._at > len(self._data):
            raise struct.error("the box ends early")
        return int.from_bytes(self._data[self._at - size : self._at], "big")


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(type, content) of the boxes in a file or a box."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if size == 1 and at + 16 <= len(data):
            (size,), head = struct.unpack_from(">Q", data, at + 8), 16
        elif size == 0:
            size = len(data) - at
        if size < head:
            return
        yield kind, data[at + head : at + size]
        at += size


def read_info(path: Path) -> HeifInfo:
    """The metadata of a file's main picture; InputError if it has none."""
    return HeifFile(path.read_bytes()).info()
