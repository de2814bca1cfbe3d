"""A worker's whole life: the process that upscales frames, manifest after manifest.

    python worker.py MANIFEST          # one manifest by itself

    main process                              worker process (this file)
      tasks pipe (one a worker) ── path ───►  read manifest, upscale batch after batch
      results pipe (one a worker) ◄─ message ─  ("ready",) ("batch", path, n) ("done", path)
                                                ("failed", path, why) ("fatal", path, why) ("unusable", "", why)
      status array ◄──────────── row N ───────  state, batch, frames, heartbeat

Nothing that a worker can hold is shared with another: if it is killed, only its own pipes and row are left
behind. It ends when its main process does, in whatever it is at that moment. After an error that another try
may not meet ("failed") it ends too, because a device may be unusable from then on; after one that every try
would meet ("fatal", or "unusable" for the model itself) the main process ends the run.
"""

import faulthandler
import fcntl
import logging
import os
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from upscaling.common.errors import UpscaleError, full_disk
from upscaling.common.system import retain_freed_memory
from upscaling.frames import pixel_formats
from upscaling.frames.conversion import FrameConversion
from upscaling.frames.frame_files import read_frame, write_frame
from upscaling.frames.layout import FrameLayout
from upscaling.inference.engine import make_upscaler
from upscaling.inference.settings import ModelSettings
from upscaling.workers import manifest as manifests
from upscaling.workers import status
from upscaling.workers.manifest import Manifest, ManifestError

MAX_MESSAGE = 1000  # characters: an error of CUDA can be pages long, and all of it is in the log
log = logging.getLogger("worker")


@dataclass(frozen=True)
class Batch:
    """One batch on its way through a worker; `names` are the frames that still need their output."""

    manifest: Manifest
    path: str  # of the manifest
    number: int
    names: tuple[str, ...]
    last: bool  # of its manifest
    started: float  # time.monotonic()
    conversion: FrameConversion | None = None  # once its frames are read


# The process


def run_worker(index: int, rows, tasks, results, settings: ModelSettings, log_folder: Path) -> None:
    """Target of a worker process: upscale the manifests whose paths come through `tasks` until it ends.

    `rows` are the status rows of all workers; this one writes row `index`. A manifest lies
    in JOB/manifests, may name directories within JOB only, and is logged in JOB/logs; `log_folder` is where
    the worker logs until the first one comes. Ends with status 1 after an error.
    """
    retain_freed_memory()
    row = rows[index]
    row["pid"], row["heartbeat"], row["device"] = os.getpid(), time.time(), settings.device.encode()
    row["batch"], row["state"] = -1, status.IDLE
    worker = Worker(index, row, tasks, results, settings)
    try:
        worker.open_log(log_folder)
        worker.load()
        worker.serve()
    except (BrokenPipeError, EOFError):
        pass  # the main process is gone or going
    except BaseException as error:
        worker.fail(error)
        os._exit(1)  # a broken device can hang the usual way out


