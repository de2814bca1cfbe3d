"""`upscale --list-models` and `upscale --fetch-model NAME`."""

import argparse
import sys

from upscaling.common.errors import UpscaleError
from upscaling.inference.weights import DENOISE_MODEL, DENOISE_TWIN, MODELS, _url, at_hand, locate


def _list() -> None:
    for name, entry in MODELS.items():
        print(f"{name:30} x{entry.scale}  {at_hand(name) or f'not here yet: {_url(name)}'}")


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="weights.py", description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--list", action="store_true", help="the models by name and where each is")
    what.add_argument("--fetch", metavar="NAME", help="download a model, or check the one that is here")
    options = parser.parse_args(arguments)
    try:
        if options.list:
            _list()
        else:
            names = [DENOISE_MODEL, DENOISE_TWIN] if options.fetch == DENOISE_MODEL else [options.fetch]
            for name in names:
                found = locate(name)
                print(f"{found.files[0]}  SHA-256 {found.sums[0]}")
    except UpscaleError as error:
        print(f"weights: error: {error}", file=sys.stderr)
        return error.exit_status
    return 0
