"""The Matroska bytes that PyAV has no words for: is a segment whole, and headers with HDR or priming to copy from.

PyAV can't set a stream's mastering display, content light level or initial padding; it can copy them from
a stream that it reads. `video_template` and `audio_template` are files of one track for that purpose.
Elements: RFC 9559 (Matroska), RFC 8794 (EBML).
"""

import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

EBML, SEGMENT, CRC32, VOID = 0x1A45DFA3, 0x18538067, 0xBF, 0xEC
VIDEO_CODECS = {
    "h264": "V_MPEG4/ISO/AVC",
    "hevc": "V_MPEGH/ISO/HEVC",
    "av1": "V_AV1",
    "vp9": "V_VP9",
    "prores": "V_PRORES",
    "ffv1": "V_FFV1",
}
AUDIO_CODECS = {"aac": "A_AAC", "mp3": "A_MPEG/L3", "ac3": "A_AC3", "eac3": "A_EAC3"}
_LONGEST_ELEMENT = 1 << 31  # bytes; clusters are closed at 5 MB or one frame


def damage(path: Path) -> str | None:
    """What is wrong with a Matroska file by its sizes and CRC-32s alone; None where nothing is.

    Every level 1 element that libavformat writes (but Void and seek head) starts with the CRC-32 of what
    follows in it, so that a flipped bit anywhere in the pictures shows.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        try:
            if _element(file)[0] != EBML:
                return "it is not a Matroska file"
            file.seek(0)
            _, length = _element(file)
            file.seek(length, 1)
            ident, length = _element(file)
            if ident != SEGMENT or file.tell() + length != size:
                return "it was never closed or has been cut short"
            return _damaged_element(file, size)
        except EOFError:
            return "it ends within an element"


def _damaged_element(file: BinaryIO, size: int) -> str | None:
    while file.tell() < size:
        start = file.tell()
        ident, length = _element(file)
        if length > min(size - file.tell(), _LONGEST_ELEMENT):
            return f"an element at byte {start} is longer than the file"
        content = file.read(length)
        if ident != VOID and content[:2] == b"\xbf\x84":
            stored = int.from_bytes(content[2:6], "little")
            if zlib.crc32(content[6:]) != stored:
                return f"the checksum of the element at byte {start} does not match"
    return None


def _element(file: BinaryIO) -> tuple[int, int]:
    """(identifier, length of the content in bytes) of the element at the file's position; EOFError at its end."""
    return _vint(file, keep_marker=True), _vint(file, keep_marker=False)


def _vint(file: BinaryIO, *, keep_marker: bool) -> int:
    first = file.read(1)
    if not first or not first[0]:
        raise EOFError
    width = 9 - first[0].bit_length()  # the count of leading zero bits, plus one
    rest = file.read(width - 1)
    if len(rest) < width - 1:
        raise EOFError
    value = first[0] if keep_marker else first[0] & ((1 << (8 - width)) - 1)
    return value << (8 * (width - 1)) | int.from_bytes(rest, "big")


def _put(ident: int, content: bytes | int | float | str) -> bytes:
    if isinstance(content, str):
        content = content.encode()
    elif isinstance(content, float):
        content = struct.pack(">d", content)
    elif isinstance(content, int):
        content = content.to_bytes(8, "big")
    name = ident.to_bytes((ident.bit_length() + 7) // 8, "big")
    return name + (1 << 56 | len(content)).to_bytes(8, "big") + content


def _one_track(track: bytes, packet: bytes) -> bytes:
    head = b"".join(_put(*e) for e in ((0x4286, 1), (0x42F7, 1), (0x42F2, 4), (0x42F3, 8)))
    head += b"".join(_put(*e) for e in ((0x4282, "matroska"), (0x4287, 4), (0x4285, 2)))
    info = _put(0x2AD7B1, 1_000_000) + _put(0x4D80, "template") + _put(0x5741, "template")
    cluster = _put(0xE7, 0) + _put(0xA3, b"\x81\0\0\x80" + packet)
    body = _put(0x1549A966, info) + _put(0x1654AE6B, _put(0xAE, track)) + _put(0x1F43B675, cluster)
    return _put(EBML, head) + _put(SEGMENT, body)


def video_template(codec: str, extradata: bytes, size: tuple[int, int], hdr: Mapping[str, str], packet: bytes) -> bytes:
    """A file with one video track that carries `hdr` (as `tags.hdr_metadata` has it) and one packet."""
    colour = b""
    if "max-cll" in hdr:
        content, average = hdr["max-cll"].split(",")
        colour += _put(0x55BC, int(content)) + _put(0x55BD, int(average))
    if "master-display" in hdr:
        colour += _put(0x55D0, b"".join(_mastering(hdr["master-display"])))
    video = _put(0xB0, size[0]) + _put(0xBA, size[1]) + (_put(0x55B0, colour) if colour else b"")
    track = _put(0xD7, 1) + _put(0x73C5, 1) + _put(0x83, 1) + _put(0x86, VIDEO_CODECS[codec])
    track += (_put(0x63A2, extradata) if extradata else b"") + _put(0xE0, video)
    return _one_track(track, packet)


def _mastering(display: str) -> Iterator[bytes]:
    """The elements of MasteringMetadata: chromaticities of red, green, blue and white, luminance in cd/m²."""
    points = {name: (int(a), int(b)) for name, a, b in re.findall(r"([A-Z]+)\((\d+),(\d+)\)", display)}
    values = [value / 50_000 for name in ("R", "G", "B", "WP") for value in points[name]]
    values += [value / 10_000 for value in points["L"]]
    for ident, value in zip(range(0x55D1, 0x55DB), values, strict=True):
        yield _put(ident, value)


def audio_template(codec: str, extradata: bytes, rate: int, channels: int, padding: int, packet: bytes) -> bytes:
    """A file with one audio track of `rate` Hz whose first `padding` samples are the encoder's priming."""
    delay = round(Fraction(padding * 1_000_000_000, rate))  # CodecDelay is in nanoseconds
    audio = _put(0xB5, float(rate)) + _put(0x9F, channels)
    track = _put(0xD7, 1) + _put(0x73C5, 1) + _put(0x83, 2) + _put(0x86, AUDIO_CODECS[codec]) + _put(0x56AA, delay)
    track += (_put(0x63A2, extradata) if extradata else b"") + _put(0xE1, audio)
    return _one_track(track, packet)
