"""Networks from tensors: recognised, the same picture from each package, folded exactly, realesrgan's own result."""

import copy
import subprocess
import sys
from pathlib import Path

import nets
import numpy as np
import pytest
import realesrgan_reference
import torch
from torch.nn import functional as F

from upscaling.models import network, realesrgan_arch, weights

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
needs_realesrgan = pytest.mark.skipif(realesrgan_arch.srvgg_class() is None, reason="realesrgan is not installed")


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


COMPACTS = [(8, 2, 4), (5, 1, 2), (12, 3, 3), (4, 2, 1)]
RRDBS = [(8, 1, 4), (6, 2, 2), (4, 1, 1)]  # grown by 32 channels: spandrel knows no others, and none are published


@needs_realesrgan
@pytest.mark.parametrize(("features", "convolutions", "scale"), COMPACTS)
def test_srvgg_of_any_width_depth_and_scale(features, convolutions, scale):
    state, picture = nets.compact(features, convolutions, scale), nets.picture(13, 17)
    found = network.build(state)
    assert (found.architecture, found.native_scale, found.overlap) == ("SRVGGNetCompact", scale, convolutions + 2)
    module = realesrgan_arch.srvgg_class()(num_feat=features, num_conv=convolutions, upscale=scale)  # the ordinary way
    module.load_state_dict(state)
    expected = module.eval()(picture)
    assert torch.equal(found.module(picture), expected)
    last = {"memory_format": torch.channels_last}
    expected = found.module.to(**last)(picture.contiguous(**last))  # other kernels, other roundings
    ours = network.runner(network.build(state), torch.float32, CPU)(picture.contiguous(**last))
    assert torch.equal(ours, expected)


@pytest.mark.parametrize(("features", "blocks", "scale"), RRDBS)
def test_rrdb_of_any_width_depth_and_scale(features, blocks, scale):
    state, picture = nets.rrdb(features, blocks, scale=scale), nets.picture(12, 20)
    found = network.build(state)
    assert (found.architecture, found.native_scale) == ("RRDBNet", scale)
    assert found.multiple_of % (4 // scale) == 0 and found.overlap == network.rrdb_overlap(blocks) * 4 // scale
    expected = nets.rrdb_output(state, picture)
    assert torch.equal(found.module(picture), expected)
    assert torch.allclose(network.runner(found, torch.float32, CPU)(picture), expected, atol=1e-6)


@needs_realesrgan
@pytest.mark.parametrize("state", [nets.compact(8, 2, 4), nets.compact(5, 1, 2)])
def test_spandrels_class_gives_the_same_picture_to_the_bit(state):
    picture = nets.picture(16, 20)
    ours, theirs = network.build(state), network.build(state, spandrel=True)
    assert type(ours.module) is not type(theirs.module)
    assert torch.equal(ours.module(picture), theirs.module(picture))
    for field in ("architecture", "native_scale", "scale", "overlap", "supports_tiling"):
        assert getattr(ours, field) == getattr(theirs, field), field
    assert theirs.multiple_of >= ours.multiple_of


@needs_realesrgan
def test_the_packaged_weights_give_the_same_picture_with_both_classes():
    state, picture = weights.load("realesr-animevideov3"), nets.picture(16, 16)
    assert torch.equal(network.build(state).module(picture), network.build(state, spandrel=True).module(picture))


def test_the_packaged_rrdb_is_computed_as_it_is_defined():
    state, picture = weights.load("RealESRGAN_x4plus_anime_6B"), nets.picture(16, 16)
    assert torch.equal(network.build(state).module(picture), nets.rrdb_output(state, picture))


@pytest.mark.parametrize("state", [nets.compact(), nets.rrdb()])
def test_without_realesrgan_the_network_is_spandrels(state, monkeypatch):
    picture = nets.picture(16, 20)
    expected = network.build(state).module(picture)
    monkeypatch.setattr(network, "srvgg_class", lambda: None)
    found = network.build(state).module
    assert type(found).__module__.startswith(("spandrel", "upscaling")) and torch.equal(found(picture), expected)


def test_spandrel_opens_what_realesrgan_has_not():
    from spandrel.architectures.SPAN import SPAN

    torch.manual_seed(0)
    module = SPAN(num_in_ch=3, num_out_ch=3, feature_channels=16, upscale=2).eval()
    found = network.build({name: values.detach() for name, values in module.state_dict().items()})
    picture = nets.picture(16, 24)
    assert (found.architecture, found.native_scale) == ("SPAN", 2)
    assert torch.allclose(found.module(picture), module(picture), atol=1e-6)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"a": torch.zeros(3)},
        {"body.0.weight": torch.zeros(4, 3, 3, 3), "body.1.weight": torch.zeros(4)},
        nets.compact() | {"body.6.weight": torch.zeros(47, 8, 3, 3)},
        nets.compact() | {"body.0.weight": torch.zeros(8, 1, 3, 3)},
        nets.compact() | {"body.0.weight": torch.zeros(8, 2, 3, 3), "body.6.weight": torch.zeros(32, 8, 3, 3)},
        nets.compact() | {"extra": torch.zeros(1)},
        {name: values for name, values in nets.rrdb().items() if "rdb2" not in name},
        nets.rrdb() | {"conv_first.weight": torch.zeros(8, 5, 3, 3)},
    ],
)
def test_tensors_that_fit_no_network_are_one_line(state):
    with pytest.raises(weights.WeightsError) as caught:
        network.build(state)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("native", "scale"), [(4, 2), (4, 1), (2, 1), (3, 1)])
