"""The frames of a file's main stream, decoded in order, even if the file is damaged.

Frames larger than MAX_PIXELS are refused before memory is allocated for them.
"""

import contextlib
import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import av.error
from av.codec.context import Flags
from av.container import InputContainer
from av.stream import Discard, Stream

from upscaling.common.memory_limits import check_memory
from upscaling.common.system import core_limit
from upscaling.common.text import display_name
from upscaling.demux.bitstream import FieldParser, Parity
from upscaling.demux.container_crop import ContainerCrop, read_crops
from upscaling.demux.input_file import MAX_PIXELS, VideoError
from upscaling.demux.main_stream import encrypted, main_stream
from upscaling.demux.survey import open_timed
from upscaling.demux.timestamps import TimeOrder

MAX_REORDER = 16  # frames that a codec may decode ahead of presentation (H.264, H.265)
MAX_PACKET_TIMES = 250  # kept for the frame rate
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders drop the alpha channel


def no_frames(path: Path | str) -> VideoError:
    """The error for a video without any frame that decodes."""
    return VideoError(
        f"{display_name(path)}: no frame of its video stream decodes; the file is damaged, or its frames are "
        "larger than 8192x8192 pixels"
    )


class Reader:
    """The decoded frames of a file's main stream, in presentation order; a context manager, iterable once.

    `damaged` counts packets that did not decode or could not be read, `frames_out` frames that decoded, `corrupt`
    those of them that came out damaged; all are complete after the iteration. `packet_times` are the times of the
    first MAX_PACKET_TIMES packets, `bytes_read` is the size of all packets, as far as read. A packet that holds the
    second field of an H.264 frame is not one for these times: `second_fields` counts such packets, and
    `at_second_field` says it of the last one read.
    """

    def __init__(self, path: Path | str, *, alpha: bool = False, threads: int = 0):
        """`alpha`: decode an alpha channel that is coded apart (VP8, VP9); `threads`: 0 is one per core."""
        self.path = Path(path)
        self._input = open_timed(path)
        self.container, self.clock = self._input.container, self._input.clock
        self.damaged = self.corrupt = 0
        self.packet_times: list[int] = []
        self.untimed_packets = 0  # beside those
        self.time_order = TimeOrder(self.container.format.name)
        self.bytes_read = 0
        self._packets_in = self.frames_out = 0
        self.second_fields, self.at_second_field = 0, False
        self.has_fields = False  # an H.264 picture was a field
        self._parities: dict[int, Parity] = {}  # of HEVC fields inside the decoder, by pts
        try:
            self.stream = main_stream(self.container, path)
            for stream in self.container.streams:
                if stream.index != self.stream.index:
                    stream.discard = Discard.all  # the demuxer does not even read what it can skip
            self.decoder = _decoder(self.stream, alpha and has_hidden_alpha(self.stream), threads)
            self.crop = _crop(self.path, self.container, self.stream)
            self._fields = FieldParser(self.decoder.codec.canonical_name, self.decoder.extradata)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._input.close()

    def __iter__(self) -> Iterator[av.VideoFrame]:
        last = None
        for frame in self._frames():
            self.time_order.frame(frame.pts)
            if frame.pts is not None:
                last = frame.pts if last is None else max(last, frame.pts)
            yield frame
        if last is not None and self.frames_out < self._packets_in:
            yield from self._decode_end_again(last)

    def _frames(self) -> Iterator[av.VideoFrame]:
        for packet in self.packets():
            if packet.is_keyframe and self._fields.starts_another_sequence(bytes(packet)):
                yield from self._drain()
                self.decoder.flush_buffers()
            self._packets_in += not packet.is_discard and not self.at_second_field
            yield from self._decode(packet)
        yield from self._drain()

    def _drain(self) -> list[av.VideoFrame]:
        """The frames that are still inside the decoder.

        Not only at the end: FFmpeg's H.264 decoder (8.1, 9.0) drops frames as out of order if another sequence has
        B-frames and the one before had none, because the time of the last frame is not forgotten in between.
        """
        with contextlib.suppress(av.error.EOFError):  # nothing was ever decoded
            return self._decode(None)
        return []

    def packets(self) -> Iterator[av.Packet]:
        """The stream's packets in file order, without empty ones, which would end the decoder."""
        for packet in self._input.packets([self.stream], self._count_read_error):
            if packet.has_sidedata("encryption_info"):
                raise encrypted(self.path)
            self.bytes_read += packet.size
            self._read_field(packet)
            if not self.at_second_field and len(self.packet_times) < MAX_PACKET_TIMES:
                self.time_order.packet(packet.pts)
                time = packet.dts if self.time_order.by_container else packet.pts
                self.packet_times += [time] if time is not None else []
                self.untimed_packets += time is None
            yield packet

    def _read_field(self, packet: av.Packet) -> None:
        """Which field of a frame the packet holds, if it holds one."""
        codec = self.decoder.codec.canonical_name
        if codec in ("h264", "mpeg2video"):
            self.at_second_field = self._fields.is_second(bytes(packet), packet.is_keyframe)
            self.second_fields += self.at_second_field
            self.has_fields |= codec == "h264" and self._fields.at_field
        elif codec == "hevc" and packet.pts is not None:
            field = self._fields.field(bytes(packet), packet.is_keyframe)
            if field:
                self._parities[packet.pts] = field.parity
            if len(self._parities) > MAX_PACKET_TIMES:
                del self._parities[next(iter(self._parities))]

    @property
    def lost_fields(self) -> int:
        """Single fields, without the other one of their frame, that the H.264 decoder left out; after the iteration."""
        return max(self._packets_in - self.frames_out - self.damaged, 0) if self.has_fields else 0

    def parameter_sets(self, packet: av.Packet) -> bytes:
        """What a keyframe says of all the frames that follow, to compare with others; empty if it does not tell."""
        return self._fields.parameter_sets(bytes(packet))

    @property
    def sets_tell_all(self) -> bool:
        """Whether frames with the same parameter sets are all alike."""
        return self._fields.sets_tell_all

    def parity_at(self, pts: int | None) -> Parity | None:
        """Which field of a frame a picture of an HEVC stream of fields is; None if it does not say. Asked once."""
        return None if pts is None else self._parities.pop(pts, None)

    def _count_read_error(self, consecutive: int) -> None:
        self.damaged += consecutive == 1

    def _decode(self, packet: av.Packet | None) -> list[av.VideoFrame]:
        """The frames that the decoder returns for this packet, or at the end (None) those still inside it."""
        try:
            frames = self.decoder.decode(packet)
        except av.error.EOFError:
            raise
        except (av.error.FFmpegError, ValueError, MemoryError) as error:
            check_memory(error)
            self.damaged += 1
            return []
        self.frames_out += len(frames)
        self.corrupt += sum(frame.is_corrupt for frame in frames)
        return frames

    def _decode_end_again(self, last: int) -> Iterator[av.VideoFrame]:
        """Frames after pts `last` that the decoder's threads lost because one of the last packets was damaged.

        With frame threads, an error while the decoder is flushed ends it, and PyAV does not report that. So if
        fewer frames came out than packets went in, the end of the file is decoded again on one thread.
        """
        errors = (av.error.FFmpegError, VideoError, ValueError)
        with contextlib.suppress(*errors), open_timed(self.path) as again:
            stream = cast(av.VideoStream, again.container.streams[self.stream.index])
            decoder = _decoder(stream, False, 1)
            if again.clock.is_continuous:  # else packets are counted from the file's start
                again.container.seek(last, stream=stream)
            for packet in itertools.chain(again.packets([stream], lambda _: None), [None]):
                frames: list[av.VideoFrame] = []
                with contextlib.suppress(av.error.FFmpegError, ValueError):
                    frames = decoder.decode(packet)
                yield from (frame for frame in frames if frame.pts is not None and frame.pts > last)


def _crop(path: Path, container: InputContainer, stream: av.VideoStream) -> ContainerCrop | None:
    """What the container leaves out of the stream's frames; it may be more than they have."""
    is_mp4 = "mp4" in container.format.name
    if not is_mp4 and "matroska" not in container.format.name:
        return None
    return read_crops(path).get(stream.id if is_mp4 else stream.index) or None


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