class Worker:
    """One worker: the tasks it serves, its row in the status array and its upscaler."""

    def __init__(self, index: int, row, tasks, results, settings: ModelSettings, in_job: bool = True):
        self.index, self.row, self.tasks, self.results = index, row, tasks, results
        self.settings, self.in_job = settings, in_job
        self.upscaler = None
        self.current = ""  # path of the manifest at work
        self.log_folder: Path | None = None
        self.job: Path | None = None
        self.held = -1  # descriptor of the job's directory

    def heartbeat(self) -> None:
        """A sign of life; a worker that gives none for long counts as dead."""
        self.row["heartbeat"] = time.time()

    def load(self) -> None:
        self.upscaler = make_upscaler(self.settings, self.heartbeat)
        self.heartbeat()
        self.results.send(("ready",))

    def serve(self) -> None:
        """Batches of all manifests in order; while the device has one in flight the next is submitted."""
        in_flight: deque[Batch] = deque()
        waiting: deque[Batch] = deque()
        while True:
            while not waiting and (not in_flight or self.tasks.poll()):
                waiting.extend(self._read(self.tasks.recv()))
            if waiting and len(in_flight) <= self.upscaler.depth:
                in_flight.append(self._submit(waiting.popleft()))
            if in_flight and (len(in_flight) > self.upscaler.depth or not waiting):
                self.current = in_flight[0].path
                self._finish(in_flight.popleft())

    def _read(self, path: str) -> list[Batch]:
        self.current = path
        job = Path(path).parent.parent
        if self.in_job:
            self._enter(job)
        self.row["manifest"] = os.path.basename(path).encode("ascii", "replace")
        self.row["state"], self.row["start"], self.row["end"] = status.PROCESSING, time.time(), 0
        self.heartbeat()
        work = manifests.read_manifest(path, job if self.in_job else None)
        batches = list(open_batches(work, path))
        self.row["total_batches"] += len(work.batches)
        self.row["batches_done"] += len(work.batches) - len(batches)
        for number in work.batches.keys() - {batch.number for batch in batches}:
            self.results.send(("batch", path, number))  # done before, maybe by one that died before it said so
        if not batches:
            self._done(path)
        return batches

    def _submit(self, batch: Batch) -> Batch:
        self.current = batch.path
        self.row["batch"] = batch.number
        self.heartbeat()
        frames = [read_frame(batch.manifest.input_dir / name) for name in batch.names]
        conversion = frame_conversion(batch.manifest, frames[0])
        self.upscaler.submit(frames, conversion)
        return replace(batch, conversion=conversion)

    def _finish(self, batch: Batch) -> None:
        outputs = self.upscaler.collect()
        shape = batch.conversion.target.padded.stored_shape
        for name, samples in zip(batch.names, outputs, strict=True):
            write_frame(batch.manifest.output_dir / name, samples.reshape(shape))
        self.heartbeat()
        log.info("batch %d: %d frames in %.3f s", batch.number, len(outputs), time.monotonic() - batch.started)
        for note in self.upscaler.notes:
            log.info("batch %d: %s", batch.number, note)
        self.row["batches_done"] += 1
        self.row["frames_done"] += len(outputs)
        self.results.send(("batch", batch.path, batch.number))
        if batch.last:
            self._done(batch.path)

    def _done(self, path: str) -> None:
        self.row["batch"], self.row["state"], self.row["end"] = -1, status.COMPLETED, time.time()
        self.results.send(("done", path))

    def fail(self, error: BaseException) -> None:
        """Say why this worker ends: to the log, the status array and the main process."""
        text = one_line(error)
        log.error("manifest %s: %s\n%s", self.current or "none", text, traceback.format_exc())
        self.row["error"], self.row["state"] = text.encode("utf-8", "replace")[:255], status.ERROR
        kind = "failed"
        if full_disk(error) or isinstance(error, UpscaleError | ManifestError):
            kind = "fatal" if self.current else "unusable"
        try:
            self.results.send((kind, self.current, text))
        except OSError:
            pass  # the main process is gone or going

    def _enter(self, job: Path) -> None:
        """Hold the job's directory, so that no later run takes it while this worker may still write there."""
        if job == self.job:
            return
        held = os.open(job, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if self.held >= 0:
            os.close(self.held)
        self.job, self.held = job, held
        self.open_log(job / "logs")

    def open_log(self, folder: Path) -> None:
        """Log to `folder`/worker_N.log from now on, with all that this process writes to stdout and stderr."""
        if folder == self.log_folder or not folder.is_dir():
            return
        self.log_folder = folder
        fd = os.open(folder / f"worker_{self.index}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        for standard in (1, 2):
            os.dup2(fd, standard)  # what a library prints while it crashes must not be lost, nor spoil the bars
        os.close(fd)
        faulthandler.enable()
        if not log.handlers:
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
            log.addHandler(handler)
            log.setLevel(logging.INFO)
        log.info("worker %d, pid %d, on %s", self.index, os.getpid(), self.settings.device)


def one_line(error: BaseException) -> str:
    """An exception in one line; its class too where the message alone would not be understood."""
    text = " ".join(str(error).split())[:MAX_MESSAGE]
    if isinstance(error, UpscaleError | ManifestError):
        return text
    return full_disk(error) or f"{type(error).__name__}: {text}"


# Manifests


def open_batches(work: Manifest, path: str) -> Iterator[Batch]:
    """The batches of a manifest with the frames whose output is not yet complete."""
    open_names = {
        number: tuple(name for name in names if not (work.output_dir / name).exists())
        for number, names in work.batches.items()
    }
    numbers = [number for number, names in open_names.items() if names]
    for number in numbers:
        yield Batch(work, path, number, open_names[number], number == numbers[-1], time.monotonic())


def frame_conversion(work: Manifest, first: np.ndarray) -> FrameConversion:
    """What a manifest asks for; `first` is one of its frames, as stored."""
    fmt = pixel_formats.pixel_format(work.pixel_format)
    width, height = work.frame_size or pixel_formats.size_from_shape(fmt, first.shape)
    out_width, out_height = work.output_size or (scaled(width, work.scale), scaled(height, work.scale))
    matrix, colour_range = work.colour.split()
    out_matrix, out_range = (work.output_colour or work.colour).split()
    source = FrameLayout(
        width=width,
        height=height,
        pixel_format=work.pixel_format,
        matrix=matrix,
        full_range=colour_range == "full",
        chroma_location=work.chroma_location,
    )
    target = replace(
        source,
        width=out_width,
        height=out_height,
        pixel_format=work.output_pixel_format or work.pixel_format,
        matrix=out_matrix,
        full_range=out_range == "full",
    )
    return FrameConversion(source=source, target=target)


def scaled(side: int, scale: Fraction) -> int:
    """A side in pixels times the scale, rounded to the nearest, halves up; at least 1."""
    return max(1, int(side * scale + Fraction(1, 2)))
