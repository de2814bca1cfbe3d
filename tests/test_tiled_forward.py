"""Frames through a network in tiles: no seams, nothing computed twice, and memory that never runs out."""

import nets
import numpy as np
import pytest
import torch

from upscaling.common.errors import UpscaleError
from upscaling.frames.layout import FrameLayout
from upscaling.frames.pixel_formats import FORMATS
from upscaling.frames.yuv import to_alpha, to_rgb
from upscaling.inference.memory import NO_LIMIT, PassLimits
from upscaling.inference.tile_reuse import ComparedPlane, FrameChanges
from upscaling.inference.tiled_forward import TiledForward
from upscaling.models import network, weights

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def forward(
    state: dict, tile_area: int = NO_LIMIT, dtype=torch.float32, limit: int | None = None, batch: int = 1, scale=None
):
    """A `TiledForward` of a network that raises OutOfMemoryError above `limit` pixels a pass, and the shapes it got."""
    found = network.build(state, scale)
    module, shapes = network.runner(found, dtype, CPU), []

    def run(pixels):
        shapes.append(tuple(pixels.shape))
        if limit is not None and pixels[:, 0].numel() > limit:
            raise torch.OutOfMemoryError(f"tried to allocate {pixels.numel()}\nmore lines")
        return module(pixels)

    return TiledForward(run, found, PassLimits(tile_area, batch), lambda: None), shapes


@pytest.mark.parametrize("scale", [4, 2])
@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.bfloat16],
)
def test_tiled_srvgg_equals_untiled_to_the_bit(dtype, scale):
    state, frames = nets.compact(16, 4), nets.picture(70, 90)
    whole = forward(state, dtype=dtype, scale=scale)[0](frames)
    tiled, shapes = forward(state, 40 * 40, dtype, scale=scale)
    assert torch.equal(tiled(frames), whole)
    assert tiled.computed == len(shapes) > 4 and len(set(shapes)) == 1


def test_the_packaged_video_network_sees_18_pixels_far():
    state = weights.load("realesr-animevideov3")
    frames = nets.picture(48, 120)
    whole = forward(state, scale=2)[0](frames)
    tiled, _ = forward(state, 48 * 80, scale=2)
    assert tiled.network.overlap == 18
    assert torch.equal(tiled(frames), whole) and tiled.computed == 2
    tiled.network.overlap, tiled.limits.tile_area = 12, 48 * 70
    assert not torch.equal(tiled(frames), whole)  # so the test can fail


def test_the_reach_of_a_small_rrdb_is_exact():
    state, frames = nets.rrdb(8, 1), nets.picture(8, 90)
    whole = forward(state)[0](frames)
    tiled, shapes = forward(state, 8 * 70)
    error = (tiled(frames) - whole).abs().max()
    assert tiled.network.overlap == 19 and len(shapes) == 2 and error < 1e-6


def test_the_packaged_rrdb_leaves_no_seam_above_one_code():
    state = weights.load("RealESRGAN_x4plus_anime_6B")
    frames = nets.picture(24, 180)
    whole = forward(state)[0](frames)

    def seam(overlap: int | None = None) -> float:
        tiled, shapes = forward(state, 24 * 160)
        tiled.network.overlap = overlap or tiled.network.overlap
        error = (tiled(frames) - whole).abs().max() * 255
        assert len(shapes) == 2
        return float(error)

    assert seam() <= 1
    assert seam(24) > 1  # so the test can fail


