"""The sources of a run over many files, and the names of their results."""

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain, count
from pathlib import Path, PurePosixPath

from upscaling.common.text import many, printable
from upscaling.job.options import Options
from upscaling.mux.containers import CONTAINERS
from upscaling.pictures import formats
from upscaling.pictures.writing import EXTENSIONS as PICTURES

VIDEOS = {
    "3g2", "3gp", "asf", "avi", "divx", "dv", "f4v", "flv", "h264", "h265", "hevc", "m1v", "m2t", "m2ts", "m2v",
    "m4v", "mkv", "mov", "mp4", "mpe", "mpeg", "mpg", "mpv", "mts", "mxf", "nut", "ogm", "ogv", "qt", "rm", "rmvb",
    "ts", "vob", "webm", "wmv", "y4m",
}  # fmt: skip
CONTAINER_ALIASES = {"m4v": "mp4", "qt": "mov"}  # other extensions of containers that can be written
DEFAULT_CONTAINER = "mkv"  # for sources whose container cannot be written: it holds every kind of stream
DEFAULT_PICTURE = "png"  # for pictures whose format cannot be written: it holds every kind of sample
MOVING = ("gif", "apng")  # animations; --container makes videos of them
MAX_NAMES = 5  # of pictures that are passed over, in a line
OWN_FOLDERS = (".work", ".parts")  # ends of the names of work directories and of parts

OnError = Callable[[OSError], None]  # takes the error of each folder that cannot be listed
OnUnread = Callable[[Path], None]  # takes each picture of a format that is not read


@dataclass(frozen=True)
class Item:
    """One source and its result.

    `name` is the source's path relative to the input folder; of an input that the command names, its absolute path.
    """

    source: Path
    name: str
    output: Path
    named: bool = False  # by the command


def list_items(
    options: Options,
    before: Mapping[str, str],
    unreadable: OnError | None = None,
    unread: OnUnread = lambda path: None,
) -> list[Item]:
    """Every source with its output, videos first. `before` is {name: its result's relative name} of earlier runs.

    Pictures run on the worker pool of a video, a video does not run on that of a picture, which may be smaller.
    """
    sources: dict[str, Path] = {}
    wishes: dict[str, str] = {}  # the relative path that the result takes its name from
    named: set[str] = set()
    for root in options.inputs or (options.input,):
        is_folder = root.is_dir()
        for path in find_sources(root, options, unreadable, unread) if is_folder else [root]:
            wish = path.relative_to(root).as_posix() if is_folder else path.name
            name = os.path.realpath(path) if options.inputs else wish
            if is_folder or is_wanted(PurePosixPath(wish), options):
                sources.setdefault(name, path)
                wishes.setdefault(name, wish)
                named |= set() if is_folder else {name}
    names = result_names(wishes, before, options.container)
    return [
        Item(source, name, options.output.absolute() / names[name], name in named)
        for name, source in sorted(sources.items(), key=lambda one: formats.is_readable_name(one[1]))
    ]


def find_sources(root: Path, options: Options, unreadable: OnError | None, unread: OnUnread) -> Iterator[Path]:
    """Videos and pictures of a folder, without hidden files, work directories, the results and what is excluded."""
    results = options.output.resolve()
    for folder, folders, files in os.walk(root, onerror=unreadable):
        here, relative = Path(folder), PurePosixPath(os.path.relpath(folder, root))
        ours = (name for name in folders if not name.startswith(".") and not name.endswith(OWN_FOLDERS))
        folders[:] = sorted(
            name
            for name in ours
            if options.recursive
            and (here / name).resolve() != results
            and not _matches(relative / name, options.exclude)
        )
        for name in sorted(files):
            if name.startswith(".") or not is_wanted(relative / name, options):
                continue
            if formats.ending(name) in VIDEOS or formats.is_readable_name(name):
                yield here / name
            elif formats.is_named_picture(name):
                unread(here / name)


def is_wanted(path: PurePosixPath, options: Options) -> bool:
    """Whether --include and --exclude leave a file, named by its path in the folder."""
    return (not options.include or _matches(path, options.include)) and not _matches(path, options.exclude)


def _matches(path: PurePosixPath, patterns: tuple[str, ...]) -> bool:
    """Whether a pattern matches the path if it has a slash, else the name; upper and lower case are the same."""
    return any(
        fnmatchcase(str(path if "/" in pattern.rstrip("/") else path.name).lower(), pattern.rstrip("/").lower())
        for pattern in patterns
    )


def unread_lines(unread: Sequence[Path]) -> list[str]:
    """A line for each format that is not read, with the first of its files."""
    found: dict[str, list[Path]] = {}
    for path in unread:
        found.setdefault(formats.format_of(path) or "", []).append(path)
    lines = []
    for name, paths in sorted(found.items()):
        names = ", ".join(printable(path.name) for path in paths[:MAX_NAMES]) + (", …" if paths[MAX_NAMES:] else "")
        lines.append(f"{many(len(paths), 'picture')} passed over ({names}): {formats.refusal(name)}")
    return lines


def is_special(path: Path) -> bool:
    """Whether a path is that of a FIFO, socket or device, which must not even be opened: that could wait for ever."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False  # the error shows when it is opened


# Names of results


def result_names(wishes: Mapping[str, str], before: Mapping[str, str], container: str) -> dict[str, str]:
    """{source: its result's relative name}: `a.mkv` for `a.avi`, or `a.avi.mkv` if `a.mkv` is taken.

    `wishes` are the sources' relative paths. `before` has the names of earlier runs, which stay, whatever files were
    added since, and are taken for sources that are not here now. Then sources whose name does not change choose before
    the others.
    """
    named: dict[str, str] = {}
    taken = {name for source, name in before.items() if source not in wishes}
    wanted = {source: _wanted(wish, container) for source, wish in wishes.items()}
    for source in sorted(wanted, key=lambda one: (before.get(one) is None, wanted[one] != wishes[one], one)):
        kind = PurePosixPath(wanted[source]).suffix
        earlier = [before[source]] if PurePosixPath(before.get(source, "")).suffix == kind else []
        numbered = (f"{wishes[source]}-{number}{kind}" for number in count(2))
        candidates = chain(earlier, [wanted[source], wishes[source] + kind], numbered)
        named[source] = next(name for name in candidates if name not in taken)
        taken.add(named[source])
    return named


def _wanted(source: str, container: str) -> str:
    path = PurePosixPath(source)
    extension = formats.ending(source)
    if extension in PICTURES and (extension not in MOVING or container == "auto"):
        return source
    if formats.is_readable_name(source) and extension not in MOVING:
        return str(path.with_suffix(f".{DEFAULT_PICTURE}"))
    kind = container if container != "auto" else CONTAINER_ALIASES.get(extension, extension)
    if kind not in CONTAINERS:
        kind = DEFAULT_CONTAINER
    return source if kind == extension else str(path.with_suffix(f".{kind}"))
