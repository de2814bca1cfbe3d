"""A worker process: upscales, or steadies, the frames of one manifest after another.

    main process                              worker process (this module)
      task pipe    ────── manifest's path ──►   read the manifest, upscale its batches
      result pipe  ◄───── message ───────────   ("ready",)  ("batch", path, number)  ("done", path)
                                                ("failed" | "fatal" | "unusable", path, message)
      status rows  ◄───── row N ─────────────   state, batch, frames, heartbeat

Both pipes and the row belong to this worker alone, so a killed worker blocks no other. After an error the worker
exits, because its device may be unusable from then on. The message tells the main process what to do: "failed",
another attempt may succeed; "fatal", it would fail again; "unusable", the model or the device cannot be used.
"""

import faulthandler
import fcntl
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np

from upscaling.common.errors import UpscaleError, full_disk
from upscaling.common.locks import try_lock
from upscaling.common.memory_limits import OutOfMemory, memory_error
from upscaling.common.system import retain_freed_memory
from upscaling.common.text import LineFormatter, one_line
from upscaling.frames import pixel_formats
from upscaling.frames.conversion import FrameConversion
from upscaling.frames.frame_files import read_frame, write_frame
from upscaling.frames.layout import FrameLayout
from upscaling.inference.engine import BatchUpscaler, make_upscaler
from upscaling.inference.settings import ModelSettings
from upscaling.workers import status
from upscaling.workers.manifest import Manifest, ManifestError
from upscaling.workers.manifest_reader import read_manifest
from upscaling.workers.steadying import steady_batch

MAX_MESSAGE = 1000  # characters; a CUDA error can fill pages, and the log has all of it
log = logging.getLogger("upscaling.worker")


class TaskPipe(Protocol):
    """The reading end of a task pipe: manifests' paths. EOFError from `recv` ends the worker."""

    def poll(self) -> bool: ...
    def recv(self) -> Any: ...


class ResultPipe(Protocol):
    """The writing end of a result pipe: the messages above."""

    def send(self, obj: Any, /) -> None: ...


@dataclass(frozen=True)
class Batch:
    """One batch of a manifest; `names` are its frames without a complete output file."""

    manifest: Manifest
    path: str  # of the manifest
    number: int
    names: tuple[str, ...]
    is_last: bool  # of its manifest


@dataclass(frozen=True)
class SubmittedBatch:
    """A batch that the upscaler works on."""

    batch: Batch
    conversion: FrameConversion
    started: float  # time.monotonic()


# The process


def run_worker(
    index: int, rows: np.ndarray, tasks: TaskPipe, results: ResultPipe, settings: ModelSettings, log_folder: Path
) -> None:
    """Target of a worker process: upscale the manifests whose paths come through `tasks`.

    `rows` are the status rows of all workers, of which this one writes row `index`. Manifests are in
    JOB/manifests, may only name directories within JOB, and are logged in JOB/logs; before the first one the
    worker logs in `log_folder`. The process exits with status 1 after an error.
    """
    retain_freed_memory()
    row = rows[index]
    row["pid"], row["heartbeat"], row["device"] = os.getpid(), time.time(), settings.device.encode()
    row["batch"], row["state"] = -1, status.LOADING
    worker = Worker(index, row, tasks, results, settings)
    try:
        worker.open_log(log_folder)
        worker.run()
    except (BrokenPipeError, EOFError):
        pass  # the main process has ended
    except BaseException as error:
        worker.report_error(error)
        os._exit(1)  # the usual way out can hang on a broken device