def test_the_fold_is_the_mean_of_blocks(native, scale):
    state, picture = nets.compact(8, 2, native), nets.picture(13, 17)
    full = network.build(state).module(picture)
    assert full.min() > 0 and full.max() < 1, "nothing clips"
    folded = network.build(state, scale)
    assert (folded.native_scale, folded.scale) == (native, scale)
    assert torch.allclose(folded.module(picture), F.avg_pool2d(full, native // scale), atol=2e-6)


def test_rrdb_gives_smaller_scales_by_the_mean_of_clipped_blocks():
    state = nets.rrdb()
    state["conv_last.weight"] *= 1000  # so that much clips
    picture = nets.picture(12, 12)
    full = network.build(state).module(picture)
    assert full.min() < 0 and full.max() > 1
    found = network.build(state, 2)
    assert torch.equal(found.module(picture), F.avg_pool2d(full.clamp(0, 1), 2))
    assert torch.allclose(network.runner(found, torch.float32, CPU)(picture), found.module(picture), atol=1e-6)
    with pytest.raises(weights.WeightsError, match="no scale 3"):
        network.build(state, 3)


@pytest.mark.parametrize(
    ("native", "ratios", "scale"),
    [(4, (2, 2), 2), (4, (1, 1), 1), (4, (1.5, 1.2), 2), (4, (2.01, 2), 4), (4, (3, 3), 4), (4, (8, 8), 4),
     (2, (2, 2), 2), (2, (4, 4), 2), (3, (2, 2), 3), (1, (2, 2), 1)],
)  # fmt: skip
def test_the_smallest_scale_that_reaches_is_taken(native, ratios, scale):
    assert network.scale_for(native, *ratios) == scale


def test_half_precision_keeps_the_picture_itself_exact():
    state, picture = nets.compact(16, 4), nets.picture(24, 24)
    full = network.build(state).module(picture)
    naive = copy.deepcopy(network.build(state).module).bfloat16()(picture.bfloat16()).float()
    ours = network.runner(network.build(state), torch.bfloat16, CPU)(picture)
    assert ours.dtype == torch.float32
    error, naive_error = (ours - full).square().mean(), (naive - full).square().mean()
    assert 0 < error < naive_error / 4  # better by 6 dB at the least


@needs_realesrgan
def test_importing_the_class_is_light_and_leaves_no_trace():
    code = (
        "import sys, torch\nfrom upscaling.models import network\n"
        "assert network.srvgg_class().__module__ == 'realesrgan.archs.srvgg_arch'\n"
        "heavy = {'torchvision', 'scipy', 'skimage', 'cv2', 'lmdb', 'basicsr', 'realesrgan'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, check=True)


def test_a_realesrgan_that_needs_more_is_left_alone(tmp_path, monkeypatch):
    folder = tmp_path / "realesrgan" / "archs"
    folder.mkdir(parents=True)
    (tmp_path / "realesrgan" / "__init__.py").write_text("raise SystemExit('imported')")
    (folder / "srvgg_arch.py").write_text("import basicsr.losses")
    monkeypatch.syspath_prepend(tmp_path)
    assert realesrgan_arch.srvgg_class.__wrapped__() is None
    assert not any(name.startswith("basicsr") for name in sys.modules)


def test_realesrgans_own_enhance_gives_the_same_frame():
    from upscaling.inference.settings import ModelSettings
    from upscaling.inference.upscaler import Upscaler

    frame = (nets.picture(36, 52)[0] * 255).round().byte()  # (3, 36, 52)
    enhancer = realesrgan_reference.enhancer(weights.load("realesr-animevideov3"))
    theirs, _ = enhancer.enhance(frame.permute(1, 2, 0).numpy()[:, :, ::-1])  # BGR in and out
    theirs = torch.from_numpy(np.ascontiguousarray(theirs[:, :, ::-1])).permute(2, 0, 1).float()  # (3, 144, 208)
    ours = Upscaler(ModelSettings(precision="fp32"))
    rgb = frame[None].float() / 255
    four = ours(rgb, 208, 144)[0] * 255
    assert (four - theirs).abs().max() <= 0.5 + 1e-3  # theirs is rounded to whole codes
    two = ours(rgb, 104, 72)[0] * 255
    clips = F.max_pool2d(((theirs == 0) | (theirs == 255)).float(), 2) > 0
    assert clips.float().mean() < 0.2, "the picture tests something"
    assert ((two - F.avg_pool2d(theirs, 2)).abs()[~clips]).max() <= 0.5 + 1e-3
