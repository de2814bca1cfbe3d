"""Deal a directory of frames into manifests, one or more a worker, for worker.py; the standard library is enough.

python manifest.py FRAMES_DIR --workers 6 --scale 2
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # PYTHONSAFEPATH=1 leaves the script's directory out

from upscaling.cli.manifest_command import main

if __name__ == "__main__":
    sys.exit(main())
