"""H.264 streams coded as field pictures (PAFF), written bit by bit: no encoder that PyAV has makes them.

All macroblocks are I_PCM, so a picture comes out exactly as it went in. Clauses and names are those of ITU-T H.264.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

MB = 16
FRAME, TOP, BOTTOM = "frame", "top", "bottom"


class Bits:
    """Bits written from the left; `ue` and `se` are Exp-Golomb codes (clause 9.1)."""

    def __init__(self) -> None:
        self._bits: list[str] = []

    def u(self, value: int, length: int) -> "Bits":
        self._bits.append(f"{value:0{length}b}"[-length:] if length else "")
        return self

    def ue(self, value: int) -> "Bits":
        length = (value + 1).bit_length()
        return self.u(value + 1, 2 * length - 1)

    def se(self, value: int) -> "Bits":
        return self.ue(2 * value - 1 if value > 0 else -2 * value)

    def code(self, bits: str) -> "Bits":
        """Bits as text: '0110'."""
        self._bits.append(bits)
        return self

    def tobytes(self) -> bytes:
        """The bits, whose number must be a multiple of 8."""
        text = "".join(self._bits)
        return int(text, 2).to_bytes(len(text) // 8, "big")

    def align(self) -> "Bits":
        self._bits.append("0" * (-sum(map(len, self._bits)) % 8))
        return self

    def raw(self, data: bytes) -> "Bits":
        self._bits.append("".join(f"{byte:08b}" for byte in data))
        return self

    def nal(self, ref_idc: int, kind: int) -> bytes:
        """A NAL unit with start code, trailing bits and emulation prevention (7.3.1)."""
        text = "".join(self._bits) + "1"
        text += "0" * (-len(text) % 8)
        payload = int(text, 2).to_bytes(len(text) // 8, "big")
        out = bytearray()
        for byte in payload:
            if byte <= 3 and out[-2:] == b"\0\0":
                out.append(3)
            out.append(byte)
        return b"\0\0\0\1" + bytes([ref_idc << 5 | kind]) + bytes(out)


@dataclass(frozen=True)
class Picture:
    """One coded picture: a frame, or one field of it. `planes` are a whole frame's (Y, U, V)."""

    structure: str  # FRAME, TOP or BOTTOM
    frame: int  # counts frames from 0; both fields of a frame have the same
    planes: Sequence[np.ndarray]
    second: bool = False  # the second field of its frame


