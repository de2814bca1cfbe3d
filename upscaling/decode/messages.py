"""Messages that a decoder hands out with a frame and that belong into the new frame: captions, HDR10+ and the like.

A message is in the form in which H.264 and HEVC carry it, as the payload of an SEI message (ITU-T H.274); AV1 carries
those of ITU-T T.35 as well.
"""

import struct
from dataclasses import dataclass
from fractions import Fraction

import av

from upscaling.decode.hdr10plus import hdr10plus_message
from upscaling.decode.side_data import side_data_of

T35, AMBIENT = 4, 148  # SEI payload types: user data registered by ITU-T T.35, ambient viewing environment
# Side data (libavutil/frame.h) → what users call it.
MESSAGES = {
    "A53_CC": "closed captions",
    "AFD": "active format descriptions",
    "DYNAMIC_HDR_PLUS": "HDR10+ metadata",
    "AMBIENT_VIEWING_ENVIRONMENT": "ambient viewing conditions",
}
_ATSC = b"\xb5\x00\x31"  # T.35 country and provider of ATSC
_MAX_PAIRS = 31  # in a message, which counts them in 5 bits


@dataclass(frozen=True)
class Message:
    """One message: a key of MESSAGES, the type of its SEI payload, and the payload."""

    kind: str
    payload_type: int
    payload: bytes


def messages_of(frame: av.VideoFrame) -> tuple[Message, ...]:
    """The messages of a frame, or of the fields of which it was made."""
    return frame.opaque if isinstance(frame.opaque, tuple) else _in_side_data(side_data_of(frame))


def keep_messages(frame: av.VideoFrame, first: av.VideoFrame, second: av.VideoFrame) -> None:
    """Gives a frame the messages of its fields: the captions of both, and of other kinds the second one's."""
    earlier, later = messages_of(first), () if second is first else messages_of(second)
    kinds = {message.kind for message in later} - {"A53_CC"}
    frame.opaque = (*(message for message in earlier if message.kind not in kinds), *later)


def _in_side_data(side_data: dict[str, bytes]) -> tuple[Message, ...]:
    found = []
    for kind in MESSAGES.keys() & side_data.keys():
        payload_type, payloads = _payloads(kind, side_data[kind])
        found += [Message(kind, payload_type, payload) for payload in payloads]
    return tuple(sorted(found, key=lambda message: message.kind))


def _payloads(kind: str, data: bytes) -> tuple[int, list[bytes]]:
    """The type and the payloads of the messages for a frame's side data of one kind; none if it is malformed."""
    if kind == "A53_CC":
        return T35, [_captions(data[at : at + 3 * _MAX_PAIRS]) for at in range(0, len(data), 3 * _MAX_PAIRS)]
    if kind == "AFD":  # ETSI TS 101 154 Annex B
        return T35, [_ATSC + b"DTG1" + bytes([0x41, 0xF0 | data[0]])] if data else []
    if kind == "DYNAMIC_HDR_PLUS":
        message = hdr10plus_message(data)
        return T35, [message] if message else []
    return AMBIENT, _ambient(data)


def _captions(pairs: bytes) -> bytes:
    """Caption data of ATSC A/53 Part 4; a pair is 3 bytes, the first of which has its kind and validity."""
    return _ATSC + b"GA94\x03" + bytes([0x40 | len(pairs) // 3, 0xFF]) + pairs + b"\xff"


def _ambient(data: bytes) -> list[bytes]:
    """From AVAmbientViewingEnvironment: illuminance in 0.0001 lux, chromaticity of the light in 0.00002."""
    numbers = struct.unpack("=6i", data[:24]) if len(data) >= 24 else (0,) * 6
    if not all(numbers[1::2]):
        return []
    illuminance, x, y = (Fraction(*numbers[at : at + 2]) for at in (0, 2, 4))
    return [struct.pack(">IHH", round(illuminance * 10_000), round(x * 50_000), round(y * 50_000))]
