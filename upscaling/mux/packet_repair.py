"""Copied packets get times that a muxer accepts: both of them, growing, and as few as possible changed."""

import math
from collections.abc import Iterator
from fractions import Fraction

import av
from av.audio.stream import AudioStream

from upscaling.common.text import many
from upscaling.demux.clock import OVERLAP

_MAX_DURATION = (1 << 31) - 1  # ticks; MP4 has 32 bits


class PacketRepair:
    """Gives every packet of a stream a pts and a dts, with growing dts; `repaired` counts the wrong times.

    `strict`: no two dts may be equal, as MP4 requires. Matroska's milliseconds are too coarse for that (TrueHD
    has 1200 packets a second). So that nothing drifts, equal times are then spread by ticks of a sample, not of
    the input's time base, and do not count as wrong. `dropped` counts the packets that the muxer would fail on
    (see `_lacks_adts_header`).

    One packet is held back: a time after its successor's is damaged, and is replaced.
    """

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self.repaired = self.dropped = 0
        self._held: av.Packet | None = None
        self._last_dts: int | None = None  # ticks, of the last packet that was returned
        self._last_source_dts = 0  # the one that it had in the input
        self._end = 0  # ticks, where that packet ends

    def push(self, packet: av.Packet | None) -> Iterator[av.Packet]:
        """Takes the next packet (None: there are no more), yields the one before it."""
        if packet is not None and _lacks_adts_header(packet):
            self.dropped += 1
            return
        if packet is not None:
            _count_in_samples(packet)
            self._fill_in(packet)
        held, self._held = self._held, packet
        if held is None:
            return
        last, dts = self._last_dts, _dts(held)
        if packet is not None and last is not None and dts - _overlap(held) > _dts(packet) > last:
            self._move(held, min(self._end, _dts(packet) - 1))
        dts = _dts(held)
        step = _shortest(held) if self._strict else 0
        if last is not None and dts < last + step:
            self._move(held, last + step, wrong=dts < self._last_source_dts - _overlap(held))
        if _pts(held) < _dts(held):
            held.pts = held.dts
        self._last_source_dts, self._last_dts, self._end = dts, _dts(held), _pts(held) + (held.duration or 0)
        yield held

    def report(self) -> str | None:
        """What was wrong, for the user; None if nothing was."""
        parts = [f"{many(self.repaired, 'packet')} had damaged timestamps, repaired"] if self.repaired else []
        parts += [f"{many(self.dropped, 'damaged packet')} left out"] if self.dropped else []
        return "; ".join(parts) or None

    def _fill_in(self, packet: av.Packet) -> None:
        if packet.duration and packet.duration > _MAX_DURATION:  # "until the next one", which MP4's muxer refuses
            packet.duration = 0
        if packet.dts is None and packet.pts is None:
            before = self._held
            packet.dts = _dts(before) + (before.duration or 1) if before is not None else self._end
            self.repaired += 1
        if packet.pts is None:
            packet.pts = packet.dts
        if packet.dts is None:
            packet.dts = packet.pts

    def _move(self, packet: av.Packet, dts: int, wrong: bool = True) -> None:
        packet.pts = _pts(packet) + dts - _dts(packet)
        packet.dts = dts
        self.repaired += wrong


def _overlap(packet: av.Packet) -> int:
    """Ticks that sound may go back without being damaged: recordings that were joined overlap a little."""
    return round(OVERLAP / packet.time_base) if isinstance(packet.stream, AudioStream) else 0


def _shortest(packet: av.Packet) -> int:
    """Ticks that are at least a sample for sound: MP4 counts its times in samples."""
    stream = packet.stream
    if not isinstance(stream, AudioStream) or stream.codec_context is None or not stream.codec_context.sample_rate:
        return 1
    return max(1, math.ceil(1 / (packet.time_base * stream.codec_context.sample_rate)))


def _pts(packet: av.Packet) -> int:
    assert packet.pts is not None  # see _fill_in
    return packet.pts


def _dts(packet: av.Packet) -> int:
    assert packet.dts is not None
    return packet.dts


def _lacks_adts_header(packet: av.Packet) -> bool:
    """Whether this is AAC of a transport stream without the ADTS header that each of its packets begins with.

    The muxer looks for such headers in the first packet alone to see whether to strip them, and fails at the
    next packet if the first was damaged.
    """
    context = packet.stream.codec_context if packet.stream is not None else None
    if context is None or context.codec.canonical_name != "aac" or context.extradata:
        return False
    return packet.size < 7 or bytes(packet)[0] != 0xFF or bytes(packet)[1] & 0xF6 != 0xF0


def _count_in_samples(packet: av.Packet) -> None:
    """Counts the times of sound in samples if that is finer than its time base."""
    stream = packet.stream
    if not isinstance(stream, AudioStream) or stream.codec_context is None:
        return
    base, rate = packet.time_base, stream.codec_context.sample_rate
    if rate and base * rate > 1:
        times = (packet.pts, packet.dts, packet.duration or 0)
        packet.pts, packet.dts, packet.duration = (t if t is None else round(t * base * rate) for t in times)
        packet.time_base = Fraction(1, rate)
