"""Matroska headers that PyAV can't write: HDR metadata, stereo, projection, encoder priming, and the display size.

PyAV can't set a stream's mastering display, content light level, stereo mode, projection or initial padding; it can
copy them from a stream that it reads. `video_template` and `audio_template` are files of one track for that purpose.
Elements: RFC 9559 (Matroska).
"""

import zlib
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

from upscaling.demux.ebml import TRACK_ENTRY, TRACKS, VIDEO, children, put, tracks_of

# Element identifiers.
_EBML, _SEGMENT, _CRC32, _VOID = 0x1A45DFA3, 0x18538067, 0xBF, 0xEC
_EBML_VERSION, _EBML_READ_VERSION, _EBML_MAX_ID_LENGTH, _EBML_MAX_SIZE_LENGTH = 0x4286, 0x42F7, 0x42F2, 0x42F3
_DOC_TYPE, _DOC_TYPE_VERSION, _DOC_TYPE_READ_VERSION = 0x4282, 0x4287, 0x4285
_INFO, _TIMESTAMP_SCALE, _MUXING_APP, _WRITING_APP = 0x1549A966, 0x2AD7B1, 0x4D80, 0x5741
_CLUSTER, _TIMESTAMP, _SIMPLE_BLOCK = 0x1F43B675, 0xE7, 0xA3
_TRACK_NUMBER, _TRACK_UID, _TRACK_TYPE = 0xD7, 0x73C5, 0x83
_NAME, _CODEC_ID, _CODEC_PRIVATE, _CODEC_DELAY = 0x536E, 0x86, 0x63A2, 0x56AA
_PIXEL_WIDTH, _PIXEL_HEIGHT = 0xB0, 0xBA
_STEREO_MODE, _PROJECTION = 0x53B8, 0x7670
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
    codec: str, extradata: bytes, size: tuple[int, int], marks: Mapping[str, dict], packet: bytes
) -> bytes:
    """A file with one video track of (width, height) pixels that carries `marks`, and one packet.

    `marks` are what `colour_tags.hdr_metadata` and `stream_marks.stream_marks` return.
    """
    colour = b""
    if light := marks.get("content_light_level"):
        colour += put(_MAX_CLL, light["max_content"]) + put(_MAX_FALL, light["max_average"])
    if display := marks.get("mastering_display"):  # chromaticities, and luminance in cd/m²
        points = (*display["primaries"], display["white_point"]) if "primaries" in display else ()
        values = dict(zip(_CHROMATICITIES, (v for point in points for v in point), strict=False))
        if "max_luminance" in display:
            values |= {_LUMINANCE_MAX: display["max_luminance"], _LUMINANCE_MIN: display["min_luminance"]}
        mastering = b"".join(put(ident, float(Fraction(value))) for ident, value in values.items())
        colour += put(_MASTERING_METADATA, mastering)
    video = put(_PIXEL_WIDTH, size[0]) + put(_PIXEL_HEIGHT, size[1]) + (put(_COLOUR, colour) if colour else b"")
    if stereo := marks.get("stereo"):
        video += put(_STEREO_MODE, stereo["mode"])
    if projection := marks.get("projection"):
        video += put(_PROJECTION, bytes.fromhex(projection["element"]))
    return _one_track(_track_start(1, VIDEO_CODECS[codec], extradata) + put(VIDEO, video), packet)


def audio_template(codec: str, extradata: bytes, rate: int, channels: int, padding: int, packet: bytes) -> bytes:
    """A file with one audio track of `rate` Hz whose first `padding` samples are the encoder's priming."""
    delay = round(Fraction(padding * 1_000_000_000, rate))  # CodecDelay is in nanoseconds
    audio = put(_SAMPLING_FREQUENCY, float(rate)) + put(_CHANNELS, channels)
    track = _track_start(2, AUDIO_CODECS[codec], extradata) + put(_CODEC_DELAY, delay) + put(_AUDIO, audio)
    return _one_track(track, packet)


def _track_start(kind: int, codec_id: str, extradata: bytes) -> bytes:
    start = put(_TRACK_NUMBER, 1) + put(_TRACK_UID, 1) + put(_TRACK_TYPE, kind) + put(_CODEC_ID, codec_id)
    return start + (put(_CODEC_PRIVATE, extradata) if extradata else b"")


def _one_track(track: bytes, packet: bytes) -> bytes:
    """A file with that TrackEntry and one packet at time zero."""
    header = put(_EBML_VERSION, 1) + put(_EBML_READ_VERSION, 1)
    header += put(_EBML_MAX_ID_LENGTH, 4) + put(_EBML_MAX_SIZE_LENGTH, 8)
    header += put(_DOC_TYPE, "matroska") + put(_DOC_TYPE_VERSION, 4) + put(_DOC_TYPE_READ_VERSION, 2)
    info = put(_TIMESTAMP_SCALE, 1_000_000) + put(_MUXING_APP, "template") + put(_WRITING_APP, "template")
    cluster = put(_TIMESTAMP, 0) + put(_SIMPLE_BLOCK, b"\x81\0\0\x80" + packet)  # track 1, time 0, key frame
    body = put(_INFO, info) + put(TRACKS, put(TRACK_ENTRY, track)) + put(_CLUSTER, cluster)
    return put(_EBML, header) + put(_SEGMENT, body)


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
        start, tracks = tracks_of(file)
        content = b""
        for ident, body in children(tracks):
            if ident == TRACK_ENTRY:
                body = _with_display_size(body, size)
            if ident not in (_CRC32, _VOID):
                content += put(ident, body)
        free = len(tracks) - _CRC_LENGTH - len(content)
        if free < _VOID_HEADER:
            raise ValueError(f"{path.name} has no room for a display size")
        content += put(_VOID, bytes(free - _VOID_HEADER), width=8)
        file.seek(start)
        file.write(put(_CRC32, zlib.crc32(content).to_bytes(4, "little")) + content)


def _with_display_size(track: bytes, size: tuple[int, int]) -> bytes:
    """The content of a TrackEntry; unchanged if its name does not end in `DISPLAY_ROOM`."""
    fields, room = list(children(track)), DISPLAY_ROOM.encode()
    if not any(ident == _NAME and body.endswith(room) for ident, body in fields):
        return track
    result = b""
    for ident, body in fields:
        if ident == _NAME:
            body = body.removesuffix(room)
            if not body:
                continue
        elif ident == VIDEO:
            old = (_DISPLAY_WIDTH, _DISPLAY_HEIGHT, _DISPLAY_UNIT)
            body = b"".join(put(i, b) for i, b in children(body) if i not in old)
            body += put(_DISPLAY_WIDTH, size[0]) + put(_DISPLAY_HEIGHT, size[1])
        result += put(ident, body)
    return result
