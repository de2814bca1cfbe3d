"""Names of numbered pictures: patterns such as frames_%06d.png, and folders with one series of them."""

import os
import re
from pathlib import Path

from upscaling.common.errors import InputError
from upscaling.pictures import formats

PATTERN = re.compile(r"%(?:0([1-9]))?d")
NUMBERED = re.compile(r"(.*?)([0-9]{1,12})(\.[A-Za-z]+)", re.DOTALL)


def is_pattern(path: Path) -> bool:
    """Whether a path is a pattern of numbered pictures, as frames_%06d.png; an existing file of that name is not."""
    return formats.is_named_picture(path) and len(PATTERN.findall(path.name)) == 1 and not path.is_file()


def numbered_name(pattern: str, number: int) -> str:
    """The file name that a pattern gives to a number."""
    return PATTERN.sub(lambda match: f"{number:0{match[1] or 1}d}", pattern)


def files_of_pattern(pattern: Path) -> tuple[tuple[int, Path], ...]:
    """(number, file) of a pattern's files, by number; InputError if no file matches."""
    found = existing_files(pattern)
    if not found:
        raise InputError(f"{pattern}: no file in {pattern.parent} matches")
    return found


def existing_files(pattern: Path) -> tuple[tuple[int, Path], ...]:
    """(number, file) of a pattern's files, by number; InputError if their directory cannot be read."""
    before, width, after = PATTERN.split(pattern.name)
    digits = rf"[0-9]{{{width}}}|[1-9][0-9]{{{width},11}}" if width else "0|[1-9][0-9]{0,11}"
    form = re.compile(f"{re.escape(before)}({digits}){re.escape(after)}", re.DOTALL)
    try:
        names = os.listdir(pattern.parent)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise InputError(f"cannot read {pattern.parent}: {error.strerror}") from error
    return tuple(sorted((int(match[1]), pattern.parent / name) for name in names if (match := form.fullmatch(name))))


def numbered_pictures(folder: Path) -> tuple[tuple[int, Path], ...]:
    """(number, file) of the pictures in a folder, by number; InputError unless they are one series."""
    series: dict[tuple[str, str], list[tuple[int, Path]]] = {}
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    for name in names:
        if formats.is_readable_name(name):
            match = NUMBERED.fullmatch(name)
            if not match:
                raise InputError(
                    f"{folder}: {name!r} has no number; choose the frames with a pattern: {folder}/%06d.png"
                )
            series.setdefault((match[1], match[3]), []).append((int(match[2]), folder / name))
    unread = next((name for name in names if formats.is_named_picture(name)), None)
    if not series and unread is not None:
        raise InputError(f"{folder / unread}: {formats.refusal(formats.format_of(folder / unread) or '')}")
    if len(series) != 1:
        found = "no numbered pictures" if not series else f"{len(series)} series of numbered pictures"
        raise InputError(f"{folder} has {found}; choose the frames with a pattern: {folder}/frame_%06d.png")
    return tuple(sorted(next(iter(series.values()))))
