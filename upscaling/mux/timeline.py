"""Where the input's times go in the output: which part is copied, and by how much everything is moved."""

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import av
from av.container import InputContainer

if TYPE_CHECKING:
    from av.container.core import Chapter  # only the stub has it

Clip = tuple[Fraction, Fraction]  # seconds of the input: from, up to but not including


@dataclass(frozen=True)
class Timeline:
    """`shift` seconds are subtracted from all times; with `clip`, only that part of the input is copied."""

    shift: Fraction
    clip: Clip | None

    @classmethod
    def starting_at(cls, first_frame: Fraction, clip: Clip | None) -> "Timeline":
        """The output's timeline for a track whose first frame is shown at `first_frame` seconds of the input.

        A clip starts at zero. So does a file that begins before zero: neither MP4 nor Matroska has negative
        times for video, so all streams move together.
        """
        return cls(first_frame if clip is not None or first_frame < 0 else Fraction(0), clip)

    def place(self, packet: av.Packet) -> bool:
        """Moves a packet that has both times to its place in the output; returns False if it is outside the clip.

        A subtitle that is shown when the clip starts or ends is shortened. Sound that begins before the clip
        is left out: Matroska has no negative times.
        """
        base = packet.time_base
        assert packet.pts is not None and packet.dts is not None
        if self.clip is not None:
            first, last = (round(time / base) for time in self.clip)
            start, end = packet.pts, packet.pts + (packet.duration or 0)
            if packet.stream.type == "subtitle" and start < last and end > first:
                packet.pts = packet.dts = max(start, first)
                packet.duration = min(end, last) - packet.pts
            elif not first <= start < last:
                return False
        ticks = round(self.shift / base)
        packet.pts, packet.dts = packet.pts - ticks, packet.dts - ticks
        return True

    def chapters(self, source: InputContainer) -> list["Chapter"]:
        """The input's chapters as the output has them, cut to the clip."""
        chapters: list[Chapter] = []
        for chapter in source.chapters():
            base = chapter["time_base"]
            assert base is not None  # PyAV reads it from the file, where every chapter has one
            start, end = chapter["start"] * base, chapter["end"] * base
            if self.clip is not None:
                if end <= self.clip[0] or start >= self.clip[1]:
                    continue
                start, end = max(start, self.clip[0]), min(end, self.clip[1])
            moved = chapter.copy()
            moved["start"], moved["end"] = (max(round((time - self.shift) / base), 0) for time in (start, end))
            chapters.append(moved)
        return chapters
