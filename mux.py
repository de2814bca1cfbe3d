"""The output: segments joined with exact times, and every other stream of the input copied beside them.

Reads segments and input once, in step, and holds no more than a moment of either in memory.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import av
import av.error
from av.container import InputContainer, OutputContainer
from av.stream import Discard, Stream

import matroska
import streams
import subtitles
from encode import FALLBACK_RATE, PROGRESSIVE, RANK_OFFSET, EncodeSettings, SegmentError, colour_codes
from errors import InputError
from sink import Sink
from streams import CONTAINERS, Copied
from video import VideoInfo

Clip = tuple[Fraction, Fraction]  # seconds of the input: from, up to but not including
_FAMILIES = {"libx264": "h264", "libx265": "hevc", "libsvtav1": "av1", "libvpx-vp9": "vp9", "prores_ks": "prores"}
# Tags that the iTunes-style list of MP4 has a place for; others need the QuickTime-style one.
_ITUNES_TAGS = {
    "title", "artist", "album_artist", "composer", "album", "date", "comment", "genre", "copyright", "grouping",
    "lyrics", "description", "synopsis", "show", "episode_id", "network", "keywords", "track", "disc", "compilation",
    "creation_time", "encoder", "media_type", "hd_video", "gapless_playback", "season_number", "episode_sort",
    "major_brand", "minor_version", "compatible_brands", "location", "location-eng", "rating",
}  # fmt: skip
_BRANDS = {"major_brand", "minor_version", "compatible_brands", "encoder"}
_MAX_TIMESCALE = 10_000_000  # ticks a second that MP4's 32-bit sample durations bear


@dataclass(frozen=True)
class Segment:
    """A segment file and the exact presentation times of its frames, ticks of the settings' time base, in order."""

    path: Path
    pts: tuple[int, ...]


class _DeeperReorder(Exception):
    """A later segment reorders its frames further than the first; `depth` frames are needed."""

    def __init__(self, depth: int) -> None:
        self.depth = depth


def container_of(output: Path) -> str:
    """`mp4`, `mkv`, `mov` or `webm`, by the output's name; InputError for any other."""
    extension = output.suffix.lower().lstrip(".")
    if extension not in CONTAINERS:
        raise InputError(f"can't write {output.name!r}: the output is one of .{', .'.join(CONTAINERS)}")
    return extension


def check_container(info: VideoInfo, output: Path, settings: EncodeSettings) -> list[str]:
    """Before anything runs: one warning for every stream of the input that the output can't hold.

    InputError where the output's container is not known or can't hold the codec.
    """
    container = container_of(output)
    family = _FAMILIES.get(settings.codec, settings.codec.split("_")[0])
    if not _holds_codec(container, family):
        others = [f".{name}" for name in CONTAINERS if _holds_codec(name, family)]
        raise InputError(f".{container} can't hold {family} video from {settings.codec}; {', '.join(others)} can")
    with streams.open_source(info.path) as source:
        copied, warnings = streams.plan(source, info.stream_index, container)
        if container == "mkv" or not source.chapters():
            return warnings + _lost_tags(source, container, copied)
        return warnings + _lost_tags(source, container, copied)


def _holds_codec(container: str, family: str) -> bool:
    out = av.open(BytesIO(), "w", format=CONTAINERS[container])
    try:
        out.add_mux_stream(family, width=64, height=64)
    except ValueError:
        return False
    return True


def _lost_tags(source: InputContainer, container: str, copied: list[Copied]) -> list[str]:
    unknown = sorted(set(source.metadata) - _ITUNES_TAGS)
    if container == "mp4" and unknown and any(item.kind == "cover" for item in copied):
        return [f"tags {', '.join(unknown)} are left out: mp4 holds either them or the cover picture, mkv could both"]
    return []


def join(
    segments: Sequence[Segment],
    info: VideoInfo,
    settings: EncodeSettings,
    target: Path,
    container: str,
    clip: Clip | None = None,
) -> list[str]:
    """Writes `target` (any name): the segments' frames at their times, all other streams of the input, tags, chapters.

    `container` is one of `streams.CONTAINERS`. With `clip`, only that part of the other streams goes in and
    everything is moved so that the first frame is shown at zero. Returns warnings, one line each. When it
    returns, the disk has the file. SegmentError: a segment does not fit the others or its list of times;
    OSError: the disk does not take it.
    """
    depth = _reorder_depth(segments[0]) if segments else 0
    while True:
        try:
            return _Join(segments, info, settings, target, container, clip, depth).run()
        except _DeeperReorder as deeper:
            depth = deeper.depth


