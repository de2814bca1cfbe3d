"""How sound goes into the output if its packets can't simply be copied: with priming, or encoded again."""

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import av.error
from av.audio.codeccontext import AudioCodecContext
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.stream import Stream

from upscaling.common.memory_limits import check_memory
from upscaling.common.text import many
from upscaling.demux.reader import seconds_per_tick
from upscaling.mux import matroska
from upscaling.mux.containers import copy_metadata
from upscaling.mux.stream_copy import StreamCopier, describe, first_packet
from upscaling.mux.timeline import Clip

# Container → the encoder for sound that it can't hold as it is. FLAC is lossless, but few players take it in MP4.
AUDIO_ENCODERS = {"mkv": "flac", "mp4": "aac", "mov": "aac"}
_AAC_BIT_RATE = 96_000  # bits/s a channel
# FFmpeg's name of a layout that the file does not tell → the usual one, which the AAC encoder needs to know.
_DEFAULT_LAYOUTS = {"1 channels": "mono", "2 channels": "stereo", "6 channels": "5.1", "8 channels": "7.1"}
_MAX_PRIMING = 4096  # samples; more than that before zero is sound
_MAX_DRIFT = Fraction(1, 20)  # seconds between counted samples and timestamps; more is a gap in the sound


def audio_context(stream: Stream) -> AudioCodecContext | None:
    """The decoder of a stream of sound; None for other streams, and for codecs without a decoder."""
    return stream.codec_context if isinstance(stream, AudioStream) else None


class PrimedAudio(StreamCopier):
    """Copies sound that may start before zero with its encoder's priming into Matroska.

    Matroska has no negative times: it says how many samples to skip instead, and libavformat writes that only
    for a stream whose initial padding is set.
    """

    def __init__(self, stream: Stream, path: Path, container: str) -> None:
        super().__init__(stream, path, container)
        self._template: bytes | None = None  # a file whose stream has the padding

    def fits(self) -> bool:
        context = audio_context(self.stream)
        known = context is not None and context.codec.canonical_name in matroska.AUDIO_CODECS
        return known and self.container in ("mkv", "webm") and super().fits()

    def prepare(self, clip: Clip | None) -> None:
        context = audio_context(self.stream)
        assert context is not None
        codec = context.codec.canonical_name
        first = first_packet(self.path, self.stream.index) if clip is None else None
        if first is None or first.pts is None or first.pts >= 0 or (codec == "aac" and not context.extradata):
            return  # AAC of a transport stream: what is before zero is no priming
        padding = round(-first.pts * seconds_per_tick(self.stream) * context.sample_rate)
        if padding <= _MAX_PRIMING:
            self._template = matroska.audio_template(
                codec=codec,
                extradata=context.extradata or b"",
                rate=context.sample_rate,
                channels=context.channels,
                padding=padding,
                packet=bytes(first),
            )

    def add_to(self, out: OutputContainer) -> None:
        if self._template is None:
            return super().add_to(out)
        with av.open(io.BytesIO(self._template)) as template:
            self.add_copy(out, template.streams[0])


class EncodedAudio(StreamCopier):
    """Decodes sound that the container can't hold and encodes it again."""

    def __init__(self, stream: Stream, path: Path, container: str) -> None:
        super().__init__(stream, path, container)
        self.outcome = f"converted to {AUDIO_ENCODERS.get(container, '').upper()}"
        self._next: int | None = None  # samples, where the next frame starts
        self._damaged = 0

    def fits(self) -> bool:
        return audio_context(self.stream) is not None and self.container in AUDIO_ENCODERS and self.muxes()

    def note(self) -> str:
        return f"{describe(self.stream)} is {self.outcome}: {self.container} can't hold it as it is"

    def add_to(self, out: OutputContainer) -> None:
        context = audio_context(self.stream)
        assert context is not None
        encoder = AUDIO_ENCODERS[self.container]
        added = cast(AudioStream, out.add_stream(encoder, rate=context.sample_rate))
        target = added.codec_context
        target.layout = _DEFAULT_LAYOUTS.get(context.layout.name, context.layout)
        if encoder == "flac":
            target.format = "s32" if context.format.name.startswith("s32") else "s16"
        else:
            target.bit_rate = _AAC_BIT_RATE * context.channels
        added.time_base = Fraction(1, context.sample_rate)
        self.target = copy_metadata(added, self.stream)

    def convert(self, packet: av.Packet) -> Iterator[av.Packet]:
        yield from self._encoded(packet)

    def flush(self) -> Iterator[av.Packet]:
        yield from self._encoded(None)
        for packet in cast(AudioStream, self.target).encode(None):
            yield self.to_target(packet)

    def _encoded(self, source: av.Packet | None) -> Iterator[av.Packet]:
        """What a packet of the input becomes; a packet that does not decode is left out and counted."""
        decoder = audio_context(self.stream)
        assert decoder is not None
        try:
            for frame in decoder.decode(source):
                self._set_time(frame)
                for packet in cast(AudioStream, self.target).encode(frame):
                    yield self.to_target(packet)
        except (av.error.FFmpegError, ValueError) as error:
            check_memory(error)
            self._damaged += 1

    def _set_time(self, frame: av.AudioFrame) -> None:
        """Counts samples, so that coarse times of the input leave no gaps between frames."""
        rate = frame.sample_rate
        if frame.pts is not None and frame.time_base is not None:
            start = frame.pts * frame.time_base * rate
            if self._next is None or start > self._next + _MAX_DRIFT * rate:
                self._next = round(start)
        frame.pts, frame.time_base = self._next or 0, Fraction(1, rate)
        self._next = frame.pts + frame.samples

    def report(self) -> str | None:
        lines = [super().report()]
        if self._damaged:
            lines.append(f"{describe(self.stream)}: {many(self._damaged, 'packet')} could not be decoded")
        return "; ".join(line for line in lines if line) or None
