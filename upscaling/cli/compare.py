"""The before/after picture of --compare: plain resize left, result right, the same crop of both zoomed below."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from upscaling.common.errors import UpscaleError
from upscaling.decode.decoder import Decoder
from upscaling.decode.probe import VideoInfo, probe
from upscaling.frames.detail import busiest
from upscaling.frames.placement import Placement
from upscaling.frames.swscale import as_rgb
from upscaling.job.work_dir import WorkDir
from upscaling.pictures.writing import write_picture
from upscaling.pipeline.plan import Plan

PANEL = 800  # pixels across of each half; smaller pictures are enlarged to it by whole pixels
CROP = 5  # the crop is a fifth of the picture on each side
GAP, LABEL = 8, 32  # pixels
DARK, LIGHT, MARK = (24, 24, 24), (235, 235, 235), (255, 200, 0)  # RGB


def write_comparison(plan: Plan, work_dir: WorkDir, path: Path) -> None:
    """Write the picture of a finished job's middle frame; its segments must still exist."""
    number = (work_dir.frames_done + 1) // 2
    source, target = plan.conversion.source, plan.conversion.target
    size = (target.width, target.height)
    before = after = None
    with plan.source.open(number - 1) as decoder:
        for decoded in decoder:
            before = in_rgb(decoded.planes, plan.info, size)
            break
    record = next(record for record in work_dir.records if record.first + len(record.pts) > number)
    info = probe(work_dir.folder("segments") / record.file, deinterlace="off")
    with Decoder(info, skip=number - record.first) as decoder:
        for decoded in decoder:
            after = in_rgb(decoded.planes, info, (info.width, info.height))
            break
    if before is None or after is None:
        raise UpscaleError(f"cannot decode frame {number} again for --compare")
    placement = plan.encoding.placement or Placement(*size, 0, 0)  # without bars, or what the format's sizes repeat
    in_frame, in_picture = placement.visible(plan.encoding.width, plan.encoding.height)
    before, after = np.ascontiguousarray(before[in_picture]), np.ascontiguousarray(after[in_frame])
    scale = f"{size[0] / source.width:.3g}x"
    name = Path(plan.options.model).name
    write_picture(path.absolute(), comparison(before, after, f"plain resize (Lanczos) {scale}", f"{name} {scale}"))


def in_rgb(planes: list[np.ndarray], info: VideoInfo, size: tuple[int, int]) -> np.ndarray:
    """A decoded frame as RGB of (width, height) `size`, uint8 (height, width, 3); a plain Lanczos resize."""
    flat = np.concatenate([np.ascontiguousarray(plane).reshape(-1) for plane in planes])
    return as_rgb(flat, info.layout, size)


def comparison(before: np.ndarray, after: np.ndarray, left: str, right: str) -> np.ndarray:
    """The comparison of two pictures of one size, uint8 RGB (height, width, 3), with labels above the halves."""
    rows, columns = crop_size(after)
    top, side, _ = busiest(after, rows, columns)
    halves = []
    for picture, label in ((before, left), (after, right)):
        whole, scale = fitted(picture)
        x, y = round(side * scale), round(top * scale)
        whole = _frame(whole, x, y, round(columns * scale), round(rows * scale))
        crop = np.ascontiguousarray(picture[top : top + rows, side : side + columns])
        zoomed = _resized(crop, whole.shape[1], round(whole.shape[1] * rows / columns))
        gap = np.full((GAP, whole.shape[1], 3), DARK, np.uint8)
        halves.append(np.vstack([_label(label, whole.shape[1]), whole, gap, zoomed]))
    gap = np.full((halves[0].shape[0], GAP, 3), DARK, np.uint8)
    return np.hstack([halves[0], gap, halves[1]])


def crop_size(picture: np.ndarray) -> tuple[int, int]:
    """(rows, columns) of the crop."""
    return max(1, picture.shape[0] // CROP), max(1, picture.shape[1] // CROP)


def fitted(picture: np.ndarray) -> tuple[np.ndarray, float]:
    """The picture PANEL pixels wide or a little less, and the scale: enlarged by whole pixels only, else averaged."""
    width = picture.shape[1]
    scale = PANEL // width if width <= PANEL else PANEL / width
    return _resized(picture, round(width * scale), round(picture.shape[0] * scale)), scale


def _resized(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """Pixels are repeated to enlarge, averaged to shrink."""
    how = Image.Resampling.NEAREST if width >= picture.shape[1] else Image.Resampling.BOX
    return np.array(Image.fromarray(picture).resize((width, max(1, height)), how))


def _frame(picture: np.ndarray, x: int, y: int, width: int, height: int) -> np.ndarray:
    """The picture with a frame around the crop."""
    framed = Image.fromarray(picture)
    ImageDraw.Draw(framed).rectangle((x, y, x + max(1, width) - 1, y + max(1, height) - 1), outline=MARK, width=2)
    return np.asarray(framed)


def _label(text: str, width: int) -> np.ndarray:
    bar = Image.new("RGB", (width, LABEL), DARK)
    printable = text.encode("ascii", "replace").decode()  # the built-in font has little else
    ImageDraw.Draw(bar).text((GAP, LABEL // 2), printable, LIGHT, ImageFont.load_default(18), anchor="lm")
    return np.asarray(bar)