class _Join:
    """One writing of the output; `depth` is how many frames decoding runs ahead of showing."""

    def __init__(self, segments, info, settings, target, container, clip, depth) -> None:
        self.segments, self.info, self.settings = segments, info, settings
        self.target, self.container, self.clip, self.depth = target, container, clip, depth
        self.pts = [pts for segment in segments for pts in segment.pts]
        if not self.pts:
            raise SegmentError("there is no frame to join")
        if any(b <= a for a, b in pairwise(self.pts)):
            raise SegmentError("the segments' frame times do not grow: rerun with --restart")
        start = self.pts[0] * settings.time_base
        # Neither MP4 nor Matroska has times below zero for pictures: there everything moves up together.
        self.shift = start if clip is not None or start < 0 else Fraction(0)  # seconds, subtracted
        self.end = self.pts[-1] + _last_duration(info, settings, self.pts)  # ticks: where the last frame ends

    def run(self) -> list[str]:
        sink = Sink(self.target)
        try:
            with streams.open_source(self.info.path) as source:
                copied, _ = streams.plan(source, self.info.stream_index, self.container)
                streams.read_covers(self.info.path, copied)
                warnings = self._write(sink, source, copied)
            sink.close()
            return warnings
        finally:
            sink.abandon()

    def _write(self, sink: Sink, source: InputContainer, copied: list[Copied]) -> list[str]:
        options = self._muxer_options(source, copied)
        out = av.open(
            sink, "w", format=CONTAINERS[self.container], container_options=options,
            metadata_errors="surrogateescape", buffer_size=1 << 20,
        )  # fmt: skip
        picture = self._add_picture(out, source)
        targets = self._add_streams(out, source, copied)
        streams.add_attachments(out, source, copied)
        out.metadata.update({k: v for k, v in streams.tags(source.metadata).items() if k not in _BRANDS})
        out.set_chapters(self._chapters(source))
        out.start_encoding()
        for item in copied:
            if item.kind == "cover":
                self._mux_cover(out, targets[item.index], item.picture)
        repairs = {index: streams.Repair() for index in targets}
        packets = heapq.merge(
            self._picture_packets(picture), self._other_packets(source, copied, targets, repairs), key=_decoding_time
        )
        for packet in packets:
            out.mux_one(packet)
            sink.check()
        out.close()
        sink.check()
        return [
            f"{streams.describe(source.streams[index])}: {repair.repaired} packets had damaged times, repaired"
            for index, repair in repairs.items()
            if repair.repaired
        ]

    def _muxer_options(self, source: InputContainer, copied: list[Copied]) -> dict[str, str]:
        # Half a second: packets come in order of time already, and what waits for a sparse stream is in memory.
        options = dict(streams.OPTIONS) | {"max_interleave_delta": "500000"}
        if self.container in ("mp4", "mov"):
            flags = "+faststart+write_colr"
            unknown = set(source.metadata) - _ITUNES_TAGS
            if self.container == "mov" or (unknown and not any(item.kind == "cover" for item in copied)):
                flags += "+use_metadata_tags"
            timescale = _timescale(self.settings.time_base)
            options |= {"movflags": flags, "video_track_timescale": str(timescale)}
            options["movie_timescale"] = str(timescale)  # edit lists are in it: a start is exact, not to 1 ms
        return options

    def _add_picture(self, out: OutputContainer, source: InputContainer) -> Stream:
        settings = self.settings
        with av.open(str(self.segments[0].path.absolute())) as first:
            stream = first.streams.video[0]
            tag = stream.codec_context.codec_tag
            template = self._hdr_template(first, stream)
            added = out.add_stream_from_template(template, opaque=True)
        context = added.codec_context
        added.time_base = settings.time_base
        context.sample_aspect_ratio = settings.sample_aspect_ratio
        context.framerate = self._steady_rate()
        context.field_order = PROGRESSIVE
        for name, value in colour_codes(settings.colour).items():
            setattr(context, name, value)
        if self.container in ("mp4", "mov") and context.codec.canonical_name == "hevc":
            context.codec_tag = "hvc1"  # what Apple's players take; the parameter sets are in the header only
        elif context.codec.canonical_name == "prores":
            context.codec_tag = tag  # the profile
        main = source.streams[self.info.stream_index]
        added.metadata.update(streams.tags(main.metadata))
        if "alpha_mode" in stream.metadata or (
            settings.pixel_format.startswith("yuva") and settings.codec == "libvpx-vp9"
        ):
            added.metadata["alpha_mode"] = "1"
        added.disposition = main.disposition
        return added

    def _hdr_template(self, first: InputContainer, stream: Stream) -> Stream:
        """The segment's stream, or one like it that carries the HDR side data in its header."""
        settings = self.settings
        if not settings.side_data:
            return stream
        packet = next(bytes(p) for p in first.demux(stream))
        context = stream.codec_context
        family = context.codec.canonical_name
        extradata = context.codec_tag.encode("latin-1") if family == "prores" else context.extradata or b""
        size = (settings.width, settings.height)
        self._template = av.open(BytesIO(matroska.video_template(family, extradata, size, settings.side_data, packet)))
        return self._template.streams.video[0]

    def _steady_rate(self) -> Fraction:
        """The frame rate if all frames last as long as that, to the tick; 0 if they do not."""
        rate = self.settings.frame_rate
        if not rate or len(self.pts) < 2:
            return rate or Fraction(0)
        ticks = 1 / (rate * self.settings.time_base)
        steady = all(abs(b - a - ticks) <= 1 for a, b in pairwise(self.pts))
        return rate if steady else Fraction(0)

    def _add_streams(self, out: OutputContainer, source: InputContainer, copied: list[Copied]) -> dict[int, Stream]:
        """Output streams by the number of the input's."""
        targets = {}
        for item in copied:
            stream = source.streams[item.index]
            if item.kind == "text":
                targets[item.index] = streams.add_text(out, stream, item.codec)
            elif item.kind in ("copy", "cover"):
                template = None
                primed = streams.primed(self.info.path, stream) if self.container in ("mkv", "webm") else None
                if primed is not None and self.clip is None:
                    self._primed = av.open(BytesIO(primed))
                    template = self._primed.streams[0]
                targets[item.index] = streams.add_copy(out, stream, template)
        return targets

    def _chapters(self, source: InputContainer) -> list[dict]:
        chapters = []
        first, last = self.clip or (None, None)
        for chapter in source.chapters():
            base = chapter["time_base"]
            start, end = chapter["start"] * base, chapter["end"] * base
            if first is not None:
                if end <= first or start >= last:
                    continue
                start, end = max(start, first), min(end, last)
            start, end = (max(round((time - self.shift) / base), 0) for time in (start, end))
            chapters.append(chapter | {"start": start, "end": end})
        return chapters

    def _picture_packets(self, target: Stream) -> Iterator[av.Packet]:
        """Packets of all segments in decoding order, with their times.

        Decoding time i is the presentation time `depth` frames earlier in order of presentation: grows
        strictly and never passes a packet's own, across segments and for any frame timing.
        """
        base, step = self.settings.time_base, self._step()
        offset = round(self.shift / base)  # the shift is the first frame's time: a whole number of ticks
        emitted = first = 0
        extradata = None
        for segment in self.segments:
            with av.open(str(segment.path.absolute())) as container:
                stream = container.streams.video[0]
                extradata = extradata or stream.codec_context.extradata
                if stream.codec_context.extradata != extradata:
                    raise SegmentError(f"{segment.path.name} comes from another encoder than the first: --restart")
                count = 0
                for packet in container.demux(stream):
                    if not packet.size:
                        continue
                    rank = first + packet.pts - RANK_OFFSET
                    if not first <= rank < first + len(segment.pts):
                        raise SegmentError(f"{segment.path.name} has more frames than times")
                    if emitted - self.depth > rank:
                        raise _DeeperReorder(emitted - rank)
                    early = emitted - self.depth
                    dts = self.pts[early] if early >= 0 else self.pts[0] + early * step
                    packet.pts, packet.dts = self.pts[rank] - offset, dts - offset
                    packet.duration = (self.pts[rank + 1] if rank + 1 < len(self.pts) else self.end) - self.pts[rank]
                    packet.time_base = base
                    packet.stream = target
                    emitted, count = emitted + 1, count + 1
                    yield packet
            if count != len(segment.pts):
                raise SegmentError(f"{segment.path.name} has {count} frames, not {len(segment.pts)}")
            first += count

    def _step(self) -> int:
        """Ticks between the decoding times before the first frame's: as long as a usual frame."""
        rate = self.settings.frame_rate or FALLBACK_RATE
        return max(1, round(1 / (rate * self.settings.time_base)))

    def _other_packets(
        self, source: InputContainer, copied: list[Copied], targets: dict[int, Stream], repairs: dict
    ) -> Iterator[av.Packet]:
        """Packets of the other streams as the input has them, times repaired and moved."""
        items = {item.index: item for item in copied if item.index in targets and item.kind != "cover"}
        if not items:
            return
        for stream in source.streams:
            if stream.index not in items:
                stream.discard = Discard.all  # not even read, where the demuxer can skip
        for packet in _readable(source, [source.streams[index] for index in items]):
            if not packet.size:
                continue
            index = packet.stream_index
            for ready in repairs[index].push(packet):
                yield from self._placed(ready, items[index], targets[index])
        for index, repair in repairs.items():
            for ready in repair.push(None):
                yield from self._placed(ready, items[index], targets[index])

    def _placed(self, packet: av.Packet, item: Copied, target: Stream) -> Iterator[av.Packet]:
        base = packet.time_base
        if self.clip is not None:
            start, end = packet.pts * base, (packet.pts + (packet.duration or 0)) * base
            if end <= self.clip[0] or start >= self.clip[1]:
                return
        moved = round(self.shift / base)
        if item.kind == "text":
            content = subtitles.convert(bytes(packet), packet.stream.codec_context.codec.canonical_name, item.codec)
            if content is None:
                return
            text = av.Packet(content)
            text.pts, text.duration, text.time_base, text.is_keyframe = packet.pts, packet.duration, base, True
            packet = text
            packet.dts = packet.pts
        packet.pts, packet.dts = packet.pts - moved, packet.dts - moved
        packet.stream = target
        yield packet

    def _mux_cover(self, out: OutputContainer, target: Stream, picture: bytes) -> None:
        packet = av.Packet(picture)
        packet.pts = packet.dts = 0
        packet.time_base, packet.is_keyframe, packet.stream = Fraction(1, 90000), True, target
        out.mux_one(packet)


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


