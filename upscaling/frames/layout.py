"""The samples of one flat frame: its size, pixel format and colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from upscaling.frames import pixel_formats
from upscaling.frames.pixel_formats import PixelFormat


@dataclass(frozen=True)
class FrameLayout:
    """How to read the samples of a frame.

    `width` and `height` are in pixels, `pixel_format` is a key of `pixel_formats.FORMATS`. `matrix`, `full_range` and
    `chroma_location` are named as FFmpeg's -colorspace, -color_range and -chroma_sample_location name them. Packed RGB
    is always full-range RGB: matrix and range mean nothing there.

    InputError if the pixel format is not one that frames are kept in.
    """

    width: int
    height: int
    pixel_format: str
    matrix: str = "bt709"
    full_range: bool = False
    chroma_location: str = "left"

    def __post_init__(self) -> None:
        pixel_formats.pixel_format(self.pixel_format)

    @property
    def format(self) -> PixelFormat:
        return pixel_formats.FORMATS[self.pixel_format]

    @property
    def peak(self) -> int:
        """The largest sample value."""
        return (1 << self.format.depth) - 1

    @property
    def luma_codes(self) -> tuple[int, int]:
        """(code of black, codes from black to white) of luma, or of R, G and B (ITU-T H.273, clause 8.3)."""
        if self.format.rgb or self.full_range:
            return 0, self.peak
        unit = 1 << (self.format.depth - 8)
        return 16 * unit, 219 * unit

    @property
    def sample_count(self) -> int:
        """Samples in a frame, all planes together."""
        return pixel_formats.sample_count(self.format, self.width, self.height)

    @property
    def frame_bytes(self) -> int:
        return pixel_formats.frame_bytes(self.format, self.width, self.height)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of the array in a frame's `.npy` file."""
        return pixel_formats.stored_shape(self.format, self.width, self.height)

    @property
    def padded(self) -> FrameLayout:
        """This layout with its size rounded up to the multiple that its pixel format needs."""
        across, down = self.format.multiple
        return replace(self, width=-(-self.width // across) * across, height=-(-self.height // down) * down)

    @property
    def as_rgb24(self) -> FrameLayout:
        """This layout as 8-bit packed RGB of the same size."""
        return replace(self, pixel_format="rgb24", matrix="gbr", full_range=True)

    def planes(self, samples: np.ndarray) -> list[np.ndarray]:
        """Views of the planes of a flat frame, (rows, columns) or (rows, columns, channels); nothing is copied.

        InputError if the number of samples is not that of this layout.
        """
        return pixel_formats.planes(samples, self.format, self.width, self.height)

    def cut(self, planes: Sequence[np.ndarray], left: int, top: int, width: int, height: int) -> np.ndarray:
        """A part of a frame as a flat array, from its planes as `planes` returns them.

        `left` and `top` are multiples of what the pixel format needs; the part may end anywhere.
        """
        parts = []
        for plane in planes:
            across, down = -(-self.width // plane.shape[1]), -(-self.height // plane.shape[0])  # subsampling
            rows = slice(top // down, -(-(top + height) // down))
            columns = slice(left // across, -(-(left + width) // across))
            parts.append(plane[rows, columns].reshape(-1))
        return np.concatenate(parts)

    def empty(self) -> np.ndarray:
        """A new flat frame, (samples,), its values undefined."""
        return np.empty(self.sample_count, self.format.dtype)
