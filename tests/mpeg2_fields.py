"""MPEG-2 field pictures, written bit by bit: FFmpeg's encoder makes frames only. Clauses are those of ITU-T H.262.

Macroblocks are intra and flat: one column of macroblocks is a bit of the frame's number, bright or dark.
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from paff import Bits

COLUMNS, ROWS = 6, 4  # macroblocks of a frame
WIDTH, HEIGHT = COLUMNS * 16, ROWS * 16
TOP, BOTTOM, FRAME = 1, 2, 3  # picture_structure
BRIGHT, DARK = 200, 40
_DC_LUMA = ("100", "00", "01", "101", "110", "1110", "11110", "111110", "1111110")  # table B.12
_DC_CHROMA = ("00", "01", "10", "110", "1110", "11110", "111110", "1111110", "11111110")  # table B.13


def number_of(frame: av.VideoFrame, scale: int = 1) -> int:
    """The number that a frame shows."""
    luma = np.frombuffer(frame.planes[0], np.uint8).reshape(-1, frame.planes[0].line_size)
    return sum(int(luma[8 * scale, (16 * bit + 8) * scale] > 120) << bit for bit in range(COLUMNS))


def _headers() -> bytes:
    """Sequence header and extension: 25 frames/s, not progressive; a closed group of pictures (6.2.2)."""
    sequence = Bits().u(WIDTH, 12).u(HEIGHT, 12).u(1, 4).u(3, 4).u(0x3FFFF, 18).u(1, 1).u(100, 10).u(0, 3)
    extension = Bits().u(1, 4).u(0x48, 8).u(0, 1).u(1, 2).u(0, 16).u(1, 1).u(0, 16)
    group = Bits().u(0, 25).u(1, 1).u(0, 1)
    return b"".join((_unit(0xB3, sequence), _unit(0xB5, extension), _unit(0xB8, group)))


def _picture(structure: int, reference: int, number: int) -> bytes:
    header = Bits().u(reference, 10).u(1, 3).u(0xFFFF, 16).u(0, 1)
    whole = structure == FRAME
    extension = Bits().u(8, 4).u(0xFFFF, 16).u(0, 2).u(structure, 2).u(int(whole), 1).u(int(whole), 1).u(0, 8)
    slices = [_unit(row + 1, _slice(number)) for row in range(ROWS if whole else ROWS // 2)]
    return b"".join((_unit(0, header), _unit(0xB5, extension), *slices))


def _slice(number: int) -> Bits:
    """A row of intra macroblocks (6.2.4)."""
    bits, last = Bits().u(2, 5).u(0, 1), 128
    for column in range(COLUMNS):
        value = BRIGHT if number >> column & 1 else DARK
        bits.u(3, 2)  # the next macroblock, intra
        for difference, table in [(value - last, _DC_LUMA), *[(0, _DC_LUMA)] * 3, *[(0, _DC_CHROMA)] * 2]:
            size = abs(difference).bit_length()
            bits.code(table[size]).u(difference if difference > 0 else difference + (1 << size) - 1, size).code("10")
        last = value
    return bits


def _unit(code: int, bits: Bits) -> bytes:
    return b"\0\0\1" + bytes([code]) + bits.align().tobytes()


def mpeg2_fields(path, frames: int = 12, apart: bool = False) -> Path:
    """Frames that show 0, 1, …, as two field pictures each, every fourth as a frame picture.

    `apart`: the fields of a frame have a packet each, the second one at half the time of a frame.
    """
    path = Path(path)
    raw = path.with_name(f"{path.stem}.m2v")
    pictures: list[list[bytes]] = []
    for number in range(frames):
        structures = (FRAME,) if number % 4 == 3 else (TOP, BOTTOM)
        coded = [_picture(structure, number % 6, number) for structure in structures]
        pictures.append([_headers() + coded[0] if number % 6 == 0 else coded[0], *coded[1:]])
    raw.write_bytes(b"".join(part for parts in pictures for part in parts) + b"\0\0\1\xb7")
    with av.open(str(raw)) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for number, parts in enumerate(pictures):
            for half, data in enumerate(parts if apart else [b"".join(parts)]):
                packet = av.Packet(data)
                packet.stream, packet.time_base = stream, Fraction(1, 50)
                packet.pts = packet.dts = 2 * number + half
                packet.is_keyframe = half == 0
                out.mux(packet)
    return path
