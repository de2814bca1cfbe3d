"""`upscale --status DIR`: the workers of a run, from another terminal or after a crash."""

import fcntl
import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from upscaling.common.text import printable
from upscaling.job.ledger import read_ledger

STALLED_AFTER = 30.0  # seconds without a heartbeat before the table calls a worker stalled


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
    """`alive`, `stalled` (processing, but silent for 30 s) or `gone` (there is no such process)."""
    pid = int(status.get("pid") or 0)
    if pid <= 0:
        return "gone"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "gone"
    except PermissionError:
        pass  # somebody else's: it is there
    heartbeat = status.get("heartbeat")
    silent = (now or time.time()) - datetime.fromisoformat(heartbeat).timestamp() if heartbeat else 0.0
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


def look_again(job_dir: Path, as_json: bool, again: bool) -> int:
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


def show_status(work_dir: Path, watch: bool, as_json: bool) -> int:
    """Print the workers of a run; exit status 0 running (or, watched, done), 1 failed or stopped, 3 no such job."""
    try:
        if not (work_dir / "job.json").is_file():
            print(f"upscale: error: {printable(work_dir)}: no such job", file=sys.stderr)
            return 3
        return look_again(work_dir, as_json, watch)
    except BrokenPipeError:  # the reader has closed the pipe, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:
        print(f"upscale: error: cannot read {printable(work_dir)}: {error.strerror}", file=sys.stderr)
        return 3
