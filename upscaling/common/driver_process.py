"""Asks a driver in a process of its own, because a driver may crash or hang when it is loaded."""

import subprocess
import sys
from collections.abc import Sequence


class DriverSilent(Exception):
    """The process did not answer in time."""


def ask_driver(arguments: Sequence[str], seconds: float) -> "subprocess.CompletedProcess[str]":
    """Run Python with `arguments`; its output as text. DriverSilent after `seconds`; OSError if it cannot start."""
    try:
        return subprocess.run(
            [sys.executable, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise DriverSilent from error


def exit_text(status: int) -> str:
    """A return code of `subprocess` in words: "exit status 1", "signal 11"."""
    return f"exit status {status}" if status > 0 else f"signal {-status}"
