"""The size of a job's output: what SCALE and --fit make of frames, in whole samples of the output's pixel format.

A factor keeps the shape of the pixels. A size is one of square pixels, and the shape to keep is that of the picture as
it is shown.
"""

from dataclasses import dataclass
from fractions import Fraction

from upscaling.common.errors import InputError, UnsuitableInput
from upscaling.common.notation import Scale, round_half_up
from upscaling.frames.placement import Placement

MIN_SCALE, MAX_SCALE = 1, 8
SQUARE = "square pixels"
INSIDE, PAD, CROP, STRETCH = ("inside", "pad", "crop", "stretch")

Size = tuple[int, int]  # width, height in pixels
Multiple = tuple[int, int]  # of which a pixel format needs the width and the height
Exact = tuple[Fraction, Fraction]  # across, down


@dataclass(frozen=True)
class Shape:
    """The upscaled picture and the frame that is written.

    Frames are upscaled to `picture`; with `placement` that becomes a part of `frame` or is cut off at its edges, else
    the last column and row are repeated. `square` says that the output has square pixels; otherwise they have the
    shape of the input's. `note` says how the size came about; it may be empty.
    """

    picture: Size
    frame: Size
    placement: Placement | None = None
    square: bool = False
    note: str = ""


def output_shape(scale: Scale, fit: str, size: Size, pixel_shape: Fraction, multiple: Multiple) -> Shape:
    """The shape of the output for frames of `size`, whose pixels are `pixel_shape` times as wide as they are high.

    UnsuitableInput if the picture would not be 1 to 8 times as large, InputError if `fit` needs another SCALE.
    """
    check_fit(scale, fit)
    if scale.factor is not None:
        return _scaled(scale.factor, size, multiple)
    shape = _fitted((scale.width, scale.height), fit, (size[0] * pixel_shape, Fraction(size[1])), multiple)
    if pixel_shape == 1:
        return shape
    return Shape(shape.picture, shape.frame, shape.placement, True, shape.note + ", " * bool(shape.note) + SQUARE)


def check_fit(scale: Scale, fit: str) -> None:
    """InputError if that fit needs another SCALE."""
    if fit != INSIDE and not (scale.width and scale.height):
        raise InputError(f"--fit {fit} needs a SCALE with width and height, such as 1920x1080")


def _scaled(factor: Fraction, size: Size, multiple: Multiple) -> Shape:
    exact = (size[0] * factor, size[1] * factor)
    _check((factor, factor), exact, size)
    picture = _rounded(exact)
    frame = (-(-picture[0] // multiple[0]) * multiple[0], -(-picture[1] // multiple[1]) * multiple[1])
    return Shape(picture, frame, note="" if frame == picture else f"{_text(picture)} in even sizes")


def _fitted(asked: tuple[int | None, int | None], fit: str, shown: Exact, multiple: Multiple) -> Shape:
    """`asked` is the size in pixels, None for a side that follows; `shown` the size of the input in square pixels."""
    ratios = _ratios(asked, fit, shown)
    _check(ratios, (shown[0] * ratios[0], shown[1] * ratios[1]), _rounded(shown))
    box = tuple(side and max(side // step, 1) * step for side, step in zip(asked, multiple, strict=True))
    ratios = _ratios((box[0], box[1]), fit, shown)
    picture = _rounded((shown[0] * ratios[0], shown[1] * ratios[1]), multiple)
    frame = (box[0], box[1]) if fit != INSIDE and box[0] and box[1] else picture
    if frame == picture:
        is_asked = all(side in (None, found) for side, found in zip(asked, frame, strict=True))
        note = "" if is_asked else f"inside {'x'.join(str(side or '') for side in asked)}"
        return Shape(picture, frame, square=True, note="stretched" if ratios[0] != ratios[1] else note)
    # Half of what is left over, in whole samples of the chroma; towards the top left corner for both signs.
    left, top = ((a - b) // (2 * step) * step for a, b, step in zip(frame, picture, multiple, strict=True))
    note = f"{_text(picture)} {'padded' if fit == PAD else 'cropped'}"
    return Shape(picture, frame, Placement(*picture, left, top), square=True, note=note)


def _ratios(asked: tuple[int | None, int | None], fit: str, shown: Exact) -> Exact:
    """How much larger the picture becomes, across and down."""
    found = [side / length for side, length in zip(asked, shown, strict=True) if side]
    if fit == STRETCH:
        return found[0], found[1]
    ratio = max(found) if fit == CROP else min(found)
    return ratio, ratio


def _check(ratios: Exact, exact: Exact, size: Size) -> None:
    if not all(MIN_SCALE <= ratio <= MAX_SCALE for ratio in ratios):
        raise UnsuitableInput(f"SCALE: {_text(_rounded(exact))} is not 1 to 8 times {_text(size)}; choose another size")


def _rounded(size: Exact, multiple: Multiple = (1, 1)) -> Size:
    """The nearest (width, height) that is a multiple, halves up."""
    width, height = (max(1, round_half_up(side / step)) * step for side, step in zip(size, multiple, strict=True))
    return width, height


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
