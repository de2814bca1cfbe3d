"""Sound encoded again: what the container can't hold as it is, and what the user wants in another codec."""

import contextlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import cast

import av
import av.error
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.stream import Stream

from upscaling.common.errors import InputError
from upscaling.common.memory_limits import check_memory
from upscaling.common.text import clock, many
from upscaling.demux.channels import channel_order, is_unusual
from upscaling.demux.reader import seconds_per_tick
from upscaling.demux.survey import open_timed
from upscaling.mux.audio_formats import Encoding, is_linear
from upscaling.mux.containers import copy_metadata
from upscaling.mux.stream_copy import USUAL_LAYOUTS, StreamCopier, describe

_SYNC_WORDS = ((16, 0xF872, 0x4E1F), (20, 0x6F872, 0x54E1F), (24, 0x96F872, 0xA54E1F))  # bits and values
_DATA_PACKETS = 20  # that are looked at for them
_MAX_DRIFT = Fraction(1, 20)  # seconds between counted samples and timestamps; more is a gap in the sound


def audio_context(stream: Stream) -> AudioCodecContext | None:
    """The decoder of a stream of sound; None for other streams, and for codecs without a decoder."""
    return stream.codec_context if isinstance(stream, AudioStream) else None


def carries_data(stream: Stream, path: Path) -> bool:
    """Whether PCM has other data in place of samples, such as Dolby E or AC-3, by its beginning (SMPTE 337M)."""
    context = audio_context(stream)
    if context is None or not is_linear(context.codec.canonical_name):
        return False
    with open_timed(path) as source, contextlib.suppress(av.error.FFmpegError):
        own = cast(AudioStream, source.container.streams[stream.index])
        for packet in islice(source.packets([own], lambda _: None), _DATA_PACKETS):
            for frame in own.decode(packet):
                if frame.format.name not in ("s16", "s32"):  # of planes PyAV reads one too many if there are eight
                    return False
                samples = frame.to_ndarray()[0]
                words = samples.astype(np.int64) << (32 - 8 * samples.itemsize)
                for bits, first, second in _SYNC_WORDS:
                    cut = words >> (32 - bits) & ((1 << bits) - 1)
                    if np.any((cut[:-1] == first) & (cut[1:] == second)):
                        return True
    return False


class SoundEncoder:
    """Frames of sound, whatever their format, rate and layout, as packets of one encoder at counted times.

    `encode` gives a frame to the encoder (None: there are no more) and returns its packets; the encoder takes
    samples of `sample_format`, `layout` and `rate`.
    """

    def __init__(
        self, encode: Callable[[AudioFrame | None], list[av.Packet]], sample_format: str, layout: str, rate: int
    ) -> None:
        self._encode = encode
        self._format, self._layout, self._rate = sample_format, layout, rate
        self._resampler: AudioResampler | None = None
        self._source: tuple[str, str, int] | None = None  # format, layout and rate of the last frame
        self._next: Fraction | None = None  # seconds, when the next frame starts
        self._time: Fraction | None = None  # seconds, of the last frame in the input
        self.changed: Fraction | None = None  # seconds, the first frame in another format

    def encode(self, frame: AudioFrame) -> Iterator[av.Packet]:
        """The packets that are complete with this frame, whose time is changed.

        A frame that overlaps those before it too much is left out, or all that follows would be late.
        """
        if self._is_late(frame):
            return
        source = (frame.format.name, frame.layout.name, frame.sample_rate)
        is_other = source != self._source
        if is_other:
            yield from self._drain()
            self._resampler = AudioResampler(self._format, self._layout, self._rate)
        assert self._resampler is not None
        time = self._set_time(frame)
        if is_other and self._source is not None and self.changed is None:
            self.changed = time
        self._source = source
        for converted in self._resampler.resample(frame):
            yield from self._encode(converted)

    def flush(self) -> Iterator[av.Packet]:
        """The packets that remain."""
        yield from self._drain()
        if self._source is not None:
            yield from self._encode(None)

    def _drain(self) -> Iterator[av.Packet]:
        if self._resampler is not None:
            for converted in self._resampler.resample(None):
                if converted is not None:
                    yield from self._encode(converted)
        self._resampler = None

    def _is_late(self, frame: AudioFrame) -> bool:
        """Whether the frame would come later than its time; not if it has the time of a block (RealMedia)."""
        if frame.pts is None or frame.time_base is None:
            return False
        time, before = frame.pts * frame.time_base, self._time
        self._time = time
        is_own = before is None or time - before >= Fraction(frame.samples, 2 * frame.sample_rate)
        return is_own and self._next is not None and self._next - time > _MAX_DRIFT

    def _set_time(self, frame: AudioFrame) -> Fraction:
        """Counts samples, so that coarse times of the input leave no gaps between frames; returns seconds."""
        if frame.pts is not None and frame.time_base is not None:
            start = frame.pts * frame.time_base
            if self._next is None or start > self._next + _MAX_DRIFT:
                self._next = Fraction(round(start * frame.sample_rate), frame.sample_rate)
        now = self._next or Fraction(0)
        frame.pts, frame.time_base = round(now * frame.sample_rate), Fraction(1, frame.sample_rate)
        self._next = now + Fraction(frame.samples, frame.sample_rate)
        return now


