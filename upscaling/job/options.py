"""What a run is asked for: every option with its default and the values that it may have."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from upscaling.common.errors import InputError
from upscaling.job.notation import (
    MAX_PARTS,
    FrameRange,
    Scale,
    TimeRange,
    number,
    one_of,
    parse_bytes,
    parse_frames,
    parse_part,
    parse_rate,
    parse_scale,
    parse_time,
    whole,
)

TWICE = Scale(Fraction(2))
MAX_WORKERS = 64
MAX_BATCH = 256  # frames
MIN_PATCH, MAX_PATCH = 32, 8192  # pixels


@dataclass(frozen=True)
class Options:
    """Everything that a run is asked for; the defaults are those of the command."""

    input: Path
    output: Path
    scale: Scale = TWICE
    model: str = "realesr-animevideov3"
    denoise: float | None = None
    strength: float = 1
    workers: int = 6
    batch_size: int = 8
    patch_size: int = 256
    segment_of: tuple[int, int] | None = None
    join_segments: int | None = None
    device: str = "auto"
    precision: str = "auto"
    compile: bool = False
    codec: str = "auto"
    crf: float | None = None
    preset: str | None = None
    pix_fmt: str | None = None
    deinterlace: str = "auto"
    frame_rate: Fraction | None = None
    frames: FrameRange | None = None
    time: TimeRange | None = None
    dry_run: bool = False
    compare: Path | None = None
    recursive: bool = False
    settle: float = 60
    container: str = "auto"
    work_dir: Path | None = None
    work_space: int | None = None
    frame_format: str = "npy"
    keep_work: bool = False
    restart: bool = False
    no_clobber: bool = False
    stall_timeout: float = 600
    segment_frames: int = 250
    progress: str = "auto"
    log_file: Path | None = None
    verbosity: int = 0


# Parsers of the options that not every text is right for; each raises InputError.
CHECKS: dict[str, Callable[[str], object]] = {
    "scale": parse_scale,
    "denoise": number(0, 1),
    "strength": number(0, 1),
    "workers": whole(1, MAX_WORKERS),
    "segment_of": parse_part,
    "join_segments": whole(2, MAX_PARTS),
    "batch_size": whole(1, MAX_BATCH),
    "patch_size": whole(MIN_PATCH, MAX_PATCH, 0),
    "precision": one_of("auto", "fp32", "bf16", "fp16"),
    "crf": number(0, 63),
    "deinterlace": one_of("auto", "on", "off"),
    "frame_rate": parse_rate,
    "frames": parse_frames,
    "time": parse_time,
    "settle": number(0, 1e9),
    "container": one_of("auto", "mp4", "mkv", "mov", "webm"),
    "work_space": parse_bytes,
    "frame_format": one_of("npy", "png"),
    "segment_frames": whole(1, 1_000_000),
    "stall_timeout": number(1, 1e6),
    "progress": one_of("auto", "bars", "plain", "json", "none"),
}
PATHS = ("input", "output", "work_dir", "log_file", "compare")


def make_options(**values) -> Options:
    """Options from Python values or from the text that the command takes; InputError names the wrong one."""
    for name, value in values.items():
        if name in PATHS and value is not None:
            values[name] = Path(value)
        elif name in CHECKS and isinstance(value, str | int | float | Fraction):
            try:
                values[name] = CHECKS[name](str(value))
            except InputError as error:
                raise InputError(f"{name}: {error}") from None
    return Options(**values)
