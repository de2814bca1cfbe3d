"""A video file opened safely, its main picture chosen, and its frames decoded one after the other, damage or not.

The file is opened as a file and as nothing else: its name goes to FFmpeg as `file:/absolute/path`, and nothing
inside it (a playlist, say) can open a network address. Frames larger than MAX_PIXELS are refused before memory
is taken for them.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import av
from av.codec.context import Flags
from av.stream import Discard, Disposition

from upscaling.common.errors import InputError
from upscaling.common.text import one_line, printable

MAX_PIXELS = 8192 * 8192  # a frame; 8K is half of that
MAX_READ_ERRORS = 100  # a file; then it counts as ended
_NOT_A_PICTURE = Disposition.attached_pic | Disposition.timed_thumbnails
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders leave the alpha channel out


class VideoError(InputError):
    """The input is not a video that can be decoded; the message is one line that names the file."""


def shown(path) -> str:
    """The file's name as it may stand in a one-line message: control and undecodable characters escaped."""
    return one_line(printable(path))


def open_input(path) -> av.container.InputContainer:
    """Opens a file for reading, whatever its name looks like; close it after use.

    Bytes of metadata that are no UTF-8 come as surrogate escapes: give an output that they are copied to
    metadata_errors="surrogateescape" as well. VideoError: missing, a directory, empty, unreadable, not a video.
    """
    path = Path(path)
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and status.st_size:
            path.open("rb").close()
    except (OSError, ValueError) as error:
        raise VideoError(f"{shown(path)}: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise VideoError(f"{shown(path)} is {kind}; give a video file")
    if not status.st_size:
        raise VideoError(f"{shown(path)} is empty")
    options = {
        "protocol_whitelist": "file",
        "pattern_type": "none",  # a % in the name is a %, not the number of an image sequence
        "max_pixels": str(MAX_PIXELS),
    }
    try:
        return av.open(f"file:{os.path.abspath(path)}", options=options, metadata_errors="surrogateescape", mode="r")
    except (av.FFmpegError, ValueError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VideoError(f"{shown(path)} is not a video that can be read ({reason})") from error


def main_stream(container, path) -> av.VideoStream:
    """The stream that a player shows: default disposition first, then the biggest; never cover art.

    VideoError where there is none, none that can be decoded, or its frames are too large.
    """
    pictures = [s for s in container.streams.video if not s.disposition & _NOT_A_PICTURE]
    if not pictures:
        what = "cover art but no video stream" if container.streams.video else "no video stream"
        raise VideoError(f"{shown(path)} has {what}")
    decodable = [s for s in pictures if s.codec_context is not None]
    if not decodable:
        raise VideoError(f"{shown(path)}: there is no decoder for its video stream (FFmpeg inside PyAV lacks it)")

    def rank(stream):
        context, flags = stream.codec_context, stream.disposition
        main = not flags & (Disposition.dependent | Disposition.still_image)
        return main, bool(flags & Disposition.default), context.width * context.height, -stream.index

    stream = max(decodable, key=rank)
    check_size(stream.codec_context.width, stream.codec_context.height, path)
    return stream


def check_size(width: int, height: int, path) -> None:
    """VideoError where frames of that size, in pixels, are too large to be taken."""
    if width * height > MAX_PIXELS:
        raise VideoError(
            f"{shown(path)}: frames of {width}x{height} pixels are too large, at most {MAX_PIXELS} pixels "
            "(8192x8192) are taken"
        )


def no_frames(path) -> VideoError:
    """The error for a video of which nothing decodes."""
    return VideoError(
        f"{shown(path)}: no frame of its video stream can be decoded; it is damaged, or larger than 8192x8192 pixels"
    )


class Reader:
    """The decoded frames of a file's main picture, in presentation order; a context manager, iterable once.

    `damaged` counts packets that did not decode or could not be read, `corrupt` frames that came out damaged;
    both are complete after the iteration. `packet_times` are the pts of the first 250 packets, `bytes_read` the
    size of all, as read so far.
    """

    def __init__(self, path, *, alpha: bool = False, threads: int = 0):
        """`alpha`: decode an alpha channel that is a stream of its own (VP8, VP9); `threads`: 0 is one a core."""
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
            yield from self._tail(last)

    def _frames(self) -> Iterator[av.VideoFrame]:
        for packet in self.packets():
            self._packets_in += not packet.is_discard
            yield from self._decode(packet)
        with contextlib.suppress(av.error.EOFError):  # nothing was ever decoded
            yield from self._decode(None)

    def packets(self) -> Iterator[av.Packet]:
        """The picture's packets in the order of the file; empty ones, which would end the decoder, left out."""
        errors = 0
        while errors < MAX_READ_ERRORS:
            try:
                for packet in self.container.demux(self.stream):
                    if not packet.size:
                        continue
                    self.bytes_read += packet.size
                    if packet.pts is not None and len(self.packet_times) < 250:
                        self.packet_times.append(packet.pts)
                    yield packet
                return
            except (av.FFmpegError, ValueError):
                errors += 1
                self.damaged += errors == 1

    def _decode(self, packet: av.Packet | None) -> list[av.VideoFrame]:
        """The frames that come out after this packet, or at the end those still inside (None)."""
        try:
            frames = self.decoder.decode(packet)
        except av.error.EOFError:
            raise
        except (av.FFmpegError, ValueError, MemoryError):
            self.damaged += 1
            return []
        self._frames_out += len(frames)
        self.corrupt += sum(frame.is_corrupt for frame in frames)
        return frames

    def _tail(self, last: int) -> Iterator[av.VideoFrame]:
        """Frames after pts `last` that the decoder's threads kept back when one of the last packets was damaged.

        With frame threads an error while the decoder is emptied ends it, and PyAV does not tell. So where
        fewer frames came out than packets went in, one thread decodes the end of the file again.
        """
        with contextlib.suppress(av.FFmpegError, VideoError, ValueError), open_input(self.path) as container:
            stream = container.streams[self.stream.index]
            decoder = _decoder(stream, False, 1)
            container.seek(last, stream=stream)
            found: list[av.VideoFrame] = []
            for packet in container.demux(stream):
                with contextlib.suppress(av.FFmpegError, ValueError):
                    found += decoder.decode(packet)
                yield from (frame for frame in found if frame.pts is not None and frame.pts > last)
                found = []


def has_hidden_alpha(stream) -> bool:
    """Whether the stream carries an alpha channel that only another decoder than FFmpeg's own shows."""
    tags = {key.lower(): value for key, value in stream.metadata.items()}
    return tags.get("alpha_mode") == "1" and stream.codec_context.codec.canonical_name in _ALPHA_DECODERS


def _decoder(stream, alpha: bool, threads: int) -> av.VideoCodecContext:
    decoder = stream.codec_context
    if alpha:
        own = decoder
        decoder = av.CodecContext.create(_ALPHA_DECODERS[own.codec.canonical_name], "r")
        decoder.extradata = own.extradata
    decoder.thread_count, decoder.thread_type = threads, "AUTO"
    decoder.options = {"max_pixels": str(MAX_PIXELS)}
    decoder.flags |= Flags.output_corrupt  # a frame with a hole is better than none, and is counted
    if decoder.codec.name == "libdav1d":  # with frames in flight, an error takes all of them along
        decoder.options |= {"max_frame_delay": "1"}
    return decoder
