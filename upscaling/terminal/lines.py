"""The lines that a run reports, from the facts and counts of its jobs."""

from typing import TYPE_CHECKING

from upscaling.common.text import clock, many

if TYPE_CHECKING:
    from upscaling.pipeline.stages import RunCounts
    from upscaling.terminal.folder_progress import FolderProgress

UPSCALING = "upscaling"
FILE_COUNTS = ("done", "skipped", "waiting", "busy", "failed")  # what can become of a file of a run over many


def start_line(facts: dict) -> str:
    """One line about a job that begins."""
    frames = many(facts["frames"], "frame") if facts["frames"] else "an unknown number of frames"
    return f"{facts['input']}: {frames} of {facts['input_size']} to {size_text(facts)}, {engine_text(facts)}"


def size_text(facts: dict) -> str:
    """The size of the output, and how it came about: `640x360 (inside 640x480)`."""
    return facts["output_size"] + (f" ({facts['shape']})" if facts["shape"] else "")


def engine_text(facts: dict) -> str:
    """The model, the devices and the engine of a job, and why these."""
    workers = f"{many(facts['workers'], 'worker')} on {facts['device']}"
    return f"{facts['model']}, {workers} with {facts['engine']} ({facts['engine_reason']})"


def stage(counts: "RunCounts", rows) -> str:
    """What a job is at: before its first new frame that of the worker that is ahead of the others."""
    from upscaling.workers import status  # imports NumPy, which --help must not wait for

    if counts.done > counts.resumed:
        return UPSCALING
    states = {int(row["state"]) for row in rows}
    if states & {status.PROCESSING, status.COMPLETED}:
        return "upscaling the first frames"
    if status.IDLE in states:
        return "decoding"
    return status.STATES[max(states & {status.STARTING, status.LOADING}, default=status.STARTING)]


def running_line(counts: "RunCounts", rows, folder: "FolderProgress | None" = None) -> str:
    """One line about a job that runs, and about the run over many files that it is of."""
    rest = f"; {folder.text(counts)}" if folder else ""
    if (now := stage(counts, rows)) != UPSCALING:
        return f"{counts.done} of {counts.total or '?'} frames, {now}{rest}"
    left = f", {clock(seconds)} left" if (seconds := counts.seconds_left) is not None else ""
    restarts = f", {many(counts.restarts, 'restart')}" if counts.restarts else ""
    return f"{counts.done} of {counts.total or '?'} frames, {counts.rate:.2f} frames/s{left}{restarts}{rest}"


def step_line(done: int, total: int, what: str) -> str:
    """One line about a step of a preview that begins."""
    return f"preview: step {done + 1} of {total}, {what}"


def file_line(facts: dict) -> str:
    """One line about a file of a folder run that has ended."""
    if facts["status"] == "done":
        return done_line(facts)
    message = facts["message"]
    return f"{facts['status']}: {message if facts['input'] in message else facts['input'] + ': ' + message}"


def done_line(facts: dict) -> str:
    """One line about a job, a folder run or a preview that is done."""
    if "files_done" in facts:
        counts = [f"{facts[f'files_{name}']} {name}" for name in FILE_COUNTS]
        return f"{facts['output']}: {', '.join(counts)} in {facts['seconds']:.1f} s"
    if "columns" in facts:
        count = f"{many(len(facts['crops']), 'crop')} in {many(len(facts['columns']), 'column')}"
        return f"{facts['output']}: {count} in {facts['seconds']:.1f} s"
    return (
        f"{facts['output']}: {many(facts['frames'], 'frame')} in {facts['seconds']:.1f} s, "
        f"{facts['frames_per_second']:.2f} frames/s"
    )
