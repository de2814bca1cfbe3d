"""Many files, those of a folder or those that the command names, one after the other, with the same workers.

    python upscale.py incoming/ done/ 2 --recursive
    python upscale.py a.mp4 b.mkv c.mov --into done/ 2

Results have the names of their sources; what is finished is recorded (folders/record.py) and passed over next time.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from upscaling.cli.run import Result
from upscaling.common.errors import BusyError, InputError, Stopped, UnsuitableInput
from upscaling.common.memory_limits import memory_error
from upscaling.common.text import many, printable
from upscaling.folders.due import NOT_REGULAR, SkipFile, check_exists, due_key, options_for
from upscaling.folders.estimate import estimate_work
from upscaling.folders.record import RECORD_NAME, Finished
from upscaling.folders.sources import Item, is_special, list_items, unread_lines
from upscaling.job.options import Options
from upscaling.mux.containers import CONTAINERS
from upscaling.pictures import formats
from upscaling.pipeline.checks import check_input, check_writes
from upscaling.pipeline.shape import check_fit
from upscaling.terminal.folder_progress import FolderProgress
from upscaling.terminal.lines import FILE_COUNTS
from upscaling.terminal.progress import Progress
from upscaling.terminal.signals import error_line
from upscaling.workers.pool_cache import PoolCache


def is_folder_run(options: Options) -> bool:
    """Whether the files of INPUT, or several inputs, are done one by one, into the folder OUTPUT."""
    extension = options.output.suffix.lower().lstrip(".")
    is_file = extension in CONTAINERS or formats.is_named_picture(options.output)
    into_folder = options.output.is_dir() or options.into is not None or not is_file
    return bool(options.inputs) or (options.input.is_dir() and into_folder)


def run_folder(options: Options, run: Callable[[Options, PoolCache], Result], progress: Progress) -> tuple[int, dict]:
    """Do every file with `run`; (exit status, facts for Progress.done).

    An error is reported and the next file is done. Stopped (a signal) ends the whole run. The exit status is 1 if a
    file failed, and 75 if other runs held all files that were due.
    """
    started = time.monotonic()
    check_folders(options)
    finished = Finished(options.output / RECORD_NAME)
    unreadable: list[OSError] = []
    unread: list[Path] = []
    items = list_items(options, finished.outputs(), unreadable.append, unread.append)
    check_items(items)
    for line in unread_lines(unread):
        progress.warn(line)
    options.output.mkdir(exist_ok=True)
    with PoolCache(keep=True) as pool_cache:
        counts = FolderRun(options, finished, progress, lambda one: run(one, pool_cache)).run(items)
    for error in unreadable:
        counts["failed"] += 1
        folder = printable(error.filename)
        message = f"cannot read {folder}: {error.strerror}"
        progress.file(input=folder, output=printable(options.output), status="failed", message=message)
    summary = {f"files_{name}": counts[name] for name in FILE_COUNTS}
    seconds = round(time.monotonic() - started, 3)
    status = 1 if counts["failed"] else BusyError.exit_status if counts["busy"] and not counts["done"] else 0
    return status, {"output": printable(options.output), **summary, "seconds": seconds}


def check_folders(options: Options) -> None:
    """InputError if an input cannot be read, the output folder cannot be written, or both are the same."""
    what = "there are several inputs" if options.inputs else "the input is a folder"
    if options.compare is not None or options.frame_rate is not None:
        raise InputError(f"--compare and --frame-rate need one video or picture; {what}")
    if name := next((name for name in ("part", "join", "slurm") if getattr(options, name)), None):
        raise InputError(f"--{name} takes one video; {what}")
    check_fit(options.scale, options.fit)
    parent = options.output.absolute() if options.output.is_dir() else options.output.absolute().parent
    if options.output.exists() and not options.output.is_dir():
        raise InputError(f"{options.output} is not a folder; choose a folder for the results")
    if not parent.is_dir():
        raise InputError(f"output directory {parent} does not exist")
    if not os.access(parent, os.W_OK):
        raise InputError(f"cannot write to {parent}: permission denied")
    for root in options.inputs or (options.input,):
        if root.is_dir() and not os.access(root, os.R_OK | os.X_OK):
            raise InputError(f"cannot read {root}: permission denied")
        if root.is_dir() and options.output.is_dir() and os.path.samefile(root, options.output):
            raise InputError(f"{options.output} is the input folder; choose another folder for the results")
        if not root.exists():
            check_input(root)  # raises the error that says what is wrong


def check_items(items: Sequence[Item]) -> None:
    """InputError if the result of one file would replace a source, also through a link."""
    check_writes((("result", item.output) for item in items), (("a source", item.source) for item in items))


class FolderRun:
    """The files of one run, in order."""

    def __init__(self, options: Options, finished: Finished, progress: Progress, run: Callable[[Options], Result]):
        self.options, self.finished, self.progress, self._run = options, finished, progress, run

    def run(self, items: Sequence[Item]) -> Counter[str]:
        """Do every file that is due; how many files have come to each of FILE_COUNTS."""
        skipped = {item.name: skip for item in items if (skip := self._skip(item)) is not None}
        due = [item.source for item in items if item.name not in skipped]
        self._announce(len(items), len(due), sum(skip.status == "waiting" for skip in skipped.values()))
        self.progress.watcher.folder(len(due))
        folder = FolderProgress(self.options.input.name or "folder", estimate_work(due))
        counts: Counter[str] = Counter()
        for item in items:
            names = {"input": printable(item.source), "output": printable(item.output)}
            if is_special(item.source):
                self.progress.warn(f"{printable(item.source)} {NOT_REGULAR}")
            if skip := skipped.get(item.name):
                status, facts = skip.status, {"message": str(skip)}
            else:
                folder.begin()
                self.progress.folder = folder
                self.progress.watcher.file_begins(names)
                status, facts = self._do(item)
            counts[status] += 1
            facts = names | {"status": status} | facts
            if status != "skipped" or item.named or self.options.verbosity > 0:
                self.progress.file(**facts)
            else:
                self.progress.watcher.file(facts)
        return counts

    def _announce(self, found: int, due: int, waiting: int) -> None:
        options = self.options
        place = printable(options.input) if not options.inputs else f"into {printable(options.output)}"
        if not found and (options.include or options.exclude):
            self.progress.warn(f"{place}: no video or picture is left by --include and --exclude")
        what = many(found, "file")
        self.progress.say(f"{place}: {what if due == found else f'{due} of {what}'} to do")
        if waiting:
            was, left = ("was", "is left") if waiting == 1 else ("were", "are left")
            young = f"{many(waiting, 'file')} {was} changed less than {options.settle:g} s ago"
            self.progress.hint(f"{place}: {young} and {left} for the next run (--settle)")

    def _skip(self, item: Item) -> SkipFile | None:
        """Why there is nothing to do for a file; None if it is due, or if it must be done to see what is wrong."""
        try:
            due_key(item, self.options, self.finished)
        except SkipFile as skip:
            return skip
        except (InputError, OSError):
            pass
        return None

    def _do(self, item: Item) -> tuple[str, dict]:
        """Do one file if it is still due; (one of FILE_COUNTS, facts about it)."""
        key = ""
        try:
            check_exists(item.source)
            before = item.source.stat()
            key = due_key(item, self.options, self.finished)
            item.output.parent.mkdir(parents=True, exist_ok=True)
            result = self._run(options_for(item, self.options))
            after = item.source.stat()
            if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                return "waiting", {"message": "it changed while it was upscaled; the next run does it again"}
            if result.missing_frames:
                return "failed", {"message": result.warnings[-1]}  # not entered: the next run tries it again
            self.finished.add(item, key)
            return "done", result.facts()
        except SkipFile as skip:
            return skip.status, {"message": str(skip)}
        except BusyError as error:
            return "busy", {"message": str(error)}
        except UnsuitableInput as error:
            self.finished.add_unsuitable(item, key)
            name, message = printable(item.source), str(error)
            self.progress.alert(f"passed over from now on: {message if name in message else f'{name}: {message}'}")
            return "skipped", {"message": message}
        except Stopped:
            raise
        except Exception as error:  # whatever is wrong with one file, the others must not wait for the next night
            return "failed", {"message": error_line(memory_error(error) or error)}


def dry_run(options: Options) -> tuple[list[str], dict]:
    """What a run would do with each file, as lines of text and as facts for JSON; nothing is changed."""
    check_folders(options)
    finished = Finished(options.output / RECORD_NAME)
    found = []
    unread: list[Path] = []
    items = list_items(options, finished.outputs(), unread=unread.append)
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
