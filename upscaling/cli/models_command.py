"""`upscale --list-models` and `upscale --fetch-model NAME`."""

from upscaling.common.text import display_name
from upscaling.models.weights import DENOISE_MODEL, DENOISE_TWIN, MODELS, at_hand, download_url, locate


def list_models() -> int:
    """Print one line per model: its name, scale, and file or download address; the exit status."""
    for name, entry in MODELS.items():
        print(f"{name:30} x{entry.scale}  {at_hand(name) or f'not downloaded: {download_url(name)}'}")
    return 0


def fetch_model(name: str) -> int:
    """Download a model if it is missing and verify it; the exit status. UpscaleError if that fails."""
    for one in [DENOISE_MODEL, DENOISE_TWIN] if name == DENOISE_MODEL else [name]:
        found = locate(one)
        print(f"{display_name(found.files[0])}  SHA-256 {found.sums[0]}")
    return 0
