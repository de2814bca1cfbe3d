"""The main picture's track in the output: its header, and the segments' packets with their exact times."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import av
import av.error
from av.container import OutputContainer
from av.stream import Stream

from upscaling.decode.probe import VideoError, VideoInfo, open_input
from upscaling.encode import matroska
from upscaling.encode.segment_writer import (
    FALLBACK_RATE,
    FRAME_INDEX_OFFSET,
    PROGRESSIVE,
    EncodeSettings,
    SegmentError,
    colour_codes,
)


@dataclass(frozen=True)
class Segment:
    """A segment file and the exact presentation times of its frames, ticks of the settings' time base, in order."""

    path: Path
    pts: tuple[int, ...]


class DeeperReorder(Exception):
    """A later segment reorders its frames further than the first; `depth` frames are needed."""

    def __init__(self, depth: int) -> None:
        self.depth = depth


class Track:
    """All segments as one track. `pts` are all frames' times, ticks of the settings' time base.

    `depth` is how many frames decoding runs ahead of showing; `until` is where the part of the input that the
    segments are ends, in seconds, or None where they reach to the input's last frame. SegmentError where there
    is no frame, or times do not grow.
    """

    def __init__(
        self, segments: Sequence[Segment], info: VideoInfo, settings: EncodeSettings, depth: int, until: Fraction | None
    ) -> None:
        self.segments, self.settings, self.depth = segments, settings, depth
        self.pts = [pts for segment in segments for pts in segment.pts]
        if not self.pts:
            raise SegmentError("there is no frame to join")
        if any(b <= a for a, b in pairwise(self.pts)):
            raise SegmentError("the segments' frame times do not grow: rerun with --restart")
        self.start = self.pts[0] * settings.time_base  # seconds
        rate = settings.frame_rate or FALLBACK_RATE
        self._usual = max(1, round(1 / (rate * settings.time_base)))  # ticks of a usual frame
        last = _last_duration(info, settings.time_base, self.pts, until)
        self.end = self.pts[-1] + (last or self._usual)  # ticks: where the last frame's showing ends

        self._lead = self._lead_time()

    def _lead_time(self) -> int:
        """Ticks from the first decoding time to the first presentation time, one at least for each frame of `depth`.

        MP4 derives a track's length from the decoding times: it comes out right if the lead is as long as
        the last frames, less the one decoded last. A lead beyond a second is not worth that.
        """
        last = -1  # timestamp of the packet decoded last; none is checked when the packets are written
        for packet, _ in _segment_packets(self.segments[-1]):
            last = packet.pts
        rank = len(self.pts) - len(self.segments[-1].pts) + last - FRAME_INDEX_OFFSET
        if not self.depth or not 0 <= rank < len(self.pts):
            return self.depth * self._usual
        lead = self.end - self.pts[max(len(self.pts) - 1 - self.depth, 0)] - self._duration(rank)
        longest = max(self.depth * self._usual, round(1 / self.settings.time_base))
        return max(self.depth, min(lead, longest))

    def _duration(self, rank: int) -> int:
        """Ticks that a frame is shown."""
        return (self.pts[rank + 1] if rank + 1 < len(self.pts) else self.end) - self.pts[rank]

    def add_to(self, out: OutputContainer, container: str) -> Stream:
        """Adds the track's stream to the output: everything but tags and disposition."""
        settings = self.settings
        with av.open(_name(self.segments[0])) as first:
            stream = first.streams.video[0]
            family, tag = stream.codec_context.codec.canonical_name, stream.codec_context.codec_tag
            if settings.side_data:
                packet = next(bytes(p) for p in first.demux(stream))
                extradata = tag.encode("latin-1") if family == "prores" else stream.codec_context.extradata or b""
                size = (settings.width, settings.height)
                header = matroska.video_template(family, extradata, size, settings.side_data, packet)
                with av.open(BytesIO(header)) as template:
                    added = out.add_stream_from_template(template.streams.video[0], opaque=True)
            else:
                added = out.add_stream_from_template(stream, opaque=True)
        context = added.codec_context
        added.time_base = settings.time_base
        context.sample_aspect_ratio = settings.sample_aspect_ratio
        context.framerate = self._steady_rate()
        context.field_order = PROGRESSIVE
        for name, value in colour_codes(settings.colour).items():
            setattr(context, name, value)
        if container in ("mp4", "mov") and family == "hevc":
            context.codec_tag = "hvc1"  # what Apple's players take; the parameter sets are in the header only
        elif family == "prores":
            context.codec_tag = tag  # the profile
        if settings.codec == "libvpx-vp9" and settings.pixel_format.startswith("yuva"):
            added.metadata["alpha_mode"] = "1"
        return added

    def write_display_size(self, name: str) -> None:
        """Puts the sample aspect ratio into a finished Matroska file whose track's name ends in the room for it."""
        settings = self.settings
        size = matroska.display_size(settings.width, settings.height, settings.sample_aspect_ratio)
        matroska.finish_tracks(Path(name), size)

    def _steady_rate(self) -> Fraction:
        """The frame rate if all frames last as long as that, to the tick; 0 if they do not."""
        rate = self.settings.frame_rate or Fraction(0)
        ticks = 1 / (rate * self.settings.time_base) if rate else 0
        return rate if all(abs(b - a - ticks) <= 1 for a, b in pairwise(self.pts)) else Fraction(0)

    def packets(self, target: Stream, shift: Fraction) -> Iterator[av.Packet]:
        """Packets of all segments in decoding order for that stream, `shift` seconds earlier than they are.

        Decoding time i is the presentation time `depth` frames earlier in order of presentation: it grows
        strictly and never passes a packet's own, across segments and for any frame timing. DeeperReorder:
        `depth` is too small; SegmentError: a segment is not what the list of times says.
        """
        offset = round(shift / self.settings.time_base)
        decoded = first = 0
        extradata = None
        for segment in self.segments:
            for packet, stream in _segment_packets(segment):
                extradata = extradata or stream.codec_context.extradata
                if stream.codec_context.extradata != extradata:
                    raise SegmentError(f"{segment.path.name} comes from another encoder than the first: use --restart")
                rank = first + packet.pts - FRAME_INDEX_OFFSET
                if not first <= rank < first + len(segment.pts):
                    raise SegmentError(f"{segment.path.name} has more frames than times")
                if decoded - self.depth > rank:
                    raise DeeperReorder(decoded - rank)
                yield self._timed(packet, rank, decoded, offset, target)
                decoded += 1
            first += len(segment.pts)
            if decoded != first:
                raise SegmentError(f"{segment.path.name} has fewer frames than its {len(segment.pts)} times")

    def _timed(self, packet: av.Packet, rank: int, decoded: int, offset: int, target: Stream) -> av.Packet:
        early = decoded - self.depth
        dts = self.pts[early] if early >= 0 else self.pts[0] + early * self._lead // self.depth
        packet.pts, packet.dts, packet.duration = self.pts[rank] - offset, dts - offset, self._duration(rank)
        packet.time_base = self.settings.time_base
        packet.stream = target
        return packet


