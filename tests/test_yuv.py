"""yuv.py: known code values, round trips of every format, chroma siting, sizes down to 1x1."""

import numpy as np
import pytest
import torch

from upscaling.common.errors import InputError
from upscaling.frames import yuv
from upscaling.frames.layout import FrameLayout
from upscaling.frames.pixel_formats import FORMATS, plane_shapes
from upscaling.frames.yuv import from_rgb, planes_of, rgb_to_yuv, to_rgb

PLANAR = [name for name, fmt in FORMATS.items() if fmt.chroma is not None]


def empty(layout, frames=1):
    return torch.from_numpy(np.zeros((frames, layout.sample_count), layout.format.dtype))


def encoded(rgb, layout):
    return from_rgb(rgb, layout, empty(layout, len(rgb)))


def flat_rgb(colour_value, layout):
    return torch.tensor(colour_value, dtype=torch.float32).view(1, 3, 1, 1).expand(1, 3, layout.height, layout.width)


def values(samples, layout):
    """The single value of each plane of a flat-coloured frame."""
    found = [np.unique(plane.numpy()) for plane in planes_of(samples[0], layout)]
    assert all(len(each) == 1 for each in found), found
    return tuple(int(each[0]) for each in found)


def picture(layout, seed=0):
    """A frame inside the RGB gamut with structure down to the pixel in luma and to the sample in chroma."""
    rng = np.random.default_rng(seed)
    depth = layout.format.depth
    weights, offsets = rgb_to_yuv(layout.matrix, layout.full_range, depth)
    samples = empty(layout)
    for index, plane in enumerate(planes_of(samples[0], layout)[:3]):
        rows, columns = plane.shape
        y, x = np.mgrid[:rows, :columns]
        wave = 0.5 * np.sin(x / 5) * np.cos(y / 7) + rng.uniform(-0.5, 0.5, (rows, columns))
        gray = weights[index].sum() * 0.5 + offsets[index]
        swing = (0.25 if index == 0 else 0.12) * np.abs(weights[index]).sum()
        plane.copy_(torch.from_numpy(np.round(gray + wave * swing)))
    return samples


def assert_same_picture(got, want, layout, decibels):
    for a, b in zip(planes_of(got[0], layout)[:3], planes_of(want[0], layout)[:3], strict=True):
        error = a.numpy().astype(float) - b.numpy().astype(float)
        assert abs(error.mean()) < 0.5
        assert 10 * np.log10(layout.peak**2 / max((error**2).mean(), 1e-9)) >= decibels


@pytest.mark.parametrize(
    ("matrix", "full", "fmt", "rgb", "codes"),
    [
        # BT.709 100 % bars, 8 and 10 bit (ITU-R BT.709-6; the values that broadcast colour bars carry)
        ("bt709", False, "yuv444p", (1, 0, 0), (63, 102, 240)),
        ("bt709", False, "yuv444p", (0, 1, 0), (173, 42, 26)),
        ("bt709", False, "yuv444p", (0, 0, 1), (32, 240, 118)),
        ("bt709", False, "yuv420p", (1, 1, 1), (235, 128, 128)),
        ("bt709", False, "yuv420p", (0, 0, 0), (16, 128, 128)),
        ("bt709", False, "yuv420p10le", (1, 0, 0), (250, 409, 960)),
        ("bt709", False, "yuv422p10le", (1, 1, 1), (940, 512, 512)),
        # BT.601 100 % bars; JFIF full range
        ("smpte170m", False, "yuv420p", (1, 0, 0), (81, 90, 240)),
        ("bt470bg", False, "yuv420p", (0, 0, 1), (41, 240, 110)),
        ("bt601", True, "yuv444p", (1, 0, 0), (76, 85, 255)),
        ("bt709", True, "yuv420p", (1, 1, 1), (255, 128, 128)),
        ("bt709", True, "yuv420p10le", (1, 1, 1), (1023, 512, 512)),
        # BT.2020, 10 bit
        ("bt2020nc", False, "yuv420p10le", (1, 0, 0), (294, 387, 960)),
        ("bt2020c", False, "yuv420p10le", (0, 0, 1), (116, 960, 476)),
        ("ycgco", True, "yuv444p", (0, 1, 0), (128, 255, 128)),
        ("gbr", True, "yuv444p", (0.2, 0.4, 0.6), (102, 153, 51)),
        ("gbr", False, "yuv444p", (1, 0, 0), (16, 16, 235)),
        ("bt709", False, "gray", (1, 1, 1), (235,)),
        ("bt709", True, "gray16le", (1, 1, 1), (65535,)),
        ("bt709", False, "gray12le", (1, 0, 0), (1001,)),  # (219 · 0.2126 + 16) · 16, rounded
    ],
)
def test_known_colours(matrix, full, fmt, rgb, codes):
    layout = FrameLayout(6, 4, fmt, matrix=matrix, full_range=full)
    samples = encoded(flat_rgb(rgb, layout), layout)
    assert values(samples, layout) == codes
    if FORMATS[fmt].chroma:
        back = to_rgb(samples, layout)
        assert torch.allclose(back, flat_rgb(rgb, layout), atol=1.5 / (1 << min(FORMATS[fmt].depth, 8)))


