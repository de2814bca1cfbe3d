"""engine.py and its engines: batches through network and resize, colours and alpha around them, buffers, order."""

import subprocess
import sys
from pathlib import Path

import nets
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from upscaling.frames import conversion as pictures
from upscaling.frames.conversion import FrameConversion
from upscaling.frames.layout import FrameLayout
from upscaling.frames.pixel_formats import FORMATS, planes
from upscaling.frames.yuv import to_rgb
from upscaling.inference import torch_engine
from upscaling.inference.engine import make_upscaler
from upscaling.inference.settings import LANCZOS, ModelSettings

ROOT = Path(__file__).resolve().parent.parent


class Doubler:
    """In place of Upscaler in tests of what lies around the network: bicubic, clipped to [0, 1]."""

    channels = 3

    def __init__(self, settings, heartbeat):
        self.heartbeat, self.frames = heartbeat, []
        self.computed = self.reused = 0

    def take_notes(self):
        return []

    def take_checksum(self):
        return None

    def __call__(self, rgb, width, height, changes=None):
        assert rgb.min() >= 0 and rgb.max() <= 1 and rgb.dtype == torch.float32
        self.frames.append(len(rgb))
        self.heartbeat()
        if rgb.shape[-2:] == (height, width):
            return rgb.clone()
        return F.interpolate(rgb, (height, width), mode="bicubic", align_corners=False).clamp(0, 1)


@pytest.fixture
def upscaler(monkeypatch):
    monkeypatch.setattr(torch_engine, "Upscaler", Doubler)
    return make_upscaler(ModelSettings(), lambda: None)


def conversion(source="yuv420p", target=None, size=(24, 16), out_size=(48, 32), **colours):
    return FrameConversion(
        source=FrameLayout(*size, source, **colours), target=FrameLayout(*out_size, target or source, **colours)
    )


def frame(picture, number=0):
    """A smooth frame, different for each number, not too colourful for RGB; read-only, as a memory map is."""
    fmt = picture.source.format
    samples = np.zeros(picture.source.sample_count, fmt.dtype)
    for index, view in enumerate(picture.source.planes(samples)):
        y, x = np.mgrid[: view.shape[0], : view.shape[1]]
        wave = np.sin(x / 6 + number + index) * np.cos(y / 5 - number)
        value = np.round((128 + wave * (20 if 0 < index < 3 else 70)) * (1 << (fmt.depth - 8)))
        view[:] = value[..., None] + np.arange(fmt.channels) * 9 if fmt.rgb else value
    samples.flags.writeable = False
    return samples


def decibels(a, b, peak):
    return 10 * np.log10(peak**2 / max(((a.astype(float) - b.astype(float)) ** 2).mean(), 1e-9))


@pytest.mark.parametrize("name", FORMATS)
def test_around_the_network_nothing_is_lost(upscaler, name):
    """At scale 1 with a network that changes nothing, every format comes back, alpha included."""
    picture = conversion(name, out_size=(24, 16))
    frames = [frame(picture, n) for n in range(2)]
    upscaler.submit(frames, picture)
    fmt = FORMATS[name]
    for want, got in zip(frames, upscaler.collect(), strict=True):
        assert got.dtype == fmt.dtype and got.shape == want.shape
        for a, b in zip(planes(want, fmt, 24, 16), planes(got, fmt, 24, 16), strict=True):
            assert decibels(a, b, (1 << fmt.depth) - 1) > 50
            assert abs(a.astype(float).mean() - b.astype(float).mean()) < 0.5


def test_super_whites_pass_the_network(upscaler):
    picture = conversion()
    source = np.full(picture.source.sample_count, 128, np.uint8)
    planes(source, FORMATS["yuv420p"], 24, 16)[0][:] = 254
    upscaler.submit([source], picture)
    luma = planes(upscaler.collect()[0], FORMATS["yuv420p"], 48, 32)[0]
    assert (luma == 254).all()


@pytest.mark.parametrize("target", ["yuv420p", "yuv422p10le", "yuv444p16le", "gray", "rgb24", "yuva444p"])
def test_odd_output_sizes_are_padded_with_their_edge(upscaler, target):
    picture = conversion(target=target, size=(9, 5), out_size=(27, 15))
    upscaler.submit([frame(picture)], picture)
    fmt = FORMATS[target]
    padded = picture.target.padded
    width, height = padded.width, padded.height
    views = padded.planes(upscaler.collect()[0])
    for view in (views[0], views[-1]) if fmt.alpha else views[:1]:
        assert np.array_equal(
            view, np.pad(view[:15, :27], [(0, height - 15), (0, width - 27)] + [(0, 0)] * (view.ndim - 2), mode="edge")
        )
    if fmt.alpha:
        assert (views[-1] == (1 << fmt.depth) - 1).all()


