"""Which parts of a video are shown: one with much detail, one with clear edges, a dark one; three places and times.

Sample ─► luma ─► scores of all positions ─► candidates of each kind ─► the best combination
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from upscaling.frames.detail import differences
from upscaling.frames.layout import FrameLayout
from upscaling.frames.luma import luma
from upscaling.preview.sampling import Sample

DETAIL, EDGES, DARK = "much detail", "edges", "dark"
KINDS = (DETAIL, EDGES, DARK)
STEP = 8  # pixels between positions that are compared; a multiple of every pixel format's
PER_SAMPLE = 2  # candidates of a kind in a sample
NOISE = 0.02  # of the range from black to white: steps of luma below this are no edges
BLACK = 0.08  # luma; lines darker than this all along are bars
Pixels = tuple[int, int]  # across, down
SAME_FRAME, SAME_PLACE, OVERLAP = 0.3, 0.2, 2.0  # penalties; the best crop of a kind has the score 1


@dataclass(frozen=True)
class Geometry:
    """What is cut out of frames of one layout: a crop, and the window around it that the network sees. In pixels."""

    source: FrameLayout
    crop: tuple[int, int]  # width, height
    window: tuple[int, int]

    @property
    def window_layout(self) -> FrameLayout:
        return replace(self.source, width=self.window[0], height=self.window[1])


@dataclass(frozen=True)
class Crop:
    """One crop: what it shows, when and where, and the frames of its window, flat arrays in the window's layout."""

    kind: str
    score: float
    seconds: Fraction  # from the input's first frame
    left: int  # of the crop in the frame
    top: int
    inside: tuple[int, int]  # (x, y) of the crop in the window
    frames: tuple[np.ndarray, ...]
    wanted: int  # index of the frame that is shown


def geometry_for(source: FrameLayout, crop: tuple[int, int], margin: int) -> Geometry:
    """A crop of at most that size, in a window with `margin` pixels around it as far as the frame has them."""
    frame = source.width, source.height
    size = min(crop[0], frame[0]), min(crop[1], frame[1])
    # Both are multiples of STEP, unless they are the whole frame: so the position in the window is one, too.
    window = [min(side + 2 * margin, most) for side, most in zip(size, frame, strict=True)]
    return Geometry(source, size, (window[0], window[1]))


def choose_crops(samples: Iterable[Sample], geometry: Geometry) -> list[Crop]:
    """The three crops, in the order of KINDS; none if there is no sample."""
    found: dict[str, list[Crop]] = {kind: [] for kind in KINDS}
    for sample in samples:
        for kind, score, left, top in candidates(luma(sample.frames[sample.wanted], geometry.source), geometry.crop):
            found[kind].append(_cut(sample, geometry, kind, score, left, top))
    return _best(found, geometry) if found[DETAIL] else []


def candidates(picture: np.ndarray, size: tuple[int, int]) -> Iterator[tuple[str, float, int, int]]:
    """(kind, score, left, top) of the best parts of a picture of luma, (height, width); `size` is (width, height)."""
    rows, columns = _without_bars(picture, size)
    means = _Means(picture[rows, columns], size)
    for kind, scores in _scores(means).items():
        scores = scores.copy()
        for _ in range(PER_SAMPLE):
            row, column = divmod(int(np.argmax(scores)), scores.shape[1])
            if not np.isfinite(scores[row, column]):
                break
            left, top = columns.start + column * STEP, rows.start + row * STEP
            yield kind, float(scores[row, column]), left, top
            reach = size[1] // STEP, size[0] // STEP  # what overlaps
            near = [slice(max(0, at - far), at + far + 1) for at, far in zip((row, column), reach, strict=True)]
            scores[near[0], near[1]] = -np.inf


