"""Worker status: a row for each worker in shared memory, and its snapshot as a JSON file."""

import json
import mmap
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from upscaling.common.files import replacing

STATES = ("starting", "loading the model", "idle", "processing", "completed", "error")
STARTING, LOADING, IDLE, PROCESSING, COMPLETED, ERROR = range(6)


def row_dtype() -> np.dtype:
    """The dtype of one worker's row; times are seconds since the epoch, 0 for never."""
    return np.dtype(
        [
            ("state", "u1"),
            ("restarts", "u2"),  # written by the main process, before a fresh worker starts
            ("pid", "i4"),
            ("batch", "i8"),  # -1: none
            ("total_batches", "i8"),
            ("batches_done", "i8"),
            ("frames_done", "i8"),
            ("heartbeat", "f8"),
            ("start", "f8"),
            ("end", "f8"),
            ("device", "S32"),
            ("manifest", "S64"),  # file name within the job's manifests/
            ("error", "S256"),
        ],
        align=True,
    )


def create_rows(workers: int) -> tuple[int, np.ndarray]:
    """Shared memory for the rows of `workers` workers: its descriptor, which the caller closes, and the rows.

    The rows have no lock, because each has one writer, its worker. The memory has no name in any file system.
    """
    descriptor = os.memfd_create("upscale-status")
    os.ftruncate(descriptor, row_dtype().itemsize * workers)
    return descriptor, map_rows(descriptor)


def map_rows(descriptor: int) -> np.ndarray:
    """The rows behind a descriptor of `create_rows`: a structured array of `row_dtype`, shape (workers,)."""
    return np.frombuffer(mmap.mmap(descriptor, 0), dtype=row_dtype())


def empty_row() -> np.ndarray:
    """A row of zeros: the worker is starting and has not reported anything yet."""
    return np.zeros((), row_dtype())


class WorkerFrames:
    """The frames that each worker has done in this job, with those of the processes that it replaced."""

    def __init__(self, rows: Sequence):
        self.restarts = [int(row["restarts"]) for row in rows]
        self.now = [int(row["frames_done"]) for row in rows]  # of the process that works now
        self.before = [-frames for frames in self.now]  # of the processes before it, less those of earlier jobs

    def done(self, index: int, row) -> int:
        """Frames done by worker `index`, whose row of the status array is `row`."""
        if int(row["restarts"]) != self.restarts[index]:
            self.restarts[index] = int(row["restarts"])
            self.before[index] += self.now[index]
        self.now[index] = int(row["frames_done"])
        return self.before[index] + self.now[index]


@dataclass(frozen=True)
class WorkerStatus:
    """One worker's row as the JSON file has it; times are ISO 8601 in UTC, or None."""

    worker: int
    status: str
    pid: int
    device: str
    restarts: int
    total_batches: int
    completed_batches: int
    current_batch: int | None
    progress_percent: float
    frames_done: int
    start_time: str | None
    end_time: str | None
    heartbeat: str | None
    manifest_path: str | None
    error: str | None


def snapshot(row: np.void, worker: int, manifests: Path) -> WorkerStatus:
    """A copy of a row in plain types; `manifests` is the directory of its manifest."""
    total, done = int(row["total_batches"]), int(row["batches_done"])
    name = row["manifest"].decode("ascii", "replace")
    return WorkerStatus(
        worker=worker,
        status=STATES[min(int(row["state"]), ERROR)],
        pid=int(row["pid"]),
        device=row["device"].decode("utf-8", "replace"),
        restarts=int(row["restarts"]),
        total_batches=total,
        completed_batches=done,
        current_batch=int(row["batch"]) if row["batch"] >= 0 else None,
        progress_percent=round(100 * done / total, 1) if total else 0.0,
        frames_done=int(row["frames_done"]),
        start_time=_iso(row["start"]),
        end_time=_iso(row["end"]),
        heartbeat=_iso(row["heartbeat"]),
        # JSON holds no bytes that are not UTF-8: they are shown as replacement characters.
        manifest_path=os.fsencode(manifests / name).decode("utf-8", "replace") if name else None,
        error=row["error"].decode("utf-8", "replace") or None,
    )


def _iso(seconds: float) -> str | None:
    return datetime.fromtimestamp(float(seconds), UTC).isoformat(timespec="milliseconds") if seconds else None


def write_json(rows: np.ndarray, job_dir: Path, run: dict | None = None) -> None:
    """Replace `status/worker_N_status.json` of every worker atomically, and `run_status.json` with the facts `run`."""
    folder = job_dir / "status"
    if run is not None:
        with replacing(folder / "run_status.json") as file:
            file.write(json.dumps(run).encode() + b"\n")
    for worker, row in enumerate(rows):
        path = folder / f"worker_{worker}_status.json"
        with replacing(path) as file:
            file.write(json.dumps(asdict(snapshot(row, worker, job_dir / "manifests"))).encode() + b"\n")
