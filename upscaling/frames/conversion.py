"""What the settings of a picture mean for flat frames: how many samples they have, and how their edges are filled."""

from dataclasses import dataclass

import numpy as np

from upscaling.frames.pixel_formats import FORMATS, PixelFormat, pixel_format, sample_count


@dataclass(frozen=True)
class FrameConversion:
    """Input and output frames of a manifest: sizes in pixels, formats of `frame.FORMATS`, colour names of FFmpeg.

    `out_width` × `out_height` is the exact upscaled size; a stored output frame is that, with its last
    column and row repeated up to the multiple that `out_pixel_format` needs (`stored_size`).
    """

    width: int
    height: int
    pixel_format: str
    matrix: str
    full_range: bool
    chroma_location: str
    out_width: int
    out_height: int
    out_pixel_format: str
    out_matrix: str
    out_full_range: bool
    out_chroma_location: str

    def __post_init__(self) -> None:
        for name in (self.pixel_format, self.out_pixel_format):
            pixel_format(name)

    @property
    def stored_size(self) -> tuple[int, int]:
        """(width, height) of a stored output frame, in pixels."""
        across, down = FORMATS[self.out_pixel_format].multiple
        return -(-self.out_width // across) * across, -(-self.out_height // down) * down


def formats(picture: FrameConversion) -> tuple[PixelFormat, PixelFormat]:
    """Pixel formats of input and output."""
    return FORMATS[picture.pixel_format], FORMATS[picture.out_pixel_format]


def samples(picture: FrameConversion) -> tuple[int, int]:
    """Samples in an input frame and in a stored output frame."""
    source, target = formats(picture)
    return sample_count(source, picture.width, picture.height), sample_count(target, *picture.stored_size)


def is_unchanged(picture: FrameConversion) -> bool:
    """Whether the output's samples are the input's: same size, pixel format and, where they matter, colours."""
    fmt = FORMATS[picture.pixel_format]
    same_shape = (picture.width, picture.height, picture.pixel_format) == (
        *picture.stored_size,
        picture.out_pixel_format,
    )
    same_colour = fmt.rgb or (picture.matrix, picture.full_range) == (picture.out_matrix, picture.out_full_range)
    same_sites = fmt.chroma in (None, (0, 0)) or picture.chroma_location == picture.out_chroma_location
    exact = picture.stored_size == (picture.out_width, picture.out_height)
    return same_shape and exact and same_colour and same_sites


def store_plane(plane: np.ndarray, target: np.ndarray) -> None:
    """Copies a plane, (rows, columns) or (rows, columns, channels), into one at least as large, its last row and column
    repeated to the end."""
    rows, columns = plane.shape[:2]
    target[:rows, :columns] = plane
    if columns < target.shape[1]:
        target[:rows, columns:] = plane[:, -1:]
    if rows < target.shape[0]:
        target[rows:] = target[rows - 1]


# Float RGB that the network gives at a time, in bytes; one frame may be more.
RGB_BYTES = {"cpu": 1 << 27, "cuda": 1 << 30}


def frames_at_once(picture: FrameConversion, device: str) -> int:
    """Frames that pass through colour and network together: as many as fit RGB_BYTES, at least one."""
    budget = RGB_BYTES["cuda" if device.startswith("cuda") else "cpu"]
    return max(1, budget // (picture.out_width * picture.out_height * 3 * 4))
