"""Tiles: one shape, everything covered once, no nearer to an inner border than the overlap, within the area allowed."""

import numpy as np
import pytest

from upscaling.inference.tiling import MIN_TILE_PAYLOAD, make_grid

CASES = [
    (180, 320, 512**2, 18, 1),
    (720, 1280, 512**2, 18, 1),
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


@pytest.mark.parametrize(("height", "width", "max_area", "overlap", "alignment"), CASES)
def test_tiles_cover_the_frame_with_the_overlap_asked_for(height, width, max_area, overlap, alignment):
    grid = make_grid(height, width, max_area, overlap, alignment)
    covered = np.zeros((height, width), int)
    for rows, columns in grid.tiles():
        for span, size, length in ((rows, grid.height, height), (columns, grid.width, width)):
            assert span.start % alignment == 0 and size % alignment == length % alignment
            assert span.start >= 0 and span.start + size <= length
            assert span.first == 0 or span.first - span.start >= overlap
            assert span.last == length or span.start + size - span.last >= overlap
        covered[rows.first : rows.last, columns.first : columns.last] += 1
    assert (covered == 1).all()


@pytest.mark.parametrize(("height", "width", "max_area", "overlap", "alignment"), CASES[:10])
def test_tiles_stay_within_the_budget(height, width, max_area, overlap, alignment):
    assert make_grid(height, width, max_area, overlap, alignment).area <= max_area


def test_what_fits_whole_is_not_cut():
    grid = make_grid(180, 320, 180 * 320, 18)
    assert grid.tiles() == [(grid.rows[0], grid.columns[0])] and (grid.height, grid.width) == (180, 320)


def test_little_is_computed_twice():
    grid = make_grid(720, 1280, 512**2, 18)
    assert len(grid.tiles()) * grid.area <= 1.09 * 720 * 1280


def test_a_budget_too_small_gets_the_smallest_tiles():
    smallest = make_grid(90, 90, 1, 18)
    assert 36 + MIN_TILE_PAYLOAD <= smallest.height < 36 + 2 * MIN_TILE_PAYLOAD and smallest == make_grid(
        90, 90, 30 * 30, 18
    )


def test_the_networks_minimum_holds():
    grid = make_grid(100, 100, 20 * 20, 2, alignment=4, minimum=32)
    assert grid.height >= 32 and grid.width >= 32
