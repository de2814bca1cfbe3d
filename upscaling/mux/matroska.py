"""Matroska headers that PyAV can't write: HDR metadata, encoder priming, and the display size.

PyAV can't set a stream's mastering display, content light level or initial padding; it can copy them from
a stream that it reads. `video_template` and `audio_template` are files of one track for that purpose.
Elements: RFC 9559 (Matroska), RFC 8794 (EBML).
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

# Element identifiers.
_EBML, _SEGMENT, _CRC32, _VOID = 0x1A45DFA3, 0x18538067, 0xBF, 0xEC
_EBML_VERSION, _EBML_READ_VERSION, _EBML_MAX_ID_LENGTH, _EBML_MAX_SIZE_LENGTH = 0x4286, 0x42F7, 0x42F2, 0x42F3
_DOC_TYPE, _DOC_TYPE_VERSION, _DOC_TYPE_READ_VERSION = 0x4282, 0x4287, 0x4285
_INFO, _TIMESTAMP_SCALE, _MUXING_APP, _WRITING_APP = 0x1549A966, 0x2AD7B1, 0x4D80, 0x5741
_CLUSTER, _TIMESTAMP, _SIMPLE_BLOCK = 0x1F43B675, 0xE7, 0xA3
_TRACKS, _TRACK_ENTRY, _TRACK_NUMBER, _TRACK_UID, _TRACK_TYPE = 0x1654AE6B, 0xAE, 0xD7, 0x73C5, 0x83
_NAME, _CODEC_ID, _CODEC_PRIVATE, _CODEC_DELAY = 0x536E, 0x86, 0x63A2, 0x56AA
_VIDEO, _PIXEL_WIDTH, _PIXEL_HEIGHT = 0xE0, 0xB0, 0xBA
_DISPLAY_WIDTH, _DISPLAY_HEIGHT, _DISPLAY_UNIT = 0x54B0, 0x54BA, 0x54B2
_COLOUR, _MAX_CLL, _MAX_FALL, _MASTERING_METADATA = 0x55B0, 0x55BC, 0x55BD, 0x55D0
_CHROMATICITIES = range(0x55D1, 0x55D9)  # x and y of red, green, blue and white
_LUMINANCE_MAX, _LUMINANCE_MIN = 0x55D9, 0x55DA
_AUDIO, _SAMPLING_FREQUENCY, _CHANNELS = 0xE1, 0xB5, 0x9F
VIDEO_CODECS = {
    "h264": "V_MPEG4/ISO/AVC",
    "hevc": "V_MPEGH/ISO/HEVC",
    "av1": "V_AV1",
    "vp9": "V_VP9",
    "prores": "V_PRORES",
    "ffv1": "V_FFV1",
}
AUDIO_CODECS = {"aac": "A_AAC", "mp3": "A_MPEG/L3", "ac3": "A_AC3", "eac3": "A_EAC3"}
_CRC_LENGTH, _VOID_HEADER = 6, 9  # bytes
DISPLAY_ROOM = " " * 32  # spaces at the end of a track's name, to be replaced by a display size


def video_template(
    codec: str, extradata: bytes, size: tuple[int, int], hdr: Mapping[str, dict], packet: bytes
) -> bytes:
    """A file with one video track of (width, height) pixels that carries `hdr`, and one packet.

    `hdr` is what `colour_tags.hdr_metadata` returns.
    """
    colour = b""
    if light := hdr.get("content_light_level"):
        colour += _put(_MAX_CLL, light["max_content"]) + _put(_MAX_FALL, light["max_average"])
    if display := hdr.get("mastering_display"):  # chromaticities, and luminance in cd/m²
        points = (*display["primaries"], display["white_point"]) if "primaries" in display else ()
        values = dict(zip(_CHROMATICITIES, (v for point in points for v in point), strict=False))
        if "max_luminance" in display:
            values |= {_LUMINANCE_MAX: display["max_luminance"], _LUMINANCE_MIN: display["min_luminance"]}
        mastering = b"".join(_put(ident, float(Fraction(value))) for ident, value in values.items())
        colour += _put(_MASTERING_METADATA, mastering)
    video = _put(_PIXEL_WIDTH, size[0]) + _put(_PIXEL_HEIGHT, size[1]) + (_put(_COLOUR, colour) if colour else b"")
    return _one_track(_track_start(1, VIDEO_CODECS[codec], extradata) + _put(_VIDEO, video), packet)


def audio_template(codec: str, extradata: bytes, rate: int, channels: int, padding: int, packet: bytes) -> bytes:
    """A file with one audio track of `rate` Hz whose first `padding` samples are the encoder's priming."""
    delay = round(Fraction(padding * 1_000_000_000, rate))  # CodecDelay is in nanoseconds
    audio = _put(_SAMPLING_FREQUENCY, float(rate)) + _put(_CHANNELS, channels)
    track = _track_start(2, AUDIO_CODECS[codec], extradata) + _put(_CODEC_DELAY, delay) + _put(_AUDIO, audio)
    return _one_track(track, packet)


