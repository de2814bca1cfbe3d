"""The sheet as a picture: a title, a heading over each column, a label before each row, the cells, notes below."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MOST_WIDTH, LEAST_HEIGHT = 4000, 600  # pixels
CELL = (576, 432)  # pixels of a cell at most, if few columns share the width
LEAST_COLUMN = 400  # pixels, for the text over narrow cells
EDGE, GAP = 28, 12  # pixels
LABELS = 250  # width of the rows' labels
TITLE, NAME, TEXT = 48, 38, 32  # heights of the letters
BACKGROUND, FIELD = (24, 24, 24), (52, 52, 52)  # RGB
LIGHT, PALE, ACCENT = (240, 240, 240), (176, 176, 176), (255, 200, 0)
BEYOND_ASCII = "°«»±·"  # that the built-in font has

Draw = ImageDraw.ImageDraw
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Lines = list[tuple[str, Font, tuple[int, int, int]]]


@dataclass(frozen=True)
class Heading:
    """What stands over a column."""

    name: str
    times: tuple[str, ...]
    note: str


@dataclass(frozen=True)
class Row:
    """What stands before a row, and its cells: uint8 RGB pictures of one size, or lines in place of one."""

    name: str
    lines: tuple[str, ...]
    cells: Sequence[np.ndarray | str]


@dataclass(frozen=True)
class Sheet:
    """Everything that is drawn."""

    title: str
    columns: Sequence[Heading]
    rows: Sequence[Row]
    notes: Sequence[str]


def cell_limit(columns: int) -> tuple[int, int]:
    """(width, height) in pixels that a cell may have, if there are so many columns."""
    room = (MOST_WIDTH - 2 * EDGE - LABELS) // columns - GAP
    return min(CELL[0], room), CELL[1]


def enlargement(sheet: Sheet) -> int:
    """How many times each pixel of a cell is repeated across and down."""
    width, height = _cell_size(sheet)
    most = cell_limit(len(sheet.columns))
    return max(1, min(most[0] // width, most[1] // height))


def _cell_size(sheet: Sheet) -> tuple[int, int]:
    """(width, height) of the pictures; there is at least one."""
    picture = next(cell for row in sheet.rows for cell in row.cells if not isinstance(cell, str))
    return picture.shape[1], picture.shape[0]


def draw(sheet: Sheet) -> np.ndarray:
    """The picture, uint8 RGB (height, width, 3)."""
    factor = enlargement(sheet)
    width, height = (side * factor for side in _cell_size(sheet))
    across = max(width, min(LEAST_COLUMN, cell_limit(len(sheet.columns))[0]))
    total = 2 * EDGE + LABELS + len(sheet.columns) * (across + GAP)
    title = _block([(sheet.title, TITLE, LIGHT)], total - 2 * EDGE)
    headings = [
        _block([(one.name, NAME, ACCENT), *((line, TEXT, LIGHT) for line in one.times), (one.note, TEXT, PALE)], across)
        for one in sheet.columns
    ]
    labels = [
        _block([(row.name, NAME, ACCENT), *((line, TEXT, LIGHT) for line in row.lines)], LABELS - GAP)
        for row in sheet.rows
    ]
    notes = _block([(note, TEXT, PALE) for note in sheet.notes], total - 2 * EDGE)
    tops = [EDGE + title.height + EDGE]
    tops.append(tops[0] + max(one.height for one in headings) + GAP)
    for label in labels:
        tops.append(tops[-1] + max(height, label.height) + GAP)
    whole = max(LEAST_HEIGHT, tops[-1] + GAP + notes.height + EDGE)

    picture = Image.new("RGB", (total, whole), BACKGROUND)
    pen = ImageDraw.Draw(picture)
    title.put(pen, EDGE, EDGE)
    for number, heading in enumerate(headings):
        heading.put(pen, EDGE + LABELS + number * (across + GAP), tops[0])
    for row, label, top in zip(sheet.rows, labels, tops[1:], strict=False):
        label.put(pen, EDGE, top)
        for number, cell in enumerate(row.cells):
            left = EDGE + LABELS + number * (across + GAP)
            if isinstance(cell, str):
                pen.rectangle((left, top, left + width - 1, top + height - 1), FIELD)
                reason = _block([(cell, TEXT, LIGHT)], width - 2 * GAP)
                reason.cut(height - GAP).put(pen, left + GAP, top + GAP)
            else:
                picture.paste(Image.fromarray(cell).resize((width, height), Image.Resampling.NEAREST), (left, top))
    notes.put(pen, EDGE, tops[-1] + GAP)
    return np.asarray(picture)


# Text


@dataclass(frozen=True)
class _Block:
    """Lines of text, one below the other."""

    lines: Lines
    height: int

    def cut(self, height: int) -> "_Block":
        """The lines that fit into a height."""
        lines = self.lines[: max(1, height // _line_height(self.lines[0][1]))]
        return _Block(lines, height)

    def put(self, pen: Draw, left: int, top: int) -> None:
        for text, font, colour in self.lines:
            pen.text((left, top), text, colour, font)
            top += _line_height(font)


def _block(parts: Sequence[tuple[str, int, tuple[int, int, int]]], width: int) -> _Block:
    """Texts with the heights of their letters and their colours, wrapped to a width in pixels."""
    lines: Lines = []
    for text, size, colour in parts:
        font = ImageFont.load_default(size)
        lines += [(line, font, colour) for line in wrapped(text, width, lambda line, font=font: font.getlength(line))]
    return _Block(lines, sum(_line_height(font) for _, font, _ in lines))


def _line_height(font: Font) -> int:
    return round(getattr(font, "size", 12) * 1.3)


def wrapped(text: str, width: float, length: Callable[[str], float]) -> list[str]:
    """The text in lines of at most `width`, broken after spaces, hyphens and underscores, else anywhere."""
    text = drawable(text)
    lines, line = [], ""
    for word in re.findall(r"[^\s_-]*[\s_-]?", text):
        if line and length((line + word).rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        line += word
        while length(line.rstrip()) > width and len(line.rstrip()) > 1:
            fits = max((at for at in range(1, len(line)) if length(line[:at]) <= width), default=1)
            lines.append(line[:fits])
            line = line[fits:]
    return [*lines, line.rstrip()] if line.rstrip() else lines


def drawable(text: str) -> str:
    """The text in characters that the built-in font has: accents are left out, others become question marks."""
    plain = unicodedata.normalize("NFKD", text.replace("×", "x"))
    return "".join(c if c.isascii() or c in BEYOND_ASCII else "?" for c in plain if not unicodedata.combining(c))