def test_every_matrix_gives_gray_without_chroma():
    for matrix in yuv.MATRICES:
        layout = FrameLayout(2, 2, "yuv444p12le", matrix=matrix)
        y, u, v = values(encoded(flat_rgb((0.5, 0.5, 0.5), layout), layout), layout)
        assert y == 2008
        assert u == v == (2008 if matrix in ("gbr", "rgb") else 2048)


@pytest.mark.parametrize("name", PLANAR)
@pytest.mark.parametrize("location", ["left", "center", "topleft"])
def test_round_trip_of_every_planar_format(name, location):
    for full in (False, True):
        layout = FrameLayout(61, 37, name, matrix="bt709", full_range=full, chroma_location=location)
        want = picture(layout)
        got = encoded(to_rgb(want, layout), layout)
        assert_same_picture(got, want, layout, 50)


@pytest.mark.parametrize("matrix", sorted(set(yuv.MATRICES)))
def test_round_trip_of_every_matrix(matrix):
    layout = FrameLayout(40, 22, "yuv420p10le", matrix=matrix)
    want = picture(layout)
    assert_same_picture(encoded(to_rgb(want, layout), layout), want, layout, 55)


@pytest.mark.parametrize("name", [name for name, fmt in FORMATS.items() if fmt.rgb or fmt.chroma is None])
def test_rgb_and_gray_come_back_exactly(name):
    layout = FrameLayout(13, 7, name, matrix="bt709", full_range=False)
    want = empty(layout)
    want.copy_(torch.arange(want.numel()) * 7919 % (layout.peak + 1))
    got = encoded(to_rgb(want, layout), layout)
    for a, b in zip(planes_of(got[0], layout), planes_of(want[0], layout), strict=True):
        assert np.array_equal(a.numpy()[..., :3], b.numpy()[..., :3])


def test_codes_outside_the_nominal_range_survive():
    layout = FrameLayout(8, 1, "yuv444p")
    want = torch.tensor([[0, 1, 15, 16, 235, 236, 254, 255] + [128] * 16], dtype=torch.uint8)
    rgb = to_rgb(want, layout)
    assert rgb.min() < 0 and rgb.max() > 1
    assert torch.equal(encoded(rgb, layout), want)


def test_values_beyond_the_sample_type_are_clipped():
    layout = FrameLayout(4, 4, "yuv420p10le", full_range=True)
    assert values(encoded(flat_rgb((3, 3, 3), layout), layout), layout) == (1023, 512, 512)
    assert values(encoded(flat_rgb((-3, -3, -3), layout), layout), layout) == (0, 512, 512)


def ramp(layout):
    """RGB with a gentle chroma ramp along both axes, its Cb and Cr known at every point: (rgb, Cb(x, y))."""
    y, x = np.mgrid[: layout.height, : layout.width].astype(np.float64)
    blue = 0.3 + x * 0.004 + y * 0.003
    rgb = np.stack([np.full_like(blue, 0.4), np.full_like(blue, 0.4), blue])[None]
    weights, offsets = rgb_to_yuv(layout.matrix, layout.full_range, layout.format.depth)

    def cb(column, row):
        return offsets[1] + weights[1] @ np.array([0.4, 0.4, 0.3 + column * 0.004 + row * 0.003])

    return torch.from_numpy(rgb).float(), cb


