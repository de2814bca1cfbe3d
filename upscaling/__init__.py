"""Upscale videos and pictures with Real-ESRGAN on one machine.

    from upscaling import upscale_video
    result = upscale_video("elk.mp4", "out.mp4", 2)

Importing this needs the standard library alone, so that `--help` is instant and so are manifests.
"""

__version__ = "1.0"

from upscaling.cli.run import Result, upscale_video
from upscaling.common.errors import BusyError, InputError, UpscaleError

__all__ = ["BusyError", "InputError", "Result", "UpscaleError", "__version__", "upscale_video"]
