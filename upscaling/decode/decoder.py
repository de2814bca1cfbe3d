"""The frames of a video's main stream, decoded in order: each once, with its exact time, upright, deinterlaced.

    packets ─► reader.Reader ─► fields ─► timestamps ─► skip ─► frame_shape ─► deinterlace ─► fitting ─► planes (views)

Nothing is copied if the decoder's pixel format is one that frames are stored in.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import av
import numpy as np

from upscaling.common.text import display_name, many
from upscaling.decode.changes import change_line
from upscaling.decode.deinterlace import Deinterlacer
from upscaling.decode.fields import frames_of
from upscaling.decode.fitting import Fitter
from upscaling.decode.frame_shape import Decoding, FrameShape, ShapeReader
from upscaling.decode.messages import Message, messages_of
from upscaling.decode.probe import VideoInfo
from upscaling.demux.input_file import VideoError
from upscaling.demux.reader import Reader, no_frames
from upscaling.demux.timestamps import TimedFrame, Timestamps

DEINTERLACER_CONTEXT = 2  # frames before the first wanted one that the deinterlacer needs to see


@dataclass(frozen=True)
class DecodedFrame:
    """One frame; its planes are views that are valid until the next frame is asked for."""

    number: int  # from 1, in presentation order
    pts: int  # ticks of VideoInfo.time_base, strictly increasing
    planes: list[np.ndarray]  # in the shapes of pixel_formats.plane_shapes, maybe strided, read-only
    messages: tuple[Message, ...] = ()  # for the new frame
    after_part: bool = False  # the part ends before this frame, which is decoded as context


class Decoder:
    """Decodes a probed video; a context manager, iterable once. A second one yields the same numbers and times."""

    def __init__(self, info: VideoInfo, *, skip: int = 0, stop: int | None = None, threads: int = 0):
        """`skip`: frames to decode without yielding them; `stop`: the number of the last frame to yield.

        `threads`: of the decoder, 0 is one per core. VideoError as for `probe.probe`.
        """
        self._info, self._skip, self._stop = info, skip, stop
        self.warnings: list[str] = []  # complete after the iteration, one line each
        self._reader = self._open_reader(1 if info.one_thread else threads)
        if self._reader.stream.index != info.stream_index:
            self._reader.close()
            raise VideoError(f"{display_name(info.path)} changed after it was probed; run the command again")
        rate = info.frame_rate or 25
        self._step = max(1, round(1 / (rate * info.time_base)))  # ticks
        self._times = Timestamps(self._step, second=round(1 / info.time_base))
        turns = any(shape.orientation != info.shape.orientation for shape in info.changes)
        self._shapes = ShapeReader(self._reader, None if turns else info.shape.orientation)
        self._fitter = Fitter(info.shape, info.layout, info.alpha)
        self._changes: dict[FrameShape, str] = {}  # lines about shapes that were not named before the start

    def _open_reader(self, threads: int) -> Reader:
        return Reader(self._info.path, alpha=self._info.alpha, threads=threads)

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._reader.close()

    def __iter__(self) -> Iterator[DecodedFrame]:
        frames = self.numbered_frames()
        if self._stop is not None:
            stop = self._stop
            frames = itertools.takewhile(lambda item: item[0][0] <= stop + 1, frames)
        items = self._decodings(frames)
        if self._info.deinterlacing:
            items = Deinterlacer(self._info.deinterlacing, self._fitter.viewer).run(items)
        last = 0
        for item in items:
            last = item.number
            if last > self._skip and (self._stop is None or last <= self._stop):
                yield DecodedFrame(last, item.pts, self._fitter.planes(item.frame, item.shape), item.messages)
        self._finish(last)

    def _decodings(self, frames: Iterable[tuple[tuple[int, int], av.VideoFrame]]) -> Iterator[Decoding]:
        """Each frame with its shape; a shape that was not named before the start makes a line."""
        first: int | None = None
        for (number, pts), frame in frames:
            first = pts if first is None else first
            shape, info = self._shapes.read(frame), self._info
            if shape != info.shape and shape not in info.changes and shape not in self._changes:
                self._changes[shape] = change_line(shape, info.shape, (pts - first) * info.time_base)
            yield Decoding(number, pts, frame, shape, frame.interlaced_frame, messages_of(frame))

    def numbered_frames(self) -> Iterator[tuple[tuple[int, int], av.VideoFrame]]:
        """((number, pts), frame) of the wanted frames, and of those before them that the deinterlacer needs."""
        before = DEINTERLACER_CONTEXT if self._info.deinterlacing else 0
        for number, (pts, frame) in enumerate(self._times.repair(self.timed_frames()), 1):
            if number > self._skip - before:
                yield (number, pts), frame

    def timed_frames(self) -> Iterator[TimedFrame[av.VideoFrame]]:
        """(pts, dts, duration, frame) as the file has them.

        Frames that have decoding times only are shown when they come out of the decoder, as FFmpeg's
        best_effort_timestamp has it: that is the dts of the packet after which they come.
        """
        pts = None
        for frame in frames_of(self._reader, self._info.field_gap):
            if not self._info.decoding_times:
                pts = frame.pts
            elif frame.dts is not None:
                pts = frame.dts
            elif pts is not None:  # the last frames, which only come out when there are no more packets
                pts += self._step
            yield pts, frame.dts, frame.duration, frame

    def _finish(self, last: int) -> None:
        reader, warnings = self._reader, self._times.warnings()
        if reader.damaged or reader.corrupt:
            warnings.append(
                f"damaged input: {many(reader.damaged, 'packet')} could not be decoded, "
                f"{many(reader.corrupt, 'frame')} may show damage"
            )
        if self._stop is None and reader.lost_fields:
            warnings.append(f"{many(reader.lost_fields, 'frame')} of which the file has one field only were left out")
        warnings += self._changes.values()
        self.warnings[:] = warnings
        if not last and not self._times.total:
            raise no_frames(self._info.path)
        if self._stop is None and reader.damaged > reader.frames_out:
            raise VideoError(
                f"{display_name(self._info.path)}: less than half of its video decodes "
                f"({many(reader.frames_out, 'frame')}; {many(reader.damaged, 'packet')} failed); "
                "it is damaged or encrypted: repair or replace it"
            )
