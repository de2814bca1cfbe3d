"""The pictures of a job before and after, for a page: the frame with the most detail of some that are looked at.

They are taken while the frame is in storage, just before its files are removed: nothing is decoded again, and a run
that fails or is interrupted has its pictures, too.
"""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from upscaling.frames.detail import busiest
from upscaling.frames.layout import FrameLayout
from upscaling.frames.placement import Placement
from upscaling.frames.swscale import as_rgb
from upscaling.frames.tone import HDR, in_srgb
from upscaling.pipeline.frame_store import FrameStore
from upscaling.pipeline.plan import Plan

LOOKS = 8  # frames that are looked at, spread over the video, beside the first one
LARGE, SMALL = (960, 640), (480, 320)  # pixels across and down at most: of the newest pictures, of older ones
OVERVIEW = 320  # pixels of the longer side of the whole picture
SEARCHED = 960  # pixels across of the picture in which detail is searched
MARGIN = 4  # pixels around a part that is resized
QUALITY = 86  # of JPEG and WebP
MARK = (255, 200, 0)  # RGB of the frame around what is shown


@dataclass(frozen=True)
class Pictures:
    """A frame before and after as data URIs of one size, and the whole frame if that is larger."""

    number: int  # of the frame, from 1
    before: str  # a plain resize
    after: str
    width: int  # pixels of `before` and `after`
    height: int
    whole: tuple[int, int]  # width and height of the result's picture
    part: tuple[int, int] = (0, 0)  # pixels of the result that are shown; `width` is another if they are not square
    alpha: bool = False  # whether some of it may be transparent
    overview: str = ""  # the whole picture with a frame around what is shown; empty if all of it is shown
    overview_size: tuple[int, int] = (0, 0)
    note: str = ""  # how the colours were changed for the page

    @property
    def size(self) -> int:
        """Bytes in the page."""
        return len(self.before) + len(self.after) + len(self.overview)

    @property
    def is_part(self) -> bool:
        """Whether less than the whole is shown."""
        return self.part != self.whole

    @property
    def is_large(self) -> bool:
        """Whether `smaller` makes any difference."""
        return self.width > SMALL[0] or self.height > SMALL[1] or bool(self.overview)

    @property
    def smaller(self) -> "Pictures":
        """The middle of them, SMALL, without the overview."""
        width, height = min(self.width, SMALL[0]), min(self.height, SMALL[1])
        left, top = (self.width - width) // 2, (self.height - height) // 2
        before, after = (
            _data_uri(_opened(uri).crop((left, top, left + width, top + height))) for uri in (self.before, self.after)
        )
        part = (round(self.part[0] * width / self.width), height)
        return replace(self, before=before, after=after, width=width, height=height, part=part, overview="")


