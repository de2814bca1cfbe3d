"""A folder of videos and pictures, one file after the other, with the same workers.

    python upscale.py incoming/ done/ 2 --recursive

Results have the relative names of their sources. `.upscale-finished.jsonl` in the output folder records what is
finished: one line per result with its own CRC-32, appended and fsynced, never changed. So a line costs one write
however many results there are, two runs can append at the same time, and a line torn by a power cut is detected
and costs no more than doing that one file again.
"""

import hashlib
import json
import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath

from upscaling.cli.run import Result
from upscaling.common.errors import BusyError, InputError, Stopped
from upscaling.common.files import append_synced, checked_line, file_identity, parse_checked_line
from upscaling.common.memory_limits import memory_error
from upscaling.common.text import many, printable
from upscaling.job.options import Options
from upscaling.mux.containers import CONTAINERS
from upscaling.pictures import formats
from upscaling.pictures.writing import EXTENSIONS as PICTURES
from upscaling.pictures.writing import is_picture
from upscaling.pipeline.checks import VIDEO_OPTIONS, check_overwritten, check_writes
from upscaling.pipeline.plan import requested_parameters
from upscaling.pipeline.shape import check_fit
from upscaling.terminal.progress import FILE_COUNTS, Progress
from upscaling.terminal.signals import error_line
from upscaling.workers.pool_cache import PoolCache

RECORD_NAME = ".upscale-finished.jsonl"
VIDEOS = {
    "3g2", "3gp", "asf", "avi", "divx", "dv", "f4v", "flv", "h264", "h265", "hevc", "m1v", "m2t", "m2ts", "m2v",
    "m4v", "mkv", "mov", "mp4", "mpe", "mpeg", "mpg", "mpv", "mts", "mxf", "nut", "ogm", "ogv", "qt", "rm", "rmvb",
    "ts", "vob", "webm", "wmv", "y4m",
}  # fmt: skip
CONTAINER_ALIASES = {"m4v": "mp4", "qt": "mov"}  # other extensions of containers that can be written
MAX_NAMES = 5  # of pictures that are passed over, in a line
NOT_REGULAR = "is not a regular file and is passed over"
DEFAULT_CONTAINER = "mkv"  # for sources whose container cannot be written: it holds every kind of stream
DEFAULT_PICTURE = "png"  # for pictures whose format cannot be written: it holds every kind of sample
MOVING = ("gif", "apng")  # animations; --container makes videos of them
OWN_FOLDERS = (".work", ".parts")  # ends of the names of work directories and of parts


@dataclass(frozen=True)
class Item:
    """One source of a folder: `name` is its path relative to the folder, `output` the path of its result."""

    source: Path
    name: str
    output: Path


class SkipFile(Exception):
    """This run leaves a file alone; `status` is "waiting" or "skipped", the message says why."""

    def __init__(self, status: str, message: str):
        super().__init__(message)
        self.status = status


def is_folder_run(options: Options) -> bool:
    """Whether INPUT is a folder whose files are done one by one, into the folder OUTPUT."""
    extension = options.output.suffix.lower().lstrip(".")
    is_file = extension in CONTAINERS or formats.is_named_picture(options.output)
    return options.input.is_dir() and (options.output.is_dir() or not is_file)


def run_folder(options: Options, run: Callable[[Options, PoolCache], Result], progress: Progress) -> tuple[int, dict]:
    """Do every file of a folder with `run`; (exit status, facts for Progress.done).

    An error is reported and the next file is done. Stopped (a signal) ends the whole run. The exit status is 1 if a
    file failed, and 75 if other runs held all files that were due.
    """
    started = time.monotonic()
    check_folders(options)
    finished = Finished(options.output / RECORD_NAME)
    unreadable: list[OSError] = []
    unread: list[Path] = []
    items = list_items(options, finished, unreadable.append, unread.append)
    check_items(items)
    counts: Counter[str] = Counter()
    options.output.mkdir(exist_ok=True)
    progress.detail(f"{printable(options.input)}: {many(len(items), 'video or picture file')}")
    for line in unread_lines(unread):
        progress.warn(line)
    with PoolCache(keep=True) as pool_cache:
        for item in items:
            if is_special(item.source):
                progress.warn(f"{printable(item.source)} {NOT_REGULAR}")
            status, facts = do_item(item, options, finished, lambda one: run(one, pool_cache))
            counts[status] += 1
            facts = {"input": printable(item.source), "output": printable(item.output), "status": status, **facts}
            if status != "skipped" or options.verbosity > 0:
                progress.file(**facts)
    for error in unreadable:
        counts["failed"] += 1
        folder = printable(error.filename)
        message = f"cannot read {folder}: {error.strerror}"
        progress.file(input=folder, output=printable(options.output), status="failed", message=message)
    summary = {f"files_{name}": counts[name] for name in FILE_COUNTS}
    seconds = round(time.monotonic() - started, 3)
    status = 1 if counts["failed"] else BusyError.exit_status if counts["busy"] and not counts["done"] else 0
    return status, {"output": printable(options.output), **summary, "seconds": seconds}


