"""From input frames to output frames: the layouts of both, and how many frames pass through memory together."""

from dataclasses import dataclass

import numpy as np

from upscaling.frames.layout import FrameLayout


@dataclass(frozen=True)
class FrameConversion:
    """Layouts of a job's input frames and of its output frames.

    `target` has the exact upscaled size. Stored output frames are `target.padded`: their last column and row are
    repeated up to the multiple that the pixel format needs.
    """

    source: FrameLayout
    target: FrameLayout

    @property
    def is_identity(self) -> bool:
        """Whether output samples equal input samples: same size, pixel format and, where they matter, colours."""
        a, b = self.source, self.target
        if (a.width, a.height, a.pixel_format) != (b.width, b.height, b.pixel_format) or b.padded != b:
            return False
        same_colour = a.format.rgb or (a.matrix, a.full_range) == (b.matrix, b.full_range)
        same_sites = a.format.chroma in (None, (0, 0)) or a.chroma_location == b.chroma_location
        return same_colour and same_sites


def store_plane(plane: np.ndarray, target: np.ndarray) -> None:
    """Copy a plane, (rows, columns) or (rows, columns, channels), into one at least as large; its last row and column
    are repeated to the end."""
    rows, columns = plane.shape[:2]
    target[:rows, :columns] = plane
    if columns < target.shape[1]:
        target[:rows, columns:] = plane[:, -1:]
    if rows < target.shape[0]:
        target[rows:] = target[rows - 1]


# Bytes of the float RGB that the network returns at a time; a single frame may have more.
RGB_BYTES = {"cpu": 1 << 27, "cuda": 1 << 30}


def frames_at_once(target: FrameLayout, device: str) -> int:
    """How many frames to convert and upscale together: as many as fit RGB_BYTES, at least one."""
    budget = RGB_BYTES["cuda" if device.startswith("cuda") else "cpu"]
    return max(1, budget // (target.width * target.height * 3 * 4))
