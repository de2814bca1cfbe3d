"""How the packets of sound go into the output without being encoded, if they can't simply be copied."""

import contextlib
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import cast

import av
import av.error
from av.audio.codeccontext import AudioCodecContext
from av.bitstream import BitStreamFilterContext
from av.container import InputContainer, OutputContainer
from av.stream import Stream

from upscaling.common.memory_limits import check_memory
from upscaling.common.text import clock, many
from upscaling.demux.input_file import read_packets
from upscaling.demux.reader import seconds_per_tick
from upscaling.demux.survey import open_timed
from upscaling.mux import matroska
from upscaling.mux.aac_frames import AacConfig, AacFrame, AdtsParser, Bits, LatmParser, read_config
from upscaling.mux.audio_encode import SoundEncoder, audio_context
from upscaling.mux.containers import copy_metadata
from upscaling.mux.stream_copy import StreamCopier, codec_name, describe, first_packet
from upscaling.mux.timeline import Clip

_MAX_PRIMING = 4096  # samples; more than that before zero is sound
_MAX_DAMAGED = 50  # packets before the first AAC frame
_PLACES = 10  # in a file, where its configuration is looked up
_PARSERS = {"aac": AdtsParser, "aac_latm": LatmParser}
_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}  # AAC's, by channels
_BIT_RATE = 96_000  # bits/s a channel


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