@pytest.mark.parametrize("scale", [2, 1])
@pytest.mark.parametrize("size", [(33, 47), (2, 3), (1, 1)])
def test_odd_sizes_are_padded_and_cut_for_pixel_unshuffle(scale, size):
    state, frames = nets.rrdb(scale=scale), nets.picture(*size)
    out = forward(state)[0](frames)
    assert out.shape == (1, 3, size[0] * scale, size[1] * scale)
    even = torch.nn.functional.pad(frames, (0, -size[1] % 4, 0, -size[0] % 4), mode="replicate")
    inside = slice(0, max(1, size[0] // 2) * scale)
    reference = network.build(state).module(even).clamp(0, 1)[..., : size[0] * scale, : size[1] * scale]
    assert (out[..., inside, :] - reference[..., inside, :]).abs().max() < 0.3


def still_frames() -> torch.Tensor:
    """Six frames: 1 and 2 as 0, 3 with one changed corner, 4 as 3, 5 all new."""
    frames = nets.picture(60, 100, frames=1).repeat(6, 1, 1, 1)
    frames[3:, :, :6, :6] = 0.5
    frames[5] = nets.picture(60, 100, seed=9)[0]
    return frames


def changes_of(frames: torch.Tensor) -> FrameChanges:
    """Those of RGB frames (N, 3, H, W)."""
    return FrameChanges([ComparedPlane(frames.cpu().permute(0, 2, 3, 1).numpy())])


def one_by_one(f: TiledForward, frames: torch.Tensor) -> torch.Tensor:
    """What each frame by itself gives."""
    return torch.cat([f(frame[None]).clone() for frame in frames])


@pytest.mark.parametrize("state", [nets.compact(8, 2), nets.rrdb()], ids=["compact", "rrdb"])
def test_a_patch_that_did_not_change_is_not_computed_again(state):
    frames, tile_area = still_frames(), 60 * 80
    together, alone = forward(state, tile_area)[0], forward(state, tile_area)[0]
    assert torch.equal(together(frames, changes_of(frames)), one_by_one(alone, frames))
    tiles = alone.computed // 6
    assert tiles > 1 and together.computed + together.reused == 6 * tiles
    assert together.computed == 2 * tiles + 1  # all of frames 0 and 5, the changed corner of 3


def test_reuse_goes_on_from_call_to_call_of_a_batch():
    frames, tile_area = still_frames(), 60 * 80
    changes = changes_of(frames)
    whole, calls = forward(nets.compact(8, 2), tile_area)[0], forward(nets.compact(8, 2), tile_area)[0]
    expected = whole(frames, changes).clone()
    for sizes in ((4, 2), (1, 1, 1, 1, 1, 1), (2, 3, 1), (3, 1, 1, 1)):  # the largest first: it makes the room
        calls.computed = calls.reused = 0
        starts = [sum(sizes[:n]) for n in range(len(sizes))]
        parts = zip(frames.split(sizes), starts, strict=True)
        results = [calls(part, changes.since(start)).clone() for part, start in parts]
        assert torch.equal(torch.cat(results), expected), sizes
        assert (calls.computed, calls.reused) == (whole.computed, whole.reused), sizes
    calls(frames[:1], changes)
    assert calls.computed > whole.computed, "the first frame of a batch follows none"


def test_a_call_that_failed_is_not_followed():
    f, _ = forward(nets.compact())
    frames = still_frames()
    changes = changes_of(frames)
    expected = f(frames[2:3]).clone()
    f(frames[5:])
    run = f.run
    f.run = lambda _pixels: 1 / 0
    with pytest.raises(ZeroDivisionError):
        f(frames[1:2])
    f.run = run
    assert torch.equal(f(frames[2:3], changes.since(2)), expected)


@pytest.mark.parametrize("name", FORMATS)
def test_every_sample_of_a_frame_is_compared(name):
    """A change of any sample is seen by each window that shows it, in any plane, and by those far away from none."""
    layout = FrameLayout(37, 29, name)
    chance = np.random.default_rng(3)
    for index in chance.integers(0, layout.sample_count, 12):
        samples = np.zeros((2, layout.sample_count), layout.format.dtype)
        samples[1, index] = layout.peak
        changes = FrameChanges.of(samples, layout)
        rgba = torch.cat([to_rgb(torch.from_numpy(samples), layout), to_alpha(torch.from_numpy(samples), layout)], 1)
        rows, columns = (rgba[0] != rgba[1]).any(0).nonzero(as_tuple=True)
        for y in range(0, 29, 4):
            for x in range(0, 37, 4):
                seen = ((rows >= y) & (rows < y + 4) & (columns >= x) & (columns < x + 4)).any()
                found = changes.differs(1, y, x, min(4, 29 - y), min(4, 37 - x))
                assert found or not seen
                far = min((rows - y - 2).abs().min(), (columns - x - 2).abs().min()) > 16 if len(rows) else False
                assert not (found and far)


def test_what_the_mirror_shows_is_compared():
    frames = torch.zeros(2, 3, 10, 12)
    frames[1, :, 6, 3] = 1
    changes = changes_of(frames)
    assert changes.differs(1, 9, 0, 5, 4), "row 12 of the mirrored frame is row 6"
    assert not changes.differs(1, 9, 0, 3, 4) and not changes.differs(1, 9, 4, 5, 12)


def test_no_change_at_all_is_one_frames_work():
    frames = nets.picture(20, 20).repeat(8, 1, 1, 1)
    f, shapes = forward(nets.compact())
    out = f(frames, changes_of(frames))
    assert len(shapes) == 1 and f.reused == 7 and torch.equal(out[0], out[7])


@pytest.mark.parametrize(("state", "limit"), [(nets.compact(8, 2), 3000), (nets.rrdb(), 5000)], ids=["compact", "rrdb"])
def test_out_of_memory_halves_the_batch_then_the_patch_and_goes_on(state, limit):
    frames = nets.picture(80, 112, frames=4)
    expected = forward(state)[0](frames)
    f, shapes = forward(state, limit=limit, batch=4)
    out = f(frames).clone()
    assert (out - expected).abs().max() < 1 / 255
    assert [shape[0] for shape in shapes[:3]] == [4, 2, 1] and f.limits.batch == 1
    assert len(f.limits.notes) >= 3 and not any("\n" in note for note in f.limits.notes)
    shapes.clear()
    assert torch.equal(f(frames), out)  # what fits is remembered: nothing is tried in vain again
    assert all(height * width <= limit for _, _, height, width in shapes)


def test_out_of_memory_in_the_middle_goes_on_from_the_failing_pass():
    frames = nets.picture(30, 30, frames=6)
    f, shapes = forward(nets.compact(), batch=2)
    run, calls = f.run, 0

    def fails_once(pixels):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        return run(pixels)

    f.run = fails_once
    assert torch.allclose(f(frames), forward(nets.compact())[0](frames), atol=1e-6)
    assert [shape[0] for shape in shapes] == [2, 1, 1, 1, 1]


def test_only_a_single_smallest_tile_that_does_not_fit_is_an_error():
    f, shapes = forward(nets.compact(8, 2), limit=10, batch=2)
    with pytest.raises(UpscaleError, match=r"a single tile of \d+x\d+ pixels does not fit") as caught:
        f(nets.picture(200, 200, frames=2))
    assert "\n" not in str(caught.value) and caught.value.exit_status == 1
    assert shapes[-1][0] == 1 and shapes[-1][2] * shapes[-1][3] <= 32**2  # and it was tried


def test_other_errors_are_not_taken_for_memory():
    f, _ = forward(nets.compact())

    def run(_pixels):
        raise RuntimeError("something else broke")

    f.run = run
    with pytest.raises(RuntimeError, match="something else broke"):
        f(nets.picture(8, 8))


def test_the_heart_beats_at_each_pass():
    f, shapes = forward(nets.compact(8, 2), 40 * 40)
    beats = []
    f.heartbeat = lambda: beats.append(1)
    f(nets.picture(60, 60, frames=2))
    assert len(beats) == len(shapes) > 2


@pytest.mark.requires_cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_passes_have_one_shape_and_reuse_changes_no_bit():
    found = network.build(nets.compact(16, 4))
    module, shapes = network.runner(found, torch.float16, torch.device("cuda")), []

    def run(pixels):
        shapes.append(tuple(pixels.shape))
        return module(pixels)

    frames = still_frames().cuda()
    together = TiledForward(run, found, PassLimits(50 * 64, 4), lambda: None)
    out = together(frames, changes_of(frames))
    alone = TiledForward(run, found, PassLimits(50 * 64, 4), lambda: None)
    assert torch.equal(out, one_by_one(alone, frames))
    assert len(set(shapes)) == 1 and together.reused > 0
