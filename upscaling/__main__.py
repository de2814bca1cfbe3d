"""The command as a module: `python -m upscaling INPUT OUTPUT SCALE`."""

import os
import sys

# Python puts the current directory first for -m. It stays there only if this package is in it.
if not sys.flags.safe_path and sys.path[0] != os.path.dirname(os.path.dirname(os.path.abspath(__file__))):
    del sys.path[0]

from upscaling.cli.main import console

if __name__ == "__main__":
    console()
