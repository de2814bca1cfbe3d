"""Interlaced and telecined video: recognised in the first frames, and deinterlaced by FFmpeg's bwdif.

One frame comes out for each that goes in (bwdif's send_frame mode), so numbers and times stay as they are.
"""

import itertools
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np

from upscaling.decode.planes import PlaneViewer

MIN_WIDTH = MIN_HEIGHT = 8  # bwdif takes 3x4, chroma planes included
_MAX_LINES = 1200  # no interlaced video is taller
_LOOK_PIXELS = 120_000_000  # how much is looked at where no frame is flagged: 1 s of 1080p, 10 s of 576i
_FEWEST, _MOST = 24, 300  # frames to look at
_ENOUGH_PROGRESSIVE = 24  # progressive frames without one interlaced: no need to look further
_COMBED_SHARE = 0.25  # of the frames that say something; telecined video has 2 combed frames in 5
_COMBED_FEWEST = 6
_COLUMNS = 480  # as many columns of a frame are looked at
_MOVED = 10  # of 255: a pixel that differs by more than this has moved
_FEWEST_MOVING = 400  # pixels; fewer say nothing
_PROGRESSIVE_CODECS = {"vp8", "vp9", "av1", "gif", "png", "apng", "webp", "bmp", "tiff", "flic", "mjpeg2000"}
_UNFLAGGED_CODECS = {"rawvideo", "v210", "v210x", "v410", "v308", "v408", "r210", "huffyuv", "ffvhuff", "jpeg2000"}
_UNSUPPORTED = {"gray9le", "gray10le", "gray12le", "gray14le"}  # bwdif has no such format
_FIELD_ORDERS = {2: "tff", 3: "bff", 4: "bff", 5: "tff"}  # AVFieldOrder TT, BB, TB, BT (libavcodec/defs.h)


def plan(mode: str, frames: Iterable, viewer: PlaneViewer, context) -> str | None:
    """bwdif's options for a video, or None if it is to be left as it is.

    `mode` is auto, on or off; `frames` are the first frames, as `viewer` fits them. In auto mode a video is
    interlaced where frames are flagged so, where the container gives a field order for a codec that can't, or
    where, without flags, enough of the moving frames show combing of one and the same field order.
    """
    if mode == "off":
        return None
    frames = iter(frames)
    first = next(frames, None)
    if first is None or first.width < MIN_WIDTH or first.height < MIN_HEIGHT or viewer.kept.name in _UNSUPPORTED:
        return None
    flagged, orders = _look(itertools.chain([first], frames), viewer, first, context, mode)
    if mode == "on":
        parity = "auto" if flagged else orders or _declared_order(context) or "auto"
        return f"mode=send_frame:parity={parity}:deint=all"
    if flagged:
        return "mode=send_frame:parity=auto:deint=interlaced"
    parity = _declared_order(context) or orders
    return f"mode=send_frame:parity={parity}:deint=all" if parity else None


def _declared_order(context) -> str | None:
    """The container's field order, believed only of codecs whose frames carry no flag of their own."""
    return _FIELD_ORDERS.get(context.field_order) if context.codec.canonical_name in _UNFLAGGED_CODECS else None


