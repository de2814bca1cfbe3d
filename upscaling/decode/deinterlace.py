"""Interlaced and telecined video: detected in the first frames, and deinterlaced by FFmpeg's bwdif.

One frame comes out for each that goes in (bwdif's send_frame mode), so numbers and times stay as they are.
"""

import itertools
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TypeVar

import av
import av.error
import numpy as np
from av.filter import Graph

from upscaling.decode.planes import PlaneViewer

MIN_WIDTH = MIN_HEIGHT = 8  # bwdif needs 3x4, in chroma planes too
_MAX_LINES = 1200  # no interlaced video is taller
_DETECT_PIXELS = 120_000_000  # to examine if no frame is flagged: 1 s of 1080p, 10 s of 576i
_MIN_FRAMES, _MAX_FRAMES = 24, 300  # to examine
_ENOUGH_PROGRESSIVE = 24  # progressive frames, without an interlaced one, that settle it
_MIN_COMBED_SHARE = 0.25  # of the frames that tell; telecined video has 2 combed frames in 5
_MIN_COMBED = 6  # frames
_MAX_COLUMNS = 480  # columns of a frame that are examined
_MOVED = 10  # of 255: a pixel that differs by more has moved
_MIN_MOVING = 400  # pixels; a frame with fewer does not tell
_PROGRESSIVE_CODECS = {"vp8", "vp9", "av1", "gif", "png", "apng", "webp", "bmp", "tiff", "flic", "mjpeg2000"}
_UNFLAGGED_CODECS = {"rawvideo", "v210", "v210x", "v410", "v308", "v408", "r210", "huffyuv", "ffvhuff", "jpeg2000"}
_UNSUPPORTED = {"gray9le", "gray10le", "gray12le", "gray14le"}  # by bwdif
_FIELD_ORDERS = {2: "tff", 3: "bff", 4: "bff", 5: "tff"}  # AVFieldOrder TT, BB, TB, BT (libavcodec/defs.h)

CarriedT = TypeVar("CarriedT")


def bwdif_options(
    mode: str, frames: Iterable[av.VideoFrame], viewer: PlaneViewer, context: av.VideoCodecContext
) -> str | None:
    """bwdif's options for a video, or None if it is not to be deinterlaced.

    `mode` is auto, on or off; `frames` are the first frames, as `viewer` fits them. In auto mode a video is
    interlaced if a frame is flagged so; if the container gives a field order for a codec that has no flags; or
    if, without flags, enough of the moving frames show combing of one and the same field order.
    """
    if mode == "off":
        return None
    frames = iter(frames)
    first = next(frames, None)
    if first is None or first.width < MIN_WIDTH or first.height < MIN_HEIGHT or viewer.stored.name in _UNSUPPORTED:
        return None
    flagged, combed_order = _detect(itertools.chain([first], frames), viewer, first, context, mode)
    if mode == "on":
        parity = "auto" if flagged else combed_order or _declared_order(context) or "auto"
        return f"mode=send_frame:parity={parity}:deint=all"
    if flagged:
        return "mode=send_frame:parity=auto:deint=interlaced"
    parity = _declared_order(context) or combed_order
    return f"mode=send_frame:parity={parity}:deint=all" if parity else None


def _declared_order(context: av.VideoCodecContext) -> str | None:
    """The container's field order, trusted only for codecs whose frames have no flag of their own."""
    return _FIELD_ORDERS.get(context.field_order) if context.codec.canonical_name in _UNFLAGGED_CODECS else None


