"""Upscale the frames of one manifest.

python worker.py DIR/manifests/worker_0_manifest.txt
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # PYTHONSAFEPATH=1 leaves the script's directory out

from upscaling.cli.worker_command import main

if __name__ == "__main__":
    sys.exit(main())
