"""Animated PNG (PNG 3.0, 11.3.6): its frames' times and places, and the frames composed.

Composed here: Pillow goes wrong after a hidden first picture and where frames restore earlier ones, FFmpeg does not
blend 16 bits.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from PIL import Image

from upscaling.frames.av_images import decode_picture
from upscaling.pictures.formats import PNG_MARK

_ONCE = (b"PLTE", b"tRNS")  # chunks that every frame needs
_BACKGROUND, _PREVIOUS = 1, 2  # what is done with the place of a frame after it
_OVER = 1


@dataclass
class _Frame:
    width: int
    height: int
    x: int
    y: int
    seconds: Fraction
    dispose: int
    blend: int
    data: bytes = b""  # deflated samples


class Apng:
    """The chunks of a file; `durations` in seconds, `loops` 0 for ever, `may_be_transparent` if it says so."""

    def __init__(self, data: bytes):
        self._header, self._shared, self._count, self.loops = b"", b"", 0, 0
        self._frames: list[_Frame] = []
        for kind, content in _chunks(data):
            if kind == b"IHDR":
                self._header = content
            elif kind == b"acTL" and len(content) == 8:
                self._count, self.loops = struct.unpack(">2I", content)
            elif kind == b"fcTL" and len(content) == 26:
                _, width, height, x, y, above, below, dispose, blend = struct.unpack(">5I2H2B", content)
                self._frames.append(_Frame(width, height, x, y, Fraction(above, below or 100), dispose, blend))
            elif kind in (b"IDAT", b"fdAT") and self._frames:  # an IDAT before the first fcTL is for other readers
                self._frames[-1].data += content if kind == b"IDAT" else content[4:]
            elif kind in _ONCE:
                self._shared += _chunk(kind, content)
        self.durations = tuple(frame.seconds for frame in self._frames)
        self.may_be_transparent = (
            self._header[9:10] in (b"\4", b"\6") or b"tRNS" in self._shared or any(f.blend for f in self._frames)
        )

    def composed(self) -> Iterator[np.ndarray]:
        """All frames as they are shown, RGBA (height, width, 4), uint8, or uint16 of 16 bits; ValueError for damage."""
        width, height = struct.unpack_from(">2I", self._header)
        canvas = np.zeros((height, width, 4), np.uint16 if self._header[8] == 16 else np.uint8)
        for number, frame in enumerate(self._frames):
            if frame.x + frame.width > width or frame.y + frame.height > height:
                raise ValueError("a frame lies outside")
            place = canvas[frame.y : frame.y + frame.height, frame.x : frame.x + frame.width]
            before = place.copy()
            samples = self._samples(frame)
            place[...] = _over(samples, before) if frame.blend == _OVER else samples
            yield canvas.copy()
            if frame.dispose == _BACKGROUND or (frame.dispose == _PREVIOUS and number == 0):
                place[...] = 0
            elif frame.dispose == _PREVIOUS:
                place[...] = before
        if len(self._frames) < self._count:
            raise ValueError(f"it ends after {len(self._frames)} of {self._count} frames")

    def _samples(self, frame: _Frame) -> np.ndarray:
        """A frame by itself, RGBA (height, width, 4)."""
        header = struct.pack(">2I", frame.width, frame.height) + self._header[8:]
        data = PNG_MARK + _chunk(b"IHDR", header) + self._shared + _chunk(b"IDAT", frame.data) + _chunk(b"IEND", b"")
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            samples = np.asarray(picture.convert("RGBA"))  # raises an error if it is damaged
        if self._header[8] != 16:
            return samples
        deep = decode_picture("png", data)
        if deep is None:
            raise ValueError("a frame cannot be decoded")
        opaque = np.full((*deep.shape[:2], 1), 65535, np.uint16)
        return deep if deep.shape[2] == 4 else np.concatenate([deep, opaque], axis=2)


def _over(samples: np.ndarray, below: np.ndarray) -> np.ndarray:
    """RGBA samples blended over others of the same shape; alpha is not premultiplied (PNG 3.0, 12.8)."""
    peak = float(np.iinfo(samples.dtype).max)
    alpha, under = samples[..., 3:] / peak, below[..., 3:] / peak
    under = under * (1 - alpha)
    total = alpha + under
    colours = (samples[..., :3] * alpha + below[..., :3] * under) / np.where(total > 0, total, 1)
    return np.rint(np.concatenate([colours, total * peak], axis=2)).astype(samples.dtype)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(type, content) of the chunks of a PNG file, as far as it goes."""
    at = len(PNG_MARK)
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        at += 12 + size


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
