"""The tiles that a frame is cut into: positions and sizes only, in whole pixels of the input.

All tiles of a frame have the same shape, so that a device sees one shape; those at the edges are shifted inward. Each
tile contributes the part of the picture that is at least `overlap` pixels away from its inner borders.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

MIN_TILE_PAYLOAD = 16  # pixels that a tile contributes at least along an axis, besides its overlaps


@dataclass(frozen=True)
class Span:
    """Along one axis: a tile covers [start, start + length) and contributes [first, last)."""

    start: int
    first: int
    last: int


@dataclass(frozen=True)
class Grid:
    """The tiles of one frame, all of `height` x `width` pixels: each of `rows` with each of `columns`."""

    height: int
    width: int
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    @property
    def area(self) -> int:
        """Pixels of a tile."""
        return self.height * self.width

    def tiles(self) -> list[tuple[Span, Span]]:
        """(rows, columns) of each tile, in reading order."""
        return [(y, x) for y in self.rows for x in self.columns]


@lru_cache(maxsize=64)
def make_grid(height: int, width: int, max_area: int, overlap: int, alignment: int = 1, minimum: int = 1) -> Grid:
    """The tiles with the least pixels to compute, none of more than `max_area` pixels (overlap included).

    Tiles start at multiples of `alignment`, and their sides are multiples of it if the frame's are; both sides are at
    least `minimum`, as the frame's must be. If even the smallest possible tile exceeds `max_area`, it is used.
    """
    overlap = _round_up(overlap, alignment)
    columns = list(_counts(width, overlap, alignment, minimum))
    choices = []
    for rows, tile_height in _counts(height, overlap, alignment, minimum):
        # Wider tiles overlap less: the widest that fits is the best for this height; if none fits, the narrowest.
        count, tile_width = next((c for c in columns if c[1] * tile_height <= max_area), columns[-1])
        area = tile_height * tile_width
        choices.append((max(max_area, area), rows * count * area, rows * count, rows, tile_height, count, tile_width))
    *_, rows, tile_height, count, tile_width = min(choices, key=lambda choice: choice[:3])
    return Grid(
        tile_height,
        tile_width,
        tuple(_spans(height, rows, tile_height, alignment)),
        tuple(_spans(width, count, tile_width, alignment)),
    )


def _counts(length: int, overlap: int, alignment: int, minimum: int) -> Iterator[tuple[int, int]]:
    """(number of tiles, length of each) along an axis, from one tile to the shortest ones.

    `count` tiles of `size` leave overlaps of (count * size - length) / (count - 1), at least 2 * overlap. All sizes
    have the remainder that `length` has, so that the last tile starts at a multiple of `alignment` too.
    """
    yield 1, length
    previous, rest = length, length % alignment
    shared = 2 * overlap + (alignment if rest else 0)  # starts are rounded, which costs an odd overlap some pixels
    for count in range(2, length // alignment + 1):
        size = _round_up(-(-(length + shared * (count - 1)) // count) - rest, alignment) + rest
        if max(minimum, shared + MIN_TILE_PAYLOAD) <= size < previous:
            yield count, size
            previous = size


def _spans(length: int, count: int, size: int, alignment: int) -> Iterator[Span]:
    """`count` tiles of `size` that cover [0, length); their contributions meet in the middle of overlaps."""
    starts = [(length - size) * i // max(1, count - 1) // alignment * alignment for i in range(count)]
    borders = [0] + [(starts[i] + starts[i - 1] + size) // 2 for i in range(1, count)] + [length]
    for start, first, last in zip(starts, borders, borders[1:], strict=False):
        yield Span(start, first, last)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
