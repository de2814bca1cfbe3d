"""Progress bars in a terminal: one for the video, one for the folder that it is of, and one for each worker.

The main process draws a few times a second, from its counts and from the shared status array. After each drawing
the cursor is at the start of the first bar, so that everything below it can be erased: when the terminal was
resized (it wraps the old lines anew), and before the process is stopped with Ctrl-Z.
"""

import os
import sys
import time

from tqdm import tqdm

from upscaling.common.text import many, one_line
from upscaling.terminal.lines import UPSCALING, engine_text, size_text, stage
from upscaling.terminal.progress import Plain, Progress
from upscaling.workers import status

ERASE = "\r\033[J"  # to the first column, then erase to the end of the screen (ECMA-48 ED)
DRAW_SECONDS = 0.1  # minimum between two drawings
MAX_NAME = 24  # characters of the input's name before the bar
FIRST_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"  # while nothing can be said of rate and rest


class Bars(Plain):
    """One tqdm bar for the video, one for a run over many files, and one for each worker."""

    in_terminal = True

    def __init__(self, *arguments):
        super().__init__(*arguments)
        tqdm.monitor_interval = 0  # tqdm starts no thread: only the main loop draws
        self.name = "video"
        self.bars: list[tqdm] = []  # the video's, the folder's if there is one, then the workers'
        self.frames: status.WorkerFrames | None = None
        self.columns = 0  # of the terminal, when it was last drawn to; 0: draw on a clean screen
        self.drawn = 0.0  # time.monotonic() of the last drawing
        self.latest: tuple | None = None  # the last arguments of `show`

    def write(self, line: str) -> None:
        self._adapt()
        try:
            tqdm.write(one_line(f"upscale: {line}"), file=sys.stderr)
        except (OSError, ValueError):
            pass  # the terminal is gone
        self._put("\r")

    def start(self, **facts) -> None:
        Progress.start(self, **facts)
        self.write(f"{engine_text(facts)}, {facts['input_size']} to {size_text(facts)}")
        self.name = short(os.path.basename(facts["input"]))

    def show(self, counts, rows) -> None:
        Progress.show(self, counts, rows)
        self.latest = (counts, rows)
        if time.monotonic() - self.drawn >= DRAW_SECONDS and in_foreground():
            self._draw(counts, rows)

    def _draw(self, counts, rows) -> None:
        self.drawn = time.monotonic()
        if not self.bars:
            self._open(counts, rows)
        self._adapt()
        video, *workers = self.bars
        if self.folder:
            folder, *workers = workers
            folder.n = round(self.folder.done(counts) * folder.total)
            folder.unit = self.folder.text(counts)
        video.total, video.n = counts.total, counts.done
        video.start_t = time.time() - (counts.seconds - counts.skipping)  # tqdm's rate is (n - initial) / elapsed
        now = stage(counts, rows)
        video.bar_format = None if now == UPSCALING else FIRST_BAR
        notes = [now] if now != UPSCALING else []
        notes += [many(counts.restarts, "restart")] if counts.restarts else []
        video.set_postfix_str(", ".join(notes), refresh=False)
        assert self.frames is not None  # _open made it
        share = -(-(counts.total - counts.resumed) // len(rows)) if counts.total else None
        for index, (bar, row) in enumerate(zip(workers, rows, strict=True)):
            done = self.frames.done(index, row)
            bar.total = max(share, 1) if share is not None else max(done, 1)
            bar.n = min(done, bar.total)
            bar.set_description_str(f"worker {index} {row['device'].decode()}", refresh=False)
            bar.unit = worker_text(row, done)
        for bar in self.bars:
            bar.refresh()
        self._put("\r")

    def _open(self, counts, rows) -> None:
        self.frames = status.WorkerFrames(rows)
        self.columns = 0
        common = {"file": sys.stderr, "dynamic_ncols": True}
        video = tqdm(total=counts.total, initial=counts.resumed, unit=" frames", desc=self.name, position=0, **common)
        self.bars = [video]
        if self.folder:
            layout = "{l_bar}{bar}| {unit}"
            self.bars += [
                tqdm(total=1000, bar_format=layout, leave=False, position=1, desc=short(self.folder.name), **common)
            ]
        for _ in rows:
            layout, position = "{desc} |{bar}| {unit}", len(self.bars)
            self.bars += [tqdm(total=1, bar_format=layout, leave=False, position=position, **common)]

    def _adapt(self) -> None:
        """Start from a clean screen if the terminal's width has changed or the process was stopped."""
        columns = terminal_columns()
        if not self.bars or columns == self.columns:
            return
        self._put(ERASE)
        self.columns = columns
        for bar in self.bars:
            # tqdm pads a line to the length of the one before, which would be wrapped in a narrower terminal.
            bar.sp = bar.status_printer(bar.fp)

    def _put(self, text: str) -> None:
        """Write control characters, if bars are drawn."""
        if not self.bars:
            return
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (OSError, ValueError):
            pass

    def error(self, message: str, exit_status: int) -> None:
        if self.bars:
            # The process ends while the main thread is busy (signals.py), perhaps with tqdm's lock: without tqdm,
            # leave on the screen what `close` would leave.
            self._put(f"{ERASE}{self.bars[0]}\n")
        super().error(message, exit_status)

    def suspend(self) -> None:
        self._put(ERASE)

    def resume(self) -> None:
        self.columns = 0

    def close(self) -> None:
        visible = in_foreground()
        if self.latest is not None and visible:
            self._draw(*self.latest)
        for bar in reversed(self.bars):
            bar.disable = not visible
            bar.close()
        self.bars, self.latest = [], None


def worker_text(row, done: int) -> str:
    """The text behind a worker's bar: state, batch, frames, restarts; in columns, so that the bars are aligned."""
    state = status.STATES[min(int(row["state"]), status.ERROR)]
    restarts = many(int(row["restarts"]), "restart") if row["restarts"] else ""
    if row["state"] in (status.STARTING, status.LOADING):
        return f"{state:<32} {restarts}"  # as wide as the columns below
    batch = f"batch {row['batch']}" if row["batch"] >= 0 else ""
    return f"{state:<10} {batch:<9} {many(done, 'frame'):>11} {restarts}"


def short(name: str) -> str:
    """A name as it stands before a bar."""
    name = one_line(name)
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "…"


def terminal_columns() -> int:
    """The width of the terminal as it is now; 80 if it cannot be told."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def in_foreground() -> bool:
    """Whether this process may draw: False after `bg`, when the terminal belongs to the shell."""
    try:
        return os.tcgetpgrp(sys.stderr.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return True