def reorder_depth(segment: Segment) -> int:
    """How many frames the decoding of a segment runs ahead of showing them; SegmentError where it can't be read."""
    packets = enumerate(packet for packet, _ in _segment_packets(segment))
    return max((decoded - (packet.pts - FRAME_INDEX_OFFSET) for decoded, packet in packets), default=0)


def _name(segment: Segment) -> str:
    return str(segment.path.absolute())


def _segment_packets(segment: Segment) -> Iterator[tuple[av.Packet, Stream]]:
    """Its packets in decoding order; libav's errors become SegmentErrors."""
    try:
        with av.open(_name(segment)) as container:
            stream = container.streams.video[0]
            for packet in container.demux(stream):
                if packet.size:
                    yield packet, stream
    except (av.error.FFmpegError, IndexError) as error:
        raise SegmentError(f"segment {segment.path.name} can't be read: {error}") from error


def _last_duration(info: VideoInfo, time_base: Fraction, pts: Sequence[int], until: Fraction | None) -> int | None:
    """Ticks that the input shows the frame at `pts[-1]`; None where it does not say.

    A part is shown until its end. The length of the whole track says it better than its last packet: packets
    of MP4 files with B-frames carry the time to the next one that is decoded. But an end may be claimed
    anywhere, so that more than the longest gap, and a second, is not believed.
    """
    believed = max([round(1 / time_base), *(b - a for a, b in pairwise(pts))])
    try:
        with open_input(info.path) as source:
            stream = source.streams[info.stream_index]
            if until is None and stream.duration and stream.start_time is not None:
                until = (stream.start_time + stream.duration) * stream.time_base
            if until is not None and 0 < round(until / time_base) - pts[-1] <= believed:
                return round(until / time_base) - pts[-1]
            near = round(pts[-1] * time_base / stream.time_base)
            source.seek(near, stream=stream)
            for packet in source.demux(stream):
                if packet.pts == near and packet.duration:
                    return max(1, round(packet.duration * stream.time_base / time_base))
    except (av.error.FFmpegError, OSError, VideoError, IndexError):
        pass
    return None
