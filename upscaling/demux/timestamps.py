"""Timestamps: every frame gets one, strictly increasing, and as few as possible differ from the file's.

All times are integer ticks of one time base. Gaps, however long, are kept.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

_LOOK_AHEAD = 2  # frames that wait behind the current one (they stay in memory)

FrameT = TypeVar("FrameT")
TimedFrame = tuple[int | None, int | None, int, FrameT]  # (pts or None, dts or None, duration or 0, frame)


class TimeOrder:
    """Whether a video has presentation times, or decoding times in their place; watches its packets and frames.

    The containers of DECODING_TIMES have no others, and what FFmpeg makes of them is wrong with B-frames. Some muxers
    wrote decoding times as presentation times (MXF without temporal offsets, AVI copied into Matroska): the frames'
    pts go backward again and again in the order in which they are shown.
    """

    DECODING_TIMES = ("avi", "asf", "mpegvideo")  # FFmpeg's names; the last is an elementary stream of MPEG-1 or MPEG-2
    _FRAMES = 24  # that tell
    _BACKWARD = 8  # one of so many goes backward at least

    def __init__(self, container: str):
        self.by_container = container in self.DECODING_TIMES
        self._reordered = False  # packets are not in the order of their pts: these are presentation times
        self._packet: int | None = None  # pts
        self._frame: int | None = None
        self._frames = self._backward = 0

    def packet(self, pts: int | None) -> None:
        """The next packet in file order."""
        if pts is not None:
            self._reordered |= self._packet is not None and pts < self._packet
            self._packet = pts

    def frame(self, pts: int | None) -> None:
        """The next frame that the decoder returns."""
        self._frames += 1
        if pts is not None:
            self._backward += self._frame is not None and pts < self._frame
            self._frame = pts

    @property
    def in_doubt(self) -> bool:
        """Whether more frames have to be seen."""
        return not self.by_container and not self._reordered and self._frames < self._FRAMES

    @property
    def lacks_presentation_times(self) -> bool:
        """Whether there are decoding times in their place, as far as seen."""
        return self.by_container or (self._backward > 1 and self._backward * self._BACKWARD >= self._frames)


class Timestamps:
    """Repairs the times of a sequence of frames; `missing` and `repaired` count the changed ones.

    `step` is the usual distance of two frames in ticks, for frames without a time; `second` is a second in ticks.
    """

    def __init__(self, step: int, second: int):
        self._step, self._second = max(step, 1), max(second, 1)
        self._last: int | None = None  # the last time returned
        self._shift = 0  # added to the file's times after they jumped back
        self.total = self.missing = self.repaired = 0

    def repair(self, frames: Iterable[TimedFrame[FrameT]]) -> Iterator[tuple[int, FrameT]]:
        """Yields (pts, frame) in the order of the input.

        Frames are held back until the next ones are known, to see which of two contradicting times is wrong.
        """
        window: deque[tuple[int, FrameT]] = deque()
        for timed in self._fill_in(frames):
            window.append(timed)
            if len(window) > _LOOK_AHEAD:
                yield self._next(window)
        while window:
            yield self._next(window)

    def _fill_in(self, frames: Iterable[TimedFrame[FrameT]]) -> Iterator[tuple[int, FrameT]]:
        """A frame without a pts gets its dts if that is later than the last time, else last time + duration."""
        last, last_duration = None, self._step
        for pts, dts, duration, frame in frames:
            self.total += 1
            if pts is None:
                self.missing += 1
                expected = 0 if last is None else last + last_duration
                pts = dts if dts is not None and (last is None or dts > last) else expected
            last, last_duration = pts, duration or self._step
            yield pts, frame

    def _next(self, window: deque[tuple[int, FrameT]]) -> tuple[int, FrameT]:
        source_pts, frame = window.popleft()
        if self._shift and self._last is not None and source_pts > self._last:
            self._shift = 0  # the file's own times are good again
        following = [pts + self._shift for pts, _ in window]
        pts = self._choose(source_pts + self._shift, following)
        self.repaired += pts != source_pts
        self._last = pts
        return pts, frame

    def _choose(self, pts: int, following: list[int]) -> int:
        last = self._last
        if last is None or pts > last:
            return self._unless_outlier(pts, following)
        restarted = last - pts > self._second and all(later <= last for later in following)
        if restarted:
            self._shift += last + self._step - pts
            return last + self._step
        return last + 1

    def _unless_outlier(self, pts: int, following: list[int]) -> int:
        """`pts`, or a time between its neighbours if both following frames come before it and after the last one."""
        last = self._last
        outlier = (
            len(following) == 2 and following[0] < following[1] <= pts and (last is None or following[0] > last + 1)
        )
        if not outlier:
            return pts
        if last is None:
            return following[0] - (following[1] - following[0])
        return min(last + self._step, (last + following[0]) // 2)

    def warnings(self) -> list[str]:
        """One line for each kind of repair that was needed."""
        lines = []
        if self.missing == self.total > 0:
            lines.append("the file has no timestamps; frames are spaced evenly at its frame rate")
        elif self.missing:
            lines.append(f"{self.missing} of {self.total} frames had no timestamp; it was filled in")
        if self.repaired:
            lines.append(f"{self.repaired} of {self.total} timestamps were duplicate or went backward; repaired")
        return lines
