"""A terminal with a shell in it: keys go in, the screen comes out."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time

import pyte


class Terminal:
    """`bash` in a pseudo-terminal; `lines` is the screen after `wait_for`. A context manager."""

    def __init__(self, columns: int = 100, rows: int = 24):
        self.master, slave = pty.openpty()
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        self.resize(columns, rows)
        self.shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no other way to a terminal of its own
            env={**os.environ, "PS1": "$ ", "TERM": "linux", "LC_ALL": "C.UTF-8", "PROMPT_COMMAND": ""},
        )  # fmt: skip
        os.close(slave)

    def resize(self, columns: int, rows: int, late: bool = False) -> None:
        """Give the screen another size; if `late`, what is still to be read was written for the old one."""
        while not late and select.select([self.master], [], [], 0.05)[0]:  # what was written for the old size
            self.stream.feed(os.read(self.master, 65536))
        self.screen.resize(rows, columns)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display]

    def matching(self, pattern: str) -> list[str]:
        """The screen's lines in which the pattern is found."""
        return [line for line in self.lines if re.search(pattern, line)]

    def listen(self, seconds: float) -> None:
        """Take in what is written during that time."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if select.select([self.master], [], [], left)[0]:
                self.stream.feed(os.read(self.master, 65536))

    def interrupt_a_drawing(self, key: str) -> None:
        """Type Ctrl-C or Ctrl-Z after the first line of a drawing.

        Linux then discards what is on its way to the terminal (n_tty.c, isig): now and then, so it is done here.
        """
        self.stop_in_a_drawing()
        os.read(self.master, 65536)
        self.type(key)

    def stop_in_a_drawing(self) -> None:
        """Take in the next thing that is written up to its first line break, and leave the rest unread."""
        self.listen(0.3)
        while select.select([self.master], [], [], 5)[0]:
            byte = os.read(self.master, 1)
            self.stream.feed(byte)
            if byte == b"\n":
                return

    def wait_for(self, pattern: str, seconds: float = 60.0) -> str:
        """Until a line matches; that line."""
        deadline = time.monotonic() + seconds
        while not (found := self.matching(pattern)):
            assert time.monotonic() < deadline, f"no {pattern!r} on the screen:\n" + "\n".join(self.lines)
            self.listen(0.1)
        return found[0]

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_) -> None:
        os.killpg(self.shell.pid, 9)
        self.shell.wait()
        os.close(self.master)  # what still runs in the terminal gets SIGHUP
