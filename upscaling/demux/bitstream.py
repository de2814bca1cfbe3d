"""What a video's packets say without decoding: parameter sets, and which of them hold one field of a frame.

In H.264 (PAFF) and MPEG-2 each field of a frame may have a packet of its own; the decoder returns one frame for both.
In HEVC a field is a picture of half the height, and the decoder returns each; `decode/fields` weaves them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

_SLICES = (1, 5)  # nal_unit_type of H.264 (ITU-T H.264 table 7-1)
_IDR = 5
_SEI, _SPS, _PPS = 6, 7, 8
_HEVC_SPS, _HEVC_SEI = 33, 39  # nal_unit_type SPS_NUT, PREFIX_SEI_NUT (ITU-T H.265 table 7-1)
_PIC_TIMING, _DISPLAY_ORIENTATION = 1, 47  # payloadType
_HEAD = 96  # bytes of a slice or SEI message that are looked at
# Profiles whose SPS has the chroma format (7.3.2.1.1).
_HIGH_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}


class Parity(Enum):
    """The rows that a field has: TOP the first, third, …; BOTTOM the others."""

    TOP = "top"
    BOTTOM = "bottom"


@dataclass(frozen=True)
class Field:
    """The first field in a packet. `frame_num` (MPEG-2: temporal_reference) is the same for both fields of a frame."""

    parity: Parity
    frame_num: int = 0


class FieldPairing:
    """Which of a sequence of fields, in presentation order, is the second one of its frame."""

    def __init__(self, gap: int | None):
        """`gap`: the fields of a frame are no more than so many ticks apart; None if the rate is not known."""
        self._gap = gap
        self._first: tuple[int | None, Parity | None] | None = None  # (pts, parity) of a field that waits

    def is_second(self, pts: int | None, parity: Parity | None) -> bool:
        """Whether the next field belongs to the one before it."""
        first, self._first = self._first, None
        if first is not None:
            far = self._gap is not None and pts is not None and first[0] is not None and pts - first[0] > self._gap
            if not far and (parity is None or parity != first[1]):
                return True
        self._first = (pts, parity)
        return False


def second_fields(fields: Iterable[tuple[int, Parity | None]], gap: int) -> set[int]:
    """The pts of those of (pts, parity) that are the second fields of frames."""
    pairing = FieldPairing(gap)
    ordered = sorted(fields, key=lambda field: field[0])
    return {pts for pts, parity in ordered if pairing.is_second(pts, parity)}


class FieldParser:
    """Reads from a stream's packets, in decoding order, which of them is a field. `extradata` is the stream's."""

    def __init__(self, codec: str, extradata: bytes | None):
        """`codec` is FFmpeg's name; other streams than H.264, HEVC and MPEG-2 have no packets of one field."""
        self._codec = codec
        self._length_size = _length_size(codec, extradata)  # 0: start codes
        self._sps: dict[int, _Sps] = {}
        self._pps: dict[int, int] = {}  # id of a picture parameter set: that of its sequence parameter set
        self._sequence = b""  # the parameters of the present sequence
        self._waiting: Field | None = None  # a first field whose second one has not come
        self.at_field = False  # the last packet that `is_second` was asked for begins with a field
        if codec == "h264" and extradata:
            for unit in _avcc_units(extradata) if self._length_size else _units(extradata, 0):
                self._parameter_set(unit)

    def parameter_sets(self, data: bytes) -> bytes:
        """What a keyframe's packet says of all the frames that follow; empty if it does not tell."""
        codec = self._codec
        if codec in ("mpeg1video", "mpeg2video"):
            ends = [at for at in (data.find(b"\0\0\1\xb8"), data.find(b"\0\0\1\0")) if at >= 0]  # group, picture
            return data[: min(ends, default=0)]
        if codec == "mpeg4":
            return data[: max(data.find(b"\0\0\1\xb6"), 0)]  # up to the picture
        if codec in ("vp8", "vp9"):
            return data[3:10] if codec == "vp8" else data[:10]
        if codec not in ("h264", "hevc"):
            return b""
        sets = []
        for unit in _units(data, self._length_size):
            kind = unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63
            if kind in (_SPS, _HEVC_SPS):
                sets.append(unit)
            elif kind in (_SEI, _HEVC_SEI):
                messages = _sei_messages(unit[1 if codec == "h264" else 2 :])
                sets += [payload for number, payload in messages if number == _DISPLAY_ORIENTATION]
        return b"".join(sets)

    @property
    def sets_tell_all(self) -> bool:
        """Whether frames with the same parameter sets are all alike; else each may be interlaced or not."""
        return self._codec in ("hevc", "vp8", "vp9") or (self._codec == "h264" and not self._interlaced)

    def starts_another_sequence(self, data: bytes) -> bool:
        """Whether a keyframe's packet begins an H.264 sequence with other parameters (7.4.1.2.1)."""
        if self._codec != "h264":
            return False
        kinds = {unit[0] & 31 for unit in _units(data, self._length_size)}
        parameters = self.parameter_sets(data)
        if _IDR not in kinds or not parameters:
            return False
        before, self._sequence = self._sequence, parameters
        return before not in (b"", parameters)

    def is_second(self, data: bytes, is_keyframe: bool) -> bool:
        """Whether a packet holds the second field of a frame whose first one was in an earlier packet. Not for HEVC."""
        field = self.field(data, is_keyframe)
        first, self._waiting, self.at_field = self._waiting, None, field is not None
        if field is None:
            return False
        if first and first.frame_num == field.frame_num and first.parity != field.parity:
            return True
        self._waiting = field
        return False

    def field(self, data: bytes, is_keyframe: bool) -> Field | None:
        """The field that a packet begins with; None for a frame, or if it can't be told."""
        try:
            if self._codec == "hevc":
                return self._hevc_field(data)
            if self._codec == "mpeg2video":
                return _mpeg2_field(data)
            return self._h264_field(data) if self._interlaced or is_keyframe else None
        except (IndexError, ValueError, KeyError):
            return None  # damaged

    @property
    def _interlaced(self) -> bool:
        return any(sps.has_fields for sps in self._sps.values())

    def _h264_field(self, data: bytes) -> Field | None:
        for unit in _units(data, self._length_size):
            kind = unit[0] & 31
            if kind in _SLICES:
                return self._slice_field(unit)
            self._parameter_set(unit)
        return None

    def _parameter_set(self, unit: bytes) -> None:
        kind = unit[0] & 31
        if kind == _SPS:
            number, sps = _read_sps(unit)
            self._sps[number] = sps
        elif kind == _PPS:
            bits = _Bits(unit[1:_HEAD])
            number = bits.ue()
            self._pps[number] = bits.ue()

    def _slice_field(self, unit: bytes) -> Field | None:
        """From a slice header (7.3.3)."""
        bits = _Bits(unit[1:_HEAD])
        bits.ue()  # first_mb_in_slice
        bits.ue()  # slice_type
        sps = self._sps[self._pps[bits.ue()]]
        bits.u(2 if sps.separate_planes else 0)
        frame_num = bits.u(sps.frame_num_bits)
        if not sps.has_fields or not bits.u(1):
            return None
        return Field(Parity.BOTTOM if bits.u(1) else Parity.TOP, frame_num)

    def _hevc_field(self, data: bytes) -> Field | None:
        """From the pic_struct of a picture timing SEI message (D.2.3, table D.2), which streams of fields have."""
        for unit in _units(data, self._length_size):
            kind = unit[0] >> 1 & 63
            if kind < 32:  # a slice
                return None
            if kind == _HEVC_SEI:
                for number, payload in _sei_messages(unit[2:_HEAD]):
                    if number == _PIC_TIMING and payload:
                        return _PIC_STRUCTS.get(payload[0] >> 4)
        return None


