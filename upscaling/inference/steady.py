"""`--steady`: the detail that a network adds is averaged over the frame before and the frame after, along the motion.

    upscaled luma - plain resize of the input luma ─► detail of each frame ─► moved to its neighbours, weighted ─► mean

The motion is the optical flow between input frames (DIS: Kroeger et al., "Fast Optical Flow using Dense Inverse
Search", ECCV 2016). What does not match (cuts, hidden parts, noise) has the weight 0 and stays as the network made it.
Everything runs on the CPU in OpenCV, on one thread, so that the result is the same on every device.

Luma is in codes of 8-bit full range here, 0 to 255 for black to white, in float32; values outside are kept.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import cv2
import numpy as np

from upscaling.frames.conversion import FrameConversion, store_plane
from upscaling.frames.layout import FrameLayout
from upscaling.frames.luma import luma

SIGMA = 12.0  # difference of luma, mean over a BOX, at which the weight falls to 1/e
BOX = 5  # pixels of the input
TOLERANCE = 1.0  # pixels of the input by which the flows there and back may differ; at twice that the weight is 0
CUT = 30.0  # mean difference of luma after the motion above which two frames are of different scenes
MIN_SIDE = 16  # pixels of the input; smaller frames have no motion that could be found
FINEST = 2  # level of the pyramid at which the flow is found: of a quarter of the size
PATCH = 8  # pixels, of the flow
WHITE = 255.0  # luma of white

Motion = tuple[np.ndarray, np.ndarray]  # flow in pixels (height, width, 2), weight in [0, 1] (height, width); float32


def steady_frames(
    frames: Sequence[np.ndarray],
    upscaled: Sequence[np.ndarray],
    wanted: Iterable[int],
    conversion: FrameConversion,
    heartbeat: Callable[[], None],
) -> Iterator[np.ndarray]:
    """The steadied frames of the indices `wanted`: flat arrays in the layout `conversion.target.padded`.

    `frames` and `upscaled` are consecutive frames that differ, the input's in the layout `conversion.source` and the
    network's in `conversion.target.padded`, in any shape, maybe read-only. Each frame depends on itself, the one
    before and the one after, if they are in the list, and on nothing else. Only luma changes: of RGB all three channels
    by the same difference. `heartbeat` is called once a frame.
    """
    steady = _Steady(frames, upscaled, conversion)
    for index in wanted:
        yield steady.frame(index)
        heartbeat()


class _Steady:
    """The frames of one call; what two results share is computed once and forgotten afterwards."""

    def __init__(self, frames: Sequence[np.ndarray], upscaled: Sequence[np.ndarray], conversion: FrameConversion):
        cv2.setNumThreads(1)
        self._frames, self._upscaled = frames, upscaled
        self._source, self._target = conversion.source, conversion.target
        self._flow = _flow(self._source.width, self._source.height)
        self._lumas: dict[int, np.ndarray] = {}  # of the input, (height, width)
        self._details: dict[int, np.ndarray] = {}
        self._motions: dict[tuple[int, int], Motion] = {}

    def frame(self, index: int) -> np.ndarray:
        """A flat frame: the mean of its own detail and of its neighbours', by their weights."""
        result = np.array(self._upscaled[index]).reshape(-1)
        neighbours = [i for i in (index - 1, index + 1) if 0 <= i < len(self._frames)]
        if not neighbours or min(self._source.width, self._source.height) < MIN_SIDE:
            return result
        self._lumas = {i: found for i, found in self._lumas.items() if abs(i - index) <= 1}
        self._details = {i: detail for i, detail in self._details.items() if abs(i - index) <= 1}
        self._motions = {pair: motion for pair, motion in self._motions.items() if index in pair}

        own = self._detail(index)
        box = np.ones((3, 3), np.uint8)
        lowest, highest = cv2.erode(own, box), cv2.dilate(own, box)
        total, weights = own.copy(), np.ones_like(own)
        for neighbour in neighbours:
            moved, weight = self._moved(index, neighbour)
            total += weight * np.clip(moved, lowest, highest)
            weights += weight
        _add_luma(result, self._target, total / weights - own)
        return result

    def _luma(self, index: int) -> np.ndarray:
        """The luma of a frame of the input, (height, width)."""
        if index not in self._lumas:
            self._lumas[index] = luma(self._source.planes(self._frames[index]), self._source, WHITE)
        return self._lumas[index]

    def _detail(self, index: int) -> np.ndarray:
        """What the network added to a frame's luma, (target height, target width)."""
        if index not in self._details:
            size, stored = (self._target.width, self._target.height), self._target.padded
            plain = cv2.resize(self._luma(index), size, interpolation=cv2.INTER_LANCZOS4)
            upscaled = luma(stored.planes(self._upscaled[index]), stored, WHITE)
            self._details[index] = upscaled[: size[1], : size[0]] - plain
        return self._details[index]

    def _moved(self, index: int, neighbour: int) -> tuple[np.ndarray, np.ndarray]:
        """The neighbour's detail where it belongs in the frame, and its weight; both (target height, target width)."""
        if (index, neighbour) not in self._motions:
            self._find_motion(index, neighbour)
        flow, weight = self._motions[index, neighbour]
        size = (self._target.width, self._target.height)
        # (height, width, 2) to (target height, target width, 2), in pixels of the target
        flow = cv2.resize(flow, size, interpolation=cv2.INTER_LINEAR)
        flow *= np.array([size[0] / self._source.width, size[1] / self._source.height], np.float32)
        return warp(self._detail(neighbour), flow, cv2.INTER_CUBIC), cv2.resize(weight, size)

    def _find_motion(self, a: int, b: int) -> None:
        """The motion between two frames of the input, both ways."""
        luma_a, luma_b = self._luma(a), self._luma(b)
        gray_a, gray_b = (np.rint(one).clip(0, WHITE).astype(np.uint8) for one in (luma_a, luma_b))
        still = np.zeros((*luma_a.shape, 2), np.float32)
        there, back = self._flow.calc(gray_a, gray_b, still.copy()), self._flow.calc(gray_b, gray_a, still)
        self._motions[a, b] = there, _weight(luma_a, luma_b, there, back)
        self._motions[b, a] = back, _weight(luma_b, luma_a, back, there)


