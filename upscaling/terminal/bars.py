"""Progress bars in a terminal: one for the video, one for the folder that it is of, and one for each worker.

The main process draws a few times a second, from its counts and from the shared status array. tqdm makes the text of a
bar; where it is drawn is `Screen`'s.
"""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from upscaling.common.text import many, one_line
from upscaling.terminal.lines import UPSCALING, engine_text, size_text, stage
from upscaling.terminal.progress import Plain, Progress
from upscaling.terminal.screen import Screen, in_foreground, terminal_size
from upscaling.workers import status

DRAW_SECONDS = 0.1  # minimum between two drawings
MAX_NAME = 24  # characters of the input's name before the bar
FIRST_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"  # while nothing can be said of rate and rest
STEP_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}] {unit}"
FOLDER_BAR, WORKER_BAR = "{l_bar}{bar}| {unit}", "{desc} |{bar}| {unit}"


@dataclass
class Bar:
    """One bar, as tqdm names its parts; `layout` None is tqdm's own."""

    prefix: str
    n: int
    total: int | None
    layout: str | None
    unit: str = " frames"
    initial: int = 0
    elapsed: float = 0.0  # seconds; the rate is (n - initial) / elapsed
    postfix: str = ""

    def text(self, columns: int) -> str:
        """The bar in that many columns."""
        total: Any = self.total  # None if unknown, which tqdm's type leaves out
        return tqdm.format_meter(
            self.n, total, self.elapsed, ncols=columns, prefix=self.prefix, ascii=not can_write("█▏"),
            unit=self.unit, bar_format=self.layout, postfix=self.postfix, initial=self.initial,
        )  # fmt: skip


class Bars(Plain):
    """One bar for the video, one for a run over many files, and one for each worker."""

    in_terminal = True

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.name = "video"
        self.screen = Screen()
        self.bars: list[Bar] = []  # the video's, the folder's if there is one, then the workers'
        self.frames: status.WorkerFrames | None = None
        self.drawn = 0.0  # time.monotonic() of the last drawing
        self.begun = 0.0  # time.monotonic() of a preview's first step
        self.latest: tuple | None = None  # the last arguments of `show`

    def write(self, line: str) -> None:
        if not self.bars or not in_foreground():
            super().write(line)
            return
        self.screen.draw(self._lines(), above=one_line(f"upscale: {line}"))

    def start(self, **facts) -> None:
        Progress.start(self, **facts)
        self.write(f"{engine_text(facts)}, {facts['input_size']} to {size_text(facts)}")
        self.name = short(os.path.basename(facts["input"]))

    def step(self, done: int, total: int, what: str) -> None:
        Progress.step(self, done, total, what)
        self.begun = self.begun or time.monotonic()
        elapsed = time.monotonic() - self.begun
        self.bars = [Bar("preview", done, total, STEP_BAR, unit=what, elapsed=elapsed)]
        if in_foreground():
            self.screen.draw(self._lines())

    def show(self, counts, rows) -> None:
        Progress.show(self, counts, rows)
        self.latest = (counts, rows)
        if time.monotonic() - self.drawn >= DRAW_SECONDS and in_foreground():
            self._draw(counts, rows)

    def _draw(self, counts, rows) -> None:
        self.drawn = time.monotonic()
        if self.frames is None:
            self.frames = status.WorkerFrames(rows)
        folder = [self._folder_bar(counts)] if self.folder else []
        share = -(-(counts.total - counts.resumed) // len(rows)) if counts.total else None
        workers = [self._worker_bar(index, row, share) for index, row in enumerate(rows)]
        self.bars = [self._video_bar(counts, rows), *folder, *workers]
        self.screen.draw(self._lines())

    def _video_bar(self, counts, rows) -> Bar:
        now = stage(counts, rows)
        notes = [now] if now != UPSCALING else []
        notes += [many(counts.restarts, "restart")] if counts.restarts else []
        return Bar(
            self.name, counts.done, counts.total, None if now == UPSCALING else FIRST_BAR, initial=counts.resumed,
            elapsed=counts.seconds - counts.skipping, postfix=", ".join(notes),
        )  # fmt: skip

    def _folder_bar(self, counts) -> Bar:
        assert self.folder is not None
        name, total = short(self.folder.name), 1000
        return Bar(name, round(self.folder.done(counts) * total), total, FOLDER_BAR, unit=self.folder.text(counts))

    def _worker_bar(self, index: int, row, share: int | None) -> Bar:
        assert self.frames is not None
        done = self.frames.done(index, row)
        total = max(share if share is not None else done, 1)
        name = f"worker {index} {row['device'].decode()}"
        return Bar(name, min(done, total), total, WORKER_BAR, unit=worker_text(row, done))

    def _lines(self) -> list[str]:
        """The bars as lines, as many as the terminal has room for."""
        rows, columns = terminal_size()
        lines = [bar.text(columns - 1) for bar in self.bars]
        return lines if len(lines) < rows else [*lines[: max(rows - 2, 1)], " ... (more hidden) ..."[: columns - 1]]

    def error(self, message: str, exit_status: int) -> None:
        # The process may end while the main thread is busy (signals.py): leave what `close` would leave.
        self._leave_video_bar()
        super().error(message, exit_status)

    def suspend(self, stop: Callable[[], None]) -> None:
        self.screen.stop(stop)

    def resume(self) -> None:
        self.screen.forget()

    def close(self) -> None:
        if self.latest is not None and in_foreground():
            self._draw(*self.latest)
        if in_foreground():
            self._leave_video_bar()
        self.bars, self.latest, self.frames = [], None, None

    def _leave_video_bar(self) -> None:
        if self.bars:
            self.screen.leave(self.bars[0].text(terminal_size()[1] - 1))


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


def can_write(text: str) -> bool:
    """Whether stderr's encoding has these characters."""
    try:
        text.encode(sys.stderr.encoding or "utf-8")
    except (UnicodeError, AttributeError):
        return False
    return True
