"""Write the manifests of a directory of frames, one for each worker. Needs the standard library only.

python manifest.py FRAMES_DIR --output-dir DIR --workers 6 --scale 2
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # PYTHONSAFEPATH=1 leaves the script's directory out

from upscaling.cli.manifest_command import main

if __name__ == "__main__":
    sys.exit(main())