@dataclass(frozen=True)
class Part:
    """A part of a picture, in pixels."""

    left: int
    top: int
    width: int
    height: int

    def scaled(self, across: float, down: float) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) in a picture that is so many times as large."""
        return self.left * across, self.top * down, (self.left + self.width) * across, (self.top + self.height) * down


class Looker:
    """Takes the pictures of one job. `look` is for the encode thread, `pictures` for the main thread."""

    def __init__(self, plan: Plan):
        self._source, self._target = plan.stored.source, plan.conversion.target
        self._frames = plan.info.frame_count
        self._transfer = plan.info.colour.transfer
        self._shape = float(plan.encoding.sample_aspect_ratio or 1)  # of a pixel
        placement = plan.encoding.placement or Placement(self._target.width, self._target.height, 0, 0)
        rows, columns = placement.visible(plan.encoding.width, plan.encoding.height)[1]  # the rest is cut off to fit
        width = min(columns.stop, self._target.width) - columns.start
        self._visible = Part(columns.start, rows.start, width, min(rows.stop, self._target.height) - rows.start)
        self._next = 0  # the number of the frame to look at next
        self._step = 0  # frames between two looks; 0: the length is unknown, each is twice as far as the one before
        self._detail = -1
        self._found: _Found | None = None
        self._encoded: tuple[_Found, Pictures] | None = None

    def look(self, number: int, frames: FrameStore) -> None:
        """Look at a frame that is in storage, if it is the turn of one."""
        if number < self._next:
            return
        if not self._next:
            left = (self._frames or 0) - number + 1
            self._step = max(1, left // LOOKS) if left > 0 else 0
            self._next = number + (self._step + 1) // 2
        else:
            self._next = number + self._step if self._step else 2 * number
        samples = frames.decoded(number)
        part, detail = self._busiest(samples)
        if detail > self._detail:
            self._found = self._take(number, samples, frames.planes(number), part)
            self._detail = detail

    def _busiest(self, samples: np.ndarray) -> tuple[Part, int]:
        """The part of the result to show for a flat decoded frame, and its detail; both from a smaller picture."""
        source, target, visible = self._source, self._target, self._visible
        width = min(SEARCHED, source.width)
        size = (width, max(1, round(source.height * width / source.width)))
        across, down = target.width / size[0], target.height / size[1]
        left, top, right, bottom = (math.floor(edge) for edge in visible.scaled(1 / across, 1 / down))
        picture = as_rgb(samples, source, size)[top : max(bottom, top + 1), left : max(right, left + 1)]
        shown = min(LARGE[0], visible.width), min(LARGE[1], visible.height)
        rows = max(1, min(picture.shape[0], round(shown[1] / down)))
        columns = max(1, min(picture.shape[1], round(shown[0] / across)))
        row, column, detail = busiest(np.ascontiguousarray(picture), rows, columns)
        left = min(round((left + column) * across), visible.left + visible.width - shown[0])
        top = min(round((top + row) * down), visible.top + visible.height - shown[1])
        return Part(max(left, visible.left), max(top, visible.top), *shown), detail

    def _take(self, number: int, samples: np.ndarray, planes: Sequence[np.ndarray], part: Part) -> "_Found":
        """The pictures of a frame: `samples` flat as decoded, `planes` of the result."""
        source, target, visible = self._source, self._target, self._visible
        size = (max(1, round(part.width * self._shape)), part.height)
        wanted = part.scaled(source.width / target.width, source.height / target.height)
        after = self._cut(planes, target.padded, part.scaled(1, 1), size)
        before = self._cut(source.planes(samples), source, wanted, size)
        if part == visible:
            return _Found(number, (part.width, part.height), before, after)
        width = max(1, round(OVERVIEW * min(1, visible.width * self._shape / visible.height)))
        whole = (width, max(1, round(width * visible.height / (visible.width * self._shape))))
        flat = np.concatenate([np.ravel(plane) for plane in planes])
        # All of the result, also what is cut off, in the scale of the overview.
        across, down = whole[0] / visible.width, whole[1] / visible.height
        full = max(1, round(target.padded.width * across)), max(1, round(target.padded.height * down))
        overview = self._picture(as_rgb(flat, target.padded, full, self._rgb_format(target)))
        left, top, right, bottom = part.scaled(across, down)
        ImageDraw.Draw(overview).rectangle((left, top, right - 1, bottom - 1), outline=MARK, width=3)
        return _Found(number, (part.width, part.height), before, after, overview.crop(visible.scaled(across, down)))

    def _cut(
        self, planes: Sequence[np.ndarray], layout: FrameLayout, box: tuple[float, ...], size: tuple[int, int]
    ) -> Image.Image:
        """The box (left, top, right, bottom), in pixels, of a frame, resized to (width, height) `size`."""
        across, down = layout.format.multiple
        # Whole samples of every plane, and some more, which Lanczos reads.
        left, top = (max(0, math.floor(edge) - MARGIN) // n * n for edge, n in zip(box, (across, down), strict=False))
        right = min(layout.width, -(-(math.ceil(box[2]) + MARGIN) // across) * across)
        bottom = min(layout.height, -(-(math.ceil(box[3]) + MARGIN) // down) * down)
        cut = replace(layout, width=right - left, height=bottom - top)
        part = layout.cut(planes, left, top, cut.width, cut.height)
        picture = self._picture(as_rgb(part, cut, (cut.width, cut.height), self._rgb_format(cut)))
        inner = (box[0] - left, box[1] - top, min(box[2] - left, cut.width), min(box[3] - top, cut.height))
        return picture.resize(size, Image.Resampling.LANCZOS, inner)

    def _rgb_format(self, layout: FrameLayout) -> str:
        if self._transfer in HDR:
            return "rgba64le" if layout.format.alpha else "rgb48le"
        return "rgba" if layout.format.alpha else "rgb24"

    def _picture(self, samples: np.ndarray) -> Image.Image:
        return Image.fromarray(in_srgb(samples, self._transfer) if self._transfer in HDR else samples)

    def pictures(self) -> Pictures | None:
        """The pictures of the best frame so far; None if none was looked at."""
        found = self._found
        if found is None:
            return None
        if self._encoded is None or self._encoded[0] is not found:
            overview = found.overview
            self._encoded = (
                found,
                Pictures(
                    number=found.number,
                    before=_data_uri(found.before),
                    after=_data_uri(found.after),
                    width=found.after.width,
                    height=found.after.height,
                    whole=(self._visible.width, self._visible.height),
                    part=found.part,
                    alpha=found.after.mode == "RGBA",
                    overview=_data_uri(overview) if overview else "",
                    overview_size=overview.size if overview else (0, 0),
                    note=f"{HDR[self._transfer]}, its brightness compressed for this page"
                    if self._transfer in HDR
                    else "",
                ),
            )
        return self._encoded[1]


@dataclass(frozen=True)
class _Found:
    """The pictures of the frame with the most detail so far."""

    number: int
    part: tuple[int, int]
    before: Image.Image
    after: Image.Image
    overview: Image.Image | None = None


def _data_uri(picture: Image.Image) -> str:
    kind = "WEBP" if picture.mode == "RGBA" else "JPEG"  # WebP is a third smaller and takes ten times as long
    out = io.BytesIO()
    picture.save(out, kind, quality=QUALITY)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(out.getvalue()).decode("ascii")


def _opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
