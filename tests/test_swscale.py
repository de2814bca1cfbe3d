"""swscale.py: every pixel format through libswscale, with codes, siting, ranges and padding as they should be."""

import numpy as np
import pytest

from upscaling.common.errors import UpscaleError
from upscaling.frames.conversion import FrameConversion
from upscaling.frames.layout import FrameLayout
from upscaling.frames.pixel_formats import FORMATS, planes
from upscaling.frames.swscale import Resizer


def conversion(source="yuv420p", target=None, size=(16, 12), out_size=None, before=None, after=None):
    """`before` and `after` are the colours of input and output."""
    return FrameConversion(
        source=FrameLayout(*size, source, **before or {}),
        target=FrameLayout(*(out_size or (size[0] * 2, size[1] * 2)), target or source, **after or {}),
    )


def frame_of(layout, *codes):
    """A flat-coloured frame; `codes` are those of its planes, or of its channels if it is packed."""
    samples = np.zeros(layout.sample_count, layout.format.dtype)
    views = layout.planes(samples)
    for view, code in zip(np.moveaxis(views[0], -1, 0) if layout.format.rgb else views, codes, strict=True):
        view[:] = code
    return samples


def resized(picture, source):
    """The output's planes; `out` starts as rubbish, so that a sample that is not written shows."""
    layout = picture.target.padded
    out = np.full(layout.sample_count, 99, layout.format.dtype)
    source.flags.writeable = False
    Resizer(picture)(source, out)
    views = layout.planes(out)
    return list(np.moveaxis(views[0], -1, 0)) if layout.format.rgb else views


def codes_of(views):
    found = [np.unique(view) for view in views]
    assert all(len(each) == 1 for each in found), found
    return [int(each[0]) for each in found]


def smooth(width, height, low, high, phase=0.0):
    y, x = np.mgrid[:height, :width]
    wave = np.sin(x / 9 + phase) * np.cos(y / 7 - phase)
    return np.round((low + high) / 2 + wave * (high - low) / 2)