class EncodedAudio(StreamCopier):
    """Decodes sound and encodes it again; `wanted`: the user asked for the codec. `bit_rate` is in bits/s.

    InputError if the encoder does not take that bit rate.
    """

    def __init__(
        self,
        stream: Stream,
        path: Path,
        container: str,
        encoding: Encoding,
        bit_rate: int | None = None,
        wanted: bool = False,
    ) -> None:
        super().__init__(stream, path, container)
        self._encoding, self._wanted = encoding, wanted
        self._rate, self._bit_rate, self._layout = 0, None, ""  # of the encoder; no layout: it can't encode this
        self._sound: SoundEncoder | None = None
        self._order = channel_order(stream)
        self._damaged = 0
        context = audio_context(stream)
        if context is None or not context.sample_rate or not context.channels:
            return
        self._rate = encoding.rate(context.sample_rate)
        self._bit_rate = usual = encoding.bit_rate(self._rate, context.channels)
        self._layout = _layout(encoding, context, self._rate, usual)
        if usual and bit_rate and self._layout:
            self._bit_rate = bit_rate
            if not _opens(encoding, self._layout, self._rate, bit_rate):
                what = f"{encoding.name} of {many(context.channels, 'channel')}"
                raise InputError(f"--audio-bitrate {bit_rate}: {what} can't have it; {usual} is usual")
        mixed = "" if av.AudioLayout(self._layout or "mono").nb_channels == context.channels else ", mixed to stereo"
        self._name = f"{encoding.name}{' without loss' if encoding.lossless and not mixed else ''}{mixed}"
        rate = f" ({self._bit_rate // 1000} kbit/s)" if self._bit_rate else ""
        self.outcome = f"{'repacked as' if encoding.is_repacking else 'converted to'} {self._name}{rate}"

    def fits(self) -> bool:
        return bool(self._layout) and self.muxes()

    def note(self) -> str | None:
        if self._wanted or self._encoding.is_repacking:
            return None
        return f"{describe(self.stream)} is converted to {self._name}: {self.container} can't hold it as it is"

    def add_to(self, out: OutputContainer) -> None:
        encoding = self._encoding
        added = cast(AudioStream, out.add_stream(encoding.encoder, rate=self._rate))
        _set_up(added.codec_context, encoding, self._layout, self._rate, self._bit_rate)
        added.time_base = Fraction(1, self._rate)
        self.target = copy_metadata(added, self.stream, self.disposition)
        self._sound = SoundEncoder(added.encode, encoding.sample_format, self._layout, self._rate)

    def convert(self, packet: av.Packet) -> Iterator[av.Packet]:
        assert self._sound is not None, "add_to comes first"
        _use_time_base(packet, seconds_per_tick(self.stream))
        for frame in self._decode(packet):
            for encoded in self._sound.encode(frame):
                yield self.to_target(encoded)

    def flush(self) -> Iterator[av.Packet]:
        assert self._sound is not None
        for frame in self._decode(None):
            for encoded in self._sound.encode(frame):
                yield self.to_target(encoded)
        for encoded in self._sound.flush():
            yield self.to_target(encoded)

    def _decode(self, packet: av.Packet | None) -> list[AudioFrame]:
        """The frames of a packet of the input; one that does not decode is left out and counted."""
        decoder = audio_context(self.stream)
        assert decoder is not None
        try:
            return [_in_order(frame, self._order) for frame in decoder.decode(packet)]
        except (av.error.FFmpegError, ValueError) as error:
            check_memory(error)
            self._damaged += 1
            return []

    def report(self) -> str | None:
        lines = [super().report()]
        if self._damaged:
            lines.append(f"{describe(self.stream)}: {many(self._damaged, 'packet')} could not be decoded")
        if self._sound is not None and self._sound.changed is not None:
            when, channels = clock(float(self._sound.changed)), av.AudioLayout(self._layout).nb_channels
            wanted = f"{self._rate} Hz, {many(channels, 'channel')}"
            lines.append(
                f"{describe(self.stream)} changes its format at {when}: what is not {wanted} is converted to that"
            )
        return "; ".join(line for line in lines if line) or None