@pytest.mark.parametrize(
    ("source", "target"), [("yuva420p", "yuva420p"), ("rgba", "yuva444p10le"), ("yuva444p10le", "rgba64le")]
)
def test_alpha_is_resized_beside_the_network(upscaler, source, target):
    picture = conversion(source, target)
    upscaler.submit([frame(picture)], picture)
    views = planes(upscaler.collect()[0], FORMATS[target], 48, 32)
    alpha = (views[-1] if len(views) > 1 else views[0][..., 3]) / ((1 << FORMATS[target].depth) - 1)
    views = planes(frame(picture), FORMATS[source], 24, 16)
    before = (views[-1] if len(views) > 1 else views[0][..., 3]) / ((1 << FORMATS[source].depth) - 1)
    small = alpha.reshape(16, 2, 24, 2).mean((1, 3))
    assert np.abs(small - before).max() < 0.02


@pytest.mark.parametrize("name", ["rgba", "yuva420p"])
@pytest.mark.parametrize("engine", ["torch", "lanczos"])
def test_no_dark_fringe_round_a_transparent_object(upscaler, name, engine):
    """A bright square on transparent black: no visible pixel of the result is darker than the square."""
    if engine == "lanczos":
        upscaler = make_upscaler(ModelSettings(model=LANCZOS), lambda: None)
    picture = conversion(name, full_range=True)
    source = np.zeros(picture.source.sample_count, np.uint8)
    views = picture.source.planes(source)
    for view in views:
        height, width = view.shape[:2]
        view[height // 4 : height // 2, width // 4 : width // 2] = 200
    upscaler.submit([source], picture)
    views = picture.target.planes(upscaler.collect()[0])
    alpha = views[0][..., 3] if name == "rgba" else views[3]
    assert 0 < (alpha > 0).mean() < 0.2
    colours = views[0][..., :3] if name == "rgba" else views[0][..., None]
    assert np.abs(colours[alpha > 0].astype(int) - 200).max() <= 2


def test_a_real_network_gets_and_gives_the_right_colours():
    """What comes out is what the network by itself makes of the frame's RGB, but for chroma at half resolution."""
    picture = conversion(matrix="smpte170m", full_range=True)
    beats = []
    real = make_upscaler(ModelSettings(precision="fp32"), lambda: beats.append(1))
    frames = [frame(picture, n) for n in range(3)]
    real.submit(frames, picture)
    outputs = [out.copy() for out in real.collect()]
    assert len(beats) >= 3
    luma = torch.tensor([0.299, 0.587, 0.114])
    for source, output in zip(frames, outputs, strict=True):
        rgb = to_rgb(torch.from_numpy(source.copy())[None], picture.source).clamp(0, 1)
        alone = real._engine._upscaler(rgb, 48, 32)[0]
        want = torch.einsum("c,chw->hw", luma, alone).numpy() * 255
        views = planes(output, FORMATS["yuv420p"], 48, 32)
        assert np.abs(views[0] - want).max() <= 1
        for view, channel, divisor in ((views[1], 2, 1.772), (views[2], 0, 1.402)):  # BT.601, full range
            want_chroma = (alone[channel].numpy() * 255 - want).mean() / divisor + 128
            assert abs(view.mean() - want_chroma) < 0.5


@pytest.mark.parametrize("model", [LANCZOS, "network"])
def test_results_go_into_the_arrays_that_were_given(upscaler, model):
    upscaler = make_upscaler(ModelSettings(model=LANCZOS), lambda: None) if model == LANCZOS else upscaler
    picture = conversion()
    frames = [frame(picture, n) for n in (1, 1, 2)]
    upscaler.submit(frames, picture)
    outputs = [out.copy() for out in upscaler.collect()]
    for index, source in enumerate(frames):
        upscaler.submit([source], picture)
        assert np.array_equal(upscaler.collect()[0], outputs[index])
    given = [np.zeros_like(outputs[0]) for _ in frames]
    upscaler.submit(frames, picture, given)
    assert upscaler.collect() is given
    for got, want in zip(given, outputs, strict=True):
        assert np.array_equal(got, want)


def test_buffers_are_used_again_and_a_new_size_gets_its_own(upscaler):
    picture = conversion()
    upscaler.submit([frame(picture, n) for n in range(4)], picture)
    first = upscaler.collect()[0].__array_interface__["data"][0]
    upscaler.submit([frame(picture, n) for n in range(2)], picture)
    assert upscaler.collect()[0].__array_interface__["data"][0] == first
    wide = conversion(size=(30, 16), out_size=(60, 32))
    upscaler.submit([frame(wide)], wide)
    assert upscaler.collect()[0].size == wide.target.sample_count


def test_large_pictures_pass_a_few_at_a_time(upscaler, monkeypatch):
    picture = conversion()
    frames = [frame(picture, n) for n in range(5)]
    upscaler.submit(frames, picture)
    want = [out.copy() for out in upscaler.collect()]
    one = 48 * 32 * 3 * 4
    monkeypatch.setattr(pictures, "RGB_BYTES", {"cpu": 2 * one + 1, "cuda": 0})
    upscaler.submit(frames, picture)
    got = upscaler.collect()
    assert upscaler._engine._upscaler.frames == [5, 2, 2, 1]
    assert all(np.array_equal(a, b) for a, b in zip(want, got, strict=True))
    monkeypatch.setattr(pictures, "RGB_BYTES", {"cpu": 1, "cuda": 1})
    assert pictures.frames_at_once(picture.target, "cuda:1") == 1


def test_a_large_frame_is_reused_from_call_to_call_but_not_from_batch_to_batch(monkeypatch):
    """Frames that pass one at a time: of one that changed in a corner only the tiles there are computed."""
    picture = conversion(size=(96, 72), out_size=(192, 144))
    first = frame(picture, 1)
    second = first.copy()
    second[:8] += 60
    real = make_upscaler(ModelSettings(precision="fp32", patch_size=64), lambda: None)
    tiles = 3
    real.submit([first, second, first], picture)
    want = [out.copy() for out in real.collect()]
    assert real.notes == [f"tiles: {tiles + 2} computed, {2 * tiles - 2} reused"]
    monkeypatch.setattr(pictures, "RGB_BYTES", {"cpu": 1})
    for frames, computed in (([first, second, first], tiles + 2), ([first], tiles), ([second], tiles)):
        real.submit(frames, picture)
        got = real.collect()
        assert real.notes == [f"tiles: {computed} computed, {len(frames) * tiles - computed} reused"]
    assert np.array_equal(got[0], want[1])
    real.submit([first, second, first], picture)
    assert all(np.array_equal(a, b) for a, b in zip(want, real.collect(), strict=True))


def test_misuse_is_told(upscaler):
    picture = conversion()
    with pytest.raises(ValueError, match="no batch"):
        upscaler.collect()
    for _ in range(upscaler.depth + 1):
        upscaler.submit([frame(picture)], picture)
    assert upscaler.pending == upscaler.depth + 1
    with pytest.raises(ValueError, match="collect one first"):
        upscaler.submit([frame(picture)], picture)


def test_lanczos_needs_no_torch():
    code = (
        "import sys, numpy as np\n"
        "from upscaling.inference.engine import make_upscaler\n"
        "from upscaling.frames.conversion import *\n"
        "from upscaling.inference.settings import *\n"
        "u = make_upscaler(ModelSettings(model=LANCZOS), lambda: None)\n"
        "p = FrameConversion(source=FrameLayout(4, 4, 'yuv420p'), target=FrameLayout(8, 8, 'yuv420p'))\n"
        "u.submit([np.full(24, 90, np.uint8)], p)\n"
        "assert (u.collect()[0] == 90).all()\n"
        "assert not {'torch', 'cv2'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.requires_cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_what_the_cpu_gives_with_batches_in_flight():
    picture = conversion("yuv420p10le")
    cpu = make_upscaler(ModelSettings(precision="fp32"), lambda: None)
    cuda = make_upscaler(ModelSettings(device="cuda:0", precision="fp32"), lambda: None)
    batches = [[frame(picture, 10 * n + k) for k in range(3)] for n in range(4)]
    results = []
    for frames in batches:
        cuda.submit(frames, picture)
        if cuda.pending > cuda.depth:
            results.append([out.copy() for out in cuda.collect()])
    while cuda.pending:
        results.append([out.copy() for out in cuda.collect()])
    for frames, got in zip(batches, results, strict=True):
        cpu.submit(frames, picture)
        for a, b in zip(cpu.collect(), got, strict=True):
            assert np.abs(a.astype(int) - b.astype(int)).max() <= 2


# Values that are not finite


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_fp16_supported(), reason="this CPU does not support fp16")
def test_a_batch_that_overflows_in_fp16_is_computed_again_in_fp32(tmp_path):
    results = []
    for precision in ("fp16", "fp32"):
        settings = ModelSettings(
            model=str(nets.save_pth(nets.overflowing(1e6), tmp_path / "large.pth")), precision=precision
        )
        upscaler = make_upscaler(settings, lambda: None)
        layouts = conversion()
        upscaler.submit([frame(layouts, 1), frame(layouts, 2)], layouts)
        results.append([out.copy() for out in upscaler.collect()])
        assert any("again in fp32" in note for note in upscaler.notes) == (precision == "fp16")
    for half, full in zip(*results, strict=True):
        assert np.array_equal(half, full)
