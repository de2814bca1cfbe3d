"""PNG files, and others with 16 bits a sample, through PyAV, as bytes: Pillow has no 16-bit RGB.

Pictures are (height, width) for gray and (height, width, 3 or 4) for RGB and RGBA, uint8 or uint16.
"""

from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext

from upscaling.common.errors import InputError
from upscaling.frames.av_planes import av_planes
from upscaling.frames.pixel_formats import FORMATS

# FFmpeg's pixel formats by (channels, bits); the PNG encoder takes big-endian samples only.
_FORMATS = {
    (1, 8): "gray", (3, 8): "rgb24", (4, 8): "rgba",
    (1, 16): "gray16le", (3, 16): "rgb48le", (4, 16): "rgba64le",
}  # fmt: skip
# What the PNG decoder gives, and the format that frames are kept in.
_DECODED = {
    "gray": "gray", "monob": "gray", "gray16be": "gray16le", "rgb24": "rgb24", "rgb48be": "rgb48le", "pal8": "rgb24",
    "rgba": "rgba", "ya8": "rgba", "rgba64be": "rgba64le", "ya16be": "rgba64le",
}  # fmt: skip
_PNG_OPTIONS = {"pred": "mixed", "compression_level": "1"}  # as small as level 3 of libpng, in two thirds of the time
_TIFF_OPTIONS = {"compression_algo": "lzw"}


def encode_png(samples: np.ndarray) -> bytes:
    """A PNG file; FFmpegError if FFmpeg cannot encode a picture of that size."""
    return _encoded("png", samples, _PNG_OPTIONS)


def encode_tiff(samples: np.ndarray) -> bytes:
    """A TIFF file, LZW-compressed; FFmpegError if FFmpeg cannot encode a picture of that size."""
    return _encoded("tiff", samples, _TIFF_OPTIONS)


def _encoded(codec: str, samples: np.ndarray, options: dict[str, str]) -> bytes:
    height, width = samples.shape[:2]
    name = _FORMATS[samples.shape[2] if samples.ndim == 3 else 1, samples.dtype.itemsize * 8]
    frame = av.VideoFrame(width, height, name)
    av_planes(frame, FORMATS[name])[0][...] = samples
    if codec == "png" and name.endswith("le"):
        frame = frame.reformat(format=name.removesuffix("le") + "be")
    frame.pts = 0
    context = cast(VideoCodecContext, av.CodecContext.create(codec, "w"))
    context.width, context.height, context.pix_fmt = width, height, frame.format.name
    context.time_base = Fraction(1)
    context.thread_count = 1  # one picture at a time gains nothing from more
    context.options = options
    return b"".join(bytes(packet) for packet in (*context.encode(frame), *context.encode(None)))


def decode_png(data: bytes) -> np.ndarray:
    """The picture in a PNG file; a palette becomes RGB without alpha, gray with alpha becomes RGBA.

    InputError if it is no PNG file, or damaged.
    """
    try:
        frame = _decoded("png", data, {"err_detect": "crccheck+explode"})
        if frame is None:
            raise InputError("no picture in it")
        name = _DECODED[frame.format.name]
        return av_planes(frame.reformat(format=name), FORMATS[name])[0]
    except (FFmpegError, ValueError) as error:
        raise InputError(f"not a PNG picture: {error}") from error


def decode_picture(codec: str, data: bytes) -> np.ndarray | None:
    """A picture of colours with more than 8 bits a sample, as uint16 RGB or RGBA; None if FFmpeg cannot decode it.

    `codec` is FFmpeg's name of the decoder, `data` the content of a picture file.
    """
    try:
        frame = _decoded(codec, data, {})  # some decoders take any unknown field for damage with err_detect=explode
        if frame is None or frame.is_corrupt:
            return None
        alpha = any(component.is_alpha for component in frame.format.components)
        name = "rgba64le" if alpha else "rgb48le"
        return av_planes(frame.reformat(format=name), FORMATS[name])[0].copy()
    except (FFmpegError, ValueError):
        return None


def _decoded(codec: str, data: bytes, options: dict[str, str]) -> av.VideoFrame | None:
    context = cast(VideoCodecContext, av.CodecContext.create(codec, "r"))
    context.thread_count = 1
    context.options = options
    frames = [*context.decode(av.Packet(data)), *context.decode(None)]
    return frames[0] if frames else None