def _detect(
    frames: Iterator[av.VideoFrame],
    viewer: PlaneViewer,
    first: av.VideoFrame,
    context: av.VideoCodecContext,
    mode: str,
) -> tuple[bool, str | None]:
    """(whether a frame is flagged interlaced, the field order that combing shows or None)."""
    limit = min(max(_DETECT_PIXELS // (first.width * first.height), _MIN_FRAMES), _MAX_FRAMES)
    by_content = mode == "on" or (
        first.height <= _MAX_LINES and context.codec.canonical_name not in _PROGRESSIVE_CODECS
    )
    detector = FieldDetector() if by_content else None
    for frame in itertools.islice(frames, limit if by_content else _MIN_FRAMES):
        if frame.interlaced_frame:
            return True, None
        if detector:
            detector.push(viewer.planes(frame)[0], viewer.stored.depth)
            if detector.is_progressive():
                break
    return False, detector.field_order() if detector else None


class FieldDetector:
    """Detects combing in moving parts of the picture, and the field order that it shows.

    Each frame is compared with two others that are woven from fields: its top field with the previous bottom
    field, and its bottom field with the previous top field. Fields of one moment fit far better than any others,
    so a progressive frame has the least combing as it is. In a frame whose fields are of two moments, the first
    or the second woven frame has as little or less, which tells the field that comes first. Fine detail, noise
    and vertical scrolling make all three alike: such a frame does not tell. (FFmpeg's idet compares the two
    woven frames only, and takes its own testsrc2 for interlaced.)
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()  # 'tff', 'bff', 'progressive', 'unsure', 'still'
        self._previous: np.ndarray | None = None

    def push(self, luma: np.ndarray, depth: int) -> None:
        """Takes the next frame's luma, (rows, columns), `depth` bits a sample."""
        step = max(1, luma.shape[1] // _MAX_COLUMNS)
        current = (luma[:, ::step] >> (depth - 8)).astype(np.int16)
        if self._previous is not None:
            self.counts[self._classify(current, self._previous)] += 1
        self._previous = current

    @staticmethod
    def _classify(current: np.ndarray, previous: np.ndarray) -> str:
        moving = np.abs(current - previous) > _MOVED
        if np.count_nonzero(moving) < max(_MIN_MOVING, moving.size // 500):
            return "still"
        near = moving[1:-1] | moving[:-2] | moving[2:]  # (rows - 2, columns): rows with two neighbours
        as_is = _combing(current, near)
        top_first = _combing(_woven(current, previous), near)
        bottom_first = _combing(_woven(previous, current), near)
        best, worst = sorted((top_first, bottom_first))
        if as_is < 0.7 * best:
            return "progressive"
        if as_is >= 0.9 * best and worst > 1.15 * best:
            return "tff" if top_first < bottom_first else "bff"
        return "unsure"

    def is_progressive(self) -> bool:
        """Whether there were enough progressive frames and no combed one."""
        counts = self.counts
        return counts["progressive"] >= _ENOUGH_PROGRESSIVE and not counts["tff"] + counts["bff"]

    def field_order(self) -> str | None:
        """'tff' or 'bff' if enough frames show one order and hardly any the other, else None."""
        order, other = ("tff", "bff") if self.counts["tff"] >= self.counts["bff"] else ("bff", "tff")
        combed = self.counts[order]
        enough = combed >= max(_MIN_COMBED, _MIN_COMBED_SHARE * (combed + self.counts["progressive"]))
        return order if enough and self.counts[other] * 10 <= combed else None


def _woven(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """A frame of the even rows of one and the odd rows of the other."""
    woven = bottom.copy()
    woven[0::2] = top[0::2]
    return woven


def _combing(picture: np.ndarray, mask: np.ndarray) -> int:
    """How much rows differ from both their neighbours, in the pixels of `mask`, (rows - 2, columns) of bool."""
    rows = np.abs(2 * picture[1:-1] - picture[:-2] - picture[2:])
    return int(rows[mask].sum(dtype=np.int64))


class Deinterlacer:
    """Deinterlaces frames of one size and pixel format; each carries a value of the caller along."""

    def __init__(self, options: str):
        self._options = options

    def run(self, items: Iterable[tuple[CarriedT, av.VideoFrame]]) -> Iterator[tuple[CarriedT, av.VideoFrame]]:
        """Yields (carried value, deinterlaced frame) for each (carried value, frame), in order."""
        waiting: deque[CarriedT] = deque()
        graph = None
        for count, (carried, frame) in enumerate(items):
            graph = graph or _bwdif_graph(frame, self._options)
            waiting.append(carried)
            frame.pts = count  # the filter has a time base of its own; the real time is in the carried value
            graph.vpush(frame)
            yield from ((waiting.popleft(), done) for done in _pull(graph))
        if graph is not None:
            graph.vpush(None)
            yield from ((waiting.popleft(), done) for done in _pull(graph))


def _bwdif_graph(frame: av.VideoFrame, options: str) -> Graph:
    """A filter graph for frames like this one."""
    graph = Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000))
    graph.link_nodes(source, graph.add("bwdif", options), graph.add("buffersink")).configure()
    return graph


def _pull(graph: Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