def unread_lines(unread: Iterable[Path]) -> list[str]:
    """A line for each format that is not read, with the first of its files."""
    found: dict[str, list[Path]] = {}
    for path in unread:
        found.setdefault(formats.format_of(path) or "", []).append(path)
    lines = []
    for name, paths in sorted(found.items()):
        names = ", ".join(printable(path.name) for path in paths[:MAX_NAMES]) + (", …" if paths[MAX_NAMES:] else "")
        lines.append(f"{many(len(paths), 'picture')} passed over ({names}): {formats.refusal(name)}")
    return lines


def check_folders(options: Options) -> None:
    """InputError if the input folder cannot be read, the output folder cannot be written, or both are the same."""
    if options.compare is not None or options.frame_rate is not None:
        raise InputError("--compare and --frame-rate need one video or picture; the input is a folder")
    check_fit(options.scale, options.fit)
    parent = options.output.absolute() if options.output.is_dir() else options.output.absolute().parent
    if not parent.is_dir():
        raise InputError(f"output directory {parent} does not exist")
    if not os.access(parent, os.W_OK):
        raise InputError(f"cannot write to {parent}: permission denied")
    if not os.access(options.input, os.R_OK | os.X_OK):
        raise InputError(f"cannot read {options.input}: permission denied")
    if options.output.is_dir() and os.path.samefile(options.input, options.output):
        raise InputError(f"{options.output} is the input folder; choose another folder for the results")


def check_items(items: Sequence[Item]) -> None:
    """InputError if the result of one file would replace a source, also through a link."""
    check_writes((("result", item.output) for item in items), (("a source", item.source) for item in items))


def is_special(path: Path) -> bool:
    """Whether a path is that of a FIFO, socket or device, which must not even be opened: that could wait for ever."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False  # the error shows when it is opened


def dry_run(options: Options) -> tuple[list[str], dict]:
    """What a run would do with each file, as lines of text and as facts for JSON; nothing is changed."""
    check_folders(options)
    finished = Finished(options.output / RECORD_NAME)
    found = []
    unread: list[Path] = []
    items = list_items(options, finished, unread=unread.append)
    check_items(items)
    for item in items:
        facts = {"input": printable(item.source), "output": printable(item.output)}
        try:
            due_key(item, options, finished)
            found.append({**facts, "status": "due"})
        except SkipFile as skip:
            found.append({**facts, "status": skip.status, "message": str(skip)})
        except (InputError, OSError) as error:
            found.append({**facts, "status": "failed", "message": error_line(error)})
    lines = [
        f"{one['status']:<8} {one['input']} -> {one['output']}"
        + (f" ({one['message']})" if one["status"] in ("failed", "skipped") else "")
        for one in found
    ]
    lines += unread_lines(unread)
    lines.append("Use --dry-run with one of the files to see its streams, time and disk space.")
    return lines, {"files": found}


def due_key(item: Item, options: Options, finished: "Finished") -> str:
    """The key of a file's result (`job_key`); SkipFile if this run has nothing to do for the file."""
    if is_special(item.source):
        raise SkipFile("skipped", f"{printable(item.source)} {NOT_REGULAR}")
    age = time.time() - item.source.stat().st_mtime
    if 0 <= age < options.settle:
        raise SkipFile("waiting", f"modified {age:.0f} s ago, may be incomplete (--settle); the next run takes it")
    key = job_key(item.source, options)
    if not options.restart and finished.has(item, key):
        raise SkipFile("skipped", "finished before with the same parameters")
    if options.no_clobber and item.output.exists():
        raise SkipFile("skipped", f"{printable(item.output)} exists, skipped (--no-clobber)")
    check_overwritten([item.output], options.overwrite)
    return key


def do_item(item: Item, options: Options, finished: "Finished", run: Callable[[Options], Result]) -> tuple[str, dict]:
    """Do one file if it is due; (one of FILE_COUNTS, facts about it)."""
    try:
        before = item.source.stat()
        key = due_key(item, options, finished)
        item.output.parent.mkdir(parents=True, exist_ok=True)
        result = run(options_for(item, options))
        after = item.source.stat()
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            return "waiting", {"message": "it changed while it was upscaled; the next run does it again"}
        if result.missing_frames:
            return "failed", {"message": result.warnings[-1]}  # not entered: the next run tries it again
        finished.add(item, key)
        return "done", result.facts()
    except SkipFile as skip:
        return skip.status, {"message": str(skip)}
    except BusyError as error:
        return "busy", {"message": str(error)}
    except Stopped:
        raise
    except Exception as error:  # whatever is wrong with one file, the others must not wait for the next night
        return "failed", {"message": error_line(memory_error(error) or error)}


