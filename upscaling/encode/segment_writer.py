"""Segment files: frames encoded into Matroska files that can be joined later.

A segment starts with a key frame and depends on no other segment. Matroska keeps whole milliseconds only, so a
segment's packets carry no times: their timestamp is the frame's index in presentation order, from 0, plus
`FRAME_INDEX_OFFSET`. The true times are in `video_track.Segment.pts`. The encoder itself sees true times.
"""

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np

from upscaling.common.errors import UpscaleError
from upscaling.common.system import core_limit
from upscaling.decode.messages import Message
from upscaling.encode.codecs import ENCODERS, open_encoder
from upscaling.encode.message_units import carries, with_messages
from upscaling.encode.output_file import OutputFile
from upscaling.encode.settings import FALLBACK_RATE, PROGRESSIVE, EncodeSettings, colour_codes, libav_options
from upscaling.frames.av_planes import av_planes
from upscaling.frames.pixel_formats import pixel_format, plane_shapes
from upscaling.frames.placement import place

FRAME_INDEX_OFFSET = 1000  # ticks (ms) before the first frame's timestamp: room for lower decoding times


class SegmentError(UpscaleError):
    """A segment is damaged, incomplete, or does not fit the other segments of its job."""


class SegmentWriter:
    """One segment: `write` every frame in presentation order, then `close`. A context manager.

    Leaving the context by an exception leaves an unfinished file behind.
    """

    def __init__(self, path: Path, settings: EncodeSettings) -> None:
        self._settings = settings
        self._format = pixel_format(settings.pixel_format)
        self._family = ENCODERS[settings.codec].family
        self._colour = colour_codes(settings.colour)
        self._pts: list[int] = []  # of the frames written, ticks of the settings' time base
        # Encoder's pts → frame index and messages, for frames inside the encoder
        self._inside: dict[int, tuple[int, Sequence[Message]]] = {}
        self._packets = 0  # written
        self._file = OutputFile(path)
        try:
            self._container = av.open(self._file, "w", format="matroska", buffer_size=1 << 20)
            self._stream = self._open_stream()
        except BaseException:
            self._file.abandon()
            raise

    def _open_stream(self) -> av.VideoStream:
        settings = self._settings
        rate = settings.frame_rate or FALLBACK_RATE
        stream = cast(av.VideoStream, self._container.add_stream(settings.codec, rate=_int32(rate)))
        context = stream.codec_context
        context.width, context.height = settings.width, settings.height
        context.pix_fmt = ENCODERS[settings.codec].repacked(settings.pixel_format)
        context.time_base = settings.time_base
        context.sample_aspect_ratio = settings.sample_aspect_ratio
        context.thread_type = "AUTO"  # as in ffmpeg; PyAV's default SLICE leaves x264 on little more than one core
        context.thread_count = core_limit()
        context.field_order = PROGRESSIVE
        for name, value in self._colour.items():
            setattr(context, name, value)
        context.options = libav_options(settings)
        if self._format.alpha and settings.codec == "libvpx-vp9":
            stream.metadata["alpha_mode"] = "1"  # without it no demuxer returns the alpha channel
        open_encoder(context)
        return stream

    @property
    def encoder(self) -> str:
        """SHA-256 of what the encoder puts into the file's header, in hexadecimal.

        Segments that differ in it cannot be joined; another version of an encoder may write another header.
        """
        context = self._stream.codec_context
        facts = f"{context.name} {context.pix_fmt} {context.width}x{context.height} {context.codec_tag!r}"
        return hashlib.sha256(facts.encode() + (context.extradata or b"")).hexdigest()

    def write(self, planes: Sequence[np.ndarray], pts: int, messages: Sequence[Message] = ()) -> None:
        """Encodes a frame that is shown `pts` ticks of the settings' time base after zero.

        `messages` that the codec can't carry are left out. `planes` have the shapes of `pixel_formats.plane_shapes`
        for the settings' size, or that of their placement; they are copied. Raises OSError if the disk does not take
        it, ValueError if `pts` does not grow.
        """
        if self._pts and pts <= self._pts[-1]:
            raise ValueError(f"frame times must grow, but {pts} follows {self._pts[-1]}")
        frame = av.VideoFrame(self._settings.width, self._settings.height, self._format.name)
        self._fill(av_planes(frame, self._format), planes)
        for name, value in self._colour.items():
            setattr(frame, name, value)
        self._pts.append(pts)
        frame.pts = pts - self._pts[0]  # encoders have less room for large numbers
        frame.time_base = self._settings.time_base
        self._inside[frame.pts] = len(self._pts) - 1, [m for m in messages if carries(self._settings, m.kind)]
        self._mux(self._stream.encode(frame))

    def _fill(self, frame: Sequence[np.ndarray], planes: Sequence[np.ndarray]) -> None:
        placement = self._settings.placement
        size = (placement.width, placement.height) if placement else (self._settings.width, self._settings.height)
        shapes = plane_shapes(self._format, *size)
        if [plane.shape for plane in planes] != shapes:
            raise ValueError(f"planes have shapes {[plane.shape for plane in planes]}, not {shapes}")
        if placement:
            place(planes, placement, self._settings.layout, frame)
            return
        for target, plane in zip(frame, planes, strict=True):
            np.copyto(target, plane)

    def _mux(self, packets: Sequence[av.Packet]) -> None:
        for packet in packets:
            assert packet.pts is not None  # encoders return that of the frame
            index, messages = self._inside.pop(packet.pts)
            packet = self._with_messages(packet, messages) if messages else packet
            packet.pts = FRAME_INDEX_OFFSET + index
            packet.dts = self._packets
            packet.duration = 1
            packet.time_base = Fraction(1, 1000)
            self._packets += 1
            self._container.mux_one(packet)
        self._file.check()

    def _with_messages(self, packet: av.Packet, messages: Sequence[Message]) -> av.Packet:
        new = av.Packet(with_messages(self._family, bytes(packet), messages))
        new.is_keyframe, new.stream = packet.is_keyframe, self._stream
        return new

    def close(self) -> None:
        """Waits until every frame is encoded and the file is on the disk.

        OSError if the disk does not take it, SegmentError if the encoder did not return every frame.
        """
        if self._file.closed:
            return
        try:
            if self._pts:
                self._mux(self._stream.encode(None))
            if self._inside:
                raise SegmentError(f"{self._settings.codec} lost {len(self._inside)} of {len(self._pts)} frames")
            self._container.close()
            self._file.close()
        finally:
            self._file.abandon()

    def __enter__(self) -> "SegmentWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._file.abandon()


def _int32(rate: Fraction) -> Fraction:
    """The rate, or the nearest one whose numerator and denominator fit libav's 32 bits."""
    return rate if rate.numerator < 1 << 31 else rate.limit_denominator(1001)
