"""Kinds of video that change on the way, are cropped by their container, or are coded as fields."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import mpeg2_fields
import numpy as np
from changing_clips import (
    LOSSLESS,
    flat,
    hevc_fields,
    interlaced_stretches,
    joined,
    paff_clip,
    with_clap,
    with_pixel_crop,
)
from clips import number_of, picture

from kinds import Kind, Outcome

JPEG, MPEG = 2, 1  # color_range
MATRICES = {"bt709": 1, "smpte170m": 6}


def watched(path: Path) -> tuple[list[Fraction], list[np.ndarray], av.VideoStream]:
    """(seconds, luma of each frame, the stream) as a player has them."""
    container = av.open(str(path))
    stream = container.streams.video[0]
    frames = list(container.decode(stream))
    lumas = [np.frombuffer(f.planes[0], np.uint8).reshape(-1, f.planes[0].line_size)[:, : f.width] for f in frames]
    return [f.pts * f.time_base for f in frames], lumas, stream


def numbers(lumas: list[np.ndarray]) -> list[int]:
    """The numbers that pictures at 2x show."""
    return [number_of(luma[::2, ::2]) for luma in lumas]


def one_line(outcome: Outcome, *words: str) -> None:
    """The command did its work, and one line has all the words, before the first frames were done."""
    assert outcome.status == 0, outcome.lines
    found = [line for line in outcome.lines if all(word in line for word in words)]
    assert len(found) == 1, (words, outcome.lines)


def evenly(times: list[Fraction], step: Fraction) -> bool:
    return all(abs(b - a - step) <= Fraction(1, 900) for a, b in pairwise(times))


# Changes on the way


def check_aspect(outcome: Outcome) -> None:
    """The second half is 3/4 as wide on screen: it fills the middle 240 of 320 columns; the aspect ratio stays."""
    one_line(outcome, "0:00:00.4", "sample aspect ratio", "12:11", "16:11")
    times, lumas, stream = watched(outcome.output)
    assert len(lumas) == 24 and evenly(times, Fraction(1, 25))
    assert stream.sample_aspect_ratio == Fraction(16, 11)
    assert numbers(lumas[:12]) == list(range(12))
    for index, luma in enumerate(lumas[12:]):
        assert (luma[:, :32] <= 17).all() and (luma[:, -32:] <= 17).all(), "bars"
        inside = luma[:, 40:280].astype(int)
        expected = np.asarray(picture(index, 160, 120))[:, np.arange(240) * 160 // 240].repeat(2, 0)
        assert np.abs(inside[24:-24, 4:-4] - expected[24:-24, 4:-4]).mean() < 4


RGB = (170, 60, 20)


def yuv(rgb: tuple[int, int, int], red: float, blue: float, *, full: bool) -> list[int]:
    """(Y, U, V) in 8 bits by a matrix's coefficients of red and blue (ITU-R BT.601, BT.709)."""
    r, g, b = rgb
    y = red * r + blue * b + (1 - red - blue) * g
    u, v = (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)
    scale, chroma, black = (1, 1, 0) if full else (219 / 255, 224 / 255, 16)
    return [round(black + y * scale), round(128 + u * chroma), round(128 + v * chroma)]


def colours(path) -> Path:
    """The same colour twice, in BT.601 limited and in BT.709 full range."""
    return joined(path, [
        {"tags": {"colorspace": 6, "color_range": MPEG}, "pictures": flat(yuv(RGB, 0.299, 0.114, full=False))},
        {"tags": {"colorspace": 1, "color_range": JPEG}, "pictures": flat(yuv(RGB, 0.2126, 0.0722, full=True))},
    ])  # fmt: skip


def check_colours(outcome: Outcome) -> None:
    one_line(outcome, "0:00:00.4", "bt709", "smpte170m", "converted")
    with av.open(str(outcome.output)) as container:
        frames = list(container.decode(video=0))
    assert {(f.colorspace, f.color_range) for f in frames} == {(6, MPEG)}
    first, second = (f.to_ndarray(format="rgb24")[120, 160].astype(int) for f in (frames[0], frames[-1]))
    assert np.abs(first - second).max() <= 3, (first, second)
    planes = [[int(np.frombuffer(p, np.uint8)[0]) for p in f.planes] for f in (frames[0], frames[12], frames[-1])]
    assert planes[0] == yuv(RGB, 0.299, 0.114, full=False), "what has the main matrix is untouched"
    assert planes[1] == planes[2], "all frames from the change on are converted"