def options_for(item: Item, options: Options) -> Options:
    """The options of one file's job; options for videos do not apply to pictures."""
    options = replace(options, input=item.source, output=item.output)
    if not is_picture(item.output):
        return options
    defaults = {one.name: one.default for one in fields(Options) if one.name in (*VIDEO_OPTIONS, "frames", "time")}
    return replace(options, **defaults)


def job_key(source: Path, options: Options) -> str:
    """SHA-256, in hexadecimal, of everything that the result depends on: the input and every parameter."""
    identity = {"input": file_identity(source), "parameters": requested_parameters(options)}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


# Sources and the names of their results


def find_sources(
    options: Options, unreadable: Callable[[OSError], None] | None, unread: Callable[[Path], None]
) -> Iterator[Path]:
    """Videos and pictures of the folder, without hidden files, work directories and the results.

    `unreadable` is called with the error of each folder that cannot be listed, `unread` with each picture of a format
    that is not read.
    """
    results = options.output.resolve()
    for folder, folders, files in os.walk(options.input, onerror=unreadable):
        here = Path(folder)
        ours = (name for name in folders if not name.startswith(".") and not name.endswith(OWN_FOLDERS))
        folders[:] = sorted(name for name in ours if options.recursive and (here / name).resolve() != results)
        for name in sorted(files):
            if not name.startswith(".") and (formats.ending(name) in VIDEOS or formats.is_readable_name(name)):
                yield here / name
            elif not name.startswith(".") and formats.is_named_picture(name):
                unread(here / name)


def list_items(
    options: Options,
    finished: "Finished",
    unreadable: Callable[[OSError], None] | None = None,
    unread: Callable[[Path], None] = lambda path: None,
) -> list[Item]:
    """Every source with its output, videos first.

    Pictures run on the worker pool of a video, a video does not run on that of a picture, which may be smaller.
    """
    sources = {
        source.relative_to(options.input).as_posix(): source for source in find_sources(options, unreadable, unread)
    }
    names = result_names(sources, finished.outputs(), options.container)
    return [
        Item(source, name, options.output.absolute() / names[name])
        for name, source in sorted(sources.items(), key=lambda one: formats.is_readable_name(one[1]))
    ]


def result_names(sources: Iterable[str], before: dict[str, str], container: str) -> dict[str, str]:
    """{source: its result's relative name}: `a.mkv` for `a.avi`, or `a.avi.mkv` if `a.mkv` is taken.

    `before` has the names of earlier runs, which stay, whatever files were added since. Then sources whose name
    does not change choose before the others.
    """
    named: dict[str, str] = {}
    taken: set[str] = set()
    wanted = {source: _wanted(source, container) for source in sources}
    for source in sorted(wanted, key=lambda one: (before.get(one) is None, wanted[one] != one, one)):
        same_kind = PurePosixPath(before.get(source, "")).suffix == PurePosixPath(wanted[source]).suffix
        candidates = [before[source]] if source in before and same_kind else []
        candidates += [wanted[source], source + PurePosixPath(wanted[source]).suffix]
        named[source] = next(
            (name for name in candidates if name not in taken), f"{source}.{container}.{DEFAULT_CONTAINER}"
        )
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


# The record of finished results


class Finished:
    """The record of finished results, a file that is only appended to; see the head of this module."""

    def __init__(self, path: Path):
        self.path = path
        self._by_name: dict[str, dict] = {}
        try:
            lines = path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        for line in lines:
            record = _parse(line)
            if record is not None:
                self._by_name[record["source"]] = record

    def outputs(self) -> dict[str, str]:
        """{source: its result's relative name} of every recorded result."""
        return {name: record["output"] for name, record in self._by_name.items()}

    def has(self, item: Item, key: str) -> bool:
        """Whether the source was done with the same key and its result still exists."""
        record = self._by_name.get(item.name)
        return record is not None and record["key"] == key and item.output.is_file()

    def add(self, item: Item, key: str) -> None:
        """Record a result; it is on the disk when this returns."""
        output = os.path.relpath(item.output, self.path.absolute().parent)
        record = {"source": item.name, "output": output, "key": key}
        self._by_name[item.name] = record
        append_synced(self.path, "\n" + checked_line(record))  # a line break first: the last line may be torn


def _parse(line: bytes) -> dict | None:
    """A record, whose values are all text; None if the line is torn or holds anything else."""
    record = parse_checked_line(line)
    if isinstance(record, dict) and all(isinstance(record.get(name), str) for name in ("source", "output", "key")):
        return record
    return None
