"""ncnn's two files: what is written comes back, and nothing but NcnnError comes out of broken ones."""

import random

import nets
import pytest
import torch

from upscaling.models import ncnn_files, weights


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize(
    "state", [nets.compact(6, 3, scale=2), nets.rrdb(6, 2, 4), nets.rrdb(5, 1, 3)], ids=["compact", "rrdb", "odd"]
)
def test_both_architectures_come_back_whichever_file_is_named(tmp_path, state, half):
    param = nets.save_ncnn(state, tmp_path / "net", half)
    expected = nets.rounded(state) if half else state
    for file in (param, param.with_suffix(".bin")):
        found = ncnn_files.read(file)
        assert list(found) == list(expected)
        assert all(torch.equal(torch.from_numpy(values), expected[name]) for name, values in found.items())


def test_scale_is_read_from_the_layer_list(tmp_path):
    for state, scale in ((nets.compact(scale=2), 2), (nets.compact(scale=4), 4), (nets.rrdb(), 4)):
        assert ncnn_files.scale(nets.save_ncnn(state, tmp_path / "net")) == scale


def test_the_packaged_files_have_the_layers_of_their_networks():
    state = ncnn_files.read(weights.locate("realesr-animevideov3").files[0])
    assert len(state) == 18 * 2 + 17 and state["body.34.weight"].shape == (48, 64, 3, 3)
    state = ncnn_files.read(weights.locate("RealESRGAN_x4plus_anime_6B").files[0])
    assert len(state) == 2 * (6 * 15 + 6) and state["body.5.rdb3.conv5.weight"].shape == (64, 192, 3, 3)
    # trained slopes and biases, not noise: the file was read at the right places
    assert abs(float(state["conv_first.bias"].mean())) < 1 and abs(float(state["conv_last.weight"].mean())) < 0.1


def broken(tmp_path, change):
    param = nets.save_ncnn(nets.compact(), tmp_path / "net")
    change(param, param.with_suffix(".bin"))
    with pytest.raises(ncnn_files.NcnnError) as caught:
        ncnn_files.read(param)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def replace(param, old, new):
    text = param.read_text()
    assert old in text
    param.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p, b: b.unlink(), "needs net.bin in"),
        (lambda p, b: b.write_bytes(b.read_bytes()[:-5]), "too short"),
        (lambda p, b: b.write_bytes(b.read_bytes() + b"1234"), "4 bytes more"),
        (lambda p, b: b.write_bytes(b"\x38\x4b\x0d\x00" + b.read_bytes()[4:]), "int8"),
        (lambda p, b: b.write_bytes(b"abcd" + b.read_bytes()[4:]), "unknown"),
        (lambda p, b: p.write_text("hello"), "does not start with 7767517"),
        (lambda p, b: p.write_text(""), "does not start with 7767517"),
        (lambda p, b: p.write_bytes(b"\xff\xfe\x00"), "binary"),
        (lambda p, b: p.write_text("7767517\n"), "damaged"),
        (lambda p, b: replace(p, "7767517\n11 11", "7767517\n12 11"), "header says 12 layers"),
        (lambda p, b: replace(p, "PixelShuffle", "Softmax"), "Softmax"),
        (lambda p, b: replace(p, "1=3 4=1", "1=5 4=1"), "is not 3x3"),
        (lambda p, b: replace(p, "PReLU", "ReLU"), "convolutions are neither"),
        (lambda p, b: replace(p, "0=8 1=3", "0=eight 1=3"), "not a number"),
    ],
)
def test_broken_files_are_one_line(tmp_path, change, words):
    assert words in broken(tmp_path, change)


def test_another_slope_than_rrdbnets_is_refused(tmp_path):
    param = nets.save_ncnn(nets.rrdb(), tmp_path / "net")
    replace(param, "-23310=1,2.000000e-01", "-23310=1,1.000000e-01")
    with pytest.raises(ncnn_files.NcnnError, match="slope"):
        ncnn_files.read(param)


def test_random_damage_raises_nothing_else(tmp_path):
    param = nets.save_ncnn(nets.compact(4, 1), tmp_path / "net")
    good = {file: file.read_bytes() for file in (param, param.with_suffix(".bin"))}
    chance = random.Random(1)
    refused = 0
    for _ in range(300):
        for file, content in good.items():
            data = bytearray(content)
            for _ in range(chance.randrange(1, 6)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            file.write_bytes(bytes(data[: chance.choice([len(data), chance.randrange(len(data))])]))
        try:
            ncnn_files.read(param)
            ncnn_files.scale(param)
        except ncnn_files.NcnnError:
            refused += 1
    assert refused > 250
