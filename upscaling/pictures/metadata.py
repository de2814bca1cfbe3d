"""What a picture file says beside its samples: ICC profile, EXIF, XMP, pixels per inch, and the software's mark."""

import re
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from upscaling.common.errors import InputError
from upscaling.common.text import SOFTWARE
from upscaling.pictures import exif, heif
from upscaling.pictures.exif import Exif
from upscaling.pictures.formats import content_of

XMP_TAG = 700  # XMP specification part 3
PROFILE_TAG = 34675  # ICC.1:2022, annex B
_RESOLUTION = {282: exif.RATIONAL, 283: exif.RATIONAL, 296: exif.SHORT}  # TIFF 6.0, section 8; unit 2 is the inch
_PNG_XMP = "XML:com.adobe.xmp"
_NOT_TEXT = {_PNG_XMP, "Software", "icc_profile", "exif", "XML:com.adobe.xmp"}
_COLOUR_CHUNKS = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI")
MAX_SEGMENT = 65533  # bytes of content in one of JPEG's segments
PNG_HEADER = 8 + 4 + 4 + 13 + 4  # bytes: signature; length, type, data and CRC of IHDR
_JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"


@dataclass(frozen=True)
class Metadata:
    """What is kept of a picture file beside its samples."""

    profile: bytes | None = None  # ICC
    exif: Exif = field(default_factory=Exif)
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None  # pixels per inch, across and down
    text: tuple[tuple[str, str], ...] = ()  # of PNG: keyword, text
    colour_chunks: bytes = b""  # of PNG: how its samples are meant

    def of_result(self, width: int, height: int, channels: int) -> "Metadata":
        """What is true of an upright result of width × height pixels with 1 (gray), 3 or 4 channels."""
        profile = self.profile if self.profile and describes(self.profile, channels) else None
        xmp = upright_xmp(self.xmp, width, height) if self.xmp else None
        return replace(self, profile=profile, exif=self.exif.of_result(width, height), xmp=xmp)


# Reading


def read_metadata(path: Path) -> Metadata:
    """The metadata of a picture file; none if it cannot be read."""
    try:
        if content_of(path) in ("heif", "avif"):
            info = heif.read_info(path)
            return Metadata(info.profile, exif.read_block(info.exif or b""), info.xmp)
    except (InputError, OSError):
        return Metadata()
    return _from_header(path, lambda picture: _metadata(path, picture)) or Metadata()


def _metadata(path: Path, picture: Image.Image) -> Metadata:
    picture.getexif()  # reads a PNG to its end: EXIF may come after the samples
    info = picture.info
    fields = exif.read_tiff(path.read_bytes()) if picture.format == "TIFF" else exif.read_block(_exif_block(info))
    xmp = info.get("xmp") or info.get(_PNG_XMP)
    text = info.items() if picture.format == "PNG" else ()
    dpi = info.get("dpi")
    return Metadata(
        profile=info.get("icc_profile") or None,
        exif=fields,
        xmp=xmp.encode() if isinstance(xmp, str) else xmp,
        dpi=(float(dpi[0]), float(dpi[1])) if dpi and min(dpi) > 0 else None,
        colour_chunks=_colour_chunks(path.read_bytes()) if picture.format == "PNG" else b"",
        text=tuple(
            (str(key), str(value))
            for key, value in text
            if isinstance(value, str) and key not in _NOT_TEXT and not str(key).startswith("Raw profile")
        ),
    )


def _exif_block(info: dict) -> bytes:
    """The EXIF block in Pillow's `info`; ImageMagick stores it as hexadecimal text in a PNG."""
    if "exif" in info:
        return info["exif"]
    lines = info.get("Raw profile type exif", "").split()
    try:
        return bytes.fromhex("".join(lines[2:]))  # a name and a length come first
    except ValueError:
        return b""


def _colour_chunks(data: bytes) -> bytes:
    """The chunks of a PNG file's colours (PNG 3.0, 11.3.2), without the profile."""
    at, chunks = PNG_HEADER, b""
    while at + 12 <= len(data) and data[at + 4 : at + 8] != b"IDAT":
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] in _COLOUR_CHUNKS:
            chunks += data[at:end]
        at = end
    return chunks


def coded_colours(codes: tuple[int, int]) -> bytes:
    """A PNG chunk that says the primaries and the transfer function of RGB samples, as code points of H.273."""
    return _png_chunk(b"cICP", bytes([*codes, 0, 1]))


def is_own_picture(path: Path) -> bool:
    """Whether this program has written a picture file: its software field, or a GIF's comment, says so."""
    return bool(_from_header(path, _is_marked))


def _is_marked(picture: Image.Image) -> bool:
    comment = picture.info.get("comment", b"") if picture.format == "GIF" else b""
    text = picture.info.get("Software") or picture.getexif().get(exif.SOFTWARE_TAG) or comment
    text = text.decode("latin-1") if isinstance(text, bytes) else text
    return isinstance(text, str) and text.rstrip("\0") == SOFTWARE


