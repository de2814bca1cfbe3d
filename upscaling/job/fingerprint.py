"""What a job's result depends on: the input's identity and every parameter that changes the result."""

from dataclasses import asdict

from upscaling.encode.settings import EncodeSettings
from upscaling.frames.conversion import FrameConversion
from upscaling.inference import weights
from upscaling.inference.settings import LANCZOS
from upscaling.job.options import Options
from upscaling.job.sources import Source


def identity(
    options: Options,
    source: Source,
    encoding: EncodeSettings,
    conversion: FrameConversion,
    found: weights.Weights | None,
) -> dict:
    """The input and every parameter that changes the result, as JSON has them."""
    return {
        **source.identity(),
        "frames": source.info.identity(),
        "conversion": asdict(conversion),
        "frame_format": options.frame_format,
        "model": model_identity(options, found),
        "encoding": encoding.identity(),
    }


def model_identity(options: Options, found: weights.Weights | None) -> dict:
    """What the frames' upscaling depends on, as JSON has it."""
    return {
        "sha256": list(found.sums) if found else LANCZOS,
        "blend": found.blend if found else None,
        "strength": options.strength,
        "precision": options.precision,
        "device": options.device.partition(":")[0],
        "patch_size": options.patch_size,
    }


def parameters(options: Options) -> dict:
    """Everything asked for that changes a result, whatever the input, as JSON has it; for folders."""
    found = None if options.model == LANCZOS else weights.locate(options.model, options.denoise)
    names = ("scale", "codec", "crf", "preset", "pix_fmt", "deinterlace", "frames", "time", "container", "frame_format")
    return {"model": model_identity(options, found)} | {name: str(getattr(options, name)) for name in names}


def differences(old: dict, new: dict, prefix: str = "") -> list[str]:
    """Names of the entries in which two identities differ, dotted."""
    names = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            names += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(f"{prefix}{key}")
    return names
