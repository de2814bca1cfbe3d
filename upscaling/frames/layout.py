"""The samples of one flat frame: its size, pixel format and colours."""

from __future__ import annotations

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

    def empty(self) -> np.ndarray:
        """A new flat frame, (samples,), its values undefined."""
        return np.empty(self.sample_count, self.format.dtype)