@dataclass(frozen=True)
class Stream:
    """What all pictures of a stream have in common."""

    width: int
    height: int
    rate: Fraction = Fraction(25)
    gop: int = 100  # frames from one IDR picture to the next
    mbaff: bool = False  # frames are coded in pairs of macroblocks

    def headers(self) -> bytes:
        """Sequence and picture parameter sets: Main profile, fields allowed, times in the VUI (7.3.2)."""
        rows, rate = -(-self.height // 32), self.rate
        sps = Bits().u(77, 8).u(0, 8).u(40, 8).ue(0)
        sps.ue(4).ue(0).ue(4)  # 8 bits of frame_num, pic_order_cnt_type 0 with 8 bits
        sps.ue(2).u(0, 1).ue(-(-self.width // MB) - 1).ue(rows - 1)
        sps.u(0, 1).u(int(self.mbaff), 1).u(1, 1)  # frame_mbs_only_flag, …, direct_8x8_inference_flag
        sps.u(1, 1).ue(0).ue(0).ue(0).ue((rows * 32 - self.height) // 4)  # frame cropping
        sps.u(1, 1).u(0, 4)  # VUI: no aspect ratio, overscan, signal type, chroma location
        sps.u(1, 1).u(rate.denominator, 32).u(rate.numerator * 2, 32).u(1, 1)  # timing: two fields a frame
        sps.u(0, 3)  # no HRD, no pic_struct
        sps.u(1, 1).u(1, 1).ue(0).ue(0).ue(10).ue(10).ue(0).ue(2)  # nothing is reordered
        pps = Bits().ue(0).ue(0).u(0, 2).ue(0).ue(0).ue(0).u(0, 3).se(0).se(0).se(0)
        pps.u(1, 1).u(0, 2)  # deblocking_filter_control_present_flag
        return sps.nal(3, 7) + pps.nal(3, 8)

    def is_key(self, picture: Picture) -> bool:
        return picture.frame % self.gop == 0 and not picture.second

    def slice(self, picture: Picture) -> bytes:
        """The only slice of a picture (7.3.3)."""
        number, key = picture.frame % self.gop, self.is_key(picture)
        bits = Bits().ue(0).ue(7).ue(0).u(number, 8).u(int(picture.structure != FRAME), 1)
        if picture.structure != FRAME:
            bits.u(int(picture.structure == BOTTOM), 1)
        if key:
            bits.ue(picture.frame // self.gop % 2)  # idr_pic_id
        bits.u((number * 2 + picture.second) % 256, 8)
        bits.u(0, 2 if key else 1)  # dec_ref_pic_marking
        bits.se(0).ue(1)  # slice_qp_delta, disable_deblocking_filter_idc
        for position, column, row in self._macroblocks(picture):
            if self.mbaff and picture.structure == FRAME and position % 2 == 0:
                bits.u(0, 1)  # mb_field_decoding_flag
            bits.ue(25).align().raw(macroblock(picture, row, column))
        return bits.nal(3, 5 if key else 1)

    def _macroblocks(self, picture: Picture) -> Iterator[tuple[int, int, int]]:
        """(position, column, row) in the order of coding."""
        across, pairs = -(-self.width // MB), -(-self.height // 32)
        paired = self.mbaff and picture.structure == FRAME
        for position in range(across * pairs * (1 if picture.structure != FRAME else 2)):
            if paired:
                pair, below = divmod(position, 2)
                yield position, pair % across, pair // across * 2 + below
            else:
                yield position, position % across, position // across

    def write(self, path, pictures: Iterable[Picture], *, together: bool = False) -> Path:
        """Muxes pictures; `together`: both fields of a frame are in one packet."""
        path, raw = Path(path), Path(f"{path}.h264")
        packets: list[tuple[int, bytes, bool]] = []
        for picture in pictures:
            data = (self.headers() if self.is_key(picture) else b"") + self.slice(picture)
            if together and picture.second:
                time, first, key = packets.pop()
                packets.append((time, first + data, key))
            else:
                packets.append((2 * picture.frame + picture.second, data, self.is_key(picture)))
        raw.write_bytes(b"".join(data for _, data, _ in packets))
        with av.open(str(raw), "r", format="h264") as source, av.open(str(path), "w") as out:
            stream = out.add_stream_from_template(source.streams.video[0])
            base = stream.time_base = 1 / (2 * self.rate)
            for time, data, key in packets:
                packet = av.Packet(data)
                packet.stream, packet.time_base, packet.is_keyframe = stream, base, key
                packet.pts = packet.dts = time
                packet.duration = 2 if together else 1
                out.mux(packet)
        return path


def macroblock(picture: Picture, row: int, column: int) -> bytes:
    """The 384 samples of a macroblock: 16x16 of Y, 8x8 of U, 8x8 of V."""
    parts = []
    for plane, size in zip(picture.planes, (MB, MB // 2, MB // 2), strict=True):
        lines = plane if picture.structure == FRAME else plane[int(picture.structure == BOTTOM) :: 2]
        lines = np.pad(lines, ((0, 32), (0, 16)), "edge")
        block = lines[row * size : row * size + size, column * size : column * size + size]
        parts.append(np.maximum(block, 1).astype(np.uint8).tobytes())  # pcm samples may not be 0 (7.4.5)
    return b"".join(parts)


def fields(frame: int, planes: Sequence[np.ndarray], first: str = TOP) -> list[Picture]:
    """A frame as two fields."""
    other = BOTTOM if first == TOP else TOP
    return [Picture(first, frame, planes), Picture(other, frame, planes, second=True)]