def _timescale(time_base: Fraction) -> int:
    """Ticks a second of an MP4 track that holds every multiple of the time base; 10000 or more, as FFmpeg does."""
    scale = time_base.denominator
    if scale > _MAX_TIMESCALE:
        return 1_000_000
    while scale < 10_000:
        scale *= 2
    return scale


def _reorder_depth(segment: Segment) -> int:
    """How many frames the decoding of a segment runs ahead of showing them."""
    depth = emitted = 0
    with av.open(str(segment.path.absolute())) as container:
        for packet in container.demux(container.streams.video[0]):
            if packet.size:
                depth = max(depth, emitted - (packet.pts - RANK_OFFSET))
                emitted += 1
    return depth


def _last_duration(info: VideoInfo, settings: EncodeSettings, pts: Sequence[int]) -> int:
    """Ticks that the last frame is shown: what the input says, else as long as a usual frame."""
    rate = settings.frame_rate or FALLBACK_RATE
    usual = max(1, round(1 / (rate * settings.time_base)))
    try:
        with streams.open_source(info.path) as source:
            stream = source.streams[info.stream_index]
            near = round(pts[-1] * settings.time_base / stream.time_base)
            source.seek(near, stream=stream)
            for packet in source.demux(stream):
                if packet.pts == near and packet.duration:
                    return max(1, round(packet.duration * stream.time_base / settings.time_base))
    except (av.error.FFmpegError, OSError):
        pass
    return usual
