"""`upscale --status OUTPUT`: a run's progress and workers, from another terminal or after a crash."""

import fcntl
import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from upscaling.common.locks import try_lock
from upscaling.common.text import clock, display_name
from upscaling.job.ledger import frames_in, read_ledger
from upscaling.job.work_dir import work_dir_of

STALLED_SECONDS = 30.0  # a worker that processes a batch without a heartbeat for longer is called stalled
WATCH_SECONDS = 1.0  # between two updates
CLEAR_SCREEN = "\033[H\033[J"  # cursor home, erase to the end (ECMA-48 CUP, ED)
COLUMNS = {
    "worker": "worker", "health": "health", "status": "status", "device": "device", "pid": "pid",
    "batch": "current_batch", "frames": "frames_done", "restarts": "restarts", "error": "error",
}  # fmt: skip


def show_status(path: Path, watch: bool, as_json: bool) -> int:
    """Print the progress and the workers of a run; `path` is its work directory, or its output beside that.

    The exit status is 0 if it is running (with `watch`: if it has succeeded), 1 if it has failed or was stopped,
    and 3 if there is no such job.
    """
    work_dir = path if (path / "job.json").is_file() else work_dir_of(path)
    try:
        if not (work_dir / "job.json").is_file():
            exists = "; the output exists: its run has ended" if path.is_file() else ""
            print(f"upscale: error: {display_name(path)}: no such job{exists}", file=sys.stderr)
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
    finished = frames_in(read_ledger(work_dir / "ledger.jsonl"))
    run = read_run_status(work_dir)
    if as_json:
        return running, json.dumps({"running": running, "frames_kept": finished, **run, "workers": workers})
    lines = [table(workers), progress_line(run)] if running else [table(workers)]
    lines.append("running" if running else "not running: rerun the same command to resume")
    lines.append(
        f"{finished} frames in closed segments" + (f" of {run['frames_total']}" if run["frames_total"] else "")
    )
    if not running:
        lines.append(f"logs: {display_name(work_dir / 'logs')}")
    return running, "\n".join(lines)


def read_run_status(work_dir: Path) -> dict:
    """The run's progress as `RunCounts.facts` has it, with `percent`; values are None if they are not known."""
    known = dict.fromkeys(("frames_done", "frames_total", "percent", "frames_per_second", "seconds_left"))
    try:
        facts = json.loads((work_dir / "status" / "run_status.json").read_bytes())
        known |= {name: facts[name] for name in known.keys() & facts.keys()}
        if known["frames_total"]:
            known["percent"] = round(100 * known["frames_done"] / known["frames_total"], 1)
    except (OSError, ValueError, TypeError, AttributeError):
        pass  # the run is only just starting, or the file is damaged
    return known


def progress_line(run: dict) -> str:
    """`24 of 48 frames (50.0 %), 6.02 frames/s, 0:00:04 left`, as far as it is known."""
    done, total, percent, rate, left = run.values()
    if done is None:
        return "starting"
    share = f" of {total} frames ({percent} %)" if total else " frames"
    speed = f", {rate:.2f} frames/s" if rate else ""
    return f"{done}{share}{speed}" + (f", {clock(left)} left" if left is not None else "")


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
