"""The words of a command line that are no options: INPUT OUTPUT [SCALE], or INPUT... with a folder for the results.

A shell expands `*.mp4 2` before the command sees it: what could be that is never taken for INPUT OUTPUT SCALE.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from upscaling.common.errors import InputError
from upscaling.common.notation import Scale, parse_scale
from upscaling.common.text import printable


@dataclass(frozen=True)
class Positionals:
    """What the words stand for: one `input`, or several `inputs` whose results go into the folder `output`."""

    input: Path
    output: Path
    scale: Scale | None
    inputs: tuple[Path, ...] = ()


def assign(given: Sequence[str], into: Path | None, scale: Scale | None) -> Positionals:
    """The meaning of the words; `into` and `scale` are those of --into and --scale. InputError if they have none."""
    words = list(given)
    named = _scale_at_end(words, into)
    if named is not None:
        if scale is not None:
            raise InputError("SCALE is given twice")
        scale = named
    if into is None and len(words) > 1 and _is_folder(words[-1]) and not _is_sequence(words[:-1]):
        into = Path(words.pop())
    if into is not None:
        if not words:
            raise InputError("missing INPUT")
        if len(words) == 1 and os.path.isdir(words[0]):
            return Positionals(Path(words[0]), into, scale)
        return Positionals(Path(words[0]), into, scale, tuple(map(Path, words)))
    if len(words) < 2:
        missing = "OUTPUT: name a file, or a folder with --into" if words else "INPUT and OUTPUT"
        raise InputError(f"missing {missing}")
    if len(words) == 3 and scale is None and not os.path.exists(words[2]):
        parse_scale(words[2])  # raises the error that says what a SCALE is
    if len(words) > 2:
        raise InputError(
            f"{len(words)} inputs ({printable(words[0])}, {printable(words[1])}, …) need a folder for their results: "
            "add --into FOLDER"
        )
    return Positionals(Path(words[0]), Path(words[1]), scale)


def assign_preview(given: Sequence[str], sheet: Path, scale: Scale | None) -> Positionals:
    """The meaning of the words of a command with --preview: INPUT [SCALE]. InputError if there are others."""
    words = list(given)
    if not words:
        raise InputError("missing INPUT")
    if len(words) == 2 and scale is None and not os.path.exists(words[1]):
        try:
            return Positionals(Path(words[0]), sheet, parse_scale(words[1]))
        except InputError:
            if not Path(words[1]).suffix:
                raise
    if len(words) > 1:
        raise InputError(f"--preview takes one INPUT and no OUTPUT; leave out {printable(words[1])}")
    return Positionals(Path(words[0]), sheet, scale)


def _scale_at_end(words: list[str], into: Path | None) -> Scale | None:
    """The SCALE that the last word is, taken off the words; None if it is none."""
    if len(words) < 2 or (len(words) == 2 and into is None and os.path.exists(words[1])):
        return None
    try:
        scale = parse_scale(words[-1])
    except InputError:
        return None
    words.pop()
    return scale


def _is_folder(word: str) -> bool:
    return word.endswith("/") or os.path.isdir(word)


def _is_sequence(words: Sequence[str]) -> bool:
    """Whether the words are one folder or one pattern of numbered pictures, which have meanings of their own."""
    return len(words) == 1 and (os.path.isdir(words[0]) or ("%" in words[0] and not os.path.exists(words[0])))
