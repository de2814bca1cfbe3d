"""The output: segments joined with exact times, and every other stream of the input copied beside them.

Reads segments and input once, in step, and holds no more than a moment of either in memory.
"""

import heapq
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import av.error
from av.container import InputContainer, OutputContainer
from av.stream import Discard, Stream

from upscaling.common.errors import UpscaleError
from upscaling.decode.probe import VideoInfo, open_input
from upscaling.encode import matroska, stream_copy, subtitles
from upscaling.encode.containers import (
    CONTAINERS,
    QUICKTIME_LANGUAGES,
    check_codec,
    container_of,
    kept_tags,
    lost_tags,
    muxer_options,
)
from upscaling.encode.output_file import Sink
from upscaling.encode.segment_writer import EncodeSettings
from upscaling.encode.stream_copy import Copied
from upscaling.encode.video_track import DeeperReorder, Segment, Track, reorder_depth

__all__ = ["Segment", "check_container", "join"]

Clip = tuple[Fraction, Fraction]  # seconds of the input: from, up to but not including


def check_container(info: VideoInfo, output: Path, settings: EncodeSettings) -> list[str]:
    """Before anything runs: one warning for everything of the input that the output can't hold.

    InputError where the output's container is not known or can't hold the codec.
    """
    container = container_of(output)
    check_codec(container, settings.codec)
    with open_input(info.path) as source:
        copied, warnings = stream_copy.plan(source, info.stream_index, container)
        lost = lost_tags(container, source.metadata, _has_cover(copied))
        if lost:
            warnings.append(f"tags are left out ({', '.join(lost)}): mp4 holds them or a cover picture, mkv could both")
        return warnings


def _has_cover(copied: list[Copied]) -> bool:
    return any(item.kind == "cover" for item in copied)


def join(
    segments: Sequence[Segment],
    info: VideoInfo,
    settings: EncodeSettings,
    target: Path,
    container: str,
    clip: Clip | None = None,
) -> list[str]:
    """Writes `target` (any name): the segments' frames at their times, all other streams of the input, tags, chapters.

    `container` is one of `containers.CONTAINERS`. With `clip`, only that part of the other streams goes in
    and everything is moved so that the first frame is shown at zero. Returns warnings, one line each. When
    it returns, the disk has the file. SegmentError: a segment does not fit the others or its list of times;
    OSError: the disk does not take it.
    """
    depth = reorder_depth(segments[0]) if segments else 0
    kinds = [{"video", "audio", "subtitle", "data", "attachment"}, {"audio"}, set()]  # of streams to copy, at most
    warnings: list[str] = []
    while True:
        try:
            track = Track(segments, info, settings, depth, clip[1] if clip else None)
            return warnings + _Join(track, info, container, clip, kinds[0]).write(target)
        except DeeperReorder as deeper:
            depth = deeper.depth
        except av.error.FFmpegError as error:  # damage that only shows when it is written
            failed, *kinds = kinds
            if not kinds:
                raise UpscaleError(f"the {container} output can't be put together: {error}") from error
            with open_input(info.path) as source:
                lost = " and ".join(sorted((failed - kinds[0]) & {stream.type for stream in source.streams}))
            warnings = [*warnings, f"damaged input: {lost} streams can't be copied ({error.strerror}), left out"]


