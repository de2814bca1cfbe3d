"""The main stream of a video file: the picture that a player shows."""

from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition, Stream

from upscaling.common.text import display_name
from upscaling.demux.input_file import MAX_PIXELS, UnsuitableVideo

_NOT_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails
_ENCRYPTED_TAGS = ("encv", "enca", "drmi", "drms")  # of ISO 14496-12, and of iTunes


def main_stream(container: InputContainer, path: Path | str) -> av.VideoStream:
    """The stream that a player shows: default disposition first, then the largest; never cover art.

    UnsuitableVideo: there is no such stream, no decoder for it, or its frames are too large.
    """
    streams = [stream for stream in container.streams.video if not stream.disposition & _NOT_VIDEO]
    if not streams:
        what = "cover art but no video stream" if container.streams.video else "no video stream"
        raise UnsuitableVideo(f"{display_name(path)} has {what}")
    decodable = [stream for stream in streams if stream.codec_context is not None]
    if not decodable:
        raise UnsuitableVideo(f"cannot decode {display_name(path)}: PyAV's FFmpeg has no decoder for its video stream")

    def priority(stream: av.VideoStream) -> tuple[bool, bool, int, int]:
        context, flags = stream.codec_context, stream.disposition
        main = not flags & (Disposition.dependent | Disposition.still_image)
        return main, bool(flags & Disposition.default), context.width * context.height, -stream.index

    stream = max(decodable, key=priority)
    if is_encrypted(stream):
        raise encrypted(path)
    check_size(stream.codec_context.width, stream.codec_context.height, path)
    return stream


def check_size(width: int, height: int, path: Path | str) -> None:
    """UnsuitableVideo if frames of that size, in pixels, are too large."""
    if width * height > MAX_PIXELS:
        raise UnsuitableVideo(
            f"{display_name(path)}: frames of {width}x{height} pixels are too large; the limit is {MAX_PIXELS} pixels "
            "(8192x8192)"
        )


def encrypted(path: Path | str) -> UnsuitableVideo:
    """The error for a video whose frames can't be decoded without a key."""
    return UnsuitableVideo(f"{display_name(path)} is encrypted; decrypt it first")


def is_encrypted(stream: Stream) -> bool:
    """Whether the file's header marks the stream as encrypted; in MP4 files often only the packets are marked."""
    try:
        tag = stream.codec_context.codec_tag if stream.codec_context is not None else ""
    except UnicodeDecodeError:  # a transport stream's, which is a number
        tag = ""
    return tag in _ENCRYPTED_TAGS or "enc_key_id" in stream.metadata  # the latter is Matroska's
