"""Interlaced and telecined video: detected, and deinterlaced by FFmpeg's bwdif.

One frame comes out for each that goes in (bwdif's send_frame mode), so numbers and times stay as they are.
"""

import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import av
import av.error
import numpy as np
from av.filter import Graph

from upscaling.decode.frame_shape import Decoding, FrameShape
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


@dataclass(frozen=True)
class Deinterlacing:
    """How a video is deinterlaced. `found`: its first frames are interlaced."""

    parity: str  # the field that comes first: 'tff', 'bff', or 'auto' as each frame is flagged
    flagged_only: bool  # frames that are not flagged as interlaced stay as they are
    found: bool


def deinterlacing(
    mode: str, frames: Iterable[av.VideoFrame], viewer: PlaneViewer, context: av.VideoCodecContext
) -> Deinterlacing | None:
    """How to deinterlace a video, or None if it never is.

    `mode` is auto, on or off; `frames` are the first frames, all of one shape, which `viewer` views. In auto mode
    frames that are flagged as interlaced are deinterlaced, wherever they come. All frames are if the container gives
    a field order for a codec that has no flags; or if, without flags, enough of the moving ones among the first
    frames show combing of one and the same field order.
    """
    if mode == "off":
        return None
    frames = iter(frames)
    first = next(frames, None)
    if first is None or not _can_be_deinterlaced(first, viewer.stored.name):
        return None
    flagged, combed_order = _detect(itertools.chain([first], frames), viewer, first, context, mode)
    if mode == "on":
        parity = "auto" if flagged else combed_order or _declared_order(context) or "auto"
        return Deinterlacing(parity, flagged_only=False, found=True)
    parity = None if flagged else _declared_order(context) or combed_order
    return Deinterlacing(parity or "auto", flagged_only=not parity, found=flagged or parity is not None)


def _can_be_deinterlaced(frame: av.VideoFrame, stored: str) -> bool:
    return frame.width >= MIN_WIDTH and frame.height >= MIN_HEIGHT and stored not in _UNSUPPORTED


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
    """Deinterlaces frames, in runs of those that are to be, each with the frame before it and the one after it.

    A frame's result depends on no other frames than these, wherever decoding begins.
    """

    def __init__(self, how: Deinterlacing, viewer_of: Callable[[FrameShape], PlaneViewer]):
        """`viewer_of` tells what views frames of a shape."""
        self._how, self._viewer_of = how, viewer_of

    def run(self, items: Iterable[Decoding]) -> Iterator[Decoding]:
        """Yields each item in order, with a deinterlaced frame if it is to be; all others are as they were."""
        run: _Run | None = None
        before: av.VideoFrame | None = None
        for item in items:
            frame, viewer = item.frame, self._viewer_of(item.shape)
            wanted = (item.interlaced or not self._how.flagged_only) and _can_be_deinterlaced(frame, viewer.stored.name)
            if before is not None and not _are_alike(before, frame):
                yield from run.end() if run else ()
                run = before = None
            if wanted and run is None:
                run = _Run(frame, self._how.parity, viewer)
                if before is not None:
                    yield from run.push(before, None)
            if run is None:
                yield item
            else:
                yield from run.push(frame, item if wanted else None)
            if run and not wanted:
                yield from run.end()
                yield item
                run = None
            before = frame
        if run:
            yield from run.end()


def _are_alike(a: av.VideoFrame, b: av.VideoFrame) -> bool:
    return (a.width, a.height, a.format.name) == (b.width, b.height, b.format.name)


class _Run:
    """A bwdif filter for frames like one; of frames that are pushed without an item, nothing comes out."""

    def __init__(self, frame: av.VideoFrame, parity: str, viewer: PlaneViewer):
        self._graph = _bwdif_graph(frame, parity, viewer)
        self._waiting: deque[Decoding | None] = deque()
        self._count = 0

    def push(self, frame: av.VideoFrame, item: Decoding | None) -> Iterator[Decoding]:
        """Takes the next frame; yields items whose frames are done."""
        self._waiting.append(item)
        frame.pts = self._count  # the filter has a time base of its own; the real time is in the item
        self._count += 1
        self._graph.vpush(frame)
        yield from self._pull()

    def end(self) -> Iterator[Decoding]:
        """Yields the last items."""
        self._graph.vpush(None)
        yield from self._pull()

    def _pull(self) -> Iterator[Decoding]:
        for done in _pull(self._graph):
            item = self._waiting.popleft()
            if item is not None:
                yield replace(item, frame=done)


def _bwdif_graph(frame: av.VideoFrame, parity: str, viewer: PlaneViewer) -> Graph:
    """A filter graph for frames like this one; what `viewer` can't view as it is, is converted first."""
    graph = Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000))
    bwdif = graph.add("bwdif", f"mode=send_frame:parity={parity}:deint=all")
    convert = [] if viewer.views(frame) else [graph.add("format", f"pix_fmts={viewer.stored.name}")]
    graph.link_nodes(source, *convert, bwdif, graph.add("buffersink")).configure()
    return graph


def _pull(graph: Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
