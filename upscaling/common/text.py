"""Text for people: numbers of things, times, paths that can be printed."""

import difflib
from collections.abc import Sequence


def one_line(text: str) -> str:
    """Control characters and undecodable bytes as escapes: a file's name can hold line breaks and worse."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def many(count: int, thing: str) -> str:
    """`1 frame`, `2 frames`."""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    seconds = int(seconds)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def did_you_mean(wrong: str, known: Sequence[str]) -> str:
    """`; did you mean …?` with the nearest of the known words; empty where none is near."""
    near = difflib.get_close_matches(wrong, known, 1)
    return f"; did you mean {near[0]}?" if near else ""
