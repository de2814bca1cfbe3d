"""What all cells of the sheet have in common: the crops, how they are upscaled, and how large they may be."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from upscaling.common.notation import round_half_up
from upscaling.decode.colour_tags import Colour
from upscaling.frames.conversion import FrameConversion
from upscaling.frames.swscale import as_rgb
from upscaling.frames.tone import HDR, in_srgb
from upscaling.preview.crops import STEP, Crop, Geometry, geometry_for, window_corner

LARGEST = (144, 104)  # pixels of the input in a crop, if there is time: width, height; multiples of STEP

Ratio = tuple[Fraction, Fraction]  # of the output's width and height to the input's


@dataclass(frozen=True)
class Job:
    """The crops of a preview, and what is done with them."""

    crops: Sequence[Crop]
    geometry: Geometry
    ratio: Ratio
    colour: Colour
    stop_at: float  # time.monotonic(): until then all cells are done

    @property
    def conversion(self) -> FrameConversion:
        """From the windows of the crops to upscaled ones."""
        layout = self.geometry.window_layout
        width, height = _scaled((layout.width, layout.height), self.ratio)
        return FrameConversion(layout, replace(layout, width=width, height=height))

    @property
    def frames_per_window(self) -> Fraction:
        """How many windows have the pixels of a frame."""
        source, window = self.geometry.source, self.geometry.window
        return Fraction(source.width * source.height, window[0] * window[1])

    def shrunk(self, size: tuple[int, int], margin: int) -> "Job":
        """The job with the middles of its crops, at most of `size`, in windows with that margin."""
        old = self.geometry
        size = min(size[0], old.crop[0]), min(size[1], old.crop[1])
        geometry = geometry_for(old.source, size, margin)
        return replace(self, geometry=geometry, crops=[_middle(crop, old, geometry) for crop in self.crops])

    def picture(self, upscaled: np.ndarray, crop: Crop) -> np.ndarray:
        """A crop out of its upscaled window, uint8 sRGB (height, width, 3)."""
        layout, transfer = self.conversion.target.padded, self.colour.transfer
        depth = "rgb48le" if transfer in HDR else "rgb24"
        picture = as_rgb(upscaled, layout, (layout.width, layout.height), depth)
        x, y = (round_half_up(at * by) for at, by in zip(crop.inside, self.ratio, strict=True))
        width, height = _scaled(self.geometry.crop, self.ratio)
        crop_out = np.ascontiguousarray(picture[y : y + height, x : x + width])
        return in_srgb(crop_out, transfer) if transfer in HDR else crop_out


def largest_crop(ratio: Ratio, cell: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of the largest crop that becomes no larger than a cell, in pixels of the input."""
    width, height = (
        max(STEP, min(most, int(side / by) // STEP * STEP))
        for most, side, by in zip(LARGEST, cell, ratio, strict=True)
    )  # fmt: skip
    return width, height


def _scaled(size: tuple[int, int], ratio: Ratio) -> tuple[int, int]:
    width, height = (max(1, round_half_up(side * by)) for side, by in zip(size, ratio, strict=True))
    return width, height


def _middle(crop: Crop, old: Geometry, new: Geometry) -> Crop:
    """The middle of a crop, in a window within the old one."""
    layout = old.window_layout
    shift = [(a - b) // 2 // STEP * STEP for a, b in zip(old.crop, new.crop, strict=True)]
    place = crop.inside[0] + shift[0], crop.inside[1] + shift[1]  # in the old window
    corner = window_corner(place, new, old.window)
    frames = tuple(layout.cut(layout.planes(one), *corner, *new.window) for one in crop.frames)
    inside = place[0] - corner[0], place[1] - corner[1]
    return replace(crop, left=crop.left + shift[0], top=crop.top + shift[1], inside=inside, frames=frames)
