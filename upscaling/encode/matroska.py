"""The Matroska bytes that PyAV has no words for: headers with HDR or priming to copy from, and a display size.

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
# FFmpeg's audio codecs that Matroska holds in Windows' way (A_MS/ACM), and their numbers there (libavformat/riff.c).
ACM_CODECS = {
    "wmav1": 0x160, "wmav2": 0x161, "wmapro": 0x162, "wmalossless": 0x163, "wmavoice": 0x0A, "adpcm_ms": 0x02,
    "adpcm_ima_wav": 0x11, "pcm_alaw": 0x06, "pcm_mulaw": 0x07, "gsm_ms": 0x31, "truespeech": 0x22,
}  # fmt: skip
_ACM_PLACEHOLDER = (b"A_MPEG/L2", b"A_MS/ACM\0")  # PyAV refuses the second; an EBML text may end in zeros
DISPLAY_ROOM = " " * 400  # spaces at the end of a track's name, to be replaced by a display size


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
    return name + (1 << 56 | len(content)).to_bytes(8, "big") + content  # sizes always in 8 bytes


def _one_track(track: bytes, packet: bytes) -> bytes:
    head = b"".join(_put(*e) for e in ((0x4286, 1), (0x42F7, 1), (0x42F2, 4), (0x42F3, 8)))
    head += b"".join(_put(*e) for e in ((0x4282, "matroska"), (0x4287, 4), (0x4285, 2)))
    info = _put(0x2AD7B1, 1_000_000) + _put(0x4D80, "template") + _put(0x5741, "template")
    cluster = _put(0xE7, 0) + _put(0xA3, b"\x81\0\0\x80" + packet)
    body = _put(0x1549A966, info) + _put(0x1654AE6B, _put(0xAE, track)) + _put(0x1F43B675, cluster)
    return _put(EBML, head) + _put(SEGMENT, body)


def video_template(
    codec: str, extradata: bytes, size: tuple[int, int], hdr: Mapping[str, dict], packet: bytes
) -> bytes:
    """A file with one video track that carries `hdr` (as `tags.hdr_metadata` has it) and one packet."""
    colour = b""
    if light := hdr.get("content_light_level"):
        colour += _put(0x55BC, light["max_content"]) + _put(0x55BD, light["max_average"])
    if display := hdr.get("mastering_display"):  # chromaticities of red, green, blue and white; cd/m²
        points = (*display["primaries"], display["white_point"]) if "primaries" in display else ()
        known = dict(zip(range(0x55D1, 0x55D9), (v for point in points for v in point), strict=False))
        if "max_luminance" in display:
            known |= {0x55D9: display["max_luminance"], 0x55DA: display["min_luminance"]}
        colour += _put(0x55D0, b"".join(_put(ident, float(Fraction(value))) for ident, value in known.items()))
    video = _put(0xB0, size[0]) + _put(0xBA, size[1]) + (_put(0x55B0, colour) if colour else b"")
    track = _put(0xD7, 1) + _put(0x73C5, 1) + _put(0x83, 1) + _put(0x86, VIDEO_CODECS[codec])
    track += (_put(0x63A2, extradata) if extradata else b"") + _put(0xE0, video)
    return _one_track(track, packet)


def audio_template(codec: str, extradata: bytes, rate: int, channels: int, padding: int, packet: bytes) -> bytes:
    """A file with one audio track of `rate` Hz whose first `padding` samples are the encoder's priming."""
    delay = round(Fraction(padding * 1_000_000_000, rate))  # CodecDelay is in nanoseconds
    audio = _put(0xB5, float(rate)) + _put(0x9F, channels)
    track = _put(0xD7, 1) + _put(0x73C5, 1) + _put(0x83, 2) + _put(0x86, AUDIO_CODECS[codec]) + _put(0x56AA, delay)
    track += (_put(0x63A2, extradata) if extradata else b"") + _put(0xE1, audio)
    return _one_track(track, packet)


