"""Upscale videos and pictures with Real-ESRGAN on one machine.

from upscaling import upscale_video
result = upscale_video("elk.mp4", "out.mp4", 2)
"""

__version__ = "1.0"
__all__ = [
    "BusyError", "FolderResult", "InputError", "Result", "UpscaleError", "__version__", "dry_run", "upscale_folder",
    "upscale_video",
]  # fmt: skip

TYPE_CHECKING = False  # typing's name for type checkers; importing typing itself is what this file avoids
if TYPE_CHECKING:
    from upscaling.cli.library import FolderResult, dry_run, upscale_folder, upscale_video
    from upscaling.cli.run import Result
    from upscaling.common.errors import BusyError, InputError, UpscaleError


def __getattr__(name: str):
    """Import a public name when it is first used.

    So a room can be imported without the others, and `python -m upscaling` can first take the current directory
    out of sys.path.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from upscaling.cli import library, run
    from upscaling.common import errors

    owner = run if name == "Result" else errors if name.endswith("Error") else library
    return getattr(owner, name)
