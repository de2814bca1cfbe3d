"""The frames of a video's main picture, decoded in order: each once, with its exact time, upright, deinterlaced.

    packets ─► reader.Reader ─► timestamps ─► skip ─► deinterlace ─► planes (views) ─► turned

Nothing is copied where the decoder's pixel format is one that frames are kept in.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from upscaling.decode.deinterlace import Deinterlacer
from upscaling.decode.planes import PlaneViewer
from upscaling.decode.probe import VideoInfo
from upscaling.decode.reader import Reader, VideoError, no_frames, shown
from upscaling.decode.timestamps import Timestamps
from upscaling.frames.pixel_formats import pixel_format

FIELDS_AROUND = 2  # frames before the first wanted one that the deinterlacer wants to see


@dataclass(frozen=True)
class DecodedFrame:
    """One frame; its planes are views that hold until the next frame is asked for."""

    number: int  # from 1, in presentation order
    pts: int  # ticks of VideoInfo.time_base, strictly increasing
    planes: list[np.ndarray]  # in the shapes of frame.plane_shapes, maybe strided, not to be written to


class Decoder:
    """Decodes a probed video; a context manager, iterable once. A second one yields the same numbers and times."""

    def __init__(self, info: VideoInfo, *, skip: int = 0, stop: int | None = None, threads: int = 0):
        """`skip`: so many frames are decoded but not yielded; `stop`: the number of the last frame to yield.

        `threads`: of the decoder, 0 is one a core. VideoError as for video.probe.
        """
        self._info, self._skip, self._stop = info, skip, stop
        self.warnings: list[str] = []  # complete after the iteration, one line each
        self._reader = self._open_reader(threads)
        if self._reader.stream.index != info.stream_index:
            self._reader.close()
            raise VideoError(f"{shown(info.path)} is not the file any more that it was; start again")
        rate = info.frame_rate or 25
        self._times = Timestamps(step=round(1 / (rate * info.time_base)), second=round(1 / info.time_base))
        kept = pixel_format(info.pixel_format)
        self._viewer = PlaneViewer(
            info.source_format, info.source_width, info.source_height, kept, info.colour.full_range
        )

    def _open_reader(self, threads: int) -> Reader:
        return Reader(self._info.path, alpha=self._info.alpha, threads=threads)

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._reader.close()

    def __iter__(self) -> Iterator[DecodedFrame]:
        frames = self._numbered()
        if self._stop is not None:
            frames = itertools.takewhile(lambda item: item[0][0] <= self._stop + 1, frames)
        frames = ((carried, self._viewer.fit(frame)) for carried, frame in frames)
        if self._info.bwdif:
            frames = Deinterlacer(self._info.bwdif).run(frames)
        last = 0
        for (number, pts), frame in frames:
            last = number
            if number > self._skip and (self._stop is None or number <= self._stop):
                planes = self._viewer.planes(frame)
                yield DecodedFrame(number, pts, self._info.orientation.apply(planes))
        self._finish(last)

    def _numbered(self) -> Iterator[tuple[tuple[int, int], object]]:
        """((number, pts), frame) of the frames that are wanted and of those before that the deinterlacer needs."""
        before = FIELDS_AROUND if self._info.bwdif else 0
        for number, (pts, frame) in enumerate(self._times.repair(self._timed()), 1):
            if number > self._skip - before:
                yield (number, pts), frame

    def _timed(self) -> Iterator[tuple[int | None, int | None, int, object]]:
        """(pts, dts, duration, frame) as the file has them.

        AVI has decoding times only, and what FFmpeg makes presentation times of them is wrong for B-frames. Its
        frames are shown when they come out of the decoder, as FFmpeg's own best_effort_timestamp has it.
        """
        by_decoding = self._reader.container.format.name == "avi"
        pts = None
        for frame in self._reader:
            if not by_decoding:
                pts = frame.pts
            elif frame.dts is not None:
                pts = frame.dts
            elif pts is not None:  # the last ones, that only come out when the packets are through
                pts += frame.duration or 1
            yield pts, frame.dts, frame.duration, frame

    def _finish(self, last: int) -> None:
        reader, warnings = self._reader, self._times.warnings()
        if reader.damaged or reader.corrupt:
            warnings.append(
                f"damaged input: {reader.damaged} packets could not be decoded, {reader.corrupt} frames may show damage"
            )
        if self._viewer.changed:
            info = self._info
            warnings.append(
                f"size or pixel format changes on the way: {self._viewer.changed} frames were converted to "
                f"{info.source_width}x{info.source_height} {info.pixel_format}"
            )
        self.warnings[:] = warnings
        if not last and not self._times.total:
            raise no_frames(self._info.path)
