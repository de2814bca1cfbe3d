"""What a run says while it goes on: bars in a terminal, plain lines elsewhere, or JSON objects.

The only importer of tqdm. The main process draws; everything it draws is read from counts and from the
shared status array.
"""

import json
import sys
import time
from typing import TextIO

from tqdm import tqdm

import status

PLAIN_SECONDS = 30.0  # at the least between two plain lines
PLAIN_SHARE = 0.05  # of the video, at the least, between two plain lines
JSON_SECONDS = 1.0


def make_progress(mode: str, verbosity: int = 0) -> "Progress":
    """The reporter for --progress auto, bars, plain, json or none."""
    if mode == "auto":
        mode = "bars" if sys.stderr.isatty() else "plain"
    if verbosity < 0 and mode != "json":
        mode = "none"
    return {"bars": Bars, "plain": Plain, "json": Json, "none": Progress}[mode]()


class Progress:
    """Says nothing; the base of the others."""

    def say(self, line: str) -> None:
        """One line for the user: a warning, a restart, what is kept."""

    def start(self, **facts) -> None:
        """The run begins; `facts` are JSON-able."""

    def show(self, tally, rows) -> None:
        """Called a few times a second with the pipeline's Tally and the rows of the status array."""

    def close(self) -> None:
        """Nothing will be drawn any more."""

    def done(self, **facts) -> None:
        """The run has ended well."""

    def error(self, message: str, exit_status: int) -> None:
        """The run has ended with an error; the one line of it goes to stderr whatever the mode."""
        print(f"upscale: error: {message}", file=sys.stderr, flush=True)


class Plain(Progress):
    """A line at the start, a line now and then, a line at the end; all to stderr."""

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stderr
        self.last_time, self.last_done = time.monotonic(), 0

    def say(self, line: str) -> None:
        print(f"upscale: {line}", file=self.stream, flush=True)

    def start(self, **facts) -> None:
        total = facts["frames"] if facts["frames"] else "an unknown number of"
        self.say(
            f"{facts['input']}: {total} frames of {facts['input_size']} to {facts['output_size']}, {facts['model']}, "
            f"{facts['workers']} workers on {facts['device']}"
        )

    def show(self, tally, rows) -> None:
        now = time.monotonic()
        share = (tally.done - self.last_done) / tally.total if tally.total else 1.0
        if now - self.last_time >= PLAIN_SECONDS and share >= PLAIN_SHARE:
            self.last_time, self.last_done = now, tally.done
            left = f", {eta(tally)} left" if eta(tally) else ""
            self.say(f"{tally.done} of {tally.total or '?'} frames, {rate(tally):.2f} frames/s{left}")

    def done(self, **facts) -> None:
        self.say(
            f"{facts['output']}: {facts['frames']} frames in {facts['seconds']:.1f} s, "
            f"{facts['frames_per_second']:.2f} frames/s"
        )


class Json(Progress):
    """One object a line on stdout; the README documents it."""

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stdout
        self.last_time = 0.0

    def _put(self, event: str, **facts) -> None:
        print(json.dumps({"event": event, **facts}), file=self.stream, flush=True)

    def say(self, line: str) -> None:
        self._put("message", text=line)

    def start(self, **facts) -> None:
        self._put("start", **facts)

    def show(self, tally, rows) -> None:
        now = time.monotonic()
        if now - self.last_time >= JSON_SECONDS:
            self.last_time = now
            self._put(
                "progress", frames_done=tally.done, frames_total=tally.total, frames_per_second=round(rate(tally), 3),
                seconds=round(tally.seconds, 1), restarts=tally.restarts,
            )  # fmt: skip

    def done(self, **facts) -> None:
        self._put("done", **facts)

    def error(self, message: str, exit_status: int) -> None:
        super().error(message, exit_status)
        self._put("error", message=message, exit_status=exit_status)


class Bars(Plain):
    """One tqdm bar for the video and one line for each worker."""

    def __init__(self):
        super().__init__()
        self.total: tqdm | None = None
        self.lines: list[tqdm] = []

    def say(self, line: str) -> None:
        tqdm.write(f"upscale: {line}", file=self.stream)

    def show(self, tally, rows) -> None:
        if self.total is None:
            self._open(tally, len(rows))
        if self.total.total != tally.total:
            self.total.total = tally.total
        self.total.n = tally.done
        self.total.refresh()
        for line, row in zip(self.lines, rows, strict=True):
            line.set_description_str(worker_line(row, line.pos), refresh=True)

    def _open(self, tally, workers: int) -> None:
        self.total = tqdm(
            total=tally.total, initial=tally.kept, unit=" frames", file=self.stream, dynamic_ncols=True, position=0,
            desc="video", smoothing=0.1,
        )  # fmt: skip
        self.lines = [
            tqdm(total=0, file=self.stream, dynamic_ncols=True, position=i + 1, bar_format="{desc}", leave=False)
            for i in range(workers)
        ]

    def close(self) -> None:
        for line in reversed(self.lines):
            line.close()
        if self.total is not None:
            self.total.close()
        self.lines, self.total = [], None


def worker_line(row, position: int) -> str:
    """One worker's line: device, batches, state, restarts."""
    batch = f"batch {row['batch']}" if row["batch"] >= 0 else ""
    restarts = f", {row['restarts']} restarts" if row["restarts"] else ""
    return (
        f"worker {abs(position) - 1} {row['device'].decode()}: {row['batches_done']} batches, "
        f"{row['frames_done']} frames, {status.STATES[row['state']]} {batch}{restarts}"
    )


def rate(tally) -> float:
    """Frames/s of this run."""
    return (tally.done - tally.kept) / max(tally.seconds, 1e-9)


def eta(tally) -> str:
    """What is left as h:mm:ss, or nothing where it can't be told."""
    if not tally.total or tally.done <= tally.kept:
        return ""
    seconds = int((tally.total - tally.done) / rate(tally))
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
