"""`upscale --list-models` and `upscale --fetch-model NAME`."""

from upscaling.inference.weights import DENOISE_MODEL, DENOISE_TWIN, MODELS, _url, at_hand, locate


def list_models() -> int:
    """Print one line per model: name, scale, and its file or where it would be downloaded from; the exit status."""
    for name, entry in MODELS.items():
        print(f"{name:30} x{entry.scale}  {at_hand(name) or f'not downloaded: {_url(name)}'}")
    return 0


def fetch_model(name: str) -> int:
    """Download a model if it is missing and verify it; the exit status. UpscaleError if that fails."""
    for one in [DENOISE_MODEL, DENOISE_TWIN] if name == DENOISE_MODEL else [name]:
        found = locate(one)
        print(f"{found.files[0]}  SHA-256 {found.sums[0]}")
    return 0
