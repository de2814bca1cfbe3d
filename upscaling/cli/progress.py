"""What a run says while it goes on: plain lines or JSON objects; bars are in bars.py, a log file in reporter.py.

Plain lines go to stderr: one at the start, one now and then, one at the end. JSON objects go to stdout, one
a line; docs/USAGE.md documents them. What can't be written (a closed pipe, a full disk) is not said: a run
goes on without anybody watching.
"""

import json
import sys
import time
from typing import TextIO

from upscaling.common.text import clock, many, one_line

PLAIN_SECONDS = 30.0  # at the least between two plain lines
PLAIN_SHARE = 0.05  # of the video, at the least, between two plain lines
JSON_SECONDS = 1.0


class Progress:
    """Says nothing but errors; the base of the others. Facts are JSON-able."""

    def __init__(self, verbosity: int = 0):
        self.verbosity = verbosity

    def say(self, line: str) -> None:
        """One line for the user: a warning, a restart, what is kept."""

    def detail(self, line: str) -> None:
        """One line for whoever asked for more (-v)."""
        if self.verbosity > 0:
            self.say(line)

    def start(self, **facts) -> None:
        """A job begins."""

    def show(self, counts, rows) -> None:
        """Called a few times a second with the pipeline's RunCounts and the rows of the status array."""

    def close(self) -> None:
        """Nothing will be drawn any more for this job."""

    def suspend(self) -> None:
        """The process is about to be stopped (Ctrl-Z): leave a clean screen."""

    def resume(self) -> None:
        """The process goes on."""

    def file(self, **facts) -> None:
        """A file of a folder run has ended: `status` done, skipped, waiting, busy or failed.

        A failure goes to stderr whatever -q says: cron mails it.
        """
        if facts["status"] == "failed":
            put(sys.stderr, f"upscale: error: {file_line(facts)}")

    def show_dry_run(self, lines: list[str], **facts) -> None:
        """What --dry-run found out; to stdout whatever the mode."""
        for line in lines:
            put(sys.stdout, line)

    def done(self, **facts) -> None:
        """The run has ended well."""

    def finish(self) -> None:
        """Nothing will be said any more."""

    def error(self, message: str, exit_status: int) -> None:
        """The run has ended with an error; the one line of it goes to stderr whatever the mode."""
        put(sys.stderr, f"upscale: error: {message}")


def put(stream: TextIO | None, line: str) -> None:
    """Print a line where that is possible: nobody may be listening any more."""
    if stream is None:
        return
    try:
        print(one_line(line), file=stream, flush=True)
    except (OSError, ValueError):
        pass


class Plain(Progress):
    """A line at the start, a line now and then, a line at the end; all to stderr."""

    def __init__(self, verbosity: int = 0, stream: TextIO | None = None):
        super().__init__(verbosity)
        self.stream = stream or sys.stderr
        self.last_time, self.last_done = time.monotonic(), 0

    def say(self, line: str) -> None:
        put(self.stream, f"upscale: {line}")

    def start(self, **facts) -> None:
        self.last_time, self.last_done = time.monotonic(), 0
        self.say(start_line(facts))

    def show(self, counts, rows) -> None:
        now = time.monotonic()
        share = (counts.done - self.last_done) / counts.total if counts.total else 1.0
        if now - self.last_time >= PLAIN_SECONDS and share >= PLAIN_SHARE:
            self.last_time, self.last_done = now, counts.done
            self.say(running_line(counts))

    def file(self, **facts) -> None:
        self.say(file_line(facts))

    def done(self, **facts) -> None:
        self.say(done_line(facts))


class Json(Progress):
    """One object a line on stdout."""

    def __init__(self, verbosity: int = 0, stream: TextIO | None = None):
        super().__init__(verbosity)
        self.stream = stream or sys.stdout
        self.last_time = 0.0

    def _put(self, event: str, **facts) -> None:
        put(self.stream, json.dumps({"event": event, **facts}))

    def say(self, line: str) -> None:
        self._put("message", text=line)

    def start(self, **facts) -> None:
        self._put("start", **facts)

    def show(self, counts, rows) -> None:
        now = time.monotonic()
        if now - self.last_time >= JSON_SECONDS:
            self.last_time = now
            self._put(
                "progress", frames_done=counts.done, frames_total=counts.total,
                frames_per_second=round(rate(counts), 3), seconds=round(counts.seconds, 1),
                seconds_left=seconds_left(counts), restarts=counts.restarts,
            )  # fmt: skip

    def file(self, **facts) -> None:
        self._put("file", **facts)

    def show_dry_run(self, lines: list[str], **facts) -> None:
        self._put("plan", **facts)

    def done(self, **facts) -> None:
        self._put("done", **facts)

    def error(self, message: str, exit_status: int) -> None:
        super().error(message, exit_status)
        self._put("error", message=message, exit_status=exit_status)


# Lines


def start_line(facts: dict) -> str:
    """What a job is, in one line."""
    frames = many(facts["frames"], "frame") if facts["frames"] else "an unknown number of frames"
    return (
        f"{facts['input']}: {frames} of {facts['input_size']} to {facts['output_size']}, {facts['model']}, "
        f"{many(facts['workers'], 'worker')} on {facts['device']}"
    )


def running_line(counts) -> str:
    """How far a job is, in one line."""
    left = f", {clock(seconds)} left" if (seconds := seconds_left(counts)) is not None else ""
    restarts = f", {many(counts.restarts, 'restart')}" if counts.restarts else ""
    return f"{counts.done} of {counts.total or '?'} frames, {rate(counts):.2f} frames/s{left}{restarts}"


def file_line(facts: dict) -> str:
    """How a file of a folder run has ended."""
    if facts["status"] == "done":
        return done_line(facts)
    about = f"{facts['input']}: {facts['message']}"
    return f"{facts['status']}: {facts['message'] if facts['input'] in facts['message'] else about}"


def done_line(facts: dict) -> str:
    """What a job or a folder run has done, in one line."""
    if "files_done" in facts:
        counts = [f"{facts[f'files_{name}']} {name}" for name in ("done", "skipped", "waiting", "busy", "failed")]
        return f"{facts['output']}: {', '.join(counts)} in {facts['seconds']:.1f} s"
    return (
        f"{facts['output']}: {many(facts['frames'], 'frame')} in {facts['seconds']:.1f} s, "
        f"{facts['frames_per_second']:.2f} frames/s"
    )


def rate(counts) -> float:
    """Frames/s of this run."""
    return (counts.done - counts.resumed) / max(counts.seconds, 1e-9)


def seconds_left(counts) -> int | None:
    """What is left, in whole seconds, or None where it can't be told."""
    if not counts.total or counts.done <= counts.resumed:
        return None
    return max(0, int((counts.total - counts.done) / rate(counts)))
