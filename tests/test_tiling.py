"""Patches: one shape, everything covered once, never nearer to an inner border than the halo, within the budget."""

import numpy as np
import pytest

from upscaling.inference.tiling import MERGE, USEFUL, grid

CASES = [
    (180, 320, MERGE * 256**2, 18, 1),
    (720, 1280, MERGE * 256**2, 18, 1),
    (1080, 1920, 256**2, 18, 1),
    (97, 131, 64 * 64, 18, 1),
    (97, 131, 64 * 64, 18, 2),
    (721, 1279, 256**2, 17, 2),
    (723, 1275, 256**2, 18, 4),
    (98, 130, 64 * 64, 18, 2),
    (360, 640, 100 * 100, 24, 4),
    (64, 2000, 50 * 50, 7, 1),
    (40, 40, 1, 18, 1),
    (3, 5000, 60 * 60, 32, 1),
]


@pytest.mark.parametrize(("height", "width", "budget", "halo", "step"), CASES)
def test_patches_cover_the_frame_with_the_overlap_asked_for(height, width, budget, halo, step):
    plan = grid(height, width, budget, halo, step)
    covered = np.zeros((height, width), int)
    for rows, columns in plan.patches():
        for span, size, length in ((rows, plan.height, height), (columns, plan.width, width)):
            assert span.start % step == 0 and size % step == length % step
            assert span.start >= 0 and span.start + size <= length
            assert span.first == 0 or span.first - span.start >= halo
            assert span.last == length or span.start + size - span.last >= halo
        covered[rows.first : rows.last, columns.first : columns.last] += 1
    assert (covered == 1).all()


@pytest.mark.parametrize(("height", "width", "budget", "halo", "step"), CASES[:10])
def test_patches_stay_within_the_budget(height, width, budget, halo, step):
    assert grid(height, width, budget, halo, step).area <= budget


def test_what_fits_whole_is_not_cut():
    plan = grid(180, 320, 180 * 320, 18)
    assert plan.patches() == [(plan.rows[0], plan.columns[0])] and (plan.height, plan.width) == (180, 320)


def test_little_is_computed_twice():
    plan = grid(720, 1280, MERGE * 256**2, 18)
    assert len(plan.patches()) * plan.area <= 1.09 * 720 * 1280


def test_a_budget_too_small_gets_the_smallest_patches():
    smallest = grid(90, 90, 1, 18)
    assert 36 + USEFUL <= smallest.height < 36 + 2 * USEFUL and smallest == grid(90, 90, 30 * 30, 18)


def test_the_networks_minimum_holds():
    plan = grid(100, 100, 20 * 20, 2, step=8 // 2, minimum=32)
    assert plan.height >= 32 and plan.width >= 32
