"""A video file opened safely, its main stream chosen, and its frames decoded in order, even if it is damaged.

The file is opened as a local file only: its name goes to FFmpeg as `file:/absolute/path`, and nothing inside
it (such as a playlist) can open a network address. Frames larger than MAX_PIXELS are refused before memory is
allocated for them.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import av.container
import av.error
from av.codec.context import Flags
from av.container import InputContainer
from av.stream import Discard, Disposition, Stream

from upscaling.common.errors import InputError
from upscaling.common.system import core_limit
from upscaling.common.text import one_line, printable

MAX_PIXELS = 8192 * 8192  # of a frame; 8K is half of that
MAX_READ_ERRORS = 100  # of a file, which then counts as ended
MAX_REORDER = 16  # frames that a codec may decode ahead of presentation (H.264, H.265)
MAX_PACKET_TIMES = 250  # kept for the frame rate
_NOT_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders drop the alpha channel


class VideoError(InputError):
    """The input is not a video that can be decoded; the message is one line that names the file."""


def display_name(path: Path | str) -> str:
    """The path as one line of text for a message."""
    return one_line(printable(path))


def open_input(path: Path | str) -> InputContainer:
    """Opens a file for reading, whatever its name looks like; close it after use.

    Metadata that is not UTF-8 is returned with surrogate escapes: an output that it is copied to needs
    metadata_errors="surrogateescape" as well. VideoError: the file is missing, a directory, empty, unreadable,
    or not a video.
    """
    path, name = Path(path), display_name(path)
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and status.st_size:
            path.open("rb").close()
    except (OSError, ValueError) as error:
        raise VideoError(f"cannot read {name}: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise VideoError(f"{name} is {kind}; give a video file")
    if not status.st_size:
        raise VideoError(f"{name} is empty")
    options = {
        "protocol_whitelist": "file",
        "pattern_type": "none",  # a % in the name is a %, not the number of an image sequence
        "max_pixels": str(MAX_PIXELS),
    }
    try:
        return av.open(f"file:{os.path.abspath(path)}", options=options, metadata_errors="surrogateescape", mode="r")
    except (av.error.FFmpegError, ValueError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VideoError(f"{name} is not a video that can be read ({reason})") from error


def main_stream(container: InputContainer, path: Path | str) -> av.VideoStream:
    """The stream that a player shows: default disposition first, then the largest; never cover art.

    VideoError: there is no such stream, no decoder for it, or its frames are too large.
    """
    streams = [stream for stream in container.streams.video if not stream.disposition & _NOT_VIDEO]
    if not streams:
        what = "cover art but no video stream" if container.streams.video else "no video stream"
        raise VideoError(f"{display_name(path)} has {what}")
    decodable = [stream for stream in streams if stream.codec_context is not None]
    if not decodable:
        raise VideoError(f"cannot decode {display_name(path)}: PyAV's FFmpeg has no decoder for its video stream")

    def priority(stream: av.VideoStream) -> tuple[bool, bool, int, int]:
        context, flags = stream.codec_context, stream.disposition
        main = not flags & (Disposition.dependent | Disposition.still_image)
        return main, bool(flags & Disposition.default), context.width * context.height, -stream.index

    stream = max(decodable, key=priority)
    check_size(stream.codec_context.width, stream.codec_context.height, path)
    return stream


def check_size(width: int, height: int, path: Path | str) -> None:
    """VideoError if frames of that size, in pixels, are too large."""
    if width * height > MAX_PIXELS:
        raise VideoError(
            f"{display_name(path)}: frames of {width}x{height} pixels are too large; the limit is {MAX_PIXELS} pixels "
            "(8192x8192)"
        )


def no_frames(path: Path | str) -> VideoError:
    """The error for a video without any frame that decodes."""
    return VideoError(
        f"{display_name(path)}: no frame of its video stream decodes; the file is damaged, or its frames are "
        "larger than 8192x8192 pixels"
    )


class Reader:
    """The decoded frames of a file's main stream, in presentation order; a context manager, iterable once.

    `damaged` counts packets that did not decode or could not be read, `corrupt` frames that came out damaged;
    both are complete after the iteration. `packet_times` are the pts of the first MAX_PACKET_TIMES packets,
    `bytes_read` is the size of all packets, as far as read.
    """

    def __init__(self, path: Path | str, *, alpha: bool = False, threads: int = 0):
        """`alpha`: decode an alpha channel that is coded apart (VP8, VP9); `threads`: 0 is one per core."""
        self.path = Path(path)
        self.container = open_input(path)
        self.damaged = self.corrupt = 0
        self.packet_times: list[int] = []
        self.bytes_read = 0
        self._packets_in = self._frames_out = 0
        try:
            self.stream = main_stream(self.container, path)
            for stream in self.container.streams:
                if stream.index != self.stream.index:
                    stream.discard = Discard.all  # the demuxer does not even read what it can skip
            self.decoder = _decoder(self.stream, alpha and has_hidden_alpha(self.stream), threads)
        except BaseException:
            self.container.close()
            raise

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self.container.close()

    def __iter__(self) -> Iterator[av.VideoFrame]:
        last = None
        for frame in self._frames():
            if frame.pts is not None:
                last = frame.pts if last is None else max(last, frame.pts)
            yield frame
        if last is not None and self._frames_out < self._packets_in:
            yield from self._decode_end_again(last)

    def _frames(self) -> Iterator[av.VideoFrame]:
        for packet in self.packets():
            self._packets_in += not packet.is_discard
            yield from self._decode(packet)
        with contextlib.suppress(av.error.EOFError):  # nothing was ever decoded
            yield from self._decode(None)

    def packets(self) -> Iterator[av.Packet]:
        """The stream's packets in file order, without empty ones, which would end the decoder."""
        errors = 0
        while errors < MAX_READ_ERRORS:
            try:
                for packet in self.container.demux(self.stream):
                    if not packet.size:
                        continue
                    self.bytes_read += packet.size
                    if packet.pts is not None and len(self.packet_times) < MAX_PACKET_TIMES:
                        self.packet_times.append(packet.pts)
                    yield packet
                return
            except (av.error.FFmpegError, ValueError):
                errors += 1
                self.damaged += errors == 1

    def _decode(self, packet: av.Packet | None) -> list[av.VideoFrame]:
        """The frames that the decoder returns for this packet, or at the end (None) those still inside it."""
        try:
            frames = self.decoder.decode(packet)
        except av.error.EOFError:
            raise
        except (av.error.FFmpegError, ValueError, MemoryError):
            self.damaged += 1
            return []
        self._frames_out += len(frames)
        self.corrupt += sum(frame.is_corrupt for frame in frames)
        return frames

    def _decode_end_again(self, last: int) -> Iterator[av.VideoFrame]:
        """Frames after pts `last` that the decoder's threads lost because one of the last packets was damaged.

        With frame threads, an error while the decoder is flushed ends it, and PyAV does not report that. So if
        fewer frames came out than packets went in, the end of the file is decoded again on one thread.
        """
        errors = (av.error.FFmpegError, VideoError, ValueError)
        with contextlib.suppress(*errors), open_input(self.path) as container:
            stream = cast(av.VideoStream, container.streams[self.stream.index])
            decoder = _decoder(stream, False, 1)
            container.seek(last, stream=stream)
            for packet in container.demux(stream):
                frames: list[av.VideoFrame] = []
                with contextlib.suppress(av.error.FFmpegError, ValueError):
                    frames = decoder.decode(packet)
                yield from (frame for frame in frames if frame.pts is not None and frame.pts > last)


