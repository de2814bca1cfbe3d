"""Colour tags of decoded frames, with defaults for untagged video; HDR metadata as text.

Names are those of FFmpeg's options -colorspace, -color_range, -color_primaries and -color_trc; the numbers are
ISO/IEC 23091-2's (libavutil/pixfmt.h).
"""

import struct
from dataclasses import dataclass
from fractions import Fraction

import av

from upscaling.decode.planes import is_full_range, is_rgb

UNSPECIFIED = 2
MATRICES = {0: "gbr", 1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "ycgco"} | {
    9: "bt2020nc", 10: "bt2020c", 11: "smpte2085", 12: "chroma-derived-nc", 13: "chroma-derived-c", 14: "ictcp"
}  # fmt: skip
PRIMARIES = {1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "film", 9: "bt2020"} | {
    10: "smpte428", 11: "smpte431", 12: "smpte432", 22: "jedec-p22"
}  # fmt: skip
TRANSFERS = {1: "bt709", 4: "gamma22", 5: "gamma28", 6: "smpte170m", 7: "smpte240m", 8: "linear", 9: "log100"} | {
    10: "log316", 11: "iec61966-2-4", 12: "bt1361e", 13: "iec61966-2-1", 14: "bt2020-10", 15: "bt2020-12"
} | {16: "smpte2084", 17: "smpte428", 18: "arib-std-b67"}  # fmt: skip
_HD_LINES = 720  # untagged video with so many lines or more is taken as BT.709
_PAL_LINES = 576
_CENTERED = ("mpeg1video", "mjpeg", "mjpegb", "webp")  # codecs whose 4:2:0 chroma lies between the luma samples
_LOCATIONS = {1: "left", 2: "center", 3: "topleft", 4: "center", 5: "left", 6: "center"}  # top, bottom...: nearest
_FULL_RANGE_GRAY = ("png", "apng", "gif", "bmp", "tiff", "webp", "mjpeg", "jpeg2000", "pgm", "pam")


@dataclass(frozen=True)
class Colour:
    """How to read a video's samples as colours; no field is 'unknown'."""

    matrix: str  # 'bt709', 'smpte170m', 'bt2020nc', …; 'gbr' for RGB
    full_range: bool
    primaries: str
    transfer: str
    chroma_location: str  # 'left', 'center' or 'topleft'

    def __str__(self) -> str:
        """For a message."""
        full = "full" if self.full_range else "limited"
        others = f"primaries {self.primaries}, transfer {self.transfer}, chroma {self.chroma_location}"
        return f"{self.matrix} {full} range, {others}"


@dataclass(frozen=True)
class ContextTags:
    """What a codec context says of the colours of all frames; the numbers of frames that are tagged go before it."""

    codec: str  # FFmpeg's name
    colorspace: int
    color_primaries: int
    color_trc: int
    color_range: int
    chroma_location: str

    @classmethod
    def of(cls, context: av.VideoCodecContext) -> "ContextTags":
        """The tags of a context as they are now: a decoder changes them as it goes on."""
        numbers = (context.colorspace, context.color_primaries, context.color_trc, context.color_range)
        return cls(context.codec.canonical_name, *numbers, _chroma_location(context))


def read_colour(frame: av.VideoFrame, context: ContextTags, lines: int) -> tuple[Colour, str | None]:
    """The colours of a video from a frame and its codec context, and a note if the matrix is assumed.

    The frame's tags come first, then the stream's. Without either, the assumptions are those of players: BT.601
    below 720 lines, else BT.709. `lines` is the height as coded.
    """
    rgb = is_rgb(frame.format.name)
    matrix = _tag(MATRICES, frame.colorspace, context.colorspace)
    primaries = _tag(PRIMARIES, frame.color_primaries, context.color_primaries)
    transfer = _tag(TRANSFERS, frame.color_trc, context.color_trc)
    if rgb or matrix == "gbr":
        matrix = "gbr" if rgb else None
    note = None
    if matrix is None:
        matrix = _assumed_matrix(primaries, transfer, lines)
        note = f"colours are not tagged; assuming {'BT.709' if matrix == 'bt709' else 'BT.601'}"
        note = None if matrix == "bt2020nc" else note
    primaries = primaries or _assumed_primaries(matrix, lines)
    transfer = transfer or _assumed_transfer(matrix)
    full_range = is_full_range(frame)
    if full_range is None and context.color_range in (1, 2):
        full_range = context.color_range == 2
    if full_range is None:
        full_range = frame.format.name.startswith(("gray", "ya", "mono")) and context.codec in _FULL_RANGE_GRAY
    return Colour(matrix, rgb or full_range, primaries, transfer, context.chroma_location), note


def _tag(names: dict[int, str], *numbers: int) -> str | None:
    return next((names[number] for number in numbers if number in names), None)


def _assumed_matrix(primaries: str | None, transfer: str | None, lines: int) -> str:
    if primaries == "bt2020" or transfer in ("smpte2084", "arib-std-b67"):
        return "bt2020nc"
    return "bt709" if lines >= _HD_LINES else "smpte170m"


def _assumed_primaries(matrix: str, lines: int) -> str:
    if matrix.startswith("bt2020") or matrix == "ictcp":
        return "bt2020"
    if lines < _HD_LINES and (matrix == "bt470bg" or (matrix == "smpte170m" and lines == _PAL_LINES)):
        return "bt470bg"
    return matrix if matrix in ("smpte170m", "smpte240m") else "bt709"


def _assumed_transfer(matrix: str) -> str:
    known = {"gbr": "iec61966-2-1", "smpte170m": "smpte170m", "bt470bg": "smpte170m", "smpte240m": "smpte240m"}
    return known.get(matrix, "bt2020-10" if matrix.startswith("bt2020") else "bt709")


def _chroma_location(context: av.VideoCodecContext) -> str:
    """The stream's chroma location; PyAV has it among the context's options only."""
    options = {option.name: option.default for option in context.supported_options.generic}
    value = str(options.get("chroma_sample_location") or "0")
    default = "center" if context.codec.canonical_name in _CENTERED else "left"
    return _LOCATIONS.get(int(value), default) if value.isdigit() else default


def hdr_metadata(side_data: dict[str, bytes]) -> dict[str, dict]:
    """Mastering display and content light level in JSON's types, numbers as 'numerator/denominator'.

    {'mastering_display': {'primaries': [[x, y] of red, green, blue], 'white_point': [x, y], 'min_luminance': …,
    'max_luminance': …}, 'content_light_level': {'max_content': int, 'max_average': int}}; luminance is in cd/m²,
    unknown entries are left out (SMPTE ST 2086, CTA-861.3; structs of libavutil/mastering_display_metadata.h).
    """
    found = {}
    display = side_data.get("MASTERING_DISPLAY_METADATA")
    if display and len(display) >= 88:
        *numbers, has_primaries, has_luminance = struct.unpack("=22i", display[:88])
        if all(numbers[1::2]):
            values = [str(Fraction(*pair)) for pair in zip(numbers[::2], numbers[1::2], strict=True)]
            points = [values[at : at + 2] for at in range(0, 8, 2)]  # red, green, blue, white
            mastering = {"primaries": points[:3], "white_point": points[3]} if has_primaries else {}
            mastering |= {"min_luminance": values[8], "max_luminance": values[9]} if has_luminance else {}
            found |= {"mastering_display": mastering} if mastering else {}
    light = side_data.get("CONTENT_LIGHT_LEVEL")
    if light and len(light) >= 8 and any(light[:8]):
        content, average = struct.unpack("=2I", light[:8])
        found["content_light_level"] = {"max_content": content, "max_average": average}
    return found