@pytest.mark.parametrize("name", ["yuv420p16le", "yuv422p16le", "yuv444p16le"])
@pytest.mark.parametrize(
    ("location", "across", "down"), [("left", 0, 0.5), ("center", 0.5, 0.5), ("topleft", 0, 0), ("top", 0.5, 0)]
)
def test_chroma_lies_where_it_is_said_to(name, location, across, down):
    layout = FrameLayout(48, 40, name, chroma_location=location)
    log2_w, log2_h = FORMATS[name].chroma
    rgb, cb = ramp(layout)
    samples = encoded(rgb, layout)
    plane = planes_of(samples[0], layout)[1].numpy().astype(float)
    inner = (slice(6, 12), slice(6, 14))
    rows, columns = np.mgrid[6:12, 6:14]
    want = np.vectorize(cb)(columns * 2 + across if log2_w else columns, rows * 2 + down if log2_h else rows)
    assert np.abs(plane[inner] - want).max() < 1  # a code of 16 bits; half a pixel of shift is 100
    back = to_rgb(samples, layout)
    assert (back - rgb)[..., 8:-8, 8:-8].abs().max() < 1e-4


@pytest.mark.parametrize("location", ["left", "center", "topleft"])
def test_reducing_undoes_interpolating_up_to_the_edges(location):
    """On noise at the chroma's own resolution, where any other pair of filters loses detail."""
    for width, height in ((9, 6), (8, 5), (3, 3), (2, 2)):
        layout = FrameLayout(width, height, "yuv420p16le", full_range=True, chroma_location=location)
        want = empty(layout)
        rng = np.random.default_rng(width)
        want.copy_(torch.from_numpy(rng.integers(26000, 39000, want.shape)))
        got = encoded(to_rgb(want, layout), layout)
        assert np.abs(got.numpy().astype(int) - want.numpy().astype(int)).max() < 26000 * 0.001


@pytest.mark.parametrize("name", FORMATS)
def test_tiny_sizes(name):
    for width, height in ((1, 1), (2, 1), (1, 3), (3, 2)):
        layout = FrameLayout(width, height, name, matrix="bt709", full_range=True, chroma_location="topleft")
        rgb = flat_rgb((0.25, 0.5, 0.75), layout)
        back = to_rgb(encoded(rgb, layout), layout)
        assert back.shape == (1, 3, height, width)
        if FORMATS[name].chroma or FORMATS[name].rgb:
            assert (back - rgb).abs().max() < 0.01
        else:
            assert (back[:, :1] == back).all()


def test_strips_do_not_show(monkeypatch):
    layouts = [FrameLayout(33, 151, n, chroma_location=c) for n in ("yuv420p", "yuv422p") for c in ("left", "topleft")]
    layouts += [FrameLayout(33, 151, "rgb24"), FrameLayout(33, 151, "gray")]
    rgb = torch.rand(1, 3, 151, 33, generator=torch.Generator().manual_seed(1))
    for layout in layouts:
        whole = encoded(rgb, layout)
        back = to_rgb(whole, layout)
        with monkeypatch.context() as patch:
            patch.setattr(yuv, "STRIP_PIXELS", {"cpu": 1})
            patch.setattr(yuv, "STRIP_ROWS", 6)
            assert torch.equal(encoded(rgb, layout), whole)
            assert torch.equal(to_rgb(whole, layout), back)


def test_a_smaller_picture_is_extended_by_its_edge():
    layout = FrameLayout(8, 6, "yuv420p")
    rgb = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(2))
    extended = torch.nn.functional.pad(rgb, (0, 1, 0, 1), mode="replicate")
    assert torch.equal(encoded(rgb, layout), encoded(extended, layout))


def test_batches_are_frame_by_frame():
    layout = FrameLayout(10, 6, "yuv420p")
    one, two = picture(layout, 1), picture(layout, 2)
    both = to_rgb(torch.cat([one, two]), layout)
    assert torch.equal(both[1:], to_rgb(two, layout))
    assert plane_shapes(layout.format, 10, 6)[1] == (3, 5)


def test_an_unknown_matrix_is_refused():
    layout = FrameLayout(4, 4, "yuv420p", matrix="reserved")
    with pytest.raises(InputError, match="'reserved' is not known"):
        to_rgb(empty(layout), layout)
