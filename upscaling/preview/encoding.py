"""How long the encoder takes for a frame of the result: it may be slower than a plain resize."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from upscaling.common.errors import UpscaleError
from upscaling.decode.probe import VideoInfo
from upscaling.encode.settings import encode_settings
from upscaling.encode.speed import encode_frames
from upscaling.frames.swscale import Resizer
from upscaling.pipeline.plan import frame_conversion
from upscaling.pipeline.shape import Shape
from upscaling.preview.sampling import Sample

OUTPUT = Path("preview.mp4")  # the result of a run is most often one


def encode_seconds(info: VideoInfo, shape: Shape, sample: Sample) -> float | None:
    """Seconds for a frame in an .mp4 with default settings, of a plain resize; None if that cannot be encoded."""
    try:
        encoding = replace(encode_settings(info, OUTPUT, *shape.frame), placement=shape.placement)
        conversion = frame_conversion(info, encoding, shape.picture)
        resizer, frames = Resizer(conversion), []
        for planes in sample.frames:
            frames.append(conversion.target.padded.empty())
            resizer(np.concatenate([plane.reshape(-1) for plane in planes]), frames[-1])
        seconds, _ = encode_frames(encoding, conversion.target.padded, range(len(frames)), frames)
    except UpscaleError:
        return None
    return seconds
