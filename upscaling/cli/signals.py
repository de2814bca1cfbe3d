"""What a terminal and cron do to the command: signals, Ctrl-Z, streams that are closed, and how to resume.

The first SIGINT, SIGTERM or SIGHUP ends a run in good order, at the latest after `EXIT_SECONDS`, the second at
once. Ctrl-Z wipes the bars before
the process is stopped; after `fg` they are drawn anew.
"""

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from upscaling.common.errors import Stopped, UpscaleError, full_disk

if TYPE_CHECKING:
    from upscaling.cli.progress import Progress
    from upscaling.job.pipeline import Pipeline


EXIT_SECONDS = 9.5  # after a signal, for everything
WATCH = "signal watch"  # a thread's name


class Signals:
    """What signals do, once `install` was called; the library's calls leave the caller's handlers alone."""

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self):
        self.pipeline: Pipeline | None = None
        self.progress: Progress | None = None
        self.received = 0
        self.finishing = False

    def install(self, progress: "Progress", argv: Sequence[str] = ()) -> None:
        """Take the signals over; one that is ignored (SIGHUP under nohup) stays ignored.

        `argv` are the command's arguments, for what an error says.
        """
        self.progress = progress
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reader, argv), name=WATCH, daemon=True).start()
        for number in self.NUMBERS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)
        if signal.getsignal(signal.SIGTSTP) is not signal.SIG_IGN:
            signal.signal(signal.SIGTSTP, self._stop)
        signal.signal(signal.SIGCONT, lambda *_: self.progress.resume())  # also after SIGSTOP

    @contextmanager
    def flagged(self, pipeline: "Pipeline"):
        """Within, a signal is only noted for the pipeline, which closes the open segment.

        Elsewhere it is an exception in the middle of whatever is done, which may turn into another or be lost:
        `received` tells in any case.
        """
        if self.received:
            raise Stopped(self.received)
        self.pipeline = pipeline
        try:
            yield
        finally:
            self.pipeline = None

    @contextmanager
    def too_late(self):
        """Within, the output is in place and only clean-up is left: a signal changes nothing any more."""
        self.finishing = True
        try:
            yield
        finally:
            self.finishing = False

    def _handle(self, number: int, _frame) -> None:
        if self.received:
            os._exit(128 + number)  # the workers end with this process
        self.received = number
        if self.finishing:
            return
        if self.pipeline is None:
            raise Stopped(number)
        self.pipeline.signal = number
        self.pipeline.wake()

    def _watch(self, reader: int, argv: Sequence[str]) -> None:
        """End the process in time even where the main thread is in a C function or waits for a disk.

        A handler in Python runs only when that returns; the wake-up descriptor is written to at once.
        """
        while (number := os.read(reader, 1)[0]) not in self.NUMBERS:
            pass
        time.sleep(EXIT_SECONDS)
        while self.finishing:
            time.sleep(0.1)
        self.progress.error(stopped_line(number, argv), 128 + number)
        os._exit(128 + number)

    def _stop(self, number: int, _frame) -> None:
        """Ctrl-Z: stop as any program does, but leave a clean screen first."""
        self.progress.suspend()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)  # here the process stops; it goes on with SIGCONT
        signal.signal(number, self._stop)


def open_standard_streams() -> None:
    """Give the process the streams that it was started without: else the next file opened would be one of them.

    A library that writes to stderr would then write into the output.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number: this one
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - for as long as the process lives
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def stopped_line(number: int, argv: Sequence[str]) -> str:
    """What a command says that was ended by that signal."""
    return f"{Stopped(number)}; to resume: {resume_command(argv)}"


def resume_command(argv: Sequence[str]) -> str:
    """The command that goes on where this one ended, from any directory; --restart would throw away what is done."""
    names = argv.index("--") if "--" in argv else len(argv)
    words = [sys.executable or "python", os.path.abspath(sys.argv[0])]
    words += [word for word in argv[:names] if word != "--restart"] + list(argv[names:])
    return f"cd {quote(os.getcwd())} && {' '.join(map(quote, words))}"


def quote(word: str) -> str:
    """A word as a shell takes it, in one line: $'…' (bash, zsh, ksh) for line breaks and bytes that are no UTF-8."""
    if word.isprintable():
        return shlex.quote(word)
    escaped = "".join(
        character if character.isprintable() and character not in "\\'" else "".join(f"\\x{b:02x}" for b in raw)
        for character in word
        for raw in [os.fsencode(character)]
    )
    return f"$'{escaped}'"


def exit_now(status: int) -> NoReturn:
    """End the process, also where a thread is still in an encoder or a slow disk and does not come back."""
    if all(thread is threading.main_thread() or thread.name == WATCH for thread in threading.enumerate()):
        sys.exit(status)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
    os._exit(status)


def why(error: BaseException) -> str:
    """One line for an error, what to do about it, and where the workers' logs of its job are."""
    if isinstance(error, UpscaleError):
        line = str(error)
    else:
        line = full_disk(error) or f"{type(error).__name__}: {' '.join(str(error).split())}"
    logs = getattr(error, "logs", None)  # upscale.run sets it
    return line if logs is None else f"{line} (workers' logs: {os.fsencode(logs).decode('utf-8', 'replace')})"
