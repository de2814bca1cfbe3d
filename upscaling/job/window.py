"""The frames between the decode and the encode thread: a bounded window of the video, in presentation order."""

import threading
import time
from collections import deque
from dataclasses import dataclass

MAX_REPEATS = 32  # entries in the window for each frame that it may have in storage


@dataclass
class Entry:
    """A frame on its way. `held` frames have the pixels of the frame before and no files of their own."""

    number: int
    pts: int
    repeated: bool
    complete: bool


class Window:
    """The frames in storage: at most `capacity` that are not held, in presentation order."""

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.entries: deque[Entry] = deque()
        self.by_number: dict[int, Entry] = {}  # of those with files
        self.changed = threading.Condition()
        self.ended = False
        self.stop_by: float | None = None  # time.monotonic()
        self.error: BaseException | None = None

    def wait_for_room(self) -> bool:
        """Until one more frame may be stored; False where the run ends first."""
        with self.changed:
            self.changed.wait_for(lambda: self._has_room() or self.stop_by is not None)
            return self.stop_by is None

    def _has_room(self) -> bool:
        # A long still has held frames without number, which take no storage, but memory.
        return len(self.by_number) < self.capacity and len(self.entries) < MAX_REPEATS * self.capacity

    def add(self, entry: Entry) -> None:
        with self.changed:
            self.entries.append(entry)
            if not entry.repeated:
                self.by_number[entry.number] = entry
            self.changed.notify_all()

    def complete(self, numbers: list[int]) -> None:
        """The outputs of these frames are in place."""
        with self.changed:
            for number in numbers:
                if number in self.by_number:
                    self.by_number[number].complete = True
            self.changed.notify_all()

    def end(self) -> None:
        """No more frames will be added."""
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def stop(self, grace: float, error: BaseException | None = None) -> None:
        """End the run: what is complete may still be taken for `grace` seconds."""
        with self.changed:
            self.error = self.error or error
            if self.stop_by is None:
                self.stop_by = time.monotonic() + grace
            self.changed.notify_all()

    def take(self) -> Entry | None:
        """The next frame once it is complete; None at the end of the video or of the run."""
        with self.changed:
            self.changed.wait_for(
                lambda: (
                    (self.entries and self.entries[0].complete)
                    or (self.ended and not self.entries)
                    or self.stop_by is not None
                )
            )
            out_of_time = self.stop_by is not None and time.monotonic() > self.stop_by
            if not self.entries or not self.entries[0].complete or out_of_time:
                return None
            return self.entries[0]

    def release(self, entry: Entry) -> None:
        """The frame taken last is encoded and its files are gone."""
        with self.changed:
            self.entries.popleft()
            self.by_number.pop(entry.number, None)
            self.changed.notify_all()
