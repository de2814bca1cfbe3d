"""The frames between the decode and the encode stage: a bounded window of the video, and the token that stops it."""

import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from upscaling.decode.messages import Message

ENTRIES_PER_FRAME = 32  # entries that the window may have for each frame that it may have in storage


class StopToken:
    """Ends a run early. Any thread may set it, and every wait of a stage returns when it is set."""

    def __init__(self):
        self.changed = threading.Condition()  # also of the window that waits for it
        self.error: BaseException | None = None  # the first
        self._deadline: float | None = None  # time.monotonic()

    def set(self, grace: float, error: BaseException | None = None) -> None:
        """Stop; frames that are complete may still be encoded for `grace` seconds after the first call."""
        with self.changed:
            self.error = self.error or error
            if self._deadline is None:
                self._deadline = time.monotonic() + grace
            self.changed.notify_all()

    @property
    def is_set(self) -> bool:
        return self._deadline is not None

    @property
    def is_overdue(self) -> bool:
        """Whether the grace period is over."""
        return self._deadline is not None and time.monotonic() > self._deadline


@dataclass
class Entry:
    """A frame of the window. A `repeated` frame has the pixels of the one before and no files of its own."""

    number: int
    pts: int
    repeated: bool
    complete: bool
    messages: tuple[Message, ...] = ()


class Window:
    """Frames in presentation order; at most `capacity` of them, repeated ones not counted, are in storage."""

    def __init__(self, capacity: int, stop: StopToken):
        self.capacity, self.stop = capacity, stop
        self.entries: deque[Entry] = deque()
        self.by_number: dict[int, Entry] = {}  # of those in storage
        self.ended = False

    def wait_for_room(self) -> bool:
        """Wait until one more frame may be stored; return False if the run is stopped first."""
        with self.stop.changed:
            self.stop.changed.wait_for(lambda: self._has_room() or self.stop.is_set)
            return not self.stop.is_set

    def _has_room(self) -> bool:
        # A still may repeat for hours; repeated frames take no storage, but they take memory.
        return len(self.by_number) < self.capacity and len(self.entries) < ENTRIES_PER_FRAME * self.capacity

    def add(self, entry: Entry) -> None:
        with self.stop.changed:
            self.entries.append(entry)
            if not entry.repeated:
                self.by_number[entry.number] = entry
            self.stop.changed.notify_all()

    def holds(self, number: int) -> bool:
        """Whether a stored frame is not encoded yet."""
        with self.stop.changed:
            return number in self.by_number

    def complete(self, numbers: Iterable[int]) -> None:
        """The upscaled frames of these numbers are in storage."""
        with self.stop.changed:
            for number in numbers:
                if number in self.by_number:
                    self.by_number[number].complete = True
            self.stop.changed.notify_all()

    def end(self) -> None:
        """No more frames will be added."""
        with self.stop.changed:
            self.ended = True
            self.stop.changed.notify_all()

    def take(self) -> Entry | None:
        """Wait for the next frame to be complete; return None at the end of the video or of a stopped run."""
        with self.stop.changed:
            self.stop.changed.wait_for(lambda: self._is_next_complete() or self._is_empty() or self.stop.is_set)
            return self.entries[0] if self._is_next_complete() and not self.stop.is_overdue else None

    def _is_next_complete(self) -> bool:
        return bool(self.entries) and self.entries[0].complete

    def _is_empty(self) -> bool:
        return self.ended and not self.entries

    def release(self, entry: Entry) -> None:
        """The frame taken last is encoded and its files are removed."""
        with self.stop.changed:
            self.entries.popleft()
            self.by_number.pop(entry.number, None)
            self.stop.changed.notify_all()
