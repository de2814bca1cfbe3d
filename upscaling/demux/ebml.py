"""Matroska files as EBML elements (RFC 8794, RFC 9559): an identifier, the length of the content, the content."""

import struct
from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO

TRACKS, TRACK_ENTRY, VIDEO = 0x1654AE6B, 0xAE, 0xE0  # identifiers


def children(content: bytes) -> Iterator[tuple[int, bytes]]:
    """(identifier, content) of each element in another's content."""
    file = BytesIO(content)
    while file.tell() < len(content):
        ident, length = read_header(file)
        yield ident, file.read(length)


def read_header(file: BinaryIO) -> tuple[int, int]:
    """(identifier, length of the content in bytes) of the element at the file's position; EOFError at its end."""
    return _read_vint(file, keep_marker=True), _read_vint(file, keep_marker=False)


def tracks_of(file: BinaryIO) -> tuple[int, bytes]:
    """(position in the file, content) of the Tracks element of a Matroska file; EOFError if there is none."""
    _, length = read_header(file)
    file.seek(length, 1)
    read_header(file)  # of the segment, whose children follow
    while True:
        ident, length = read_header(file)
        if ident == TRACKS:
            return file.tell(), file.read(length)
        file.seek(length, 1)


def _read_vint(file: BinaryIO, *, keep_marker: bool) -> int:
    first = file.read(1)
    if not first or not first[0]:
        raise EOFError
    width = 9 - first[0].bit_length()  # the count of leading zero bits, plus one
    rest = file.read(width - 1)
    if len(rest) < width - 1:
        raise EOFError
    value = first[0] if keep_marker else first[0] & ((1 << (8 - width)) - 1)
    return value << (8 * (width - 1)) | int.from_bytes(rest, "big")


def put(ident: int, content: bytes | int | float | str, width: int = 0) -> bytes:
    """An element whose length is written in `width` bytes, or in as few as it needs."""
    if isinstance(content, str):
        content = content.encode()
    elif isinstance(content, float):
        content = struct.pack(">d", content)
    elif isinstance(content, int):
        content = content.to_bytes(8, "big")
    width = width or -(-(len(content) + 1).bit_length() // 7)  # + 1: all ones means an unknown length
    length = 1 << 7 * width | len(content)
    return ident.to_bytes((ident.bit_length() + 7) // 8, "big") + length.to_bytes(width, "big") + content
