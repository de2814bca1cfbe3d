"""Text for people: printable paths, numbers of things, times, suggestions."""

import difflib
import logging
import os
import traceback
from collections.abc import Sequence

# The mark of a result: the encoder tag of a video (at most 31 bytes in MP4), the software field of a picture.
# It stays the same in all versions, because it tells this program's files from others.
SOFTWARE = "upscale (Real-ESRGAN)"


class Loss(str):
    """A line that says what the result lacks though nobody asked for that: it is shown even with -q."""


def printable(path: str | os.PathLike[str]) -> str:
    """A path as text that can be encoded: bytes that are not UTF-8 become replacement characters (U+FFFD)."""
    return os.fsencode(path).decode("utf-8", "replace")


def one_line(text: str) -> str:
    """Text with control characters and undecodable bytes as escapes; file names may hold line breaks."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def display_name(path: str | os.PathLike[str]) -> str:
    """The path as one line of text for a message."""
    return one_line(printable(path))


def traceback_text(error: BaseException) -> str:
    """The traceback of an exception and its causes; each message is one line, whatever file names are in it."""
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    before = f"{traceback_text(earlier)}\nDuring that, or because of it:\n\n" if earlier is not None else ""
    frames = "".join(traceback.format_tb(error.__traceback__))
    return f"{before}Traceback (most recent call last):\n{frames}{type(error).__name__}: {one_line(str(error))}\n"


class LineFormatter(logging.Formatter):
    """Messages and exceptions of which nothing but the program's own line breaks reaches the log."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = one_line(record.message)
        return super().formatMessage(record)

    def formatException(self, ei) -> str:
        return traceback_text(ei[1]).rstrip("\n") if ei[1] is not None else ""


def many(count: int, thing: str) -> str:
    """`1 frame`, `2 frames`."""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    seconds = int(seconds)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def did_you_mean(wrong: str, known: Sequence[str]) -> str:
    """`; did you mean crf?` with the most similar of the known words; empty if none is similar."""
    near = difflib.get_close_matches(wrong, known, 1)
    return f"; did you mean {near[0]}?" if near else ""