def _mpeg2_field(data: bytes) -> Field | None:
    """From the picture header and its coding extension (ITU-T H.262, 6.2.3 and 6.2.3.1)."""
    picture = data.find(b"\0\0\1\0")
    extension = data.find(b"\0\0\1\xb5", picture)
    if picture < 0 or extension < 0 or data[extension + 4] >> 4 != 8:
        return None
    structure = {1: Parity.TOP, 2: Parity.BOTTOM}.get(data[extension + 6] & 3)
    reference = int.from_bytes(data[picture + 4 : picture + 6], "big") >> 6
    return Field(structure, reference) if structure else None


_PIC_STRUCTS = {number: Field(Parity.TOP) for number in (1, 9, 11)} | {
    number: Field(Parity.BOTTOM) for number in (2, 10, 12)
}


@dataclass(frozen=True)
class _Sps:
    """What a slice header depends on in a sequence parameter set."""

    has_fields: bool  # frame_mbs_only_flag is 0
    frame_num_bits: int
    separate_planes: bool


def _sei_messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(payloadType, payload) of the messages in an SEI unit without its header (H.264 7.3.2.3.1, H.265 7.3.5)."""
    data, at = _without_emulation(data), 0
    while at + 2 < len(data):
        numbers = []
        for _ in range(2):  # type and size: bytes of 255 are added to the one that follows
            number = 0
            while at < len(data) and data[at] == 255:
                number, at = number + 255, at + 1
            number, at = number + (data[at] if at < len(data) else 0), at + 1
            numbers.append(number)
        yield numbers[0], data[at : at + numbers[1]]
        at += numbers[1]


def _read_sps(unit: bytes) -> tuple[int, _Sps]:
    """(seq_parameter_set_id, the set) (7.3.2.1.1)."""
    bits = _Bits(unit[1:])
    profile = bits.u(8)
    bits.u(16)  # constraints, level
    number, separate = bits.ue(), False
    if profile in _HIGH_PROFILES:
        chroma = bits.ue()
        separate = chroma == 3 and bool(bits.u(1))
        bits.ue()  # bit depths
        bits.ue()
        bits.u(1)
        if bits.u(1):
            for index in range(12 if chroma == 3 else 8):
                _skip_scaling_list(bits, 16 if index < 6 else 64)
    frame_num_bits = bits.ue() + 4
    order = bits.ue()
    if order == 0:
        bits.ue()
    elif order == 1:
        bits.u(1)
        bits.ue()
        bits.ue()
        for _ in range(bits.ue()):
            bits.ue()
    bits.ue()  # max_num_ref_frames
    bits.u(1)
    bits.ue()  # width
    bits.ue()  # height
    return number, _Sps(not bits.u(1), frame_num_bits, separate)


def _skip_scaling_list(bits: "_Bits", size: int) -> None:
    """7.3.2.1.1.1."""
    if not bits.u(1):
        return
    last = 8
    for _ in range(size):
        code = bits.ue()
        last = (last + ((code + 1) // 2 if code % 2 else -(code // 2))) % 256
        if last == 0:
            return


class _Bits:
    """Reads bits from the left; ValueError after the end."""

    def __init__(self, data: bytes):
        data = _without_emulation(data)
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def u(self, count: int) -> int:
        """An unsigned number of `count` bits."""
        self._left -= count
        if self._left < 0:
            raise ValueError("no more bits")
        return self._value >> self._left & (1 << count) - 1

    def ue(self) -> int:
        """An Exp-Golomb code (9.1)."""
        zeros = 0
        while not self.u(1):
            zeros += 1
        return (1 << zeros) - 1 + self.u(zeros)


def _without_emulation(data: bytes) -> bytes:
    return data.replace(b"\0\0\3", b"\0\0")


def _length_size(codec: str, extradata: bytes | None) -> int:
    """Bytes of the length before each NAL unit; 0 if they begin with start codes."""
    if not extradata or extradata[0] != 1:
        return 0
    at = 21 if codec == "hevc" else 4  # of lengthSizeMinusOne (ISO/IEC 14496-15)
    return (extradata[at] & 3) + 1 if len(extradata) > at else 0


def _avcc_units(extradata: bytes) -> Iterator[bytes]:
    """The parameter sets in an AVCDecoderConfigurationRecord (ISO/IEC 14496-15, 5.3.3.1)."""
    at = 5
    for mask in (31, 255):
        count, at = (extradata[at] & mask) if at < len(extradata) else 0, at + 1
        for _ in range(count):
            size = int.from_bytes(extradata[at : at + 2], "big")
            unit, at = extradata[at + 2 : at + 2 + size], at + 2 + size
            if unit:
                yield unit


def _units(data: bytes, length_size: int) -> Iterator[bytes]:
    """The NAL units of a packet, not empty."""
    if length_size:
        at = 0
        while at + length_size < len(data):
            size = int.from_bytes(data[at : at + length_size], "big")
            unit, at = data[at + length_size : at + length_size + size], at + length_size + size
            if unit:
                yield unit
        return
    at = data.find(b"\0\0\1")
    while at >= 0:
        end = data.find(b"\0\0\1", at + 3)
        unit = data[at + 3 : end if end >= 0 else len(data)]
        if unit:
            yield unit
        at = end
