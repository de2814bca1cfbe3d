"""How a stream beside the main stream goes into the output: one class for each way."""

import contextlib
import io
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import av.error
import av.logging
from av.audio.codeccontext import AudioCodecContext
from av.audio.stream import AudioStream
from av.bitstream import BitStreamFilterContext
from av.container import OutputContainer
from av.stream import AttachmentStream, Disposition, Stream
from av.subtitles.stream import SubtitleStream

from upscaling.demux.survey import open_timed
from upscaling.mux import subtitles
from upscaling.mux.containers import CONTAINERS, MUXER_OPTIONS, copy_metadata
from upscaling.mux.packet_repair import PacketRepair
from upscaling.mux.timeline import Clip, Timeline

# FFmpeg's name of a layout that the file does not tell → the usual one, which muxers and encoders need to know.
USUAL_LAYOUTS = {
    "1 channels": "mono", "2 channels": "stereo", "3 channels": "3.0", "4 channels": "4.0", "5 channels": "5.0",
    "6 channels": "5.1", "7 channels": "6.1", "8 channels": "7.1",
}  # fmt: skip
_ERRORS = (av.error.FFmpegError, ValueError, OSError, RuntimeError)


class StreamCopier:
    """Copies the packets of one stream as they are.

    `path` and `container` are the input's file and the output's container (a key of `containers.CONTAINERS`).
    The order of use: `fits`, `prepare`, `add_to`, then `copy` for every packet of the stream if `reads_packets`.
    """

    reads_packets = True
    is_attachment = False
    outcome = "copied"  # what happens to the stream, for the user

    def __init__(self, stream: Stream, path: Path, container: str) -> None:
        self.stream, self.path, self.container = stream, path, container
        self.disposition = stream.disposition  # in the output
        self.target: Stream | None = None  # in the output, once it is added
        self._repair = PacketRepair(strict=container not in ("mkv", "webm"))

    def fits(self) -> bool:
        """Whether the container takes the stream this way."""
        return self.stream.type not in ("attachment", "unknown") and not is_cover(self.stream) and self.muxes()

    def muxes(self) -> bool:
        """Whether the muxer writes a header with this stream: asked by really doing it, in memory."""
        if self.container == "mp4" and _has_unknown_layout(self.stream):  # its muxer fails when it ends the file
            return False
        out = av.open(io.BytesIO(), "w", format=CONTAINERS[self.container], container_options=MUXER_OPTIONS)
        try:
            self.add_to(out)
            out.start_encoding()
        except _ERRORS:
            return False
        with contextlib.suppress(*_ERRORS):  # some headers can't be finished without a packet
            out.close()
        return True

    def note(self) -> str | None:
        """One line for the user if the stream does not stay as it is."""
        return None

    def prepare(self, clip: Clip | None) -> None:
        """Reads what the header needs to know of the stream's packets."""

    def add_to(self, out: OutputContainer) -> None:
        """Adds the stream to the output, with tags and disposition."""
        self.add_copy(out, self.stream)

    def add_copy(self, out: OutputContainer, template: Stream) -> None:
        """Adds a stream with the parameters of `template`."""
        added = out.add_stream_from_template(template, opaque=True)
        if isinstance(template, AudioStream) and isinstance(added, AudioStream):
            layout = USUAL_LAYOUTS.get(template.codec_context.layout.name)
            if layout:  # MP4's muxer fails in the end if it does not know PCM's layout
                added.codec_context.layout = layout
        added.time_base = self.stream.time_base
        self.target = copy_metadata(added, self.stream, self.disposition)

    def first_packets(self) -> Iterable[av.Packet]:
        """Packets that the output begins with."""
        return ()

    def copy(self, packet: av.Packet | None, timeline: Timeline) -> Iterator[av.Packet]:
        """Packets for the output, from the input's next packet (None: there are no more)."""
        for repaired in self._repair.push(packet):
            if timeline.place(repaired):
                yield from self.convert(repaired)
        if packet is None:
            yield from self.flush()

    def convert(self, packet: av.Packet) -> Iterator[av.Packet]:
        """The output's packets for one of the input, whose times are those of the output already."""
        yield self.to_target(packet)

    def flush(self) -> Iterable[av.Packet]:
        """The packets that remain after the last `convert`."""
        return ()

    def to_target(self, packet: av.Packet) -> av.Packet:
        """The packet, assigned to the output's stream."""
        assert self.target is not None, "add_to comes first"
        packet.stream = self.target
        return packet

    def report(self) -> str | None:
        """What was wrong with the packets, for the user; None if nothing was."""
        found = self._repair.report()
        return found and f"{describe(self.stream)}: {found}"


