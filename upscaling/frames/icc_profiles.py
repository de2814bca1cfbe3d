"""ICC colour profiles of picture files: read from any, put into PNG and TIFF files that have none (ICC.1:2022)."""

import struct
import warnings
import zlib
from pathlib import Path

from PIL import Image

_TIFF_TAG = 34675  # ICC.1:2022, annex B
_UNDEFINED = 7  # TIFF's field type of bytes


def read_profile(path: Path) -> bytes | None:
    """The ICC profile in a picture file; None if there is none, or if Pillow cannot read the file."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # only the header is read, however large the picture
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as picture:  # of damaged metadata
            return picture.info.get("icc_profile") or None
    except (OSError, ValueError, SyntaxError):
        return None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def describes(profile: bytes, channels: int) -> bool:
    """Whether a profile is one of gray pictures (1 channel), or one of RGB pictures (3 or 4 channels)."""
    return profile[16:20] == (b"GRAY" if channels == 1 else b"RGB ") and profile[36:40] == b"acsp"


def png_with_profile(data: bytes, profile: bytes) -> bytes:
    """A PNG file with an iCCP chunk after its header (PNG 1.2, 4.2.2.4)."""
    header_end = 8 + 4 + 4 + 13 + 4  # signature; length, type, data and CRC of IHDR
    chunk = b"iCCP" + b"ICC profile\0\0" + zlib.compress(profile)
    length, crc = struct.pack(">I", len(chunk) - 4), struct.pack(">I", zlib.crc32(chunk))
    return data[:header_end] + length + chunk + crc + data[header_end:]


def tiff_with_profile(data: bytes, profile: bytes) -> bytes:
    """A little-endian TIFF file of one picture, with the profile and a new directory that names it at the end."""
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    entries = [data[start + 2 + 12 * n : start + 14 + 12 * n] for n in range(count)]
    data += bytes(len(data) % 2)  # offsets are even (TIFF 6.0, section 2)
    entries.append(struct.pack("<HHII", _TIFF_TAG, _UNDEFINED, len(profile), len(data)))
    entries.sort(key=lambda entry: struct.unpack_from("<H", entry))
    data += profile + bytes(len(profile) % 2)
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + directory