@pytest.mark.parametrize("name", FORMATS)
def test_flat_colours_stay_in_every_format(name):
    fmt = FORMATS[name]
    peak = (1 << fmt.depth) - 1
    codes = [peak, peak // 3, peak // 5, peak // 2][: 4 if fmt.alpha else 1 if not fmt.rgb and not fmt.chroma else 3]
    for colours in ({"full_range": False}, {"full_range": True}):
        for size, out_size in (((16, 12), (32, 24)), ((5, 3), (15, 9)), ((1, 1), (2, 2)), ((3, 1), (4, 2))):
            picture = conversion(name, size=size, out_size=out_size, before=colours, after=colours)
            got = codes_of(resized(picture, frame_of(picture.source, *codes)))
            # swscale resizes RGB as YUV of 15 bits; planes are left alone to the last bit
            assert np.abs(np.subtract(got, codes)).max() <= (peak // 1024 if fmt.rgb else 0)


@pytest.mark.parametrize("name", FORMATS)
def test_scale_1_is_bit_exact(name):
    picture = conversion(name, size=(14, 10), out_size=(14, 10))
    source = (np.arange(picture.source.sample_count) * 7919 % (1 << FORMATS[name].depth)).astype(FORMATS[name].dtype)
    out = np.zeros_like(source)
    Resizer(picture)(source, out)
    assert np.array_equal(out, source)


def test_odd_sizes_at_scale_1_keep_the_picture_and_repeat_its_edge():
    picture = conversion(size=(5, 3), out_size=(5, 3))
    source = np.arange(picture.source.sample_count, dtype=np.uint8) * 9
    luma, u, v = resized(picture, source.copy())
    want_luma, want_u, want_v = planes(source, FORMATS["yuv420p"], 5, 3)
    assert np.array_equal(luma, np.pad(want_luma, ((0, 1), (0, 1)), mode="edge"))
    assert np.array_equal(u, want_u) and np.array_equal(v, want_v)


def test_padding_repeats_the_last_row_and_column():
    picture = conversion(size=(10, 6), out_size=(15, 9))
    assert (picture.target.padded.width, picture.target.padded.height) == (16, 10)
    source = frame_of(picture.source, 0, 0, 0)
    source[:] = np.random.default_rng(3).integers(16, 236, source.size)
    luma, u, _ = resized(picture, source)
    assert luma.shape == (10, 16) and u.shape == (5, 8)
    assert np.array_equal(luma[:, 15], luma[:, 14]) and np.array_equal(luma[9], luma[8])
    assert luma[:9, :15].std() > 10


def test_luma_matches_lanczos_computed_in_float():
    """Against the definition (three lobes, source position (x + 0.5) / 2 - 0.5), away from the edges."""
    picture = conversion("yuv444p", size=(48, 32))
    source = frame_of(picture.source, 0, 128, 128)
    luma = planes(source, FORMATS["yuv444p"], 48, 32)[0]
    luma[:] = smooth(48, 32, 30, 220) + np.random.default_rng(1).integers(-8, 9, (32, 48))

    def doubled(rows):
        out = np.zeros((rows.shape[0], rows.shape[1] * 2))
        for x in range(out.shape[1]):
            at = (x + 0.5) / 2 - 0.5
            taps = np.arange(int(np.floor(at)) - 2, int(np.floor(at)) + 4)
            weights = np.sinc(taps - at) * np.sinc((taps - at) / 3)
            out[:, x] = rows[:, taps.clip(0, rows.shape[1] - 1)] @ weights / weights.sum()
        return out

    want = doubled(doubled(luma.astype(float)).T).T
    error = resized(picture, source)[0] - want
    assert abs(error.mean()) < 0.15
    assert np.abs(error[8:-8, 8:-8]).max() <= 1.5


@pytest.mark.parametrize(("location", "across", "down"), [("left", 0, 0.5), ("center", 0.5, 0.5), ("topleft", 0, 0)])
def test_chroma_does_not_move(location, across, down):
    """A chroma ramp of 40 codes of 16 bits a luma pixel: where the output's samples lie in the input, read off it."""
    picture = conversion(
        "yuv420p16le", size=(64, 48),
        before={"chroma_location": location, "full_range": True},
        after={"chroma_location": location, "full_range": True},
    )  # fmt: skip
    source = frame_of(picture.source, 30000, 0, 0)
    _, u, v = planes(source, FORMATS["yuv420p16le"], 64, 48)
    u[:] = 20000 + 40 * (2 * np.arange(32) + across)
    v[:] = 20000 + 40 * (2 * np.arange(24) + down)[:, None]
    _, u, v = resized(picture, source)
    inner = np.arange(16, 32)
    assert np.abs(u[20, inner] - (20000 + 40 * ((2 * inner + across + 0.5) / 2 - 0.5))).max() <= 3
    assert np.abs(v[inner, 20] - (20000 + 40 * ((2 * inner + down + 0.5) / 2 - 0.5))).max() <= 3


@pytest.mark.parametrize(
    ("source", "codes", "target", "want", "before", "after"),
    [
        ("rgb24", (255, 0, 0), "yuv420p", (63, 102, 240), {"matrix": "gbr"}, {}),
        ("rgb48le", (65535, 0, 0), "yuv444p10le", (250, 409, 960), {"matrix": "gbr"}, {}),
        ("rgba", (0, 0, 255, 9), "yuv422p", (32, 240, 118), {"matrix": "gbr"}, {}),
        ("rgb24", (255, 0, 0), "yuv420p", (81, 90, 240), {"matrix": "gbr"}, {"matrix": "smpte170m"}),
        ("yuv420p", (63, 102, 240), "rgb24", (255, 0, 0), {}, {"matrix": "gbr"}),
        ("yuv420p", (63, 102, 240), "yuv420p", (81, 90, 240), {}, {"matrix": "smpte170m"}),
        ("yuv420p", (235, 128, 128), "yuv420p", (255, 128, 128), {}, {"full_range": True}),
        ("yuv420p", (255, 128, 128), "yuv420p", (235, 128, 128), {"full_range": True}, {}),
        # deeper and shallower: by shifts in narrow range, 255 to 1023 in full range
        ("yuv420p", (235, 90, 240), "yuv420p10le", (940, 360, 960), {}, {}),
        ("yuv420p10le", (940, 360, 960), "yuv420p", (235, 90, 240), {}, {}),
        ("yuv420p", (255, 85, 0), "yuv444p10le", (1023, 341, 0), {"full_range": True}, {"full_range": True}),
        ("yuv444p16le", (65535, 21845, 0), "yuv420p", (255, 85, 0), {"full_range": True}, {"full_range": True}),
        ("yuv422p12le", (4095, 1365, 0), "yuv422p9le", (511, 170, 0), {"full_range": True}, {"full_range": True}),
        # gray is of the range that is said, not always full as swscale has it
        ("gray", (200,), "yuv420p", (200, 128, 128), {}, {}),
        ("gray", (200,), "yuv420p", (200, 128, 128), {"full_range": True}, {"full_range": True}),
        ("gray", (235,), "yuv420p10le", (940, 512, 512), {}, {}),
        ("yuv420p", (200, 90, 30), "gray", (200,), {}, {}),
        ("gray", (255,), "yuv420p", (235, 128, 128), {"full_range": True}, {}),
        # kept without being understood
        ("yuv420p", (200, 90, 30), "yuv420p", (200, 90, 30), {"matrix": "ycgco"}, {"matrix": "ycgco"}),
        ("yuv420p10le", (800, 90, 30), "yuv420p10le", (800, 90, 30), {"matrix": "ictcp"}, {"matrix": "ictcp"}),
        # alpha: kept, dropped, opaque where there was none
        ("yuva420p", (90, 100, 110, 77), "yuv420p", (90, 100, 110), {}, {}),
        ("yuva420p", (90, 100, 110, 77), "yuva444p", (90, 100, 110, 77), {}, {}),
        ("yuv420p", (90, 100, 110), "yuva420p", (90, 100, 110, 255), {}, {}),
        ("rgba", (255, 255, 255, 77), "yuva444p10le", (940, 512, 512, 309), {"matrix": "gbr"}, {}),
    ],
)  # fmt: skip
def test_conversions(source, codes, target, want, before, after):
    picture = conversion(source, target, before=before, after=after)
    for got, wanted in zip(resized(picture, frame_of(picture.source, *codes)), want, strict=True):
        # swscale dithers where it loses depth, and its matrices are good to a code of 9 bits
        matrix_applied = picture.source.matrix != picture.target.matrix
        off = max(1, (1 << FORMATS[target].depth) // 512) if matrix_applied else 0.5
        assert abs(got.mean() - wanted) <= off
        assert np.abs(got.astype(int) - wanted).max() <= max(1, off)


def test_a_conversion_that_swscale_lacks_is_one_line():
    with pytest.raises(UpscaleError, match="ycgco") as error:
        Resizer(conversion(before={"matrix": "ycgco"}))
    assert "\n" not in str(error.value)


def test_many_frames_need_no_more_memory_and_do_not_mix():
    picture = conversion()
    resize = Resizer(picture)
    out = np.zeros(picture.target.sample_count, np.uint8)
    for code in (10, 200, 30):
        resize(frame_of(picture.source, code, 128, code), out)
        assert codes_of(planes(out, FORMATS["yuv420p"], 32, 24)) == [code, 128, code]
