"""Encoder settings for tests, without a file behind them."""

import dataclasses
from fractions import Fraction
from pathlib import Path

from upscaling.decode.colour_tags import Colour
from upscaling.decode.frame_shape import FrameShape
from upscaling.decode.probe import VideoInfo
from upscaling.encode.settings import EncodeSettings, encode_settings

BT709 = Colour("bt709", False, "bt709", "bt709", "left")
ENCODERS = ["libx264", "libx265", "libsvtav1", "libvpx-vp9", "prores_ks", "ffv1"]


def video(pixel_format: str = "yuv420p", width: int = 64, height: int = 48, **changes) -> VideoInfo:
    """What `probe` returns for a clip of that format."""
    base = VideoInfo(
        path=Path("in.mkv"), stream_index=0, codec="ffv1", width=width, height=height, pixel_format=pixel_format,
        colour=BT709, time_base=Fraction(1, 30000), frame_rate=Fraction(30000, 1001), frame_count=None, duration=None,
        sample_aspect_ratio=Fraction(1), deinterlace=False, shape=FrameShape(width, height, pixel_format, BT709),
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def settings_of(info: VideoInfo, output: str = "out.mkv", **options) -> EncodeSettings:
    return encode_settings(info, Path(output), info.width, info.height, **options)