class _Join:
    """One writing of the output."""

    def __init__(self, track: Track, info: VideoInfo, container: str, clip: Clip | None, kinds: set[str]) -> None:
        self._track, self._info, self._container, self._clip, self._kinds = track, info, container, clip, kinds
        # Neither MP4 nor Matroska has times below zero for pictures: there everything moves up together.
        self._shift = track.start if clip is not None or track.start < 0 else Fraction(0)  # seconds, subtracted
        self._targets: dict[int, Stream] = {}  # output streams by the number of the input's

    def write(self, target: Path) -> list[str]:
        sink = Sink(target)
        try:
            with open_input(self._info.path) as source:
                copied, _ = stream_copy.plan(source, self._info.stream_index, self._container)
                copied = [item for item in copied if source.streams[item.index].type in self._kinds]
                stream_copy.read_covers(self._info.path, copied)
                warnings = self._mux(sink, source, copied)
            sink.close()
            return warnings
        finally:
            sink.abandon()

    def _mux(self, sink: Sink, source: InputContainer, copied: list[Copied]) -> list[str]:
        time_base = self._track.settings.time_base
        sound = [stream.codec_context for stream in source.streams.audio if stream.codec_context is not None]
        rates = [context.sample_rate for context in sound if context.sample_rate]
        options = muxer_options(self._container, source.metadata, _has_cover(copied), time_base, rates)
        out = av.open(
            sink, "w", format=CONTAINERS[self._container], container_options=options,
            metadata_errors="surrogateescape", buffer_size=1 << 20,
        )  # fmt: skip
        picture = self._track.add_to(out, self._container)
        if self._info.stream_index < len(source.streams):  # in a damaged file it may only show up later
            stream_copy.dress(picture, source.streams[self._info.stream_index])
        matroska_out = self._container in ("mkv", "webm")
        if matroska_out:
            picture.metadata["title"] = picture.metadata.get("title", "") + matroska.DISPLAY_ROOM
        self._add_streams(out, source, copied)
        if self._container == "mov":
            for stream in out.streams:
                if stream.metadata.get("language") in QUICKTIME_LANGUAGES:
                    stream.metadata["language"] = QUICKTIME_LANGUAGES[stream.metadata["language"]]
        out.metadata.update(kept_tags(source.metadata))
        out.set_chapters(self._chapters(source))
        out.start_encoding()
        repairs = {index: stream_copy.Repair(strict=not matroska_out) for index in self._targets}
        others = self._other_packets(source, copied, repairs)
        for packet in heapq.merge(self._track.packets(picture, self._shift), others, key=_decoding_time):
            out.mux_one(packet)
            sink.check()
        out.close()
        sink.check()
        if matroska_out:
            self._track.write_display_size(sink.name)
        reports = ((stream_copy.describe(source.streams[index]), repair.report()) for index, repair in repairs.items())
        return [f"{name}: {report}" for name, report in reports if report]

    def _add_streams(self, out: OutputContainer, source: InputContainer, copied: list[Copied]) -> None:
        for item in copied:
            stream = source.streams[item.index]
            if item.kind == "text":
                self._targets[item.index] = stream_copy.add_text(out, stream, item.codec)
            elif item.kind == "acm":
                self._targets[item.index] = stream_copy.add_acm(out, source, stream)
            elif item.kind == "copy" and self._container in ("mkv", "webm") and self._clip is None:
                self._targets[item.index] = stream_copy.add_primed(out, stream, self._info.path)
            elif item.kind in ("copy", "cover"):
                self._targets[item.index] = stream_copy.add_copy(out, stream)
        stream_copy.add_attachments(out, source, copied)  # last: they have no packets and take no time

    def _chapters(self, source: InputContainer) -> list[dict]:
        chapters = []
        for chapter in source.chapters():
            base = chapter["time_base"]
            start, end = chapter["start"] * base, chapter["end"] * base
            if self._clip is not None:
                if end <= self._clip[0] or start >= self._clip[1]:
                    continue
                start, end = max(start, self._clip[0]), min(end, self._clip[1])
            start, end = (max(round((time - self._shift) / base), 0) for time in (start, end))
            chapters.append(chapter | {"start": start, "end": end})
        return chapters

    def _other_packets(
        self, source: InputContainer, copied: list[Copied], repairs: dict[int, stream_copy.Repair]
    ) -> Iterator[av.Packet]:
        """Packets of the other streams as the input has them, times repaired and moved."""
        items = {item.index: item for item in copied if item.index in self._targets}
        for item in items.values():
            if item.kind == "cover":
                yield self._cover(item)
        read = [source.streams[index] for index, item in items.items() if item.kind != "cover"]
        if not read:
            return
        for stream in source.streams:
            if stream not in read:
                stream.discard = Discard.all  # not even read, where the demuxer can skip
        for packet in _readable(source, read):
            if packet.size and not subtitles.is_gap(packet):
                for ready in repairs[packet.stream_index].push(packet):
                    yield from self._placed(ready, items[packet.stream_index])
        for stream in read:
            for ready in repairs[stream.index].push(None):
                yield from self._placed(ready, items[stream.index])

    def _placed(self, packet: av.Packet, item: Copied) -> Iterator[av.Packet]:
        if self._clip is not None and not self._cut(packet):
            return
        if item.kind == "text":
            packet = _as_text(packet, item.codec)
            if packet is None:
                return
        moved = round(self._shift / packet.time_base)
        packet.pts, packet.dts = packet.pts - moved, packet.dts - moved
        packet.stream = self._targets[item.index]
        yield packet

    def _cut(self, packet: av.Packet) -> bool:
        """False for a packet outside the clip; a subtitle that is shown when the clip starts or ends is shortened.

        Sound that begins before the clip is left out as a whole: Matroska has no times below zero.
        """
        base = packet.time_base
        first, last = (round(time / base) for time in self._clip)
        start, end = packet.pts, packet.pts + (packet.duration or 0)
        if packet.stream.type == "subtitle" and start < last and end > first:
            packet.pts = packet.dts = max(start, first)
            packet.duration = min(end, last) - packet.pts
            return True
        return first <= start < last

    def _cover(self, item: Copied) -> av.Packet:
        packet = av.Packet(item.picture)
        packet.pts = packet.dts = 0
        packet.time_base, packet.is_keyframe, packet.stream = Fraction(1, 90000), True, self._targets[item.index]
        return packet


def _as_text(packet: av.Packet, codec: str) -> av.Packet | None:
    content = subtitles.convert(bytes(packet), packet.stream.codec_context.codec.canonical_name, codec)
    if content is None:
        return None
    text = av.Packet(content)
    text.pts = text.dts = packet.pts
    text.duration, text.time_base, text.is_keyframe = packet.duration, packet.time_base, True
    return text


def _decoding_time(packet: av.Packet) -> Fraction:
    return packet.dts * packet.time_base


def _readable(source: InputContainer, wanted: list[Stream]) -> Iterator[av.Packet]:
    """Packets of those streams up to the end, or to where the file can't be read any further."""
    packets = source.demux(wanted)
    while True:
        try:
            yield next(packets)
        except (StopIteration, av.error.FFmpegError):
            return