class TextSubtitles(StreamCopier):
    """Converts text subtitles to the container's own codec for text."""

    def __init__(self, stream: Stream, path: Path, container: str) -> None:
        super().__init__(stream, path, container)
        self.outcome = f"converted to {subtitles.TEXT_CODEC[container]}"

    def note(self) -> str | None:
        if codec_name(self.stream) not in ("ass", "ssa"):
            return None
        lost = "its styling is lost but for bold, italic and underlined text, mkv could keep it"
        return f"{describe(self.stream)} is {self.outcome}: {lost}"

    def fits(self) -> bool:
        context = self.stream.codec_context
        is_text = context is not None and context.codec.canonical_name in subtitles.READABLE
        return self.stream.type == "subtitle" and is_text and self.muxes()

    def add_to(self, out: OutputContainer) -> None:
        added = cast(SubtitleStream, out.add_stream(subtitles.TEXT_CODEC[self.container]))
        added.codec_context.subtitle_header = subtitles.ASS_HEADER
        added.codec_context.time_base = Fraction(1, 1000)
        added.time_base = Fraction(1, 1000)
        self.target = copy_metadata(added, self.stream, self.disposition)

    def convert(self, packet: av.Packet) -> Iterator[av.Packet]:
        source, target = self.stream.codec_context.codec.canonical_name, subtitles.TEXT_CODEC[self.container]
        content = subtitles.convert(bytes(packet), source, target)
        if content is not None:
            text = av.Packet(content)
            text.pts = text.dts = packet.pts
            text.duration, text.time_base, text.is_keyframe = packet.duration, packet.time_base, True
            yield self.to_target(text)


class Cover(StreamCopier):
    """A cover picture: its one packet."""

    reads_packets = False

    def __init__(self, stream: Stream, path: Path, container: str) -> None:
        super().__init__(stream, path, container)
        self.picture = b""

    def prepare(self, clip: Clip | None) -> None:
        self.picture = bytes(first_packet(self.path, self.stream.index) or b"")


class CoverStream(Cover):
    """A cover picture that stays a stream (MP4)."""

    def fits(self) -> bool:
        return is_cover(self.stream) and self.container == "mp4" and self.muxes()

    def first_packets(self) -> Iterable[av.Packet]:
        if not self.picture:
            return
        packet = av.Packet(self.picture)
        packet.pts = packet.dts = 0
        packet.time_base, packet.is_keyframe = Fraction(1, 90000), True
        yield self.to_target(packet)


class CoverAttachment(Cover):
    """A cover picture that becomes an attachment (Matroska)."""

    is_attachment = True

    def fits(self) -> bool:
        return is_cover(self.stream) and self.container == "mkv"

    def add_to(self, out: OutputContainer) -> None:
        if not self.picture:
            return
        tags, kind = self.stream.metadata, "png" if self.picture[:4] == b"\x89PNG" else "jpeg"
        name = tags.get("filename", "cover.png" if kind == "png" else "cover.jpg")
        out.add_attachment(name, tags.get("mimetype", f"image/{kind}"), self.picture)


class Attachment(StreamCopier):
    """An attached file, such as a font (Matroska)."""

    reads_packets = False
    is_attachment = True

    def fits(self) -> bool:
        return self.container == "mkv" and isinstance(self.stream, AttachmentStream) and bool(self.stream.data)

    def add_to(self, out: OutputContainer) -> None:
        added = out.add_stream_from_template(self.stream)
        added.metadata.setdefault("mimetype", "application/octet-stream")
        added.metadata.setdefault("filename", f"attachment{self.stream.index}")


def describe(stream: Stream) -> str:
    """`subtitle stream 3 (hdmv_pgs_subtitle, eng)`."""
    name = codec_name(stream)
    kind = "cover picture" if is_cover(stream) else f"{stream.type} stream"
    words = [word for word in (name, stream.language) if word and word != "und"]
    return f"{kind} {stream.index}" + (f" ({', '.join(words)})" if words else "")


def codec_name(stream: Stream) -> str | None:
    """FFmpeg's name of the stream's codec; None if FFmpeg does not know it.

    PyAV has no name for a codec without a decoder. A bitstream filter of another codec tells it in its refusal.
    """
    if stream.codec_context is not None:
        return stream.codec_context.codec.canonical_name
    if stream.type in ("data", "attachment"):
        return getattr(stream, "name", None)
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as lines, contextlib.suppress(*_ERRORS):
            BitStreamFilterContext("aac_adtstoasc", stream)
    finally:
        av.logging.set_level(level)
    match = re.search(r"Codec '(\w+)'", "".join(text for _, _, text in lines))
    return match[1] if match and match[1] not in ("none", "unknown_codec") else None


def is_cover(stream: Stream) -> bool:
    """Whether this is a cover picture."""
    return stream.type == "video" and bool(stream.disposition & Disposition.attached_pic)


def _has_unknown_layout(stream: Stream) -> bool:
    """Whether the file does not tell which channels its sound has, and there is no usual layout of so many."""
    context = stream.codec_context
    layout = context.layout.name if isinstance(context, AudioCodecContext) else ""
    return layout.endswith(" channels") and layout not in USUAL_LAYOUTS


def first_packet(path: Path, index: int) -> av.Packet | None:
    """The first packet of a file's stream that can be read and is not empty, read from a handle of its own."""
    with open_timed(path) as source:
        return next(source.packets([source.container.streams[index]], lambda _: None), None)
