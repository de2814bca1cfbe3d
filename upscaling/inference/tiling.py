"""Which patches a frame is cut into: positions and sizes only, in whole pixels of the input.

All patches of a frame have the same shape, the ones at the edges shifted inward, so a device sees one shape.
Each gives the part of the picture that is at least `halo` pixels from its inner borders.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

# Neighbours go into one patch while it has at most this many times the asked area: the overlap between
# them is then not computed twice. 1280x720 with patches of 256: 8 % is computed twice instead of 22 %.
MERGE = 4
USEFUL = 16  # pixels that a patch gives at the least along an axis, besides its overlaps


@dataclass(frozen=True)
class Span:
    """Along one axis: a patch covers [start, start + length) and gives [first, last)."""

    start: int
    first: int
    last: int


@dataclass(frozen=True)
class Grid:
    """The patches of one frame, all of `height` x `width` pixels: each of `rows` with each of `columns`."""

    height: int
    width: int
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    @property
    def area(self) -> int:
        """Pixels of a patch."""
        return self.height * self.width

    def patches(self) -> list[tuple[Span, Span]]:
        """(rows, columns) of each patch, in reading order."""
        return [(y, x) for y in self.rows for x in self.columns]


@lru_cache(maxsize=64)
def grid(height: int, width: int, budget: int, halo: int, step: int = 1, minimum: int = 1) -> Grid:
    """The patches with the least to compute, none of more than `budget` pixels (overlap included).

    Patches start at multiples of `step`, and their sides are multiples of it where the frame's are; both are at least
    `minimum`, as the frame's must be. Where even the smallest possible patch exceeds the budget, it is taken.
    """
    halo = _up(halo, step)
    columns = list(_counts(width, halo, step, minimum))
    best = None
    for rows, patch_height in _counts(height, halo, step, minimum):
        # Wider patches overlap less, so the widest that fits is the best for this height; if none fits, the narrowest.
        count, patch_width = next((c for c in columns if c[1] * patch_height <= budget), columns[-1])
        area = patch_height * patch_width
        key = (max(budget, area), rows * count * area, rows * count)
        if best is None or key < best[0]:
            best = (key, rows, patch_height, count, patch_width)
    _, rows, patch_height, count, patch_width = best
    return Grid(
        patch_height,
        patch_width,
        tuple(_spans(height, rows, patch_height, step)),
        tuple(_spans(width, count, patch_width, step)),
    )


def _counts(length: int, halo: int, step: int, minimum: int) -> Iterator[tuple[int, int]]:
    """(number of patches, length of each) along an axis, from one patch to the shortest ones.

    `count` patches of `size` leave overlaps of (count * size - length) / (count - 1), at least 2 * halo. All sizes
    leave the remainder that `length` has, so that the last patch starts at a multiple of `step` too.
    """
    yield 1, length
    previous, rest = length, length % step
    overlap = 2 * halo + (step if rest else 0)  # starts are rounded, which costs an odd overlap some pixels
    for count in range(2, length // step + 1):
        size = _up(-(-(length + overlap * (count - 1)) // count) - rest, step) + rest
        if max(minimum, overlap + USEFUL) <= size < previous:
            yield count, size
            previous = size


def _spans(length: int, count: int, size: int, step: int) -> Iterator[Span]:
    """`count` patches of `size` that cover [0, length), given parts meeting in the middle of overlaps."""
    starts = [(length - size) * i // max(1, count - 1) // step * step for i in range(count)]
    borders = [0] + [(starts[i] + starts[i - 1] + size) // 2 for i in range(1, count)] + [length]
    for start, first, last in zip(starts, borders, borders[1:], strict=False):
        yield Span(start, first, last)


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
