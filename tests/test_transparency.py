"""transparency.py: colours under fully transparent pixels come from the nearest visible ones, alpha stays."""

import numpy as np
import pytest

from upscaling.frames.layout import FrameLayout
from upscaling.frames.transparency import fill_transparent, nearest_visible


@pytest.mark.parametrize("size", [(13, 9), (31, 40), (7, 1), (1, 7)])
@pytest.mark.parametrize("share", [0.02, 0.3])
def test_the_nearest_pixel_is_the_nearest(size, share):
    width, height = size
    visible = np.random.default_rng(width).random((height, width)) < share
    visible[0, -1] = True
    found = nearest_visible(visible)
    assert visible.reshape(-1)[found].all()
    y, x = np.mgrid[:height, :width]
    rows, columns = np.nonzero(visible)
    steps = np.abs(y[..., None] - rows) + np.abs(x[..., None] - columns)
    assert np.array_equal(np.abs(found // width - y) + np.abs(found % width - x), steps.min(-1))


@pytest.mark.parametrize("name", ["rgba", "rgba64le", "yuva444p10le", "yuva420p", "yuva422p"])
def test_colours_spread_and_alpha_stays(name):
    """A bright square on transparent black, of odd size: afterwards all of the picture has the square's colour."""
    layout = FrameLayout(15, 11, name, full_range=True)
    frame = np.zeros(layout.sample_count, layout.format.dtype)
    planes = layout.planes(frame)
    alpha = planes[0][..., 3] if layout.format.rgb else planes[-1]
    alpha[3:8, 5:10] = layout.peak
    alpha[3, 5] = 1  # hardly visible: its colour is its own
    for plane in planes[:3]:
        down, across = (2 if plane.shape[0] < 11 else 1), (2 if plane.shape[1] < 15 else 1)
        plane[3 // down : -(-8 // down), 5 // across : -(-10 // across)] = 200
    before = alpha.copy()
    filled = layout.planes(fill_transparent(frame, layout))
    colours = [filled[0][..., :3]] if layout.format.rgb else filled[:-1]
    assert all((colour == 200).all() for colour in colours)
    assert np.array_equal(filled[0][..., 3] if layout.format.rgb else filled[-1], before)


def test_what_needs_no_filling_is_not_copied():
    layout = FrameLayout(4, 3, "rgba", full_range=True)
    for frame in (np.zeros((3, 4, 4), np.uint8), np.full((3, 4, 4), 255, np.uint8)):
        assert fill_transparent(frame, layout) is frame
    gray = np.zeros((3, 4), np.uint8)
    assert fill_transparent(gray, FrameLayout(4, 3, "gray")) is gray
