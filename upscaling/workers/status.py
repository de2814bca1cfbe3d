"""The status of each worker: a row in shared memory, its JSON picture on disk, and the table of a run.

    python status.py out.mp4.work            # the workers of a run, from another terminal or after a crash
    python status.py out.mp4.work --watch    # again every second until the run ends

Exit status: 0 the run goes on, 1 it failed or was stopped, 3 there is no such job.
"""

import ctypes
import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from upscaling.common.files import replacing

STATES = ("idle", "processing", "completed", "error")
IDLE, PROCESSING, COMPLETED, ERROR = range(4)


def row_dtype():
    """One worker's row: a numpy structured dtype; times are seconds since the epoch, 0 for never."""
    import numpy as np  # here: the table of a run needs no numpy

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


def new_array(context, workers: int):
    """Shared memory for the rows of `workers` workers; pass it to a process, then `rows` it there.

    A RawArray of bytes: it has no lock, because each row has one writer, its worker.
    """
    return context.RawArray(ctypes.c_char, row_dtype().itemsize * workers)


def rows(array):
    """The rows in shared memory as a numpy structured array of `row_dtype`, shape (workers,); a view."""
    import numpy as np

    return np.frombuffer(array, dtype=row_dtype())


def empty_row():
    """A row of zeros: a worker that has not said anything yet."""
    import numpy as np

    return np.zeros((), row_dtype())


@dataclass(frozen=True)
class WorkerStatus:
    """One worker's row as the JSON files and the table have it; times ISO 8601 in UTC or None."""

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


def picture(row, worker: int, manifests: Path) -> WorkerStatus:
    """What a row says; `manifests` is the directory that its manifest's name belongs to."""
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
        # Bytes of a path that are no UTF-8 have no place in JSON: shown as replacement characters.
        manifest_path=os.fsencode(manifests / name).decode("utf-8", "replace") if name else None,
        error=row["error"].decode("utf-8", "replace") or None,
    )


def _iso(seconds: float) -> str | None:
    return datetime.fromtimestamp(float(seconds), UTC).isoformat(timespec="milliseconds") if seconds else None


def write_json(array, job_dir: Path) -> None:
    """Replace `status/worker_N_status.json` of every worker atomically."""
    folder = job_dir / "status"
    for worker, row in enumerate(rows(array)):
        path = folder / f"worker_{worker}_status.json"
        with replacing(path) as file:
            file.write(json.dumps(asdict(picture(row, worker, job_dir / "manifests"))).encode() + b"\n")
