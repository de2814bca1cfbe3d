"""A folder of videos and pictures, one after the other: what there is to do, what is finished, what failed.

    python upscale.py incoming/ done/ 2 --recursive

Results have the relative names of their sources. What is finished stands in `.upscale-finished.jsonl` in the
output folder: a line for each result, appended and fsynced, never changed, each with its own CRC-32. So a line
costs one write however many results there are, two runs can append at the same time, and a line torn by a power
cut is recognised and costs no more than doing that one file again.
"""

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from upscaling.cli.progress import Progress
from upscaling.cli.signals import error_line
from upscaling.common.errors import BusyError, InputError, Stopped
from upscaling.common.files import append_synced, checked_line, file_identity, parse_checked_line
from upscaling.common.text import printable
from upscaling.encode.containers import CONTAINERS
from upscaling.frames.image_files import EXTENSIONS as PICTURES
from upscaling.frames.image_files import is_picture
from upscaling.job.fingerprint import parameters
from upscaling.job.options import Options
from upscaling.workers.pool_cache import PoolCache

RECORD = ".upscale-finished.jsonl"
VIDEOS = {
    "3g2", "3gp", "asf", "avi", "divx", "dv", "f4v", "flv", "gif", "h264", "h265", "hevc", "m1v", "m2t", "m2ts", "m2v",
    "m4v", "mkv", "mov", "mp4", "mpe", "mpeg", "mpg", "mpv", "mts", "mxf", "nut", "ogm", "ogv", "qt", "rm", "rmvb",
    "ts", "vob", "webm", "wmv", "y4m",
}  # fmt: skip
CONTAINER_ALIASES = {"m4v": "mp4", "qt": "mov"}  # other names of containers that are written
OTHERS = "mkv"  # the container of results whose source's is not written: it holds every stream
MESSAGES = {
    "skipped": "finished before, with the same parameters",
    "there": "the result is there already (--no-clobber)",
    "changing": "it changed while it was upscaled; done again in the next run",
}


@dataclass(frozen=True)
class Item:
    """One source of a folder: `name` is relative to the folder, `output` the path of its result."""

    source: Path
    name: str
    output: Path


def is_folder_run(options: Options) -> bool:
    """Whether INPUT is a folder whose files are done one by one, into the folder OUTPUT."""
    extension = options.output.suffix.lower().lstrip(".")
    return options.input.is_dir() and (options.output.is_dir() or extension not in (*CONTAINERS, *PICTURES))


def run_folder(options: Options, run: Callable, progress: Progress) -> tuple[int, dict]:
    """Do every file of a folder; (exit status, facts for Progress.done). `run(options, crews)` does one.

    Stopped where a signal ends it; other errors are reported and the next file is taken.
    """
    started = time.monotonic()
    check_folders(options)
    finished = Finished(options.output / RECORD)
    items = list(list_items(options, finished))
    counts: Counter[str] = Counter()
    options.output.mkdir(exist_ok=True)
    progress.detail(f"{options.input}: {len(items)} videos and pictures")
    with PoolCache(keep=True) as pool_cache:
        for item in items:
            status, facts = do_item(item, options, finished, lambda one: run(one, pool_cache))
            counts[status] += 1
            facts = {"input": printable(item.source), "output": printable(item.output), "status": status, **facts}
            if status != "skipped" or options.verbosity > 0:
                progress.file(**facts)
    names = ("done", "skipped", "waiting", "busy", "failed")
    summary = {f"files_{name}": counts[name] for name in names}
    seconds = round(time.monotonic() - started, 3)
    return (1 if counts["failed"] else 0), {"output": printable(options.output), **summary, "seconds": seconds}


def check_folders(options: Options) -> None:
    """InputError where the folders can't be what they are said to be."""
    if options.compare is not None or options.frame_rate is not None:
        raise InputError("--compare and --frame-rate are for one job; the input is a folder")
    parent = options.output.absolute() if options.output.is_dir() else options.output.absolute().parent
    if not parent.is_dir():
        raise InputError(f"the output's directory {parent} does not exist; make it first")
    if not os.access(parent, os.W_OK):
        raise InputError(f"the output's directory {parent} may not be written to by this user")
    if not os.access(options.input, os.R_OK | os.X_OK):
        raise InputError(f"{options.input} may not be read by this user")
    if options.output.is_dir() and os.path.samefile(options.input, options.output):
        raise InputError(f"{options.output} is the input folder itself; name another for the results")


def dry_run(options: Options) -> tuple[list[str], dict]:
    """What a run would do with each file: lines for a person, facts for JSON; nothing is touched."""
    check_folders(options)
    finished = Finished(options.output / RECORD)
    found = []
    for item in list_items(options, finished):
        status, message = due(item, options, finished)
        about = {"input": printable(item.source), "output": printable(item.output), "status": status}
        found.append(about if status == "due" else {**about, "message": message})
    lines = [f"{one['status']:<8} {one['input']} -> {one['output']}" for one in found]
    lines.append("For streams, time and disk of one of them, give --dry-run that file.")
    return lines, {"files": found}


def due(item: Item, options: Options, finished: "Finished") -> tuple[str, str]:
    """("due", the key of its result), or (waiting or skipped, why)."""
    age = time.time() - item.source.stat().st_mtime
    if 0 <= age < options.settle:
        return "waiting", f"it changed {age:.0f} s ago and may still be being written (--settle); left for the next run"
    key = job_key(item.source, options)
    if not options.restart and finished.has(item, key):
        return "skipped", MESSAGES["skipped"]
    if options.no_clobber and item.output.exists():
        return "skipped", MESSAGES["there"]
    return "due", key


