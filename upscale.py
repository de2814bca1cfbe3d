"""Upscale videos and pictures with Real-ESRGAN on this machine.

    python upscale.py elk.mp4 out.mp4 2

From cron, every night, all new files of a folder:

    30 1 * * *  nice -n 19 ionice -c 3 /opt/upscale/.venv/bin/python /opt/upscale/upscale.py /srv/in /srv/done 2 -q

From Python, in a checkout (if the package is installed: `from upscaling import upscale_video`):

    from upscale import upscale_video
    result = upscale_video("elk.mp4", "out.mp4", 2)
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # PYTHONSAFEPATH=1 leaves the script's directory out

from upscaling import BusyError, FolderResult, InputError, Result, UpscaleError, dry_run, upscale_folder, upscale_video
from upscaling.cli.main import console

__all__ = [
    "BusyError", "FolderResult", "InputError", "Result", "UpscaleError", "dry_run", "upscale_folder", "upscale_video",
]  # fmt: skip

if __name__ == "__main__":
    console()
