"""`upscale --status DIR`: the workers of a run, from another terminal or after a crash."""

import fcntl
import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from upscaling.common.locks import try_lock
from upscaling.common.text import display_name
from upscaling.job.ledger import read_ledger

STALLED_SECONDS = 30.0  # a worker that processes a batch without a heartbeat for longer is called stalled
WATCH_SECONDS = 1.0  # between two updates
CLEAR_SCREEN = "\033[H\033[J"  # cursor home, erase to the end (ECMA-48 CUP, ED)
COLUMNS = {
    "worker": "worker", "health": "health", "status": "status", "device": "device", "pid": "pid",
    "batch": "current_batch", "frames": "frames_done", "restarts": "restarts", "error": "error",
}  # fmt: skip


def show_status(work_dir: Path, watch: bool, as_json: bool) -> int:
    """Print the workers of a run.

    The exit status is 0 if it is running (with `watch`: if it has succeeded), 1 if it has failed or was stopped,
    and 3 if there is no such job.
    """
    try:
        if not (work_dir / "job.json").is_file():
            print(f"upscale: error: {display_name(work_dir)}: no such job", file=sys.stderr)
            return 3
        return _print_until_ended(work_dir, watch, as_json)
    except BrokenPipeError:
        raise  # of stdout: the caller knows what to do
    except OSError as error:
        print(f"upscale: error: cannot read {display_name(work_dir)}: {error.strerror}", file=sys.stderr)
        return 3


def _print_until_ended(work_dir: Path, watch: bool, as_json: bool) -> int:
    while (work_dir / "job.json").is_file():
        running, text = snapshot(work_dir, as_json)
        if not (work_dir / "job.json").exists():
            break  # the run has ended just now
        print((CLEAR_SCREEN if watch and sys.stdout.isatty() else "") + text, flush=True)
        if not running or not watch:
            return 0 if running else 1
        time.sleep(WATCH_SECONDS)
    # A run that succeeds removes its work directory.
    print(json.dumps({"running": False, "done": True}) if as_json else "done: the work directory is gone", flush=True)
    return 0


def snapshot(work_dir: Path, as_json: bool) -> tuple[bool, str]:
    """(whether the run is going on, its state as text or JSON)."""
    running = is_running(work_dir)
    workers = read_statuses(work_dir, running)
    frames = sum(len(record.pts) for record in read_ledger(work_dir / "ledger.jsonl"))
    if as_json:
        return running, json.dumps({"running": running, "frames_kept": frames, "workers": workers})
    lines = [table(workers), "running" if running else "not running: rerun the same command to resume"]
    lines.append(f"{frames} frames in closed segments")
    if not running:
        lines.append(f"logs: {display_name(work_dir / 'logs')}")
    return running, "\n".join(lines)


def is_running(work_dir: Path) -> bool:
    """Whether a main process holds the job's lock (job/work_dir.py)."""
    try:
        with (work_dir / "lock").open("rb") as lock:
            locked = try_lock(lock.fileno(), fcntl.LOCK_SH)
            if locked is not None:
                return not locked
            return Path(f"/proc/{int(lock.read(32))}").exists()  # a file system without locks: is its process alive?
    except (OSError, ValueError):
        return False


def read_statuses(work_dir: Path, running: bool = True) -> list[dict]:
    """The workers' status files, in the order of the workers, each with its health; damaged files are skipped."""
    found = []
    for path in sorted((work_dir / "status").glob("worker_*_status.json")):
        try:
            status = json.loads(path.read_text(encoding="utf-8"))
            status["worker"] = int(status["worker"])
            # Workers end with their run: afterwards a process of that pid is another program.
            status["health"] = health(status) if running else "gone"
            found.append(status)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return sorted(found, key=lambda status: status["worker"])


def health(status: dict, now: float | None = None) -> str:
    """`starting`, `alive`, `stalled` (processing without a heartbeat for 30 s) or `gone` (no such process)."""
    pid = int(status.get("pid") or 0)
    if pid <= 0:
        return "starting" if status.get("status") == "starting" else "gone"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "gone"
    except PermissionError:
        pass  # it exists and belongs to another user
    heartbeat = status.get("heartbeat")
    silent = (now or time.time()) - datetime.fromisoformat(heartbeat).timestamp() if heartbeat else 0.0
    return "stalled" if status.get("status") == "processing" and silent > STALLED_SECONDS else "alive"


def table(statuses: Sequence[dict]) -> str:
    """The workers as aligned columns under a heading."""
    lines = [list(COLUMNS)]
    for status in statuses:
        values = {**status, "error": status.get("error") or ""}
        if values.get("current_batch") is None:
            values["current_batch"] = "-"
        lines.append([str(values.get(key)) for key in COLUMNS.values()])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
