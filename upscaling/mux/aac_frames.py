"""AAC frames out of the packets of transport streams, ADTS or LATM, each with the decoder's configuration for it.

MP4 and Matroska hold the bare frames, and one configuration for all of them. Formats: ISO/IEC 14496-3, ADTS in
1.A.2, AudioSpecificConfig in 1.6.2.1, LOAS and LATM in 1.7.
"""

from dataclasses import dataclass

_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)  # Hz
# By channel configuration; 0: the frames say it, None: reserved.
_CHANNELS = (0, 1, 2, 3, 4, 5, 6, 8, None, None, None, 7, 8, 24, 8, None)
_SBR, _PS = 5, 29  # audio object types
_GENERAL = {1, 2, 3, 4, 6, 7, 17, 19, 20, 21, 22, 23}  # have a GASpecificConfig
_ERROR_RESILIENT = range(17, 28)
_LOAS_SYNC = 0x2B7


class Bits:
    """Bits read from bytes, the most significant first; ValueError after the end."""

    def __init__(self, data: bytes) -> None:
        self._value, self._size, self.position = int.from_bytes(data, "big"), len(data) * 8, 0

    def read(self, count: int) -> int:
        """The next `count` bits as a number."""
        self.position += count
        if self.position > self._size:
            raise ValueError("the data ends early")
        return self._value >> (self._size - self.position) & ((1 << count) - 1)

    def copy(self, start: int) -> bytes:
        """The bits from a position up to this one, filled up with zeros to whole bytes."""
        count = self.position - start
        self.position = start
        return (self.read(count) << -count % 8).to_bytes(-(-count // 8), "big")


@dataclass(frozen=True)
class AacConfig:
    """What a decoder has to know: `data` is an AudioSpecificConfig; `rate` in Hz and `samples` a frame without SBR.

    `channels` is 0 if the frames themselves say it.
    """

    data: bytes
    rate: int
    channels: int
    samples: int


@dataclass(frozen=True)
class AacFrame:
    """One raw_data_block with its configuration."""

    config: AacConfig
    data: bytes


class AdtsParser:
    """The frames of packets that begin with an ADTS header."""

    def frames(self, packet: bytes) -> list[AacFrame]:
        """The frames of one packet; ValueError if it is damaged or says its channels in a frame."""
        found = []
        while packet:
            bits = Bits(packet[:7])
            if bits.read(12) != 0xFFF or bits.read(3) & 3:  # sync word; version, layer 0
                raise ValueError("no ADTS header")
            has_crc = not bits.read(1)
            object_type, rate, _, layout = bits.read(2) + 1, bits.read(4), bits.read(1), bits.read(3)
            bits.read(4)
            size, _, more = bits.read(13), bits.read(11), bits.read(2)
            head = 9 if has_crc else 7
            channels = _CHANNELS[layout]
            if more or not head < size <= len(packet) or not channels or rate >= len(_RATES):
                raise ValueError("no ADTS frame that can be repacked")
            data = (object_type << 11 | rate << 7 | layout << 3).to_bytes(2, "big")
            config = AacConfig(data, _RATES[rate], channels, 1024)
            found.append(AacFrame(config, packet[head:size]))
            packet = packet[size:]
        return found


class LatmParser:
    """The frames of packets of LOAS: a sync word, a length, and an AudioMuxElement of LATM.

    A packet may lack the configuration; then the last one counts.
    """

    def __init__(self) -> None:
        self._config: AacConfig | None = None
        self._subframes = 1
        self._frame_bits: int | None = None  # None: each frame has its length before it

    def frames(self, packet: bytes) -> list[AacFrame]:
        """The frames of one packet; ValueError if it is damaged or of a kind that is not read here."""
        bits = Bits(packet)
        if bits.read(11) != _LOAS_SYNC or bits.read(13) + 3 != len(packet):
            raise ValueError("no LOAS frame")
        if not bits.read(1):
            self._config = None
            self._read_mux_config(bits)
        if self._config is None:
            raise ValueError("no configuration yet")
        found = []
        for _ in range(self._subframes):
            count = self._frame_bits or 8 * _length(bits)
            start = bits.position
            bits.read(count)
            found.append(AacFrame(self._config, bits.copy(start)))
        return found

    def _read_mux_config(self, bits: Bits) -> None:
        """StreamMuxConfig: one program of one layer."""
        version = bits.read(1)
        if version and bits.read(1):
            raise ValueError("reserved version of LATM")
        if version:
            _latm_value(bits)  # of the buffer
        same_framing = bits.read(1)
        self._subframes = bits.read(6) + 1
        if not same_framing or bits.read(4) or bits.read(3):
            raise ValueError("several programs or layers")
        length = _latm_value(bits) if version else None
        config = read_config(bits, length)
        kind = bits.read(3)
        if kind > 1:
            raise ValueError("no AAC")
        self._frame_bits = None if kind == 0 else (bits.read(9) + 20) * 8
        if kind == 0:
            bits.read(8)  # fullness of the buffer
        if bits.read(1):  # other data after the frames, which nobody needs; its length is here
            if version:
                _latm_value(bits)
            else:
                while bits.read(9) >> 8:
                    pass
        if bits.read(1):
            bits.read(8)  # CRC
        self._config = config


def read_config(bits: Bits, length: int | None = None) -> AacConfig:
    """The AudioSpecificConfig at the reader's position, of `length` bits if that is known; ValueError."""
    start = bits.position
    object_type = _object_type(bits)
    rate = _rate(bits)
    layout = bits.read(4)
    channels, base = _CHANNELS[layout], object_type
    if object_type in (_SBR, _PS):
        _rate(bits)
        base = _object_type(bits)
        if base == 22:
            bits.read(4)
    if base not in _GENERAL or channels is None:
        raise ValueError(f"audio object type {object_type} with channel configuration {layout}")
    short = bits.read(1)
    if bits.read(1):
        bits.read(14)  # delay of the core coder
    extended = bits.read(1)
    if layout == 0:
        _skip_channels(bits, start)
    if base in (6, 20):
        bits.read(3)
    if extended:
        bits.read(16 if base == 22 else 3 if base in (17, 19, 20, 23) else 0)
        bits.read(1)
    if base in _ERROR_RESILIENT and bits.read(2) > 1:
        raise ValueError("error protection")
    if length is not None:
        if length < bits.position - start:
            raise ValueError("a configuration longer than its length")
        bits.position = start + length
    samples = (512, 480)[short] if base == 23 else (1024, 960)[short]
    return AacConfig(bits.copy(start), rate, channels, samples)


def _object_type(bits: Bits) -> int:
    kind = bits.read(5)
    return 32 + bits.read(6) if kind == 31 else kind


def _rate(bits: Bits) -> int:
    index = bits.read(4)
    if index == 15:
        return bits.read(24)
    if index >= len(_RATES):
        raise ValueError("reserved sample rate")
    return _RATES[index]


def _skip_channels(bits: Bits, start: int) -> None:
    """program_config_element (4.4.1.1), which is aligned to the bytes of the configuration that starts there."""
    bits.read(10)  # tag, object type, sample rate
    front, side, back, low, data, coupling = (bits.read(count) for count in (4, 4, 4, 2, 3, 4))
    for width in (4, 4, 3):  # mono, stereo and matrix mixdown
        if bits.read(1):
            bits.read(width)
    bits.read(5 * (front + side + back + coupling) + 4 * (low + data))
    bits.read((start - bits.position) % 8)
    bits.read(8 * bits.read(8))  # comment


def _length(bits: Bits) -> int:
    """PayloadLengthInfo, in bytes."""
    total = 0
    while (part := bits.read(8)) == 255:
        total += part
    return total + part


def _latm_value(bits: Bits) -> int:
    return bits.read(8 * (bits.read(2) + 1))
