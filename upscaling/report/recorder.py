"""Gathers what a run reports and writes the page of --report: at the start, now and then, and at the end.

A page that cannot be written is one warning: no run fails because of its report.
"""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from upscaling.common.errors import BusyError, Stopped
from upscaling.common.files import replacing
from upscaling.common.locks import claim_name
from upscaling.common.text import display_name, printable
from upscaling.job.options import Options
from upscaling.report.page import page
from upscaling.report.record import DONE, FAILED, INTERRUPTED, LARGE_FILES, FileRecord, RunRecord
from upscaling.report.speed import Share
from upscaling.terminal.watcher import Watcher

if TYPE_CHECKING:
    from upscaling.pipeline.frame_store import FrameStore
    from upscaling.pipeline.plan import Plan
    from upscaling.pipeline.stages import Look, RunCounts
    from upscaling.report.pictures import Looker
    from upscaling.workers.status import WorkerFrames

UPDATE_SECONDS = 30.0  # between two pages while a job runs
MOST_SHARE = 0.05  # of the time may go into writing pages
EXIT_SECONDS = 1.0  # that a page may take if a thread ends the process
MOST_PICTURE_BYTES = 24 << 20  # of older ones: then the oldest go without


class Recorder(Watcher):
    """The report of one run. Everything but `look` happens in the main thread, or in the one that ends the process."""

    def __init__(self, options: Options, warn: Callable[[str], None]):
        """`warn` takes the line about a page that cannot be written."""
        assert options.report is not None
        self.path = Path(os.path.realpath(options.report))  # a link stays one
        self._options, self._warn = options, warn
        log = options.log_file
        several = f"{len(options.inputs)} inputs" if options.inputs else ""
        self.run = RunRecord(
            name=several or printable(options.input.absolute().name),
            source=several or printable(options.input),
            output=printable(options.output),
            log_file=printable(log.absolute()) if log else "",
        )
        self._file: FileRecord | None = None  # the current one
        self._output: Path | None = None  # of the current job
        self._looker: Looker | None = None
        self._counts: RunCounts | None = None
        self._rows = None
        self._worker_frames: WorkerFrames | None = None
        self._began = time.monotonic()
        self._written = float("-inf")  # time.monotonic() of the last page
        self._cost = 0.0  # seconds that it took
        self._due = False  # a page was put off
        self._claim: int | None = None
        self._is_mine = True
        self._has_warned = False

    # Events

    def folder(self, files: int) -> None:
        self.run.is_folder, self.run.due = True, files
        self._write()

    def file_begins(self, facts: dict) -> None:
        self._file = FileRecord(facts["input"], facts["output"])
        self._output = None
        self.run.files.append(self._file)

    def start(self, facts: dict) -> None:
        if not self.run.is_folder or self._file is None:
            self.file_begins(facts)
        assert self._file is not None
        self._file.facts = facts
        self._file.total = facts["frames"]
        self._write()

    def plan(self, plan: "Plan") -> "Look | None":
        self._guarded(lambda: self._take_plan(plan))
        self._write()
        return self._look if self._looker is not None else None

    def _take_plan(self, plan: "Plan") -> None:
        from upscaling.report.facts import describe_streams, details, input_bytes
        from upscaling.report.pictures import Looker

        file = self._file
        assert file is not None
        file.details, file.input_bytes = details(plan), input_bytes(plan)
        file.streams = describe_streams(plan)
        self._output = plan.output
        self._looker, self._counts, self._rows, self._worker_frames = Looker(plan), None, None, None

    def _look(self, number: int, frames: "FrameStore") -> None:
        """For the encode thread."""
        looker, file = self._looker, self._file
        if looker is None or file is None:
            return
        try:
            looker.look(number, frames)
        except Exception as error:  # whatever it is, the run goes on
            file.no_pictures = f"No pictures: {type(error).__name__}: {error}"
            self._looker = None

    def line(self, level: int, line: str) -> None:
        (self._file or self.run).messages.add(level, line)

    def show(self, counts: "RunCounts", rows) -> None:
        from upscaling.workers.status import WorkerFrames

        if self._counts is not counts:
            self._counts, self._rows, self._worker_frames = counts, rows, WorkerFrames(rows)
        self._guarded(self._count)
        if time.monotonic() - self._written >= UPDATE_SECONDS or self._due:
            self._write()

    def file(self, facts: dict) -> None:
        status, message = facts["status"], facts.get("message", "")
        file = self._file
        if file is None or file.source != facts["input"]:
            if status != FAILED:
                self.run.passed_over.setdefault(message, []).append(facts["input"])
                return
            file = FileRecord(facts["input"], facts["output"])
            self.run.files.append(file)
        file.status, file.message = status, message
        self._end_file(facts)
        self._write()

    def done(self, facts: dict) -> None:
        if facts.get("skipped"):
            return  # an earlier page may say how the output was made
        self.run.status = FAILED if self.run.count(FAILED) else DONE
        if self._file is None and not self.run.is_folder:
            self.file_begins({"input": printable(self._options.input), "output": facts["output"]})
        if self._file is not None:
            self._file.status = DONE
            self._end_file(facts)
        self._end()

    def failed(self, message: str, exit_status: int) -> None:
        self.run.status = INTERRUPTED if exit_status > 128 else FAILED
        self.run.message = message
        if self._file is not None:
            self._file.status = self.run.status
            self._file.message = message if self.run.status == FAILED else ""
            self._guarded(lambda: self._end_file({}))
        if threading.current_thread() is threading.main_thread():
            self._end()
        else:  # the main thread hangs, perhaps because of a disk
            thread = threading.Thread(target=self._end, daemon=True)
            thread.start()
            thread.join(EXIT_SECONDS)

    def finish(self) -> None:
        if self._claim is not None and self._claim >= 0:
            os.close(self._claim)
        self._claim = None

    # Gathering

    def _count(self, last: bool = False, joined: bool = False) -> None:
        """Take the counts of the job that runs; `joined`: its output was written since its last frame."""
        file, counts = self._file, self._counts
        if file is None or counts is None:
            return
        file.frames, file.resumed, file.repeated = counts.done, counts.resumed, counts.repeated
        file.total, file.restarts = counts.total, counts.restarts
        if not joined:
            file.seconds, file.rate = counts.seconds, counts.rate if counts.done > counts.resumed else 0.0
        file.speed.add(file.seconds, counts.done - counts.resumed, counts.restarts, last)
        if self._worker_frames is not None and self._rows is not None:
            devices = [row["device"].decode("utf-8", "replace") for row in self._rows]
            file.shares = [
                Share(devices[index], self._worker_frames.done(index, row), int(row["restarts"]))
                for index, row in enumerate(self._rows)
            ]

    def _end_file(self, facts: dict) -> None:
        """Take what is known at the end of the current file; `facts` are those of its result, if there is one."""
        file, looker = self._file, self._looker
        self._guarded(lambda: self._count(last=True, joined="frames" in facts))
        self._file = self._looker = self._counts = self._rows = self._worker_frames = None
        if file is None:
            return
        if "frames" in facts:
            file.output, file.frames = facts["output"], facts["frames"]
            file.seconds, file.rate = facts["seconds"], facts["frames_per_second"]
            for line in facts["warnings"]:
                if line not in [known for _, known in file.messages.warnings.lines]:
                    file.messages.warnings.add(line)
            self._guarded(lambda: self._take_output(file))
        if looker is not None:
            self._guarded(lambda: self._take_pictures(file, looker))
        self._bound_pictures()

    def _take_output(self, file: FileRecord) -> None:
        from upscaling.report.facts import output_bytes

        file.output_bytes = output_bytes(self._output) if self._output is not None else None

    def _take_pictures(self, file: FileRecord, looker: "Looker") -> None:
        file.pictures = looker.pictures()
        if file.pictures is None and not file.no_pictures:
            file.no_pictures = "No pictures: this run has upscaled no frame."

    def _bound_pictures(self) -> None:
        """Keep the page usable: older pictures are small, and the oldest go."""
        with_pictures = [file for file in self.run.files if file.pictures is not None]
        older = with_pictures[:-LARGE_FILES]
        size = 0
        for file in reversed(older):
            assert file.pictures is not None
            if file.pictures.is_large:
                file.pictures = file.pictures.smaller
            size += file.pictures.size
            if size > MOST_PICTURE_BYTES:
                file.pictures, file.no_pictures = None, "No pictures: the page would be too large."

    # Writing

    def _end(self) -> None:
        self.run.ended = True
        self.run.seconds = time.monotonic() - self._began
        self._write(last=True)

    def _write(self, last: bool = False) -> None:
        """Write the page, or put that off if it would take too much of the run's time."""
        now = time.monotonic()
        self._due = now - self._written < self._cost / MOST_SHARE
        if self._due and not last:
            return
        self._guarded(lambda: self._replace(last))
        self._written, self._cost = time.monotonic(), time.monotonic() - now
        self._due = False

    def _replace(self, last: bool) -> None:
        if self._claim is None and self._is_mine:
            self._take_claim()
        if not self._is_mine:
            return
        if self._file is not None and self._looker is not None:
            self._file.pictures = self._looker.pictures()
        self.run.written = time.time()
        self.run.seconds = time.monotonic() - self._began
        text = page(self.run)
        with replacing(self.path, sync=last) as file:
            file.write(text.encode("utf-8", "replace"))

    def _take_claim(self) -> None:
        try:
            self._claim = claim_name(self.path)
        except BusyError:
            self._is_mine = False
            self._warn_once("another run is writing it")

    def _guarded(self, action: Callable[[], None]) -> None:
        """Do something of which no error may reach the run."""
        try:
            action()
        except Stopped:
            raise
        except OSError as error:
            self._warn_once(error.strerror or str(error))
        except Exception as error:
            self._warn_once(f"{type(error).__name__}: {error}")

    def _warn_once(self, reason: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            self._warn(f"cannot write --report {display_name(self.path)}: {reason}; the run goes on without it")
