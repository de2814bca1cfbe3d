"""Upscale the frames of one manifest, by itself: what each worker process of upscale.py does, over and over.

python worker.py manifests/manifest_000001.txt
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # PYTHONSAFEPATH=1 leaves the script's directory out

from upscaling.cli.worker_command import main

if __name__ == "__main__":
    sys.exit(main())