class _Means:
    """Means over parts of a picture, at every STEP-th position across and down; counted in blocks of STEP² pixels."""

    def __init__(self, picture: np.ndarray, size: tuple[int, int]):
        self._size = size
        steps = differences(picture)
        self.luma = self._of(picture)
        self.detail = self._of(steps)
        self.steps = self._of(np.where(steps > NOISE, steps, 0))
        self.squares = self._of(steps * steps)
        self.calm = self._of(((steps < 2 * NOISE) & (picture > BLACK) & (picture < 1 - BLACK)).astype(np.float32))

    def _of(self, values: np.ndarray) -> np.ndarray:
        height, width = values.shape
        padded = np.pad(values, ((0, -height % STEP), (0, -width % STEP)))
        down, across = padded.shape[0] // STEP, padded.shape[1] // STEP
        # (down, STEP, across, STEP) to (down + 1, across + 1): sums of all blocks above and to the left
        blocks = padded.reshape(down, STEP, across, STEP).sum((1, 3), dtype=np.float64)
        total = np.pad(blocks.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        y = np.arange((height - self._size[1]) // STEP + 1)[:, None]
        x = np.arange((width - self._size[0]) // STEP + 1)
        bottom, right = y + -(-self._size[1] // STEP), x + -(-self._size[0] // STEP)
        sums = total[bottom, right] - total[y, right] - total[bottom, x] + total[y, x]
        return np.maximum(sums / (self._size[0] * self._size[1]), 0)


def _scores(means: _Means) -> dict[str, np.ndarray]:
    """Scores of every position, for each kind.

    Edges: steep steps, that is the mean of the squares against the mean, on calm ground. Dark: the darker, the better,
    if there is something to see.
    """
    return {
        DETAIL: means.steps,
        EDGES: means.squares / (means.detail + NOISE) * (means.calm + 0.1),
        DARK: (1 - means.luma.clip(0, 1)) ** 4 * np.sqrt(means.steps.clip(0, 0.05) + 1e-6),
    }


def _without_bars(picture: np.ndarray, size: tuple[int, int]) -> tuple[slice, slice]:
    """(rows, columns) without black bars at the edges, as long as a part of `size` fits; they begin at STEPs."""
    found = []
    for axis, length in ((1, size[1]), (0, size[0])):
        bright = np.flatnonzero(picture.max(axis) > BLACK)
        whole = slice(0, picture.shape[1 - axis])
        if len(bright):
            inner = slice(-(-(int(bright[0]) + int(bright[0] > 0)) // STEP) * STEP, int(bright[-1]) + 1)
            found.append(inner if inner.stop - inner.start >= length else whole)
        else:
            found.append(whole)
    return found[0], found[1]


def _cut(sample: Sample, geometry: Geometry, kind: str, score: float, left: int, top: int) -> Crop:
    """A candidate with its window, in the middle of which the crop is if it is not at an edge."""
    frame = geometry.source.width, geometry.source.height
    corner = window_corner((left, top), geometry, frame)
    frames = tuple(geometry.source.cut(planes, *corner, *geometry.window) for planes in sample.frames)
    inside = left - corner[0], top - corner[1]
    return Crop(kind, score, sample.seconds, left, top, inside, frames, sample.wanted)


def window_corner(place: Pixels, geometry: Geometry, bounds: Pixels) -> Pixels:
    """(left, top) of the window around a crop at `place`, multiples of STEP; the picture has the size `bounds`."""
    left, top = (
        min(max(0, at - (around - inner) // 2 // STEP * STEP), (most - around) // STEP * STEP)
        for at, around, inner, most in zip(place, geometry.window, geometry.crop, bounds, strict=True)
    )  # fmt: skip
    return left, top


def _best(found: dict[str, list[Crop]], geometry: Geometry) -> list[Crop]:
    """One crop of each kind: good ones, of different frames and places if that can be had."""
    best = {kind: max(crop.score for crop in crops) or 1.0 for kind, crops in found.items()}

    def value(chosen: tuple[Crop, ...]) -> float:
        total = sum(crop.score / best[crop.kind] for crop in chosen)
        return total - sum(_penalty(a, b, geometry.crop) for a, b in itertools.combinations(chosen, 2))

    return list(max(itertools.product(*found.values()), key=value))


def _penalty(a: Crop, b: Crop, size: tuple[int, int]) -> float:
    overlap = abs(a.left - b.left) < size[0] and abs(a.top - b.top) < size[1]
    if a.seconds == b.seconds:
        return SAME_FRAME + OVERLAP * overlap
    return SAME_PLACE * overlap