def check_size(outcome: Outcome) -> None:
    """Most frames decide, and nothing of theirs is lost."""
    one_line(outcome, "at first", "64x48", "160x120", "scaled")
    times, lumas, _ = watched(outcome.output)
    assert {luma.shape for luma in lumas} == {(240, 320)} and evenly(times, Fraction(1, 25))
    assert numbers(lumas[6:]) == list(range(12))
    assert [number_of(luma[:: 240 // 48, :: 320 // 64]) for luma in lumas[:6]] == list(range(6))


def check_depth(outcome: Outcome) -> None:
    one_line(outcome, "0:00:00.4", "pixel format", "yuv420p10le", "converted")
    _, lumas, _ = watched(outcome.output)
    assert numbers(lumas) == [*range(12), *range(12)]


def check_rotation(outcome: Outcome) -> None:
    """The second half lies on its side: upright, it stands between black bars."""
    one_line(outcome, "0:00:00.4", "the picture is rotated", "90°")
    _, lumas, _ = watched(outcome.output)
    assert len(lumas) == 24 and numbers(lumas[:12]) == list(range(12))
    for number, luma in enumerate(lumas[12:]):
        assert (luma[:, :60] <= 17).all() and (luma[:, -60:] <= 17).all()
        upright = np.rot90(luma[:, 70:250].astype(int), -1)  # 180x240 → 240x180, as it was coded
        rows, columns = np.arange(48) * upright.shape[0] // 120, np.arange(64) * upright.shape[1] // 160
        assert number_of(upright[np.ix_(rows, columns)]) == number


def check_interlaced(outcome: Outcome) -> None:
    """Combs are gone, and progressive frames have all their detail."""
    one_line(outcome, "interlaced from 0:00:00.", "bwdif")
    _, lumas, _ = watched(outcome.output)
    assert len(lumas) == 24
    combs = [float(np.abs(np.diff(luma[::2].astype(int), 2, axis=0)).mean()) for luma in lumas]
    assert max(combs[9:15]) < 1.3 * max(combs[2:7]), combs


# Crop


def check_crop(width: int, height: int, left: int, top: int):
    def check(outcome: Outcome) -> None:
        one_line(outcome, f"cropped to {width}x{height}")
        _, lumas, _ = watched(outcome.output)
        assert {luma.shape for luma in lumas} == {(2 * height, 2 * width)}
        for number, luma in enumerate(lumas):
            expected = picture(number, 160, 120)[top : top + height, left : left + width].astype(int)
            assert np.abs((luma[::2, ::2].astype(int) + luma[1::2, 1::2]) / 2 - expected)[4:-4, 4:-4].mean() < 3

    return check


def check_turned_crop(outcome: Outcome) -> None:
    one_line(outcome, "cropped to 144x100")
    _, lumas, _ = watched(outcome.output)
    assert {luma.shape for luma in lumas} == {(288, 200)}
    for number, luma in enumerate(lumas):
        expected = np.rot90(picture(number, 160, 120)[4:104, 8:152].astype(int))
        assert np.abs((luma[::2, ::2].astype(int) + luma[1::2, 1::2]) / 2 - expected)[4:-4, 4:-4].mean() < 3


def check_crop_beyond(outcome: Outcome) -> None:
    one_line(outcome, "crop is larger than its frames")
    _, lumas, _ = watched(outcome.output)
    assert {luma.shape for luma in lumas} == {(240, 320)} and numbers(lumas) == list(range(6))


# Fields


def check_fields(count: int, first: int = 0):
    def check(outcome: Outcome) -> None:
        assert outcome.status == 0, outcome.lines
        times, lumas, stream = watched(outcome.output)
        assert len(lumas) == count and evenly(times, Fraction(1, 25)) and stream.average_rate == 25
        assert numbers(lumas) == list(range(first, first + count))

    return check


def check_mpeg2_fields(outcome: Outcome) -> None:
    assert outcome.status == 0, outcome.lines
    with av.open(str(outcome.output)) as container:
        frames = list(container.decode(video=0))
        assert container.streams.video[0].average_rate == 25
    assert [mpeg2_fields.number_of(frame, 2) for frame in frames] == list(range(12))
    assert evenly([frame.pts * frame.time_base for frame in frames], Fraction(1, 25))


def check_hevc_fields(outcome: Outcome) -> None:
    assert outcome.status == 0, outcome.lines
    times, lumas, stream = watched(outcome.output)
    assert len(lumas) == 20 and evenly(times, Fraction(1, 25)) and stream.average_rate == 25
    assert {luma.shape for luma in lumas} == {(256, 320)}
    x = np.arange(160)
    for frame, luma in enumerate(lumas):  # the first field of a frame is shown as it is
        wave = 125 + 60 * np.sin((x - 6 * frame) / 5)
        shown = luma[::2, ::2].astype(float)[::2].mean(axis=0)
        assert np.corrcoef(shown[8:-8], wave[8:-8])[0, 1] > 0.99, frame


RGB_SIZES = [{"width": 64, "height": 48, "frames": 6}, {"frames": 12}]

KINDS = [
    Kind(
        "a sample aspect ratio that changes",
        lambda folder: joined(folder / "in.ts", [{"sar": (16, 11)}, {"sar": (12, 11)}]), check_aspect,
    ),
    Kind("a colour matrix and range that change", lambda folder: colours(folder / "in.ts"), check_colours),
    Kind("a few frames of another size first", lambda folder: joined(folder / "in.ts", RGB_SIZES), check_size),
    Kind(
        "a bit depth that changes",
        lambda folder: joined(folder / "in.ts", [{}, {"pix_fmt": "yuv420p10le"}]), check_depth,
    ),
    Kind(
        "a rotation that changes",
        lambda folder: joined(folder / "in.ts", [{}, {"filter": "h264_metadata=display_orientation=insert:rotate=90"}]),
        check_rotation,
    ),
    Kind(
        "interlaced later, and not at the end",
        lambda folder: interlaced_stretches(folder / "in.ts", [(False, 8), (True, 8), (False, 8)]), check_interlaced,
    ),
    Kind(
        "a clean aperture", lambda folder: with_clap(folder / "in.mp4", (8, 4, 8, 16), options=LOSSLESS),
        check_crop(144, 100, 8, 4),
    ),
    Kind(
        "a clean aperture of odd position in a picture that is turned",
        lambda folder: with_clap(
            folder / "in.mp4", (8, 4, 8, 16), options=LOSSLESS, setup=lambda _, stream: stream.set_display_rotation(90)
        ),
        check_turned_crop,
    ),
    Kind(
        "Matroska's PixelCrop, odd", lambda folder: with_pixel_crop(folder / "in.mkv", (7, 3, 8, 16), options=LOSSLESS),
        check_crop(145, 101, 7, 3),
    ),
    Kind(
        "a PixelCrop beyond the frame",
        lambda folder: with_pixel_crop(folder / "in.mkv", (8, 4, 8, 16), patched=250, options=LOSSLESS),
        check_crop_beyond,
    ),
    Kind(
        "H.264 field pictures in a transport stream", lambda folder: paff_clip(folder / "in.ts"), check_fields(24),
        options=("--deinterlace", "off"),
    ),
    Kind(
        "a range of H.264 field pictures, mixed with frames",
        lambda folder: paff_clip(folder / "in.mp4", mixed=True, mbaff=True), check_fields(10, 6),
        options=("--deinterlace", "off", "--frames", "7:16"),
    ),
    Kind(
        "MPEG-2 field pictures that have a packet each",
        lambda folder: mpeg2_fields.mpeg2_fields(folder / "in.mkv", apart=True), check_mpeg2_fields,
    ),
    Kind("HEVC coded as fields", lambda folder: hevc_fields(folder / "in.mp4"), check_hevc_fields),
]  # fmt: skip