def _in_order(frame: AudioFrame, order: list[int] | None) -> AudioFrame:
    """A frame with its channels in that order of the source's, and a layout that PyAV can handle.

    ValueError for channels in planes in a layout that it can't.
    """
    layout, channels = frame.layout.name, frame.layout.nb_channels
    if order is None and not is_unusual(layout):
        return frame
    if frame.format.is_planar:  # not PCM, whose order is the file's
        if is_unusual(layout):
            raise ValueError(f"{layout}: planes in an unusual layout")
        return frame
    samples = frame.to_ndarray().reshape(-1, channels)[:, order or slice(None)]  # (samples, channels)
    layout = f"{channels} channels" if is_unusual(layout) else layout
    result = AudioFrame.from_ndarray(samples.reshape(1, -1), format=frame.format.name, layout=layout)
    result.sample_rate, result.pts, result.time_base = frame.sample_rate, frame.pts, frame.time_base
    return result


def _use_time_base(packet: av.Packet, time_base: Fraction) -> None:
    """Puts a packet's times into its stream's time base, in which the decoder counts the priming that it skips."""
    times = (packet.pts, packet.dts, packet.duration or 0)
    packet.pts, packet.dts, packet.duration = (
        t if t is None else round(t * packet.time_base / time_base) for t in times
    )
    packet.time_base = time_base


def _layout(encoding: Encoding, source: AudioCodecContext, rate: int, bit_rate: int | None) -> str:
    """The layout to encode a source's sound in: its own, or the usual one of as many channels.

    Stereo if the encoder takes neither, unless it is to lose nothing. Empty if there is none.
    """
    unknown = f"{source.channels} channels"
    own = unknown if is_unusual(source.layout.name) else USUAL_LAYOUTS.get(source.layout.name, source.layout.name)
    usual = USUAL_LAYOUTS.get(unknown, own)
    names = (own, usual) if encoding.lossless else (own, usual, "stereo")
    return next((name for name in names if _opens(encoding, name, rate, bit_rate)), "")


def _opens(encoding: Encoding, layout: str, rate: int, bit_rate: int | None) -> bool:
    """Whether the encoder takes sound of that layout, rate in Hz and bit rate in bits/s."""
    context = cast(AudioCodecContext, av.CodecContext.create(encoding.encoder, "w"))
    try:
        _set_up(context, encoding, layout, rate, bit_rate)
        context.open()
    except (av.error.FFmpegError, ValueError) as error:
        check_memory(error)
        return False
    return True


def _set_up(context: AudioCodecContext, encoding: Encoding, layout: str, rate: int, bit_rate: int | None) -> None:
    context.layout, context.sample_rate, context.format = layout, rate, encoding.sample_format
    if bit_rate:
        context.bit_rate = bit_rate