def _from_header(path: Path, read: Callable[[Image.Image], Any]) -> Any:
    """What `read` takes from the header of a picture file; None if Pillow cannot read the file."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # only the header is read, however large the picture
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as picture:  # of damaged metadata
            return read(picture)
    except (OSError, ValueError, SyntaxError, IndexError, KeyError, TypeError, RuntimeError, struct.error):
        return None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


# Changing


def describes(profile: bytes, channels: int) -> bool:
    """Whether a profile is one of gray pictures (1 channel), or one of RGB pictures (3 or 4 channels)."""
    return profile[16:20] == (b"GRAY" if channels == 1 else b"RGB ") and profile[36:40] == b"acsp"


def upright_xmp(xmp: bytes, width: int, height: int) -> bytes:
    """XMP of a result: its orientation reset, its size in pixels entered, thumbnails removed."""
    values = {
        b"tiff:Orientation": 1,
        b"tiff:ImageWidth": width,
        b"tiff:ImageLength": height,
        b"exif:PixelXDimension": width,
        b"exif:PixelYDimension": height,
    }
    for name, value in values.items():
        number = str(value).encode()
        xmp = re.sub(rb"(" + name + rb"\s*=\s*[\"'])\s*\d+\s*([\"'])", rb"\g<1>" + number + rb"\2", xmp)
        xmp = re.sub(rb"(<" + name + rb">)\s*\d+\s*(</)", rb"\g<1>" + number + rb"\2", xmp)
    return re.sub(rb"<xmp:Thumbnails>.*?</xmp:Thumbnails>", b"", xmp, flags=re.DOTALL)


# Writing


def png_with_metadata(data: bytes, metadata: Metadata) -> bytes:
    """A PNG file with chunks for the mark and the metadata after its header (PNG 3.0, 11.3)."""
    return data[:PNG_HEADER] + png_chunks(metadata) + data[PNG_HEADER + png_pixel_size(data) :]


def png_pixel_size(data: bytes) -> int:
    """Bytes of the pHYs chunk that FFmpeg writes after the header, which says nothing; 0 if there is none."""
    return 4 + 4 + 9 + 4 if data[PNG_HEADER + 4 : PNG_HEADER + 8] == b"pHYs" else 0


def png_chunks(metadata: Metadata) -> bytes:
    """The chunks of a PNG file that come before its samples."""
    chunks = metadata.colour_chunks + _png_chunk(b"tEXt", b"Software\0" + SOFTWARE.encode("latin-1"))
    if metadata.profile:
        chunks += _png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.profile))
    if metadata.dpi:
        across, down = (min(round(value / 0.0254), (1 << 31) - 1) for value in metadata.dpi)  # per metre
        chunks += _png_chunk(b"pHYs", struct.pack(">IIB", across, down, 1))
    if metadata.exif.exif or metadata.exif.gps or metadata.exif.main.keys() - {exif.SOFTWARE_TAG}:
        chunks += _png_chunk(b"eXIf", exif.write_block(metadata.exif))
    text = [*metadata.text, *([(_PNG_XMP, metadata.xmp.decode("utf-8", "replace"))] if metadata.xmp else [])]
    for keyword, value in text:
        chunks += _png_chunk(b"iTXt", keyword.encode("latin-1", "replace")[:79] + b"\0\0\0\0\0" + value.encode())
    return chunks


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def tiff_with_metadata(data: bytes, metadata: Metadata) -> bytes:
    """A little-endian TIFF file of one picture, with a new directory at the end for the mark and the metadata."""
    more: exif.Fields = {}
    if metadata.dpi and 282 not in metadata.exif.main:
        values = [struct.pack("<II", round(value * 100), 100) for value in metadata.dpi] + [b"\2\0"]
        more = {tag: (kind, value) for (tag, kind), value in zip(_RESOLUTION.items(), values, strict=True)}
    if metadata.profile:
        more[PROFILE_TAG] = (exif.UNDEFINED, metadata.profile)
    if metadata.xmp:
        more[XMP_TAG] = (1, metadata.xmp)
    return exif.append_to_tiff(data, metadata.exif, more)


def jpeg_options(metadata: Metadata) -> dict[str, Any]:
    """What Pillow's JPEG encoder is told of the metadata; what does not fit JPEG's segments is left out."""
    options: dict[str, Any] = {"icc_profile": metadata.profile}
    block = exif.PREFIX + exif.write_block(metadata.exif)
    if len(block) > MAX_SEGMENT:
        small = replace(metadata.exif, exif={t: v for t, v in metadata.exif.exif.items() if len(v[1]) < 1 << 12})
        block = exif.PREFIX + exif.write_block(replace(small, maker_note_at=0))
    if len(block) <= MAX_SEGMENT:
        options["exif"] = block
    if metadata.xmp and len(_JPEG_XMP + metadata.xmp) <= MAX_SEGMENT:
        content = _JPEG_XMP + metadata.xmp
        options["extra"] = b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content
    if metadata.dpi:
        options["dpi"] = metadata.dpi
    return options


def webp_options(metadata: Metadata) -> dict[str, Any]:
    """What Pillow's WebP encoder is told of the metadata."""
    return {
        "icc_profile": metadata.profile or b"",
        "exif": exif.write_block(metadata.exif),
        "xmp": metadata.xmp or b"",
    }