class Worker:
    """One worker: its pipes, its status row and its upscaler."""

    def __init__(
        self,
        index: int,
        row: np.void,
        tasks: TaskPipe,
        results: ResultPipe,
        settings: ModelSettings,
        in_job: bool = True,
    ):
        """`in_job`: manifests belong to a job, whose directory is locked; else their directories may be anywhere."""
        self.index, self.row, self.tasks, self.results = index, row, tasks, results
        self.settings, self.in_job = settings, in_job
        self.warm = False  # the first tile is upscaled: until then the network is built
        self.manifest_path = ""  # of the batch in progress, for errors
        self.log_folder: Path | None = None
        self.job: Path | None = None
        self.job_lock = -1  # descriptor

    def run(self) -> NoReturn:
        """Load the model, then upscale until `tasks` ends (EOFError)."""
        upscaler = make_upscaler(self.settings, self.upscaled)
        self.heartbeat()
        self.row["state"] = status.IDLE
        self.results.send(("ready",))
        self._process_tasks(upscaler)

    def heartbeat(self) -> None:
        """Show that the worker makes progress; the pool replaces one that does not for long."""
        self.row["heartbeat"] = time.time()

    def upscaled(self) -> None:
        """The engine's heartbeat: a tile or frame is done."""
        self.heartbeat()
        if not self.warm:
            self.warm, self.row["state"] = True, status.PROCESSING

    def _process_tasks(self, upscaler: BatchUpscaler) -> NoReturn:
        """Upscale the batches of all manifests in order; the next one is submitted before the last is collected."""
        queue: deque[Batch] = deque()
        in_flight: deque[SubmittedBatch] = deque()
        while True:
            while not queue and (not in_flight or self.tasks.poll()):
                queue.extend(self._read_task(self.tasks.recv()))
            if queue and len(in_flight) <= upscaler.depth:
                in_flight.append(self._submit(queue.popleft(), upscaler))
            if in_flight and (len(in_flight) > upscaler.depth or not queue):
                self._collect(in_flight.popleft(), upscaler)

    def _read_task(self, path: str) -> list[Batch]:
        """The batches of a manifest that are to be upscaled; those that are complete are reported as done."""
        self.manifest_path = path
        job = Path(path).parent.parent
        if self.in_job:
            self._lock_job(job)
        self.row["manifest"] = os.path.basename(path).encode("ascii", "replace")
        self.row["state"] = status.PROCESSING if self.warm else status.LOADING
        self.row["start"], self.row["end"] = time.time(), 0
        self.heartbeat()
        manifest = read_manifest(path, job if self.in_job else None)
        batches = list(incomplete_batches(manifest, path))
        self.row["total_batches"] += len(manifest.batches)
        self.row["batches_done"] += len(manifest.batches) - len(batches)
        for number in manifest.batches.keys() - {batch.number for batch in batches}:
            self.results.send(("batch", path, number))  # another worker may have died before it reported this one
        if not batches:
            self._finish_manifest(path)
        return batches

    def _submit(self, batch: Batch, upscaler: BatchUpscaler) -> SubmittedBatch:
        started = time.monotonic()
        self.manifest_path = batch.path
        self.row["batch"] = batch.number
        self.heartbeat()
        if batch.manifest.upscaled_dir is not None:  # `_collect` does the work, in its turn
            first = read_frame(batch.manifest.input_dir / batch.names[0])
            return SubmittedBatch(batch, frame_conversion(batch.manifest, first), started)
        frames = [read_frame(batch.manifest.input_dir / name) for name in batch.names]
        conversion = frame_conversion(batch.manifest, frames[0])
        upscaler.submit(frames, conversion)
        return SubmittedBatch(batch, conversion, started)

    def _collect(self, submitted: SubmittedBatch, upscaler: BatchUpscaler) -> None:
        batch = submitted.batch
        self.manifest_path = batch.path
        count, what = len(batch.names), "frames"
        if batch.manifest.upscaled_dir is not None:
            steady_batch(batch.manifest, batch.names, submitted.conversion, self.heartbeat)
            what = "frames steadied"
        else:
            shape = submitted.conversion.target.padded.stored_shape
            for name, samples in zip(batch.names, upscaler.collect(), strict=True):
                write_frame(batch.manifest.output_dir / name, samples.reshape(shape))
            for note in upscaler.notes:
                log.info("batch %d: %s", batch.number, note)
            self.row["frames_done"] += count
        self.heartbeat()
        log.info("batch %d: %d %s in %.3f s", batch.number, count, what, time.monotonic() - submitted.started)
        self.row["batches_done"] += 1
        self.results.send(("batch", batch.path, batch.number))
        if batch.is_last:
            self._finish_manifest(batch.path)

    def _finish_manifest(self, path: str) -> None:
        self.row["batch"], self.row["state"], self.row["end"] = -1, status.COMPLETED, time.time()
        self.results.send(("done", path))

    def report_error(self, error: BaseException) -> None:
        """Write the error that ends this worker to the log, the status row and the result pipe."""
        error = memory_error(error) or error
        text = error_text(error)
        log.error("manifest %s: %s", self.manifest_path or "none", text, exc_info=error)
        self.row["error"], self.row["state"] = text.encode("utf-8", "replace")[:255], status.ERROR
        kind = "failed"
        final = isinstance(error, UpscaleError | ManifestError) and not isinstance(error, OutOfMemory)
        if full_disk(error) or final:
            kind = "fatal" if self.manifest_path else "unusable"
        try:
            self.results.send((kind, self.manifest_path, text))
        except OSError:
            pass  # the main process has ended

    def _lock_job(self, job: Path) -> None:
        """Lock the job's directory: a later run waits for this worker, which may still write there."""
        if job == self.job:
            return
        lock = os.open(job, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try_lock(lock, fcntl.LOCK_SH)
        if self.job_lock >= 0:
            os.close(self.job_lock)
        self.job, self.job_lock = job, lock
        self.open_log(job / "logs")

    def open_log(self, folder: Path) -> None:
        """Log to `folder`/worker_N.log from now on; everything written to stdout and stderr goes there too."""
        if folder == self.log_folder or not folder.is_dir():
            return
        self.log_folder = folder
        fd = os.open(folder / f"worker_{self.index}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        for standard in (1, 2):
            os.dup2(fd, standard)  # what a library prints when it crashes belongs in the log, not among the bars
        os.close(fd)
        faulthandler.enable()
        if not log.handlers:
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s"))
            log.addHandler(handler)
            log.setLevel(logging.INFO)
        log.info("worker %d, pid %d, on %s", self.index, os.getpid(), self.settings.device)


def error_text(error: BaseException) -> str:
    """An exception in one line, with its class unless the message is written for users."""
    text = one_line(" ".join(str(error).split()))[:MAX_MESSAGE]
    if isinstance(error, UpscaleError | ManifestError):
        return text
    return full_disk(error) or f"{type(error).__name__}: {text}"


# Manifests


def incomplete_batches(manifest: Manifest, path: str) -> Iterator[Batch]:
    """The batches that have frames without an output file. Output files are complete: they are renamed into place."""
    missing = {
        number: tuple(name for name in names if not (manifest.output_dir / name).exists())
        for number, names in manifest.batches.items()
    }
    numbers = [number for number, names in missing.items() if names]
    for number in numbers:
        yield Batch(manifest, path, number, missing[number], number == numbers[-1])


def frame_conversion(manifest: Manifest, first: np.ndarray) -> FrameConversion:
    """The layouts of a manifest's input and output frames; `first` is an input frame as stored."""
    fmt = pixel_formats.pixel_format(manifest.pixel_format)
    width, height = manifest.frame_size or pixel_formats.size_from_shape(fmt, first.shape)
    scale = manifest.scale
    out_width, out_height = manifest.output_size or (scaled(width, scale), scaled(height, scale))
    matrix, colour_range = manifest.colour.split()
    out_matrix, out_range = (manifest.output_colour or manifest.colour).split()
    source = FrameLayout(
        width=width,
        height=height,
        pixel_format=manifest.pixel_format,
        matrix=matrix,
        full_range=colour_range == "full",
        chroma_location=manifest.chroma_location,
    )
    target = replace(
        source,
        width=out_width,
        height=out_height,
        pixel_format=manifest.output_pixel_format or manifest.pixel_format,
        matrix=out_matrix,
        full_range=out_range == "full",
    )
    return FrameConversion(source=source, target=target)


def scaled(side: int, scale: Fraction) -> int:
    """A side in pixels times the scale, rounded to the nearest integer, halves up; at least 1."""
    return max(1, int(side * scale + Fraction(1, 2)))
