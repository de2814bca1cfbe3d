"""`upscale --list-models` and `upscale --fetch-model NAME`."""

from upscaling.common.text import display_name
from upscaling.models.weights import DENOISE_MODEL, DENOISE_TWIN, MODELS, at_hand, download_url, locate


def list_models() -> int:
    """Print each model: name, scale, time beside the default's, use, and its file or address; the exit status."""
    print(f"{'model':30}scale  time  offline  suits")
    for name, entry in MODELS.items():
        file = at_hand(name)
        offline = "yes" if file else "no"
        print(f"{name:30}x{entry.scale:<4}  {entry.cost:>3}x  {offline:7}  {entry.suits}")
        print(f"{'':30}{display_name(file) if file else f'not downloaded: {download_url(name)}'}")
    print("\ntime: of a frame, beside the default. A model that is not offline is downloaded when it is first used.")
    print("lanczos is a plain resize, without a network.")
    return 0


def fetch_model(name: str) -> int:
    """Download a model if it is missing and verify it; the exit status. UpscaleError if that fails."""
    for one in [DENOISE_MODEL, DENOISE_TWIN] if name == DENOISE_MODEL else [name]:
        found = locate(one)
        print(f"{display_name(found.files[0])}  SHA-256 {found.sums[0]}")
    return 0
