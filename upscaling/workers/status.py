"""The status of each worker: a row in shared memory, its JSON picture on disk, and the table of a run.

    python status.py out.mp4.work            # the workers of a run, from another terminal or after a crash
    python status.py out.mp4.work --watch    # again every second until the run ends

Exit status: 0 the run goes on, 1 it failed or was stopped, 3 there is no such job.
"""

import argparse
import ctypes
import fcntl
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from upscaling.common.errors import UpscaleError
from upscaling.job.ledger import read_ledger

STATES = ("idle", "processing", "completed", "error")
IDLE, PROCESSING, COMPLETED, ERROR = range(4)
STALLED_AFTER = 30.0  # seconds without a heartbeat before the table calls a worker stalled


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
    return datetime.fromtimestamp(float(seconds), timezone.utc).isoformat(timespec="milliseconds") if seconds else None


def write_json(array, job_dir: Path) -> None:
    """Replace `status/worker_N_status.json` of every worker atomically."""
    folder = job_dir / "status"
    for worker, row in enumerate(rows(array)):
        path = folder / f"worker_{worker}_status.json"
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(json.dumps(asdict(picture(row, worker, job_dir / "manifests"))) + "\n")
        os.replace(temporary, path)


# The command


def read_json(job_dir: Path, running: bool = True) -> list[dict]:
    """The statuses on disk, by worker, with their health; a torn or foreign file is left out."""
    found = []
    for path in sorted((job_dir / "status").glob("worker_*_status.json")):
        try:
            status = json.loads(path.read_text(encoding="utf-8"))
            status["worker"] = int(status["worker"])
            # Without its run no worker lives on: a process of that pid is another one.
            status["health"] = health(status) if running else "gone"
            found.append(status)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return sorted(found, key=lambda status: status["worker"])


def health(status: dict, now: float | None = None) -> str:
    """`alive`, `stalled` (processing, but silent for 30 s) or `gone` (there is no such process).

    Of a task on another node only its silence is known; the main process writes the heartbeats that it saw.
    """
    pid, elsewhere = int(status.get("pid") or 0), "@" in str(status.get("device"))
    if pid <= 0 and not (elsewhere and status.get("heartbeat")):
        return "gone"
    try:
        if not elsewhere:
            os.kill(pid, 0)
    except ProcessLookupError:
        return "gone"
    except PermissionError:
        pass  # somebody else's: it is there
    beat = status.get("heartbeat")
    silent = (now or time.time()) - datetime.fromisoformat(beat).timestamp() if beat else 0.0
    return "stalled" if status.get("status") == "processing" and silent > STALLED_AFTER else "alive"


def is_running(job_dir: Path) -> bool:
    """Whether a main process holds the job's lock (see job.py)."""
    try:
        with (job_dir / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def table(statuses: Sequence[dict], running: bool) -> str:
    """The table of workers that the command prints."""
    head = ("worker", "health", "status", "device", "pid", "batch", "frames", "restarts", "error")
    lines = [head]
    for s in statuses:
        batch = s.get("current_batch")
        lines.append(
            (str(s["worker"]), s["health"], str(s.get("status")), str(s.get("device")), str(s.get("pid")),
             "-" if batch is None else str(batch), str(s.get("frames_done")), str(s.get("restarts")),
             str(s.get("error") or ""))
        )  # fmt: skip
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)
    return f"{text}\n{'running' if running else 'not running: rerun the same command to resume'}"


def look(job_dir: Path, as_json: bool) -> tuple[bool, str]:
    """(whether the run goes on, what to print of it)."""
    running = is_running(job_dir)
    workers = read_json(job_dir, running)
    frames = sum(len(record.pts) for record in read_ledger(job_dir / "ledger.jsonl"))
    if as_json:
        return running, json.dumps({"running": running, "frames_kept": frames, "workers": workers})
    logs = "" if running else f"\nlogs: {printable(job_dir / 'logs')}"
    return running, f"{table(workers, running)}\n{frames} frames in closed segments{logs}"


def printable(path: Path) -> str:
    """A path that can be printed: bytes that are no UTF-8 as replacement characters."""
    return os.fsencode(path).decode("utf-8", "replace")


def watch(job_dir: Path, as_json: bool, again: bool) -> int:
    """Look once, or every second until the run ends; the exit status."""
    while (job_dir / "job.json").is_file():
        running, text = look(job_dir, as_json)
        if not (job_dir / "job.json").exists():
            break  # it ended just now
        print(("\033[H\033[J" if again and sys.stdout.isatty() else "") + text, flush=True)
        if not running or not again:
            return 0 if running else 1
        time.sleep(1)
    # A finished run takes its directory along: that it went away while it was watched is success.
    print(json.dumps({"running": False, "done": True}) if as_json else "done: the work directory is gone", flush=True)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """`python status.py WORK_DIR [--json] [--watch]`; see the module's docstring for the exit status."""
    parser = argparse.ArgumentParser(
        prog="status.py", description="The workers of a run: exit status 0 running, 1 failed, 3 no such job."
    )
    parser.add_argument("work_dir", metavar="WORK_DIR", type=Path, help="the run's work directory, OUTPUT.work")
    parser.add_argument("--json", action="store_true", help="one JSON object a look instead of the table")
    parser.add_argument("--watch", action="store_true", help="look every second until the run ends")
    args = parser.parse_args(argv)
    try:
        if not (args.work_dir / "job.json").is_file():
            print(f"status: error: {printable(args.work_dir)}: no such job", file=sys.stderr)
            return 3
        return watch(args.work_dir, args.json, args.watch)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read along has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except (OSError, UpscaleError) as error:
        print(f"status: error: {printable(args.work_dir)} can't be read: {error}", file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main())
