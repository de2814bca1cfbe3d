"""The cells of the sheet: every crop upscaled in every column, in the time that there is.

A small piece is upscaled with the base model first. From its time follows how large the crops may be, so that all
columns are done in time. What still takes too long is left out, with the reason.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from upscaling.common.errors import UpscaleError
from upscaling.inference.settings import LANCZOS, ModelSettings
from upscaling.inference.tiling import make_grid
from upscaling.preview.columns import Column
from upscaling.preview.job import LARGEST, Job
from upscaling.preview.process import Cell, ColumnError, ColumnProcess, Task, TooSlow, fork_server
from upscaling.workers.forkserver import ForkServer

SIZES = (LARGEST, (96, 72), (64, 48))  # of crops, in pixels of the input
MARGIN = 24  # pixels around a crop that the network sees; it is cut off
GPU_MARGIN = 184  # the time of a GPU means something only if it has something to do
PROBE = (64, 64)  # pixels of the piece that is upscaled first
SHARE = 0.75  # of the time that is left, for what is foreseen: other programs may need the machine, too
START_SECONDS = 2.0  # until a process has loaded its model
OVERLAP = 18  # pixels of tiles, as the default network has it
LEFT_OUT = "left out: "


@dataclass
class ColumnResult:
    """What a column has become; `cells` are uint8 sRGB pictures of one size, or lines that say why there is none."""

    column: Column
    cells: list[np.ndarray | str] = field(default_factory=list)
    seconds: float | None = None  # for a frame, with all of a run's workers at work; None if it is not known
    is_measured: bool = True  # else `seconds` follows from those of the base model


def margin_for(column: Column) -> int:
    """The margin around crops for that column's device."""
    return MARGIN if column.settings is None or column.settings.device == "cpu" else GPU_MARGIN


def make_cells(columns: Sequence[Column], job: Job, step: Callable[[str], None]) -> tuple[list[ColumnResult], Job]:
    """All cells, in the columns' order, and the job with the crops as they are shown.

    `step` is called with the name of what is done next. UpscaleError if the base model fails.
    """
    results = {column.name: ColumnResult(column) for column in columns}
    base = next(result for result in results.values() if result.column.is_base)
    steady = next(result for result in results.values() if result.column.steady)
    others = [result for result in results.values() if result not in (base, steady)]
    server = fork_server([column.settings for column in columns if column.settings is not None])
    try:
        step(base.column.name)
        with ColumnProcess(server, _settings(base)) as process:
            job = _fitted(process, base.column, [other.column for other in others], job)
            _make_base(process, base, steady, job)
        for result in sorted(others, key=lambda result: result.column.cost):
            step(result.column.name)
            _make_column(server, result, job, base)
    finally:
        server.stop()
    return list(results.values()), job


# How large the crops may be


def _fitted(process: ColumnProcess, base: Column, others: Sequence[Column], job: Job) -> Job:
    """The job with the largest crops that can be done in time, or with the smallest ones."""
    probe = job.shrunk(PROBE, 0)
    task = Task(probe.crops[0].frames[:1], 0, probe.conversion)
    try:
        seconds = [process.run(task, job.stop_at).elapsed for _ in range(2)]  # the first one is a warm-up
    except TooSlow as error:
        raise UpscaleError(
            f"{base.name} is too slow for a preview on this machine: not even {PROBE[0]}x{PROBE[1]} pixels were done "
            "in time; choose another model (--list-models)"
        ) from error
    except ColumnError as error:
        raise UpscaleError(f"{base.name}: {error}") from error
    pixel = seconds[1] * float(probe.frames_per_window) / (job.geometry.source.width * job.geometry.source.height)
    for size in SIZES:
        fitted = job.shrunk(size, margin_for(base))
        window = fitted.geometry.window[0] * fitted.geometry.window[1]
        if _total(fitted, pixel * window, base, others) <= SHARE * (job.stop_at - time.monotonic()):
            break
    return fitted


def _total(job: Job, window: float, base: Column, others: Sequence[Column]) -> float:
    """An estimate of the seconds for all cells, if the base model takes `window` seconds for a window."""
    running = [column for column in others if column.settings is not None]
    windows = sum(len(crop.frames) for crop in job.crops)
    windows += sum(column.cost / base.cost for column in running) * len(job.crops)
    return START_SECONDS * len(running) + windows * window


# Columns


def _make_base(process: ColumnProcess, base: ColumnResult, steady: ColumnResult, job: Job) -> None:
    """The columns of the base model and of --steady."""
    cells: list[Cell] = []
    reason = ""
    try:
        for crop in job.crops:
            cells.append(process.run(Task(crop.frames, crop.wanted, job.conversion, steady=True), job.stop_at))
    except TooSlow as error:
        reason = str(error)
    except ColumnError as error:
        raise UpscaleError(f"{base.column.name}: {error}") from error
    added = []
    for cell, crop in zip(cells, job.crops, strict=False):
        base.cells.append(job.picture(cell.upscaled, crop))
        if cell.steadied is None:
            steady.cells.append(LEFT_OUT + cell.steady_error)
        else:
            steady.cells.append(job.picture(cell.steadied, crop))
            added.append(cell.steady_seconds)
    for result in (base, steady):
        result.cells += [LEFT_OUT + reason] * (len(job.crops) - len(cells))
    base.seconds = _frame_seconds([one for cell in cells for one in cell.seconds], base.column, job)
    if added and base.seconds is not None:
        more = _frame_seconds(added, steady.column, job)
        steady.seconds = base.seconds + (more or 0.0)


def _make_column(server: ForkServer, result: ColumnResult, job: Job, base: ColumnResult) -> None:
    """The cells of another column; those that fail say why."""
    seconds: list[float] = []
    reason = result.column.reason
    if result.column.settings is not None:
        with ColumnProcess(server, result.column.settings) as process:
            try:
                for crop in job.crops:
                    cell = process.run(Task(crop.frames, crop.wanted, job.conversion), job.stop_at)
                    result.cells.append(job.picture(cell.upscaled, crop))
                    seconds += cell.seconds
            except ColumnError as error:
                reason = str(error)
                result.is_measured = bool(seconds) or not isinstance(error, TooSlow)
    result.cells += [LEFT_OUT + reason] * (len(job.crops) - len(result.cells))
    result.seconds = _frame_seconds(seconds, result.column, job)
    if not result.is_measured and base.seconds is not None:
        result.seconds = base.seconds * result.column.cost / base.column.cost


def _frame_seconds(seconds: Sequence[float], column: Column, job: Job) -> float | None:
    """Seconds for a frame, from those for windows; the first one, a warm-up, counts only if it is alone."""
    if not seconds:
        return None
    window = statistics.median(seconds[1:] or seconds)
    return window * float(job.frames_per_window) * _computed_share(column, job) / column.workers


def _computed_share(column: Column, job: Job) -> float:
    """How many times a pixel of a frame is computed: the tiles of a run overlap."""
    settings, source = column.settings, job.geometry.source
    if settings is None or settings.model == LANCZOS or not settings.patch_size:
        return 1.0
    grid = make_grid(source.height, source.width, settings.patch_size**2, OVERLAP)
    return grid.area * len(grid.tiles()) / (source.width * source.height)


def _settings(result: ColumnResult) -> ModelSettings:
    settings = result.column.settings
    assert settings is not None, "an InputError was raised for a base model that cannot be used"
    return settings