def _flow(width: int, height: int) -> cv2.DISOpticalFlow:
    """What finds the motion between frames of a size: OpenCV's fast preset, on a pyramid that fits small frames, too.

    OpenCV's coarsest level is where the longer side has 4 patches and the shorter one at least 1 (its dis_flow.cpp); a
    finest level beyond that reads memory that it does not own.
    """
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    patches = max(1, min(width, height) // PATCH)
    coarsest = min(math.log2(max(width, height) / (4 * PATCH)) + 0.5, math.log2(patches))
    flow.setFinestScale(max(0, min(FINEST, int(coarsest))))
    return flow


def _weight(a: np.ndarray, b: np.ndarray, there: np.ndarray, back: np.ndarray) -> np.ndarray:
    """How well frame `b`, moved by the flow `there`, matches frame `a`: [0, 1] for each pixel of `a`."""
    difference = np.abs(warp(b, there, cv2.INTER_LINEAR) - a)
    if difference.mean() > CUT:
        return np.zeros_like(a)
    weight = np.exp(-np.square(cv2.blur(difference, (BOX, BOX)) / np.float32(SIGMA)))
    error = np.linalg.norm(there + warp(back, there, cv2.INTER_LINEAR), axis=-1)
    weight *= np.clip(2 - error / np.float32(TOLERANCE), 0, 1)
    position = positions(*a.shape) + there
    inside = (position >= 0) & (position <= (a.shape[1] - 1, a.shape[0] - 1))
    return weight * inside.all(-1)


def warp(picture: np.ndarray, flow: np.ndarray, interpolation: int) -> np.ndarray:
    """The picture, (height, width, ...), read at each pixel's position plus the flow, (height, width, 2)."""
    position = positions(*flow.shape[:2]) + flow
    x, y = position[..., 0], position[..., 1]
    return cv2.remap(picture, x, y, interpolation, borderMode=cv2.BORDER_REPLICATE)


@functools.lru_cache(maxsize=2)  # of the input and of the result
def positions(height: int, width: int) -> np.ndarray:
    """(x, y) of each pixel: (height, width, 2)."""
    return np.stack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)), -1)


def _add_luma(samples: np.ndarray, layout: FrameLayout, difference: np.ndarray) -> None:
    """Add a difference of luma, (height, width), to a flat frame of the layout's `padded`."""
    plane = layout.padded.planes(samples)[0]
    rows, columns = difference.shape
    added = difference * np.float32(layout.luma_codes[1] / WHITE)
    if layout.format.rgb:
        plane, added = plane[..., :3], added[..., None]
    changed = np.rint(plane[:rows, :columns] + added).clip(0, layout.peak)
    store_plane(changed.astype(plane.dtype), plane)
