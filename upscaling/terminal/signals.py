"""Signals, Ctrl-Z, closed standard streams, and how the command ends and is resumed.

The first SIGINT, SIGTERM or SIGHUP stops a run in good order within `exit_seconds`, a later one at once. Another one
within `SAME_SIGNAL_SECONDS` is the same request: `timeout` and `tmux kill-session` signal a process and then its group.
Ctrl-Z clears the bars before the process is stopped; `fg` draws them again.
"""

import os
import select
import shlex
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from upscaling.common.errors import Stopped, UpscaleError, full_disk
from upscaling.common.system import exit_seconds
from upscaling.common.text import one_line
from upscaling.terminal.progress import Progress

if TYPE_CHECKING:
    from upscaling.pipeline.pipeline import Pipeline

SAME_SIGNAL_SECONDS = 1.0  # after the first signal, in which others mean the same
WATCH_THREAD = "signal watch"


class Signals:
    """What signals do once `install` was called. Calls of the library leave the caller's handlers alone."""

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self):
        self.pipeline: Pipeline | None = None
        self.progress = Progress()
        self.received = 0
        self.cleaning_up = False
        self.resumable = True  # whether a run that is stopped keeps what it has done

    def install(self, argv: Sequence[str] = ()) -> None:
        """Handle the signals; one that is ignored (SIGHUP under nohup) stays ignored.

        `argv` are the command's arguments, for the command that the message of a stopped run names.
        """
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reader, argv), name=WATCH_THREAD, daemon=True).start()
        for number in self.NUMBERS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)
        if signal.getsignal(signal.SIGTSTP) is not signal.SIG_IGN:
            signal.signal(signal.SIGTSTP, self._suspend)
        signal.signal(signal.SIGCONT, lambda *_: self.progress.resume())  # also after SIGSTOP

    @contextmanager
    def sent_to(self, pipeline: "Pipeline"):
        """Inside the block a signal only sets the pipeline's flag, and the pipeline closes the open segment.

        Outside it raises Stopped wherever the main thread is. Libraries may turn that into another exception or
        drop it; `received` is set in any case.
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
        """Inside the block the output is in place and only clean-up is left: signals are ignored."""
        self.cleaning_up = True
        try:
            yield
        finally:
            self.cleaning_up = False

    def _handle(self, number: int, _frame) -> None:
        if self.received:
            return  # `_watch` tells the same request from a second one
        self.received = number
        if self.cleaning_up:
            return
        if self.pipeline is None:
            raise Stopped(number)
        self.pipeline.interrupt(number)

    def _watch(self, reader: int, argv: Sequence[str]) -> None:
        """End the process in time or at a later signal, even if the main thread is in a C function or waits for a disk.

        Python runs a handler only when that returns; the wake-up descriptor is written to at once. The workers end
        with this process.
        """
        while (number := os.read(reader, 1)[0]) not in self.NUMBERS:
            pass
        first = time.monotonic()
        while (left := first + exit_seconds() - time.monotonic()) > 0 or self.cleaning_up:
            if not select.select([reader], [], [], max(left, 0.1))[0]:
                continue
            later = os.read(reader, 1)[0]
            if later in self.NUMBERS and time.monotonic() - first > SAME_SIGNAL_SECONDS:
                os._exit(128 + later)
        self.progress.error(stopped_line(number, argv, self.resumable), 128 + number)
        os._exit(128 + number)

    def _suspend(self, number: int, _frame) -> None:
        """Ctrl-Z: clear the bars, then stop as any program does."""
        self.progress.suspend(lambda: self._stop(number))

    def _stop(self, number: int) -> None:
        signal.signal(number, signal.SIG_DFL)
        # To this thread: it stops here until SIGCONT. Another thread might take a signal to the process a while later.
        signal.pthread_kill(threading.get_ident(), number)
        signal.signal(number, self._suspend)


def open_standard_streams() -> None:
    """Open /dev/null for each standard stream that the process was started without.

    Otherwise the next file opened would get its descriptor, and a library that writes to stderr would write
    into the output.
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


def invocation() -> list[str]:
    """The words that started this command, by full paths: `python upscale.py`, `python -m upscaling`, `upscale`."""
    script = os.path.abspath(sys.argv[0])
    if os.path.basename(script) == "__main__.py":
        return [sys.executable or "python", "-m", "upscaling"]
    return [sys.executable or "python", script] if script.endswith(".py") else [script]


def stopped_line(number: int, argv: Sequence[str], resumable: bool = True) -> str:
    """The message of a command that was stopped by this signal."""
    if not resumable:
        return f"stopped by {signal.Signals(number).name}; nothing was written"
    command = resume_command(argv)
    # A name with line breaks or bytes that are not UTF-8 cannot be printed in a form that every shell takes.
    return f"{Stopped(number)}; " + (f"to resume: {command}" if command.isprintable() else "run it again to resume")


def resume_command(argv: Sequence[str]) -> str:
    """The command that resumes this one, from any directory; without --restart, which would discard what is done."""
    end = argv.index("--") if "--" in argv else len(argv)
    words = [*invocation(), *(word for word in argv[:end] if word != "--restart"), *argv[end:]]
    return f"cd {shlex.quote(os.getcwd())} && {shlex.join(words)}"


def exit_now(status: int) -> NoReturn:
    """End the process, even if a thread is still in an encoder or waits for a slow disk."""
    for number in Signals.NUMBERS:
        signal.signal(number, signal.SIG_IGN)  # Python's way out restores SIG_DFL: a signal would change the status
    if all(thread is threading.main_thread() or thread.name == WATCH_THREAD for thread in threading.enumerate()):
        sys.exit(status)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
    os._exit(status)


def error_line(error: BaseException) -> str:
    """One line for an error: what happened, what to do about it, and its notes (`run` notes the workers' logs)."""
    if isinstance(error, UpscaleError):
        line = str(error)
    else:
        line = full_disk(error) or f"{type(error).__name__}: {' '.join(str(error).split())}"
    notes = "; ".join(getattr(error, "__notes__", ()))
    return one_line(f"{line} ({notes})" if notes else line)
