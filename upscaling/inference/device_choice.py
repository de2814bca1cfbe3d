"""Which device each worker uses, with which engine, and why. Imports neither torch nor ncnn.

auto     CUDA (torch); else a Vulkan GPU (ncnn), not a software one; else the CPU
cpu      torch if the CPU has bf16 instructions, where its convolutions are the fastest; else ncnn
"""

import re
from dataclasses import dataclass
from pathlib import Path

from upscaling.common.devices import CudaProbe, cuda_devices
from upscaling.common.errors import InputError
from upscaling.common.system import cpu_has_bf16
from upscaling.inference.settings import AUTO, LANCZOS, NCNN, SWSCALE, TORCH
from upscaling.inference.vulkan import gpu_files, ncnn_installed, vulkan_devices
from upscaling.models.tensor_names import runs_in_ncnn

CHOICES = "auto, cpu, cuda, vulkan, or a list such as cuda:0,cuda:1 or vulkan:0"


@dataclass(frozen=True)
class DeviceChoice:
    """The device of each worker, the engine for all of them, the reason in a few words, and GPUs that are not used."""

    devices: tuple[str, ...]  # "cpu", "cuda:N" or "vulkan:N"
    engine: str  # TORCH, NCNN, or SWSCALE for a plain resize
    reason: str
    warnings: tuple[str, ...] = ()


def choose(device: str, engine: str, precision: str, model: str, file: Path | None, workers: int) -> DeviceChoice:
    """The choice for the options of these names; worker i gets the (i mod number)-th device.

    `file` is the model's first weights file; a model that ncnn cannot run gets torch, on a CPU if need be. InputError
    for a device that this machine does not have, and for an engine that cannot use the device or the model.
    """
    if model == LANCZOS:
        return DeviceChoice(("cpu",) * workers, SWSCALE, "a plain resize needs no GPU")
    if engine == NCNN and not ncnn_installed():
        raise InputError("--engine ncnn: ncnn is not installed; pip install ncnn, or use --engine torch")
    torch_only = file is not None and not runs_in_ncnn(model, file)
    if torch_only and (engine == NCNN or device.startswith("vulkan")):
        raise InputError(f"ncnn runs SRVGGNetCompact and RRDBNet only, not {model}; use --engine torch on cuda or cpu")
    if device == AUTO:
        names, reason, warnings = _automatic(TORCH if torch_only else engine)
    else:
        names, reason, warnings = _asked_for(device), f"--device {device}", []
    kind = names[0].partition(":")[0]
    chosen, why = (TORCH, "the model needs it") if torch_only else _engine_for(kind, engine, precision)
    reasons = "; ".join(filter(None, (reason, why)))
    return DeviceChoice(tuple(names[i % len(names)] for i in range(workers)), chosen, reasons, tuple(warnings))


def _automatic(engine: str) -> tuple[list[str], str, list[str]]:
    """(device names, why these, why those that are better cannot be used though they seem to be here)."""
    without, warnings = [], []
    if engine != NCNN:
        cuda = cuda_devices()
        warnings += [cuda.problem] * bool(cuda.problem)
        if cuda.devices:
            return [found.name for found in cuda.devices], "CUDA device found", warnings
        without.append("no CUDA device found")
    if engine != TORCH and gpu_files():
        vulkan = vulkan_devices()
        if vulkan.gpus:
            names = ", ".join(dict.fromkeys(found.description for found in vulkan.gpus))
            return [found.name for found in vulkan.gpus], "; ".join([*without, names]), warnings
        warnings += [vulkan.problem] * bool(vulkan.problem)
    if engine != TORCH:
        without.append("no Vulkan GPU found")
    return ["cpu"], ", ".join(without), warnings


def _asked_for(device: str) -> list[str]:
    """The names that --device stands for."""
    if device == "cpu":
        return ["cpu"]
    kind = device.partition(":")[0]
    if not re.fullmatch(r"cuda(:[0-9]+(,cuda:[0-9]+)*)?|vulkan(:[0-9]+(,vulkan:[0-9]+)*)?", device):
        raise InputError(f"--device {device}: choose {CHOICES}")
    probe = cuda_devices() if kind == "cuda" else vulkan_devices()
    present = [found.name for found in probe.devices]
    default = present if isinstance(probe, CudaProbe) else [found.name for found in probe.gpus or probe.devices]
    wanted = default if device == kind else device.split(",")
    if missing := [name for name in wanted if name not in present] or ([] if wanted else [device]):
        none = (
            f"no {'CUDA' if kind == 'cuda' else 'Vulkan'} device{probe.problem and f' ({probe.problem})'}, only the cpu"
        )
        raise InputError(f"--device {device}: {missing[0]} not found; this machine has {', '.join(present) or none}")
    return wanted


def _engine_for(kind: str, engine: str, precision: str) -> tuple[str, str]:
    """(engine, why this one) for a kind of device; InputError if the one asked for cannot use it."""
    if kind == "cuda":
        if engine == NCNN:
            raise InputError("--engine ncnn does not use cuda; use --device vulkan, or --engine torch")
        return TORCH, ""
    if kind == "vulkan":
        if engine == TORCH:
            raise InputError("--engine torch does not use vulkan; use --engine ncnn, or --device cuda or cpu")
        if precision == "bf16":
            raise InputError("--device vulkan: choose --precision fp16 or fp32")
        return NCNN, ""
    if engine == NCNN and precision not in (AUTO, "fp32"):
        raise InputError(f"--engine ncnn computes in fp32 on a CPU, not in {precision}; use --engine torch")
    if engine != AUTO:
        return engine, f"--engine {engine}"
    return cpu_engine(precision)


def cpu_engine(precision: str = AUTO) -> tuple[str, str]:
    """(the faster engine on this CPU, why)."""
    if precision not in (AUTO, "fp32"):
        return TORCH, f"--precision {precision}"
    if cpu_has_bf16():
        return TORCH, "this CPU has bf16 instructions"
    if not ncnn_installed():
        return TORCH, "ncnn is not installed"
    return NCNN, "this CPU has no bf16 instructions"
