"""rescale.py: OpenCV's two filters, at every ratio, without OpenCV."""

import numpy as np
import pytest
import torch

from upscaling.inference import rescale as rescale_module
from upscaling.inference.rescale import BLOCK, axis_taps, rescale

SIZES = [  # (width, height) before and after
    ((97, 131), (41, 60)),
    ((97, 131), (160, 341)),
    ((97, 131), (41, 300)),  # one axis down, the other up
    ((97, 131), (97, 60)),
    ((120, 80), (40, 20)),  # whole ratios
    ((7, 5), (1, 1)),
    ((1, 1), (5, 3)),
    ((2, 3), (9, 7)),
    ((60, 40), (90, 70)),
    ((60, 40), (30, 25)),
    ((640, 36), (639, 37)),
]


def frames_of(width, height, count=2):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(width))


@pytest.mark.parametrize("block", BLOCK.values())
@pytest.mark.parametrize(("before", "after"), SIZES)
def test_opencv_gives_the_same(monkeypatch, before, after, block):
    cv2 = pytest.importorskip("cv2", exc_type=ImportError)
    monkeypatch.setitem(rescale_module.BLOCK, "cpu", block)
    rescale_module._matrix_blocks.cache_clear()
    frames = frames_of(*before)

    def resized(plane, axis):
        size = [plane.shape[1], plane.shape[0]]
        how = cv2.INTER_LANCZOS4 if after[axis] > size[axis] else cv2.INTER_AREA
        size[axis] = after[axis]
        return cv2.resize(plane, size, interpolation=how)

    for frame, got in zip(frames, rescale(frames, *after), strict=True):
        want = np.stack([resized(resized(plane, 0), 1) for plane in frame.numpy()])
        # OpenCV rounds positions to float32 and leaves out shares below 0.001 of a sample.
        assert np.abs(got.numpy() - want.clip(0, 1)).max() < (1e-4 if before[0] > 500 else 2e-5)


def test_the_weights_of_an_output_sample_sum_to_one():
    for length, size in ((7, 3), (3, 7), (1, 9), (9, 1), (1280, 1919), (1919, 1280)):
        indices, weights = axis_taps(length, size)
        assert np.allclose(weights.sum(0), 1) and indices.min() == 0 and indices.max() == length - 1
    flat = torch.full((1, 3, 13, 17), 0.7)
    assert torch.allclose(rescale(flat, 29, 5), torch.full((1, 3, 5, 29), 0.7), atol=1e-6)


def test_area_is_the_mean_of_what_a_sample_covers():
    frames = frames_of(12, 8)
    assert torch.allclose(rescale(frames, 4, 4), frames.reshape(2, 3, 4, 2, 4, 3).mean((3, 5)), atol=1e-6)


def test_results_stay_in_range_and_do_not_depend_on_the_batch():
    frames = (frames_of(40, 30, 3) > 0.5).float()  # Lanczos overshoots at every edge
    together = rescale(frames, 70, 50)
    assert together.min() == 0 and together.max() == 1
    for index in range(3):
        assert torch.equal(rescale(frames[index : index + 1], 70, 50)[0], together[index])
    assert rescale(frames, 40, 30) is frames
