"""HDR10+ (SMPTE ST 2094-40) from FFmpeg's struct to the message in which streams carry it.

The struct is AVDynamicHDRPlus of libavutil/hdr_dynamic_metadata.h (libavutil 56 to 60), the message user data of
ITU-T T.35 as in ST 2094-40 Annex D (CTA-861-H Annex S).
"""

import struct
from fractions import Fraction

_SIZE = 11_304  # bytes of AVDynamicHDRPlus
_WINDOW_SIZE = 428  # of AVHDRPlusColorTransformParams, from byte 4
_HEADER = bytes([0xB5, 0x00, 0x3C, 0x00, 0x01, 4])  # country, provider and its code, application identifier
_DISPLAY, _MASTERING = 1296, 6300  # of a flag, rows and columns; the values follow at the next multiple of 4
_MAX_PERCENTILES = _MAX_ANCHORS = 15
_MAX_ROWS = 25


class _Bits:
    """Numbers written one after another, most significant bit first."""

    def __init__(self) -> None:
        self._value, self._count = 0, 0

    def put(self, value: int, bits: int) -> None:
        self._value = self._value << bits | min(max(value, 0), (1 << bits) - 1)
        self._count += bits

    def data(self) -> bytes:
        spare = -self._count % 8
        return (self._value << spare).to_bytes((self._count + spare) // 8, "big")


def hdr10plus_message(data: bytes) -> bytes | None:
    """The T.35 message of an AVDynamicHDRPlus, from its country code on.

    None if it has more than one window, whose places are in pixels (HDR10+ streams have one), or is malformed.
    """
    if len(data) != _SIZE or data[2] != 1:
        return None
    bits = _Bits()
    bits.put(data[1], 8)  # application version
    bits.put(1, 2)  # windows
    bits.put(_scaled(data, 1288, 1), 27)  # maximum luminance of the target display, cd/m²
    _put_peaks(bits, data, _DISPLAY)
    window = data[4 : 4 + _WINDOW_SIZE]
    for at in (48, 56, 64, 72):  # maxscl of R, G and B, and average maxRGB
        bits.put(_scaled(window, at, 100_000), 17)
    percentiles = min(window[80], _MAX_PERCENTILES)
    bits.put(percentiles, 4)
    for at in range(84, 84 + 12 * percentiles, 12):
        bits.put(window[at], 7)
        bits.put(_scaled(window, at + 4, 100_000), 17)
    bits.put(_scaled(window, 264, 1000), 10)  # fraction of bright pixels
    _put_peaks(bits, data, _MASTERING)
    _put_tone_mapping(bits, window)
    return _HEADER + bits.data()


def _put_tone_mapping(bits: _Bits, window: bytes) -> None:
    bits.put(window[272], 1)
    if window[272]:
        bits.put(_scaled(window, 276, 4095), 12)  # knee point x and y
        bits.put(_scaled(window, 284, 4095), 12)
        anchors = min(window[292], _MAX_ANCHORS)
        bits.put(anchors, 4)
        for at in range(296, 296 + 8 * anchors, 8):
            bits.put(_scaled(window, at, 1023), 10)
    bits.put(window[416], 1)
    if window[416]:
        bits.put(_scaled(window, 420, 8), 6)  # colour saturation weight


def _put_peaks(bits: _Bits, data: bytes, at: int) -> None:
    """Actual peak luminances, rows × columns, of which the struct has room for 25 × 25."""
    flag, rows, columns = data[at : at + 3]
    bits.put(flag, 1)
    if flag:
        rows, columns = min(rows, _MAX_ROWS), min(columns, _MAX_ROWS)
        bits.put(rows, 5)
        bits.put(columns, 5)
        first = (at + 3 + 3) // 4 * 4
        for row in range(rows):
            for column in range(columns):
                bits.put(_scaled(data, first + 8 * (_MAX_ROWS * row + column), 15), 4)


def _scaled(data: bytes, at: int, unit: int) -> int:
    """The AVRational at that byte, times `unit`, rounded; 0 if it has no denominator."""
    numerator, denominator = struct.unpack_from("=2i", data, at)
    return round(Fraction(numerator * unit, denominator)) if denominator else 0