def _look(frames: Iterator, viewer: PlaneViewer, first, context, mode: str) -> tuple[bool, str | None]:
    """(whether a frame is flagged interlaced, the field order that combing shows or None)."""
    wanted = min(max(_LOOK_PIXELS // (first.width * first.height), _FEWEST), _MOST)
    by_content = mode == "on" or (
        first.height <= _MAX_LINES and context.codec.canonical_name not in _PROGRESSIVE_CODECS
    )
    detector = FieldDetector() if by_content else None
    for frame in itertools.islice(frames, wanted if by_content else _FEWEST):
        if frame.interlaced_frame:
            return True, None
        if detector:
            detector.push(viewer.planes(frame)[0], viewer.kept.depth)
            if detector.surely_progressive():
                break
    return False, detector.field_order() if detector else None


class FieldDetector:
    """Looks for combing where the picture moves, and which neighbouring frame's fields fit together better.

    Each frame's two fields are compared three ways: as they are, its top field with the previous bottom field,
    and its bottom field with the previous top field. Fields of one moment fit far better than any others, so a
    progressive frame fits best as it is. In a frame whose fields are of two moments the second or the third
    pair fits as well or better, and it tells which field comes first. Fine detail, noise and vertical scrolling
    make all three alike: then a frame says nothing. (FFmpeg's idet looks at the second and third pair only and
    takes its own testsrc2 for interlaced.)
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()  # 'tff', 'bff', 'progressive', 'unsure', 'still'
        self._previous: np.ndarray | None = None

    def push(self, luma: np.ndarray, depth: int) -> None:
        """The next frame's luma, (rows, columns), `depth` bits a sample."""
        step = max(1, luma.shape[1] // _COLUMNS)
        current = (luma[:, ::step] >> (depth - 8)).astype(np.int16)
        if self._previous is not None:
            self.counts[self._judge(current, self._previous)] += 1
        self._previous = current

    @staticmethod
    def _judge(current: np.ndarray, previous: np.ndarray) -> str:
        moving = np.abs(current - previous) > _MOVED
        if np.count_nonzero(moving) < max(_FEWEST_MOVING, moving.size // 500):
            return "still"
        near = moving[1:-1] | moving[:-2] | moving[2:]  # (rows - 2, columns): rows that have both neighbours
        together = _combing(current, near)
        top_first = _combing(_woven(current, previous), near)
        bottom_first = _combing(_woven(previous, current), near)
        best, worst = sorted((top_first, bottom_first))
        if together < 0.7 * best:
            return "progressive"
        if together >= 0.9 * best and worst > 1.15 * best:
            return "tff" if top_first < bottom_first else "bff"
        return "unsure"

    def surely_progressive(self) -> bool:
        """Whether enough progressive frames and no other kind have been seen."""
        counts = self.counts
        return counts["progressive"] >= _ENOUGH_PROGRESSIVE and not counts["tff"] + counts["bff"]

    def field_order(self) -> str | None:
        """'tff' or 'bff' if enough frames show one order and hardly any the other, else None."""
        order, other = ("tff", "bff") if self.counts["tff"] >= self.counts["bff"] else ("bff", "tff")
        combed = self.counts[order]
        enough = combed >= max(_COMBED_FEWEST, _COMBED_SHARE * (combed + self.counts["progressive"]))
        return order if enough and self.counts[other] * 10 <= combed else None


def _woven(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """A frame of the one's even and the other's odd rows."""
    woven = bottom.copy()
    woven[0::2] = top[0::2]
    return woven


def _combing(picture: np.ndarray, where: np.ndarray) -> int:
    """How much rows stand out from both their neighbours, in the pixels `where`, (rows - 2, columns) of bool."""
    rows = np.abs(2 * picture[1:-1] - picture[:-2] - picture[2:])
    return int(rows[where].sum(dtype=np.int64))


class Deinterlacer:
    """Deinterlaces frames of one size and pixel format; each may carry anything along with it."""

    def __init__(self, options: str):
        self._options = options

    def run(self, items: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        """(what a frame carries, frame) in, the same with the deinterlaced frame out, in order, none lost."""
        waiting: deque = deque()
        graph = source = sink = None
        for count, (carried, frame) in enumerate(items):
            if graph is None:
                graph, source, sink = _graph(frame, self._options)
            waiting.append(carried)
            frame.pts = count  # the filter has a time base of its own; the real time is in what is carried
            source.push(frame)
            yield from ((waiting.popleft(), done) for done in _pull(sink))
        if graph is not None:
            source.push(None)
            yield from ((waiting.popleft(), done) for done in _pull(sink))


def _graph(frame, options: str):
    """(graph, its source, its sink) of bwdif for frames like this one."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000))
    node, sink = graph.add("bwdif", options), graph.add("buffersink")
    graph.link_nodes(source, node, sink).configure()
    return graph, source, sink


def _pull(sink) -> Iterator:
    while True:
        try:
            yield sink.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
