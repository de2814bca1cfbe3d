"""Messages put into coded pictures: SEI messages of H.264 and HEVC, metadata of AV1.

PyAV can't give an encoder side data with a frame, and not every encoder would write it; so it goes into the packets.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

from upscaling.decode.messages import MESSAGES, T35, Message
from upscaling.encode.codecs import ENCODERS
from upscaling.encode.settings import EncodeSettings

_START = b"\0\0\1"
# AV1 (6.2.1, 6.7.2 of its specification)
_OBU_FRAME_HEADER, _OBU_METADATA, _OBU_FRAME = 3, 5, 6
_OBU_HAS_EXTENSION, _OBU_HAS_SIZE = 4, 2
_METADATA_T35 = 4


# Message → the coded formats in which decoders look for it.
_CARRIERS = {
    "A53_CC": ("h264", "hevc", "av1"),
    "AFD": ("h264", "hevc"),
    "DYNAMIC_HDR_PLUS": ("hevc", "av1"),
    "AMBIENT_VIEWING_ENVIRONMENT": ("h264", "hevc"),
}


def carries(settings: EncodeSettings, kind: str) -> bool:
    """Whether the coded pictures can carry messages of a kind of `messages.MESSAGES`, and these are true of them."""
    is_true = kind != "AFD" or settings.placement is None
    return is_true and ENCODERS[settings.codec].family in _CARRIERS[kind]


def lost_messages(settings: EncodeSettings, kinds: Iterable[str]) -> list[str]:
    """One line for each kind of message that the coded pictures can't carry."""
    lines, family = [], ENCODERS[settings.codec].family
    for kind in kinds:
        *first, last = _CARRIERS[kind]
        why = f"{family} can't carry them, {', '.join(first)} and {last} could"
        if family in _CARRIERS[kind]:
            why = "the picture is padded or cropped"
        lines += [f"{MESSAGES[kind]} are dropped: {why}"] if not carries(settings, kind) else []
    return lines


def with_messages(family: str, packet: bytes, messages: Sequence[Message]) -> bytes:
    """A packet of an encoder (H.264 and HEVC with start codes) with messages for the picture that it shows."""
    return _with_metadata(packet, messages) if family == "av1" else _with_sei(family, packet, messages)


# H.264 (7.3.1, 7.3.2.3) and HEVC (7.3.1, 7.3.2.4)


def _with_sei(family: str, packet: bytes, messages: Sequence[Message]) -> bytes:
    """The packet with one more SEI unit before its first slice."""
    at = _first_slice(family, packet)
    if at is None:
        return packet
    # An SEI has the temporal layer of its picture; in HEVC it is in the header's second byte.
    header = b"\x06" if family == "h264" else bytes([39 << 1, packet[at + 4]])
    content = b"".join(
        _sei_number(message.payload_type) + _sei_number(len(message.payload)) + message.payload for message in messages
    )
    return packet[:at] + _START + header + _escaped(content + b"\x80") + packet[at:]


def _first_slice(family: str, packet: bytes) -> int | None:
    """The position of the start code of the first slice."""
    at = packet.find(_START)
    while 0 <= at < len(packet) - 4:
        kind = packet[at + 3] & 31 if family == "h264" else packet[at + 3] >> 1 & 63
        if 1 <= kind <= 5 if family == "h264" else kind < 32:
            return at
        at = packet.find(_START, at + 3)
    return None


def _sei_number(number: int) -> bytes:
    return b"\xff" * (number // 255) + bytes([number % 255])


def _escaped(data: bytes) -> bytes:
    """The data without anything that looks like a start code."""
    result = bytearray()
    zeros = 0
    for byte in data:
        if zeros == 2 and byte <= 3:
            result.append(3)
            zeros = 0
        result.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return bytes(result)


# AV1 (5.3, 5.8)


def _with_metadata(packet: bytes, messages: Sequence[Message]) -> bytes:
    """The temporal unit with metadata before its last frame, which is the one that it shows."""
    at = max((start for start, kind in _obus(packet) if kind in (_OBU_FRAME_HEADER, _OBU_FRAME)), default=None)
    if at is None:
        return packet
    units = b""
    for message in messages:
        assert message.payload_type == T35
        content = bytes([_METADATA_T35]) + message.payload + b"\x80"
        units += bytes([_OBU_METADATA << 3 | _OBU_HAS_SIZE]) + _leb128(len(content)) + content
    return packet[:at] + units + packet[at:]


def _obus(packet: bytes) -> Iterator[tuple[int, int]]:
    """(position, type) of each OBU."""
    at = 0
    while at < len(packet):
        header = packet[at]
        yield at, header >> 3 & 15
        at += 2 if header & _OBU_HAS_EXTENSION else 1
        if not header & _OBU_HAS_SIZE:
            return  # it extends to the end
        size = 0
        for shift in itertools.count(0, 7):
            if at >= len(packet):
                return
            byte = packet[at]
            size |= (byte & 127) << shift
            at += 1
            if not byte & 128:
                break
        at += size


def _leb128(number: int) -> bytes:
    result = bytearray()
    while number > 127:
        result.append(number & 127 | 128)
        number >>= 7
    return bytes([*result, number])
