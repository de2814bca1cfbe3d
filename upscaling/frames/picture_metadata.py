"""Metadata of picture files: ICC colour profiles (ICC.1:2022) and the field that names the software."""

import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from upscaling.common.text import SOFTWARE

SOFTWARE_TAG = 305  # TIFF 6.0, section 8; EXIF has it too
_ASCII = 2  # TIFF's field type of text that ends with a zero byte
_TIFF_TAG = 34675  # ICC.1:2022, annex B
_UNDEFINED = 7  # TIFF's field type of bytes


def read_profile(path: Path) -> bytes | None:
    """The ICC profile in a picture file; None if there is none, or if Pillow cannot read the file."""
    return _from_header(path, lambda picture: picture.info.get("icc_profile")) or None


def is_own_picture(path: Path) -> bool:
    """Whether this program has written a picture file: its software field says so."""
    text = _from_header(path, lambda picture: picture.info.get("Software") or picture.getexif().get(SOFTWARE_TAG))
    return isinstance(text, str) and text.rstrip("\0") == SOFTWARE


def _from_header(path: Path, read: Callable[[Image.Image], Any]) -> Any:
    """What `read` takes from the header of a picture file; None if Pillow cannot read the file."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # only the header is read, however large the picture
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as picture:  # of damaged metadata
            return read(picture)
    except (OSError, ValueError, SyntaxError):
        return None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def describes(profile: bytes, channels: int) -> bool:
    """Whether a profile is one of gray pictures (1 channel), or one of RGB pictures (3 or 4 channels)."""
    return profile[16:20] == (b"GRAY" if channels == 1 else b"RGB ") and profile[36:40] == b"acsp"


def png_with_metadata(data: bytes, profile: bytes | None) -> bytes:
    """A PNG file with chunks for the software and the profile after its header (PNG 1.2, 4.2.2.4 and 4.2.3)."""
    header_end = 8 + 4 + 4 + 13 + 4  # signature; length, type, data and CRC of IHDR
    chunks = _png_chunk(b"tEXt", b"Software\0" + SOFTWARE.encode("latin-1"))
    if profile:
        chunks += _png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(profile))
    return data[:header_end] + chunks + data[header_end:]


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def tiff_with_metadata(data: bytes, profile: bytes | None) -> bytes:
    """A little-endian TIFF file of one picture, with a new directory at the end for the software and the profile."""
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    fields = [(SOFTWARE_TAG, _ASCII, SOFTWARE.encode("ascii") + b"\0")]
    if profile:
        fields.append((_TIFF_TAG, _UNDEFINED, profile))
    entries = {}  # by tag
    for n in range(count):
        entry = data[start + 2 + 12 * n : start + 14 + 12 * n]
        entries[struct.unpack_from("<H", entry)[0]] = entry
    for tag, kind, content in fields:
        data += bytes(len(data) % 2)  # offsets are even (TIFF 6.0, section 2)
        entries[tag] = struct.pack("<HHII", tag, kind, len(content), len(data))  # longer than the 4 bytes of an offset
        data += content
    data += bytes(len(data) % 2)
    directory = struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + directory