class RepackedAac(StreamCopier):
    """Takes AAC frames out of ADTS or LATM, without loss.

    The output has one configuration for all frames: the one that is found most often at some places of the file.
    Frames with another (a broadcast that changes between stereo and 5.1) are decoded and encoded in that one's. A
    change is believed if two packets agree.
    """

    outcome = "repacked without loss as AAC"

    def __init__(self, stream: Stream, path: Path, container: str) -> None:
        super().__init__(stream, path, container)
        context = audio_context(stream)
        codec = context.codec.canonical_name if context is not None and not _has_own_config(context) else ""
        self._new_parser: Callable[[], AdtsParser | LatmParser | None] = _PARSERS.get(codec, lambda: None)
        self._parser = self._new_parser()
        self._first: AacFrame | None = None  # of those with the output's configuration
        self._as_probed = True  # whether the file begins with that configuration
        self._is_noted = False  # whether it is known before the start that there are others
        self._held: list[tuple[av.Packet, AacConfig]] = []  # a packet with a new configuration
        self._sound: SoundEncoder | None = None  # while the configuration is another one
        self._changed: Fraction | None = None  # seconds, the first change
        self._start = Fraction(0)  # seconds, of the stretch that is encoded
        self._last: Fraction | None = None  # seconds, of the last packet
        self._damaged = 0

    def fits(self) -> bool:
        if self._parser is None or self.container == "webm":
            return False
        self._first = self._first or self._find_first()
        return self._first is not None and self.muxes()

    def _find_first(self) -> AacFrame | None:
        found: list[AacFrame] = []
        with open_timed(self.path) as source, contextlib.suppress(av.error.FFmpegError):
            places = range(_PLACES) if source.container.format.name == "mpegts" else (0,)
            for place in places:
                frame = self._frame_at(source.container, place)
                found += [] if frame is None else [frame]
        if not found:
            return None
        config, _ = Counter(frame.config for frame in found).most_common(1)[0]
        self._as_probed = found[0].config == config
        self._is_noted = any(frame.config != config for frame in found)
        return next(frame for frame in found if frame.config == config)

    def _frame_at(self, container: InputContainer, place: int) -> AacFrame | None:
        """The first frame at one of _PLACES places in the file whose configuration the next one has, too."""
        before: AacFrame | None = None
        parser = self._new_parser()
        if place:
            container.seek(self.path.stat().st_size * place // _PLACES, unsupported_byte_offset=True)
        own = container.streams[self.stream.index]
        for packet in islice(read_packets(container, own, lambda _: None), _MAX_DAMAGED):
            for frame in _frames(parser, packet):
                if before is not None and before.config == frame.config:
                    return before
                before = frame
        return None if place else before

    def note(self) -> str | None:
        return self._what_changes() if self._is_noted else None

    def _what_changes(self, when: str = "on the way") -> str:
        assert self._first is not None
        config = self._first.config
        what = "is converted to that" if _encoder(config) else "is left out"
        first = f"{config.rate} Hz, {many(config.channels, 'channel')}"
        return f"{describe(self.stream)} changes its format {when}: what is not {first} {what}"

    def add_to(self, out: OutputContainer) -> None:
        context, first = audio_context(self.stream), self._first
        assert context is not None and first is not None, "fits comes first"
        file = matroska.audio_template(
            codec="aac",
            extradata=first.config.data,
            rate=(self._as_probed and context.sample_rate) or first.config.rate,
            channels=(self._as_probed and context.channels) or first.config.channels,
            padding=0,
            packet=first.data,
        )
        with av.open(io.BytesIO(file)) as template:
            self.add_copy(out, template.streams[0])

    def convert(self, packet: av.Packet) -> Iterator[av.Packet]:
        assert self._first is not None
        frames = _frames(self._parser, packet)
        if not frames:
            self._damaged += 1
        elif all(frame.config == self._first.config for frame in frames):
            self._drop_held()
            yield from self._end_stretch()
            yield from self._in_order(self._repacked(packet, frames), None)
        else:
            config = frames[-1].config
            if self._sound is None and not any(held == config for _, held in self._held):
                self._drop_held()
                self._held = [(packet, config)]
                return
            for held, _ in self._held:
                yield from self._encoded(held)
            self._held = []
            yield from self._encoded(packet)

    def flush(self) -> Iterator[av.Packet]:
        self._drop_held()
        yield from self._end_stretch()

    def _drop_held(self) -> None:
        self._damaged += len(self._held)
        self._held = []

    def _repacked(self, packet: av.Packet, frames: list[AacFrame]) -> Iterator[av.Packet]:
        assert packet.pts is not None and packet.dts is not None  # PacketRepair sets them
        for number, frame in enumerate(frames):
            duration = Fraction(frame.config.samples, frame.config.rate) / packet.time_base
            bare = av.Packet(frame.data)
            bare.time_base, bare.duration, bare.is_keyframe = packet.time_base, round(duration), True
            bare.pts, bare.dts = (time + round(number * duration) for time in (packet.pts, packet.dts))
            yield bare

    def _encoded(self, packet: av.Packet) -> Iterator[av.Packet]:
        """What a packet with another configuration becomes."""
        assert self._first is not None and packet.pts is not None
        config, decoder = self._first.config, audio_context(self.stream)
        assert decoder is not None
        if self._sound is None:
            self._start = packet.pts * packet.time_base
            self._changed = self._start if self._changed is None else self._changed
            encoder = _encoder(config)
            if encoder is not None:
                self._sound = SoundEncoder(encoder.encode, "fltp", encoder.layout.name, config.rate)
        if self._sound is None:
            return
        try:
            frames = decoder.decode(packet)
        except (av.error.FFmpegError, ValueError) as error:
            check_memory(error)
            self._damaged += 1
            return
        for frame in frames:
            yield from self._in_order(self._sound.encode(frame), self._start)

    def _end_stretch(self) -> Iterator[av.Packet]:
        if self._sound is not None:
            yield from self._in_order(self._sound.flush(), self._start)
        self._sound = None

    def _in_order(self, packets: Iterable[av.Packet], start: Fraction | None) -> Iterator[av.Packet]:
        """Those whose times grow, without the encoder's priming, which would be before the start of the stretch."""
        for packet in packets:
            assert packet.dts is not None
            time = packet.dts * packet.time_base
            if (start is None or time >= start) and (self._last is None or time > self._last):
                self._last = time
                yield self.to_target(packet)

    def report(self) -> str | None:
        assert self._first is not None
        lines = [super().report()]
        if self._damaged:
            lines.append(f"{describe(self.stream)}: {many(self._damaged, 'damaged packet')} left out")
        if self._changed is not None and not self._is_noted:
            lines.append(self._what_changes(f"at {clock(float(self._changed))}"))
        return "; ".join(line for line in lines if line) or None


class UndecodedAudio(StreamCopier):
    """Copies sound of a codec that FFmpeg knows and has no decoder for (AC-4, MPEG-H)."""

    def fits(self) -> bool:
        return self.stream.type == "audio" and self.stream.codec_context is None and self.muxes()

    def add_to(self, out: OutputContainer) -> None:
        added = out.add_mux_stream(codec_name(self.stream) or "", time_base=self.stream.time_base)
        BitStreamFilterContext("null", self.stream, added)  # copies the codec's parameters
        self.target = copy_metadata(added, self.stream, self.disposition)


def _frames(parser: AdtsParser | LatmParser | None, packet: av.Packet) -> list[AacFrame]:
    """The frames of a packet; none if it is damaged."""
    assert parser is not None
    try:
        return parser.frames(bytes(packet))
    except ValueError:
        return []


def _has_own_config(context: AudioCodecContext) -> bool:
    """Whether the header has the configuration of AAC, so that the packets have none (LATM's do in any case)."""
    return bool(context.extradata) and context.codec.canonical_name == "aac"


def _encoder(config: AacConfig) -> AudioCodecContext | None:
    """An open encoder whose frames a decoder with that configuration takes; None if there is none."""
    encoder = cast(AudioCodecContext, av.CodecContext.create("aac", "w"))
    try:
        encoder.sample_rate, encoder.layout, encoder.format = config.rate, _LAYOUTS[config.channels], "fltp"
        encoder.bit_rate = _BIT_RATE * config.channels
        encoder.open()
        return encoder if read_config(Bits(encoder.extradata or b"")) == config else None
    except (av.error.FFmpegError, ValueError, KeyError):
        return None
