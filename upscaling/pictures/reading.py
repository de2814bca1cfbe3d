"""A picture file as samples, upright: Pillow reads it, FFmpeg those of more than 8 bits, heif_decode HEIF and AVIF."""

import contextlib
import io
import stat
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from upscaling.common.errors import InputError, UnsuitableInput
from upscaling.common.memory_limits import check_memory
from upscaling.common.text import display_name
from upscaling.demux.input_file import MAX_PIXELS, is_playlist, read_error
from upscaling.frames.av_images import decode_picture
from upscaling.pictures.colours import as_samples
from upscaling.pictures.exif import ORIENTATION
from upscaling.pictures.formats import HEAD, READ, format_of, format_of_head, refusal
from upscaling.pictures.heif_decode import decode_heif

# Pillow's names of the formats that it may open: others run programs, or read other files.
_PILLOW = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "DIB", "JPEG2000", "PPM", "TGA", "QOI", "PCX")
# What Pillow's decoders raise for damaged files, in one version or another.
DAMAGE = (
    OSError, ValueError, SyntaxError, EOFError, MemoryError, LookupError, TypeError, RuntimeError, struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A picture file: upright samples, (height, width) gray or (height, width, 3 or 4) RGB or RGBA, uint8 or uint16."""

    samples: np.ndarray
    format: str  # a key of formats.READ
    notes: tuple[str, ...] = ()  # what was changed or left out, a line each
    primaries: str = "bt709"  # FFmpeg's names of its colours, if no profile says what they are
    transfer: str = "iec61966-2-1"


def read_picture(path: Path) -> Picture:
    """The first picture in a file. InputError, one line with the file's name: it cannot be read, and what to do."""
    name, data = display_name(path), read_bytes(path)
    if is_playlist(data):
        raise UnsuitableInput(f"{name} is a playlist; give the video file that it names")
    found = format_of_head(data[:HEAD]) or format_of(path)
    if found not in READ:
        raise UnsuitableInput(f"{name}: {refusal(found)}" if found else f"{name} is not a picture that can be read")
    try:
        if found in ("heif", "avif"):
            samples, primaries, transfer = decode_heif(data, MAX_PIXELS)
            notes = (
                ("its first picture is read, the rest of its sequence is left out",) if b"moov" in data[:HEAD] else ()
            )
            return Picture(samples, found, notes, primaries, transfer)
        with opened(data) as picture:
            return _read(picture, data, found)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    except DAMAGE as error:
        check_memory(error)
        raise InputError(f"{name} is not a picture that can be read: {reason(error)}; replace or convert it") from error


def read_bytes(path: Path) -> bytes:
    """The content of a file; InputError if it is missing, empty or not regular, ReadError if the disk has an error."""
    name = display_name(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{name} is not a regular file; give a picture file")
        data = path.read_bytes()
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise InputError(f"cannot read {name}: {error.strerror}") from error
    except OSError as error:
        raise read_error(path, error) from error
    if not data:
        raise InputError(f"{name} is empty")
    return data


def reason(error: BaseException) -> str:
    """Why Pillow cannot read a picture, in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return "its content is of no format that is read here"
    text = getattr(error, "strerror", None) or str(error)  # FFmpeg's errors have more in their text
    return text.strip().rstrip(".") or type(error).__name__


@contextlib.contextmanager
def opened(data: bytes) -> Iterator[Image.Image]:
    """A picture opened by Pillow, not decoded yet; InputError if it is too large."""
    _check_canvas(data[:30])
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # checked here
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=_PILLOW) as picture:
            check_size(*picture.size)
            yield picture
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _check_canvas(head: bytes) -> None:
    """InputError for a WebP file that is too large: libwebp allocates its memory when it is opened."""
    if head[8:16] == b"WEBPVP8X" and len(head) == 30:
        check_size(int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1)


def check_size(width: int, height: int) -> None:
    """InputError if a picture of that size, in pixels, is too large."""
    if width * height > MAX_PIXELS:
        raise InputError(f"a picture of {width}x{height} pixels is too large; the limit is {MAX_PIXELS} pixels")


def _read(picture: Image.Image, data: bytes, name: str) -> Picture:
    notes = []
    if name == "tiff" and (50706 in picture.tag_v2 or picture.tag_v2.get(254, 0) & 1):  # pyright: ignore
        raise InputError(refusal("camera raw"))  # its first picture is a small one
    pages = getattr(picture, "n_frames", 1)
    if pages > 1 and name == "tiff":
        notes.append(f"its first page is read, {pages - 1} more are left out")
    orientation = picture.getexif().get(ORIENTATION, 1)  # of EXIF, else of XMP; also of the file for TIFF
    codec = _deep_codec(picture, data)
    picture.load()  # raises an error if it is damaged, for whichever decoder
    if codec is not None and (samples := decode_picture(codec, data)) is not None:
        return Picture(upright(samples, orientation), name, tuple(notes))
    if codec is not None:
        notes.append("16 bits a sample are read as 8")
    if picture.mode == "CMYK" and picture.format == "JPEG" and "adobe" not in picture.info:
        picture = Image.merge("CMYK", [band.point(lambda value: 255 - value) for band in picture.split()])
    samples, more = as_samples(picture)
    return Picture(upright(samples, 1 if name == "tiff" else orientation), name, (*notes, *more))


def _deep_codec(picture: Image.Image, data: bytes) -> str | None:
    """FFmpeg's codec for a picture of colours with more than 8 bits a sample, which Pillow reduces; else None."""
    if picture.mode not in ("RGB", "RGBA", "LA"):
        return None
    deep = {
        "PNG": ("png", data[24:25] == b"\x10"),  # bit depth of IHDR
        "TIFF": ("tiff", 16 in getattr(picture, "tag_v2", {}).get(258, ())),
        "JPEG2000": ("jpeg2000", _jpeg2000_depth(data) > 8),
        "PPM": ("ppm", picture.format == "PPM" and _ppm_peak(data) > 255),
    }
    codec, is_deep = deep.get(picture.format or "", ("", False))
    return codec if is_deep else None


def _jpeg2000_depth(data: bytes) -> int:
    """Bits a sample of a JPEG 2000 file, of its SIZ marker (ISO/IEC 15444-1, A.5.1)."""
    at = data.find(b"\xff\x4f\xff\x51")
    return (data[at + 42] & 0x7F) + 1 if 0 <= at < len(data) - 42 else 8


def _ppm_peak(data: bytes) -> int:
    words = b" ".join(line.partition(b"#")[0] for line in data[:HEAD].splitlines()).split()
    return int(words[3]) if len(words) > 3 and words[0] == b"P6" and words[3].isdigit() else 255


def upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Samples turned and mirrored as an EXIF orientation says (CIPA DC-008, 4.6.5), as ImageOps.exif_transpose does."""
    turned = {
        2: lambda: samples[:, ::-1],
        3: lambda: samples[::-1, ::-1],
        4: lambda: samples[::-1],
        5: lambda: samples.swapaxes(0, 1),
        6: lambda: np.rot90(samples, -1),
        7: lambda: samples[::-1, ::-1].swapaxes(0, 1),
        8: lambda: np.rot90(samples),
    }.get(orientation)
    return samples if turned is None else np.ascontiguousarray(turned())
