"""Kinds of video and picture that other tools get wrong, by their users' reports; tests/test_kinds.py runs them all."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Outcome:
    """What the command did with a kind's file."""

    source: Path
    output: Path
    status: int  # the exit status
    lines: list[str]  # what it printed, without the bars


@dataclass(frozen=True)
class Kind:
    """One kind of file: `make` writes one into a folder, `check` asserts what a player of the result sees."""

    name: str
    make: Callable[[Path], Path]
    check: Callable[[Outcome], None]
    output: str = "out.mkv"
    options: tuple[str, ...] = ()  # besides `2 --model lanczos` and lossless encoding
