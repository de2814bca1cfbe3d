"""Bars in a terminal: one for the video, one for each worker. The only importer of tqdm.

The main process draws, from counts and from the shared status array, a few times a second. After each
drawing the cursor stands at the start of the first bar, so that everything below it can be wiped: after the
terminal was resized (it wraps the old lines anew), and before the process is stopped with Ctrl-Z.
"""

import os
import sys
import time

from tqdm import tqdm

from upscaling.cli.progress import Plain
from upscaling.common.text import many
from upscaling.workers import status

WIPE = "\r\033[J"  # to the first column, then erase to the end of the screen (ECMA-48 ED)
DRAW_SECONDS = 0.1  # between drawings, however often there is news
NAME_WIDTH = 24  # characters of the input's name before the bar


class Bars(Plain):
    """One tqdm bar for the video and one for each worker."""

    def __init__(self, verbosity: int = 0):
        super().__init__(verbosity, sys.stderr)
        tqdm.monitor_interval = 0  # no thread of tqdm's: only the main loop draws
        self.name = "video"
        self.bars: list[tqdm] = []  # the video's, then the workers'
        self.size = (0, 0)  # (columns, rows) that were drawn for
        self.wiped = False
        self.drawn = 0.0  # time.monotonic() of the last drawing
        self.latest: tuple | None = None  # what `show` was told last
        self.before: list[tuple[int, int]] = []  # per worker: (restarts seen, frames of its processes before)
        self.frames: list[int] = []  # per worker: frames of its process when last seen

    def say(self, line: str) -> None:
        self._fit()
        tqdm.write(f"upscale: {line}", file=self.stream)
        self._home()

    def start(self, **facts) -> None:
        self.say(f"{facts['model']}, {many(facts['workers'], 'worker')} on {facts['device']}, "
                 f"{facts['input_size']} to {facts['output_size']}")  # fmt: skip
        name = os.path.basename(facts["input"])
        self.name = name if len(name) <= NAME_WIDTH else name[: NAME_WIDTH - 1] + "…"

    def show(self, counts, rows) -> None:
        self.latest = (counts, rows)
        if time.monotonic() - self.drawn < DRAW_SECONDS or not in_foreground(self.stream):
            return  # after `bg` the terminal belongs to somebody else
        self._draw(counts, rows)

    def _draw(self, counts, rows) -> None:
        self.drawn = time.monotonic()
        if not self.bars:
            self._open(counts, rows)
        self._fit()
        video, *workers = self.bars
        video.total, video.n = counts.total, counts.done
        video.set_postfix_str(many(counts.restarts, "restart") if counts.restarts else "", refresh=False)
        share = -(-(counts.total - counts.resumed) // len(rows)) if counts.total else None
        for index, (bar, row) in enumerate(zip(workers, rows, strict=True)):
            done = self._frames_done(index, row)
            bar.total = max(share, 1) if share is not None else max(done, 1)
            bar.n = min(done, bar.total)
            bar.set_description_str(f"worker {index} {row['device'].decode()}", refresh=False)
            bar.unit = worker_text(row, done)
        for bar in self.bars:
            bar.refresh()
        self._home()

    def _open(self, counts, rows) -> None:
        self.before = [(int(row["restarts"]), -int(row["frames_done"])) for row in rows]
        self.frames = [int(row["frames_done"]) for row in rows]
        line = "{desc} |{bar}| {unit}"
        self.size = terminal_size(self.stream)
        columns, lines = self.size
        shape = {"file": self.stream, "ncols": columns - 1, "nrows": lines}
        self.bars = [
            tqdm(total=counts.total, initial=counts.resumed, unit=" frames", desc=self.name, position=0, **shape)
        ]
        for index in range(len(rows)):
            self.bars.append(tqdm(total=1, bar_format=line, leave=False, position=index + 1, **shape))

    def _frames_done(self, index: int, row) -> int:
        """Frames that a worker's place has done in this job: its processes that died counted in."""
        seen, before = self.before[index]
        if int(row["restarts"]) != seen:
            before += self.frames[index]
            self.before[index] = (int(row["restarts"]), before)
        self.frames[index] = int(row["frames_done"])
        return before + self.frames[index]

    def _fit(self) -> None:
        """Draw for the terminal as it is now, from a clean screen where it has changed."""
        size = terminal_size(self.stream)
        if not self.bars or (size == self.size and not self.wiped):
            return
        if size != self.size:
            self._write(WIPE)
        self.size, self.wiped = size, False
        for bar in self.bars:
            bar.ncols, bar.nrows = size[0] - 1, size[1]
            bar.sp = bar.status_printer(bar.fp)  # else it would overwrite a longer line that is not there any more

    def _home(self) -> None:
        if self.bars:
            self._write("\r")

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):
            pass

    def suspend(self) -> None:
        if self.bars:
            self._write(WIPE)

    def resume(self) -> None:
        self.wiped = True

    def close(self) -> None:
        hidden = not in_foreground(self.stream)
        if self.latest is not None and not hidden:
            self._draw(*self.latest)
        for bar in reversed(self.bars):
            bar.disable = hidden
            bar.close()
        self.bars, self.latest = [], None


def worker_text(row, done: int) -> str:
    """What stands behind a worker's bar: state, batch, frames, restarts; in columns, so that the bars are aligned."""
    state = status.STATES[min(int(row["state"]), status.ERROR)]
    batch = f"batch {row['batch']}" if row["batch"] >= 0 else ""
    again = f"{many(int(row['restarts']), 'restart')}" if row["restarts"] else ""
    return f"{state:<10} {batch:<9} {many(done, 'frame'):>11} {again}"


def terminal_size(stream) -> tuple[int, int]:
    """(columns, rows) of the terminal, as it is now."""
    try:
        columns, rows = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        columns = rows = 0
    return (columns or 80, rows or 24)


def in_foreground(stream) -> bool:
    """Whether this process may draw: the terminal's foreground process group is its own, or that can't be told."""
    try:
        return os.tcgetpgrp(stream.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return True
