"""Lines at the end of what a terminal shows, drawn again and again in the same place.

The place is saved in the terminal (DECSC) and returned to (DECRC), as the cursor may be anywhere: a key that is pressed
is echoed, and Ctrl-C and Ctrl-Z make the kernel discard what is on its way to the terminal, in the middle of a drawing.
A terminal that was resized has moved its lines, and the saved place means nothing. So each drawing ends at the start of
its first line, and after a change of size everything from there on is erased. Lines do not wrap while they are drawn
(DECAWM), so that they are one row each even if the terminal is made narrower in that moment.
Sequences: ECMA-48 (CUU, ED, EL) and DEC STD 070 (DECSC, DECRC, DECAWM), which all terminals of today have.
"""

import os
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

SAVE, RETURN = "\0337", "\0338"  # DECSC, DECRC
UP = "\033[{}A"  # CUU
ERASE_DOWN = "\033[J"  # ED: from the cursor to the end of the screen
ERASE_RIGHT = "\033[K"  # EL: from the cursor to the end of the line
NO_WRAP, WRAP = "\033[?7l", "\033[?7h"  # DECAWM


class Screen:
    """Lines that are drawn to stderr, which must be a terminal. A terminal that is gone is no error."""

    def __init__(self):
        self._shape: tuple[int, int, int] | None = None  # rows, columns and lines of the last drawing, if it stands
        self._busy = False
        self._waiting: Callable[[], None] | None = None

    def draw(self, lines: Sequence[str], above: str = "") -> None:
        """Draw the lines, of fewer columns than the terminal has, in the place of the last ones.

        `above` is a line that is to stay above them.
        """
        with self._without_a_stop():
            rows, columns = terminal_size()
            shape = (rows, columns, len(lines))
            up = f"{UP.format(len(lines) - 1)}\r" if len(lines) > 1 else "\r"
            if above or shape != self._shape:
                room = "\n" * (len(lines) - 1)  # what has to scroll does so before the place is saved
                begin = f"{self._to_start()}{ERASE_DOWN}{line_of(above)}{room}{up}{SAVE}"
            else:
                begin = RETURN + SAVE  # again, for terminals that forget a place that was returned to
            body = "\n".join(f"\r{line}{ERASE_RIGHT}" for line in lines)
            self._shape = shape
            put(f"{begin}{NO_WRAP}{body}{up}{WRAP}")

    def leave(self, text: str = "") -> None:
        """Erase the lines; leave this one in their place, if any."""
        with self._without_a_stop():
            put(f"{self._to_start()}{WRAP}{ERASE_DOWN}{line_of(text)}")
            self._shape = None

    def forget(self) -> None:
        """Something else may have been written: the next drawing begins in the cursor's line."""
        self._shape = None

    def stop(self, stop: Callable[[], None]) -> None:
        """Erase the lines and call `stop`; after a drawing if one is being made. For a signal's handler."""
        if self._busy:
            self._waiting = stop
            return
        if self._shape:
            self.leave()
        stop()
        self.forget()

    def _to_start(self) -> str:
        """What moves the cursor to the start of the first line."""
        return RETURN if self._shape and self._shape[:2] == terminal_size() else "\r"

    @contextmanager
    def _without_a_stop(self) -> Iterator[None]:
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
            if self._waiting:
                stop, self._waiting = self._waiting, None
                self.stop(stop)


def line_of(text: str) -> str:
    """The text with its end of line; nothing if it is empty."""
    return f"{text}\n" if text else ""


def put(text: str) -> None:
    """Write to stderr at once, if that is possible: also in a signal's handler, where a stream may be busy."""
    try:
        fd = sys.stderr.fileno()
        data = text.encode(sys.stderr.encoding or "utf-8", "backslashreplace")
        while data:
            try:
                data = data[os.write(fd, data) :]
            except BlockingIOError:
                select.select([], [fd], [])
    except (OSError, ValueError):
        pass


def terminal_size() -> tuple[int, int]:
    """Rows and columns of the terminal as it is now; 24 and 80 if they cannot be told."""
    try:
        size = os.get_terminal_size(sys.stderr.fileno())
        return size.lines or 24, size.columns or 80
    except (OSError, ValueError):
        return 24, 80


def in_foreground() -> bool:
    """Whether this process may draw: False after `bg`, when the terminal belongs to the shell."""
    try:
        return os.tcgetpgrp(sys.stderr.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return True
