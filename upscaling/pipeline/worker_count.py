"""How many workers a job gets if --workers is not given: six for videos, fewer for few or small pictures.

Each worker loads the model by itself. Six that load it for six small pictures take longer than one that does the work.
"""

from collections.abc import Sequence
from pathlib import Path

from upscaling.common.system import usable_cores
from upscaling.inference.settings import AUTO, ModelSettings
from upscaling.job.options import Options
from upscaling.pipeline.sources import PictureSource, Source

DEFAULT_WORKERS = 6
# Pixels that pay for the start of one more worker: four times what the default network upscales in that time on a core
# (measured with bf16: 1.5 s, 170,000 pixels/s). Others take longer in proportion to their weights.
PIXELS_PER_WORKER = 1_000_000
DEFAULT_WEIGHTS = 1_250_000  # bytes, of the default model's file
LANCZOS_SPEED = 50  # times the default network's


def asked_workers(options: Options) -> int:
    """--workers, or the number for videos."""
    return DEFAULT_WORKERS if options.workers == AUTO else int(options.workers)


def worker_count(options: Options, source: Source, weights: Path | None) -> int:
    """The number of workers for a job; `weights` is the model's file, None for a plain resize."""
    most = min(asked_workers(options), source.max_frames or asked_workers(options))  # none loads its model for nothing
    if options.workers != AUTO or not isinstance(source, PictureSource):
        return most
    pixels = source.max_frames * source.info.width * source.info.height
    cost = weights.stat().st_size / DEFAULT_WEIGHTS if weights else 1 / LANCZOS_SPEED
    return max(1, min(most, int(pixels * cost / PIXELS_PER_WORKER)))


def parallel_workers(models: Sequence[ModelSettings]) -> int:
    """How many of a job's workers work at the same time, for estimates.

    On a CPU each worker has its share of the cores; on a GPU the workers share the device.
    """
    devices = {model.device for model in models}
    return min(len(models), usable_cores()) if devices == {"cpu"} else len(devices)