def _track_start(kind: int, codec_id: str, extradata: bytes) -> bytes:
    start = _put(_TRACK_NUMBER, 1) + _put(_TRACK_UID, 1) + _put(_TRACK_TYPE, kind) + _put(_CODEC_ID, codec_id)
    return start + (_put(_CODEC_PRIVATE, extradata) if extradata else b"")


def _one_track(track: bytes, packet: bytes) -> bytes:
    """A file with that TrackEntry and one packet at time zero."""
    header = _put(_EBML_VERSION, 1) + _put(_EBML_READ_VERSION, 1)
    header += _put(_EBML_MAX_ID_LENGTH, 4) + _put(_EBML_MAX_SIZE_LENGTH, 8)
    header += _put(_DOC_TYPE, "matroska") + _put(_DOC_TYPE_VERSION, 4) + _put(_DOC_TYPE_READ_VERSION, 2)
    info = _put(_TIMESTAMP_SCALE, 1_000_000) + _put(_MUXING_APP, "template") + _put(_WRITING_APP, "template")
    cluster = _put(_TIMESTAMP, 0) + _put(_SIMPLE_BLOCK, b"\x81\0\0\x80" + packet)  # track 1, time 0, key frame
    body = _put(_INFO, info) + _put(_TRACKS, _put(_TRACK_ENTRY, track)) + _put(_CLUSTER, cluster)
    return _put(_EBML, header) + _put(_SEGMENT, body)


def display_size(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """A display size in pixels, not smaller than the picture, for pixels of that aspect ratio (width : height).

    The ratio is exact unless that takes more than four times the picture's size.
    """
    ratio = Fraction(width, height) * aspect
    times = max(-(-width // ratio.numerator), -(-height // ratio.denominator))
    if max(ratio.numerator, ratio.denominator) * times > 4 * max(width, height):
        return (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
    return ratio.numerator * times, ratio.denominator * times


def write_display_size(path: Path, size: tuple[int, int]) -> None:
    """Writes a display size into the video track of a finished file, in the place of `DISPLAY_ROOM`.

    libavformat writes one only for a sample aspect ratio in a place that PyAV can't reach. ValueError if no
    track's name ends in `DISPLAY_ROOM`.
    """
    with open(path, "r+b") as file:
        start, tracks = _tracks(file)
        content = b""
        for ident, body in _children(tracks):
            if ident == _TRACK_ENTRY:
                body = _with_display_size(body, size)
            if ident not in (_CRC32, _VOID):
                content += _put(ident, body)
        free = len(tracks) - _CRC_LENGTH - len(content)
        if free < _VOID_HEADER:
            raise ValueError(f"{path.name} has no room for a display size")
        content += _put(_VOID, bytes(free - _VOID_HEADER), width=8)
        file.seek(start)
        file.write(_put(_CRC32, zlib.crc32(content).to_bytes(4, "little")) + content)


def _tracks(file: BinaryIO) -> tuple[int, bytes]:
    """(position in the file, content) of the Tracks element."""
    _, length = _read_header(file)
    file.seek(length, 1)
    _read_header(file)  # of the segment, whose children follow
    while True:
        ident, length = _read_header(file)
        if ident == _TRACKS:
            return file.tell(), file.read(length)
        file.seek(length, 1)


def _with_display_size(track: bytes, size: tuple[int, int]) -> bytes:
    """The content of a TrackEntry; unchanged if its name does not end in `DISPLAY_ROOM`."""
    children, room = list(_children(track)), DISPLAY_ROOM.encode()
    if not any(ident == _NAME and body.endswith(room) for ident, body in children):
        return track
    result = b""
    for ident, body in children:
        if ident == _NAME:
            body = body.removesuffix(room)
            if not body:
                continue
        elif ident == _VIDEO:
            old = (_DISPLAY_WIDTH, _DISPLAY_HEIGHT, _DISPLAY_UNIT)
            body = b"".join(_put(i, b) for i, b in _children(body) if i not in old)
            body += _put(_DISPLAY_WIDTH, size[0]) + _put(_DISPLAY_HEIGHT, size[1])
        result += _put(ident, body)
    return result


# EBML: an element is an identifier, the length of its content, and the content.


def _children(content: bytes) -> Iterator[tuple[int, bytes]]:
    """(identifier, content) of each element in another's content."""
    file = BytesIO(content)
    while file.tell() < len(content):
        ident, length = _read_header(file)
        yield ident, file.read(length)


def _read_header(file: BinaryIO) -> tuple[int, int]:
    """(identifier, length of the content in bytes) of the element at the file's position; EOFError at its end."""
    return _read_vint(file, keep_marker=True), _read_vint(file, keep_marker=False)


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


def _put(ident: int, content: bytes | int | float | str, width: int = 0) -> bytes:
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