def do_item(item: Item, options: Options, finished: "Finished", run: Callable) -> tuple[str, dict]:
    """Do one file where that is due: done, skipped, waiting, busy or failed, and facts about it."""
    try:
        before = item.source.stat()
        status, key = due(item, options, finished)
        if status != "due":
            return status, {"message": key}
        item.output.parent.mkdir(parents=True, exist_ok=True)
        result = run(options_for(item, options))
        if _stamp(item.source.stat()) != _stamp(before):
            return "waiting", {"message": MESSAGES["changing"]}
        finished.add(item, key)
        return "done", result.facts()
    except BusyError as error:
        return "busy", {"message": str(error)}
    except Stopped:
        raise
    except Exception as error:  # one file's trouble, whatever it is, must not take the night from the others
        return "failed", {"message": error_line(error)}


def options_for(item: Item, options: Options) -> Options:
    """The options of one file's job; what is asked for videos is not asked of pictures."""
    options = replace(options, input=item.source, output=item.output)
    if not is_picture(item.source):
        return options
    return replace(options, codec="auto", crf=None, preset=None, pix_fmt=None, frames=None, time=None)


def job_key(source: Path, options: Options) -> str:
    """What a result depends on, the input and every parameter, as one SHA-256 in hexadecimal."""
    identity = {"input": file_identity(source), "parameters": parameters(options)}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _stamp(about: os.stat_result) -> tuple[int, int]:
    return about.st_size, about.st_mtime_ns


# Names


def find(options: Options) -> Iterator[Path]:
    """Videos and pictures of the folder; hidden ones, work directories and the results are left out."""
    results = options.output.resolve()
    for folder, folders, files in os.walk(options.input):
        here = Path(folder)
        kept = (name for name in folders if not name.startswith(".") and not name.endswith(".work"))
        folders[:] = sorted(name for name in kept if options.recursive and (here / name).resolve() != results)
        for name in sorted(files):
            extension = Path(name).suffix.lower().lstrip(".")
            if not name.startswith(".") and (extension in VIDEOS or extension in PICTURES):
                yield here / name


def list_items(options: Options, finished: "Finished") -> Iterator[Item]:
    """Every source with its output: the name that it had before, else its own, else one that no other has."""
    sources = {source.relative_to(options.input).as_posix(): source for source in find(options)}
    names = result_names(sources, finished.outputs(), options.container)
    # Pictures last: they are content with the crew of a video, a video not with that of a picture.
    for name, source in sorted(sources.items(), key=lambda one: is_picture(one[1])):
        yield Item(source, name, options.output.absolute() / names[name])


def result_names(sources: Iterable[str], before: dict[str, str], container: str) -> dict[str, str]:
    """The result's name of each source, all relative: `a.avi` gives `a.mkv`, or `a.avi.mkv` where that is taken.

    `before` has the names that sources had: they keep them, whatever has come since. A source whose name
    does not change comes first.
    """
    named: dict[str, str] = {}
    taken: set[str] = set()
    wanted = {source: _wanted(source, container) for source in sources}
    for source in sorted(wanted, key=lambda one: (before.get(one) is None, wanted[one] != one, one)):
        same_kind = PurePosixPath(before.get(source, "")).suffix == PurePosixPath(wanted[source]).suffix
        candidates = [before[source]] if source in before and same_kind else []
        candidates += [wanted[source], source + PurePosixPath(wanted[source]).suffix]
        named[source] = next((name for name in candidates if name not in taken), f"{source}.{container}.{OTHERS}")
        taken.add(named[source])
    return named


def _wanted(source: str, container: str) -> str:
    path = PurePosixPath(source)
    extension = path.suffix.lower().lstrip(".")
    if extension in PICTURES:
        return source
    kind = container if container != "auto" else CONTAINER_ALIASES.get(extension, extension)
    if kind not in CONTAINERS:
        kind = OTHERS
    return source if kind == extension else str(path.with_suffix(f".{kind}"))


# The record of finished ones


class Finished:
    """The results that are finished: a file of lines that is only appended to, see the module's first lines."""

    def __init__(self, path: Path):
        self.path = path
        self._by_name: dict[str, dict] = {}
        try:
            lines = path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        except OSError as error:
            raise InputError(f"{path} can't be read: {error.strerror}") from error
        for line in lines:
            record = _parse(line)
            if record is not None:
                self._by_name[record["source"]] = record

    def outputs(self) -> dict[str, str]:
        """The result's relative name of every source that was finished once."""
        return {name: record["output"] for name, record in self._by_name.items()}

    def has(self, item: Item, key: str) -> bool:
        """Whether that source was done with the same key, and its result is still there."""
        record = self._by_name.get(item.name)
        return record is not None and record["key"] == key and item.output.is_file()

    def add(self, item: Item, key: str) -> None:
        """Enter a result; on the disk when this returns."""
        output = os.path.relpath(item.output, self.path.absolute().parent)
        record = {"source": item.name, "output": output, "key": key}
        self._by_name[item.name] = record
        append_synced(self.path, "\n" + checked_line(record))  # a line break first: the last line may be torn


def _parse(line: bytes) -> dict | None:
    """A record's values, all text; None if the line is torn or holds anything else."""
    record = parse_checked_line(line)
    if isinstance(record, dict) and all(isinstance(record.get(name), str) for name in ("source", "output", "key")):
        return record
    return None