def seconds_per_tick(stream: Stream) -> Fraction:
    """The time base of a stream of an open file."""
    assert stream.time_base is not None  # libavformat sets one for every stream that it reads
    return stream.time_base


def has_hidden_alpha(stream: av.VideoStream) -> bool:
    """Whether the stream has an alpha channel that FFmpeg's own decoder drops and another one returns."""
    tags = {key.lower(): value for key, value in stream.metadata.items()}
    return tags.get("alpha_mode") == "1" and stream.codec_context.codec.canonical_name in _ALPHA_DECODERS


def _decoder(stream: av.VideoStream, alpha: bool, threads: int) -> av.VideoCodecContext:
    decoder = stream.codec_context
    if alpha:
        name = _ALPHA_DECODERS[decoder.codec.canonical_name]
        extradata = decoder.extradata
        decoder = cast(av.VideoCodecContext, av.CodecContext.create(name, "r"))
        decoder.extradata = extradata
    decoder.thread_count, decoder.thread_type = threads or core_limit(), "AUTO"
    decoder.options = {"max_pixels": str(MAX_PIXELS)}
    decoder.flags |= Flags.output_corrupt  # a frame with a hole is better than none, and is counted
    if decoder.codec.name == "libdav1d":  # with frames in flight, an error loses all of them
        decoder.options |= {"max_frame_delay": "1"}
    return decoder