def wave_format(path: Path, codec: str, extradata: bytes, rate: int, channels: int) -> bytes | None:
    """The WAVEFORMATEX of a stream as AVI and ASF have it in the first megabyte; None where it is not there."""
    with open(path, "rb") as file:
        head = file.read(1 << 20)
    start = head.find(struct.pack("<HHI", ACM_CODECS[codec], channels, rate))  # tag, channels, Hz
    while 0 <= start <= len(head) - 18 - len(extradata):
        # then bytes/s (4), block size (2), bits (2), size of what follows (2)
        if head[start + 18 : start + 18 + len(extradata)] == extradata:
            return head[start : start + 16] + struct.pack("<H", len(extradata)) + extradata
        start = head.find(head[start : start + 8], start + 1)
    return None


def acm_template(wave: bytes, rate: int, channels: int) -> bytes:
    """A file with one audio track of that WAVEFORMATEX under the name of MP2, until `finish_tracks` renames it."""
    audio = _put(0xB5, float(rate)) + _put(0x9F, channels)
    track = _put(0xD7, 1) + _put(0x73C5, 1) + _put(0x83, 2) + _put(0x86, _ACM_PLACEHOLDER[0])
    return _one_track(track + _put(0x63A2, wave) + _put(0xE1, audio), b"\0")


def display_size(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """A size in pixels of the display aspect ratio that such a picture has, exactly if it can be.

    Not smaller than the picture.
    """
    ratio = Fraction(width, height) * aspect
    times = max(-(-width // ratio.numerator), -(-height // ratio.denominator))
    if max(ratio.numerator, ratio.denominator) * times > 4 * max(width, height):
        return (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
    return ratio.numerator * times, ratio.denominator * times


def finish_tracks(path: Path, size: tuple[int, int]) -> None:
    """Writes a display size into the first video track of a finished file, in the place of `DISPLAY_ROOM`.

    libavformat writes one only for a sample aspect ratio in a place that PyAV can't reach. The track's name
    must end in `DISPLAY_ROOM`. Tracks of `acm_template` get their codec. ValueError where there is no such room.
    """
    with open(path, "r+b") as file:
        start, tracks = _tracks(file)
        entries = [(ident, _with_display(body, size) if ident == 0xAE else body) for ident, body in _children(tracks)]
        content = b"".join(_put(ident, _with_codec(body)) for ident, body in entries if ident not in (CRC32, VOID))
        room = len(tracks) - 6 - len(content)  # 6: the CRC-32
        if room < 0 or 0 < room < 9:
            raise ValueError("no room for a display size")
        content += _put(VOID, bytes(room - 9)) if room else b""
        file.seek(start)
        file.write(b"\xbf\x84" + zlib.crc32(content).to_bytes(4, "little") + content)


def _tracks(file: BinaryIO) -> tuple[int, bytes]:
    """(position in the file, content) of the Tracks element."""
    _, length = _element(file)
    file.seek(length, 1)
    _element(file)
    while True:
        ident, length = _element(file)
        if ident == 0x1654AE6B:
            return file.tell(), file.read(length)
        file.seek(length, 1)


def _children(content: bytes) -> Iterator[tuple[int, bytes]]:
    file = BytesIO(content)
    while file.tell() < len(content):
        ident, length = _element(file)
        yield ident, file.read(length)


def _with_codec(track: bytes) -> bytes:
    """The track as it is, or with ACM as its codec: no real MP2 has private data."""
    elements = dict(_children(track))
    name, acm = _ACM_PLACEHOLDER
    return track.replace(name, acm, 1) if elements.get(0x86) == name and 0x63A2 in elements else track


def _with_display(track: bytes, size: tuple[int, int]) -> bytes:
    children = list(_children(track))
    room = DISPLAY_ROOM.encode()
    if not any(ident == 0x536E and body.endswith(room) for ident, body in children):
        return track
    found = b""
    for ident, body in children:
        if ident == 0x536E:
            body = body[: -len(room)]
            if not body:
                continue
        elif ident == 0xE0:
            kept = ((i, b) for i, b in _children(body) if i not in (0x54B0, 0x54BA, 0x54B2))
            body = b"".join(_put(i, b) for i, b in kept) + _put(0x54B0, size[0]) + _put(0x54BA, size[1])
        found += _put(ident, body)
    return found
