"""Every stream of the input but the main picture: which of them the output can hold, and their packets, repaired."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import av.error
from av.container import InputContainer, OutputContainer
from av.stream import Disposition, Stream

from upscaling.decode.probe import open_input
from upscaling.encode import matroska, subtitles
from upscaling.encode.containers import CONTAINERS, MUXER_OPTIONS, kept_tags

_MOST_PRIMING = 4096  # samples; more than that below zero is sound
_LONGEST = (1 << 31) - 1  # ticks
_ERRORS = (av.error.FFmpegError, ValueError, OSError, RuntimeError)


@dataclass
class Copied:
    """A stream of the input that goes into the output: `index` there, `kind` how.

    `kind` is "copy", "acm" (sound that Matroska holds in Windows' way), "text" (subtitles that become `codec`),
    "attachment" (a font), "cover" (a picture that stays a stream, MP4) or "attached cover" (a picture that
    becomes an attachment, Matroska).
    """

    index: int
    kind: str
    codec: str = ""
    picture: bytes = field(default=b"", repr=False)


def plan(source: InputContainer, main: int, container: str) -> tuple[list[Copied], list[str]]:
    """The streams beside number `main` that the container holds, and one warning for each that it can't."""
    copied, warnings = [], []
    for stream in source.streams:
        if stream.index == main or _made_anew(source, stream):
            continue
        found = _fit(source, stream, container)
        if found is not None:
            copied.append(found)
            continue
        others = [name for name in ("mkv", "mp4", "mov", "webm") if name != container and _fit(source, stream, name)]
        hint = f"{others[0]} could" if others else "no container written here can"
        warnings.append(f"{describe(stream)} is left out: {container} can't hold it, {hint}")
    return copied, warnings


def describe(stream: Stream) -> str:
    """`subtitle stream 3 (hdmv_pgs_subtitle, eng)`."""
    context = stream.codec_context
    name = context.codec.canonical_name if context is not None else getattr(stream, "name", None)
    kind = "cover picture" if _is_cover(stream) else f"{stream.type} stream"
    words = [word for word in (name, stream.language) if word and word != "und"]
    return f"{kind} {stream.index}" + (f" ({', '.join(words)})" if words else "")


def _made_anew(source: InputContainer, stream: Stream) -> bool:
    """Data tracks that the muxer writes by itself from the chapters and the time code tag."""
    if stream.type != "data":
        return False
    chapters = len(source.chapters())
    return "timecode" in stream.metadata or (chapters > 0 and stream.frames == chapters)


def _is_cover(stream: Stream) -> bool:
    return stream.type == "video" and bool(stream.disposition & Disposition.attached_pic)


def _fit(source: InputContainer, stream: Stream, container: str) -> Copied | None:
    if stream.type == "attachment":
        return Copied(stream.index, "attachment") if container == "mkv" and stream.data else None
    if _is_cover(stream):
        return _fit_cover(stream, container)
    if stream.type == "unknown":
        return None
    if _header_works(container, lambda out: add_copy(out, stream)):
        return Copied(stream.index, "copy")
    if container == "mkv" and _wave_format(source, stream) is not None:
        return Copied(stream.index, "acm")
    if stream.type == "subtitle" and stream.codec_context is not None:
        name, codec = stream.codec_context.codec.canonical_name, subtitles.TEXT_CODEC[container]
        if name in subtitles.READABLE and _header_works(container, lambda out: add_text(out, stream, codec)):
            return Copied(stream.index, "text", codec)
    return None


def _wave_format(source: InputContainer, stream: Stream) -> bytes | None:
    context = stream.codec_context if stream.type == "audio" else None
    if context is None or context.codec.canonical_name not in matroska.ACM_CODECS:
        return None
    path, name = Path(source.name.removeprefix("file:")), context.codec.canonical_name
    return matroska.wave_format(path, name, context.extradata or b"", context.sample_rate, context.channels)


def add_acm(out: OutputContainer, source: InputContainer, stream: Stream) -> Stream:
    """Like `add_copy` for Matroska, of sound that PyAV refuses to put there; `matroska.finish_tracks` completes it."""
    context = stream.codec_context
    header = matroska.acm_template(_wave_format(source, stream), context.sample_rate, context.channels)
    with av.open(io.BytesIO(header)) as template:
        return add_copy(out, stream, template.streams[0])


def _fit_cover(stream: Stream, container: str) -> Copied | None:
    if container == "mkv":
        return Copied(stream.index, "attached cover")
    if container == "mp4" and _header_works(container, lambda out: add_copy(out, stream)):
        return Copied(stream.index, "cover")
    return None


def _header_works(container: str, add: Callable[[OutputContainer], object]) -> bool:
    """True if the muxer writes a header with that stream: asked by really doing it, into memory."""
    out = av.open(io.BytesIO(), "w", format=CONTAINERS[container], container_options=MUXER_OPTIONS)
    try:
        add(out)
        out.start_encoding()
    except _ERRORS:
        return False
    try:
        out.close()
    except _ERRORS:
        pass  # some headers can't be finished without a packet
    return True


def add_copy(out: OutputContainer, stream: Stream, template: Stream | None = None) -> Stream:
    """Adds a stream like `stream` to the output: parameters (of `template` if given), tags and disposition."""
    added = out.add_stream_from_template(template or stream, opaque=True)
    added.time_base = stream.time_base
    return dress(added, stream)


def add_text(out: OutputContainer, stream: Stream, codec: str) -> Stream:
    """Adds a text subtitle stream of that codec, with the tags of `stream`."""
    added = out.add_stream(codec)
    added.codec_context.subtitle_header = subtitles.ASS_HEADER
    added.codec_context.time_base = Fraction(1, 1000)
    added.time_base = Fraction(1, 1000)
    return dress(added, stream)


def dress(added: Stream, stream: Stream) -> Stream:
    """Gives an output stream the tags, language and disposition of the input's."""
    kept = kept_tags(stream.metadata)
    name = kept.pop("name", kept.pop("NAME", None))  # what a track's title is called in MP4
    added.metadata.update(({"title": name} if name else {}) | kept)
    added.disposition = stream.disposition
    return added


def add_attachments(out: OutputContainer, source: InputContainer, copied: list[Copied]) -> None:
    """Adds fonts and, where they are attachments, cover pictures."""
    for item in copied:
        stream = source.streams[item.index]
        if item.kind == "attachment":
            added = out.add_stream_from_template(stream)
            added.metadata.setdefault("mimetype", "application/octet-stream")
            added.metadata.setdefault("filename", f"attachment{item.index}")
        elif item.kind == "attached cover" and item.picture:
            kind = "png" if item.picture[:4] == b"\x89PNG" else "jpeg"
            name = stream.metadata.get("filename", "cover.png" if kind == "png" else "cover.jpg")
            out.add_attachment(name, stream.metadata.get("mimetype", f"image/{kind}"), item.picture)


def read_covers(path: Path, copied: list[Copied]) -> None:
    """Reads the cover pictures' bytes into `copied`."""
    covers = {item.index: item for item in copied if item.kind in ("cover", "attached cover")}
    if not covers:
        return
    with open_input(path) as source:
        for packet in source.demux([source.streams[index] for index in covers]):
            item = covers.pop(packet.stream_index, None)
            if item is not None and packet.size:
                item.picture = bytes(packet)
            if not covers:
                return


def add_primed(out: OutputContainer, stream: Stream, path: Path) -> Stream:
    """Like `add_copy` for Matroska, of a stream that may start before zero with its encoder's priming.

    Matroska has no negative times: it says how many samples to skip instead, and only for a stream whose
    initial padding is set does libavformat write that.
    """
    context = stream.codec_context
    codec = context.codec.canonical_name if stream.type == "audio" and context is not None else ""
    if codec not in matroska.AUDIO_CODECS:
        return add_copy(out, stream)
    with open_input(path) as source:
        first = next((p for p in source.demux(source.streams[stream.index]) if p.size), None)
        if first is None or first.pts is None or first.pts >= 0 or (codec == "aac" and not context.extradata):
            return add_copy(out, stream)  # AAC of a transport stream: what is below zero is no priming
        padding = round(-first.pts * stream.time_base * context.sample_rate)
        if padding > _MOST_PRIMING:
            return add_copy(out, stream)
        extradata, rate, channels = context.extradata or b"", context.sample_rate, context.channels
        header = matroska.audio_template(codec, extradata, rate, channels, padding, bytes(first))
    with av.open(io.BytesIO(header)) as template:
        return add_copy(out, stream, template.streams[0])


def is_headless(packet: av.Packet) -> bool:
    """True for AAC of a transport stream without the ADTS header that each of its packets begins with.

    The muxer looks at the first packet alone to see whether there are such headers to take off, and gives up
    at the next one if there it was damaged.
    """
    context = packet.stream.codec_context if packet.stream is not None else None
    if context is None or context.codec.canonical_name != "aac" or context.extradata:
        return False
    return packet.size < 7 or bytes(packet)[0] != 0xFF or bytes(packet)[1] & 0xF6 != 0xF0


def _in_samples(packet: av.Packet) -> None:
    """Counts the times of sound in samples where that is finer than its time base."""
    base, stream = packet.time_base, packet.stream
    context = stream.codec_context if stream is not None and stream.type == "audio" else None
    rate = context.sample_rate if context is not None else 0
    if rate and base * rate > 1:
        times = (packet.pts, packet.dts, packet.duration or 0)
        packet.pts, packet.dts, packet.duration = (t if t is None else round(t * base * rate) for t in times)
        packet.time_base = Fraction(1, rate)


class Repair:
    """Gives every packet of a stream times that grow; `repaired` counts those whose times were wrong.

    `strict`: no two may be the same, as MP4 has it; Matroska's milliseconds are too coarse for that (TrueHD has
    1200 packets a second). So that nothing drifts, equal times are then spread by ticks of a sample, not of
    the input's time base, and are no fault. `dropped` counts the packets that the muxer would have choked on
    (see `is_headless`).

    One packet is held back: a time that lies after its successor's is a damaged one, and is replaced.
    """

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self.repaired = self.dropped = 0
        self._held: av.Packet | None = None
        self._last: int | None = None  # decoding time of the last packet that went out, ticks
        self._own = 0  # the one that it came with
        self._end = 0  # where it ends, ticks

    def push(self, packet: av.Packet | None) -> Iterator[av.Packet]:
        """Takes the next packet (None: there are no more), yields the one before it."""
        if packet is not None and is_headless(packet):
            self.dropped += 1
            return
        if packet is not None:
            _in_samples(packet)
            self._complete(packet)
        held, self._held = self._held, packet
        if held is None:
            return
        if packet is not None and self._last is not None and held.dts > packet.dts > self._last:
            self._move(held, min(self._end, packet.dts - 1))
        own = held.dts
        if self._last is not None and own < self._last + self._strict:
            self._move(held, self._last + self._strict, fault=own < self._own)
        if held.pts < held.dts:
            held.pts = held.dts
        self._own, self._last, self._end = own, held.dts, held.pts + (held.duration or 0)
        yield held

    def report(self) -> str | None:
        """What was wrong, for the user; None where nothing was."""
        parts = [f"{self.repaired} packets had damaged times, repaired"] if self.repaired else []
        parts += [f"{self.dropped} damaged packets are left out"] if self.dropped else []
        return "; ".join(parts) or None

    def _complete(self, packet: av.Packet) -> None:
        if packet.duration and packet.duration > _LONGEST:  # "until the next one", which MP4's muxer refuses
            packet.duration = 0
        if packet.dts is None and packet.pts is None:
            before = self._held
            packet.dts = before.dts + (before.duration or 1) if before is not None else self._end
            self.repaired += 1
        if packet.pts is None:
            packet.pts = packet.dts
        if packet.dts is None:
            packet.dts = packet.pts

    def _move(self, packet: av.Packet, dts: int, fault: bool = True) -> None:
        packet.pts += dts - packet.dts
        packet.dts = dts
        self.repaired += fault
