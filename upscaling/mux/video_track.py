"""The main stream's track in the output: its header, and the segments' packets with their exact times."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import av
import av.error
from av.container import InputContainer, OutputContainer
from av.stream import Stream

from upscaling.decode.probe import VideoInfo
from upscaling.demux.input_file import VideoError, open_input
from upscaling.demux.reader import seconds_per_tick
from upscaling.demux.survey import open_timed
from upscaling.encode.segment_writer import FRAME_INDEX_OFFSET, SegmentError
from upscaling.encode.settings import FALLBACK_RATE, PROGRESSIVE, EncodeSettings, colour_codes
from upscaling.mux import matroska
from upscaling.mux.video_marks import fitting_marks, view_size


@dataclass(frozen=True)
class Segment:
    """A segment file and the exact presentation times of its frames, ticks of the settings' time base, in order."""

    path: Path
    pts: tuple[int, ...]


class VideoTrack:
    """All segments as one track. `pts` are all frames' times, ticks of the settings' time base.

    `until` is the end of the input's part that the segments hold, in seconds, or None if they reach the
    input's last frame. SegmentError: there is no frame, times are not strictly increasing, or a segment does
    not fit the others or its list of times.
    """

    def __init__(
        self, segments: Sequence[Segment], info: VideoInfo, settings: EncodeSettings, until: Fraction | None
    ) -> None:
        self.segments, self.settings = segments, settings
        self._scale = Fraction(settings.width, info.width)
        self.pts = [pts for segment in segments for pts in segment.pts]
        if not self.pts:
            raise SegmentError("there is no frame to join")
        if any(b <= a for a, b in pairwise(self.pts)):
            raise SegmentError("segment timestamps are not strictly increasing; rerun with --restart")
        self.start = self.pts[0] * settings.time_base  # seconds
        rate = settings.frame_rate or FALLBACK_RATE
        self._frame_ticks = max(1, round(1 / (rate * settings.time_base)))
        last = _last_duration(info, settings.time_base, self.pts, until)
        self.end = self.pts[-1] + (last or self._frame_ticks)  # ticks: the end of the last frame
        self._depth, last_decoded = _decoding_order(segments)
        self._lead = self._lead_time(last_decoded)

    def _lead_time(self, last_decoded: int) -> int:
        """Ticks from the first decoding time to the first presentation time, at least one for each frame of depth.

        MP4 derives a track's length from the decoding times: it comes out right if the lead is as long as the
        last `depth` frames are shown, less the frame decoded last. A lead beyond a second is not worth that.
        """
        if not self._depth:
            return 0
        lead = self.end - self.pts[max(len(self.pts) - 1 - self._depth, 0)] - self._duration(last_decoded)
        longest = max(self._depth * self._frame_ticks, round(1 / self.settings.time_base))
        return max(self._depth, min(lead, longest))

    def _duration(self, index: int) -> int:
        """Ticks that a frame is shown; `index` counts from 0."""
        return (self.pts[index + 1] if index + 1 < len(self.pts) else self.end) - self.pts[index]

    def add_to(self, out: OutputContainer, container: str) -> Stream:
        """Adds the track's stream to the output: everything but tags and disposition."""
        settings = self.settings
        with open_input(self.segments[0].path) as first:
            stream = first.streams.video[0]
            family, tag = stream.codec_context.codec.canonical_name, stream.codec_context.codec_tag
            if marks := self.marks(container):
                packet = next(bytes(p) for p in first.demux(stream))
                extradata = tag.encode("latin-1") if family == "prores" else stream.codec_context.extradata or b""
                size = (settings.width, settings.height)
                header = matroska.video_template(family, extradata, size, marks, packet)
                with av.open(BytesIO(header)) as template:
                    added = out.add_stream_from_template(template.streams.video[0], opaque=True)
            else:
                added = out.add_stream_from_template(stream, opaque=True)
        context = added.codec_context
        added.time_base = settings.time_base
        context.sample_aspect_ratio = settings.sample_aspect_ratio
        timecode = settings.side_data.get("timecode")
        # MP4 and MOV have a rate for their time code track alone; Matroska's is of the frames.
        counted = Fraction(timecode["rate"]) if timecode and container in ("mp4", "mov") else Fraction(0)
        context.framerate = counted or self._constant_rate()
        context.field_order = PROGRESSIVE
        for name, value in colour_codes(settings.colour).items():
            setattr(context, name, value)
        if container in ("mp4", "mov") and family == "hevc":
            context.codec_tag = "hvc1"  # Apple's players need it; the parameter sets are in the header only
        elif family == "prores":
            context.codec_tag = tag  # the profile
        if settings.codec == "libvpx-vp9" and settings.pixel_format.startswith("yuva"):
            added.metadata["alpha_mode"] = "1"
        return added

    def marks(self, container: str) -> dict[str, dict]:
        """The HDR metadata, and the stereo and 360° marks that the container holds."""
        return fitting_marks(container, self.settings, self._scale)

    def write_display_size(self, path: Path, container: str) -> None:
        """Writes the sample aspect ratio into a finished Matroska file whose track's name ends in DISPLAY_ROOM."""
        settings = self.settings
        width, height = view_size(settings.width, settings.height, self.marks(container))
        size = matroska.display_size(width, height, settings.sample_aspect_ratio)
        matroska.write_display_size(path, size)

    def _constant_rate(self) -> Fraction:
        """The frame rate if every frame is shown exactly that long, to the tick; else 0."""
        rate = self.settings.frame_rate or Fraction(0)
        ticks = 1 / (rate * self.settings.time_base) if rate else 0
        return rate if all(abs(b - a - ticks) <= 1 for a, b in pairwise(self.pts)) else Fraction(0)

    def packets(self, target: Stream, shift: Fraction) -> Iterator[av.Packet]:
        """Packets of all segments in decoding order for that stream, `shift` seconds earlier than their times.

        Decoding time i is the presentation time of the frame `depth` frames before i in presentation order: it
        grows strictly and never passes a packet's own, across segments and for any frame timing.
        """
        offset = round(shift / self.settings.time_base)
        for decoded, (packet, index) in enumerate(_packets(self.segments)):
            early = decoded - self._depth
            dts = self.pts[early] if early >= 0 else self.pts[0] + early * self._lead // self._depth
            packet.pts, packet.dts, packet.duration = self.pts[index] - offset, dts - offset, self._duration(index)
            packet.time_base = self.settings.time_base
            packet.stream = target
            yield packet


def _decoding_order(segments: Sequence[Segment]) -> tuple[int, int]:
    """(how many frames decoding runs ahead of presentation, index of the frame that is decoded last)."""
    depth = index = 0
    for decoded, (_, index) in enumerate(_packets(segments)):
        depth = max(depth, decoded - index)
    return depth, index


def _packets(segments: Sequence[Segment]) -> Iterator[tuple[av.Packet, int]]:
    """All packets in decoding order, each with the index (from 0, presentation order) of its frame.

    SegmentError: a segment can't be read, was encoded otherwise than the first, or has more or fewer frames
    than times.
    """
    first = 0  # index of the segment's first frame
    extradata = None
    for segment in segments:
        count = 0
        for packet, stream in _segment_packets(segment):
            own = stream.codec_context.extradata
            extradata = extradata or own
            if own != extradata:
                raise SegmentError(
                    f"{segment.path.name} was encoded differently from the first segment; rerun with --restart"
                )
            assert packet.pts is not None  # Matroska has a time for each packet
            index = packet.pts - FRAME_INDEX_OFFSET
            if not 0 <= index < len(segment.pts):
                raise SegmentError(f"{segment.path.name} has more frames than times")
            yield packet, first + index
            count += 1
        if count != len(segment.pts):
            raise SegmentError(f"{segment.path.name} has fewer frames than its {len(segment.pts)} times")
        first += count


def _segment_packets(segment: Segment) -> Iterator[tuple[av.Packet, Stream]]:
    """A segment's packets in decoding order, with their stream; SegmentError if it can't be read."""
    try:
        with open_input(segment.path) as container:
            stream = container.streams.video[0]
            for packet in container.demux(stream):
                if packet.size:
                    yield packet, stream
    except (av.error.FFmpegError, VideoError, IndexError) as error:
        raise SegmentError(f"cannot read segment {segment.path.name}: {error}") from error


def _last_duration(info: VideoInfo, time_base: Fraction, pts: Sequence[int], until: Fraction | None) -> int | None:
    """Ticks that the input shows the frame at `pts[-1]`; None if it does not say.

    A part is shown until its end. The length of the whole track is more reliable than its last packet: packets
    of MP4 files with B-frames have the time to the next one in decoding order. But an end can be anything in a
    damaged file: one that is later than the longest gap, and than a second, is not believed.
    """
    longest = max([round(1 / time_base), *(b - a for a, b in pairwise(pts))])
    if info.pictures:
        end = pts[0] * time_base + info.duration if until is None and info.duration else until
        return max(1, round(end / time_base) - pts[-1]) if end is not None else None
    with contextlib.suppress(av.error.FFmpegError, OSError, VideoError, IndexError), open_timed(info.path) as source:
        stream = source.container.streams[info.stream_index]
        tick = seconds_per_tick(stream)
        if until is None and source.clock.span:
            until = source.clock.span[1] * tick
        if until is None and "matroska" in source.container.format.name:
            until = _matroska_end(source.container, stream, pts[0] * time_base)
        if until is None and stream.duration and stream.start_time is not None:
            until = (stream.start_time + stream.duration) * tick
        if until is not None and 0 < round(until / time_base) - pts[-1] <= longest:
            return round(until / time_base) - pts[-1]
        if not source.clock.is_continuous:
            return None  # no seeking in these files
        last = round(pts[-1] * time_base / tick)
        source.container.seek(last, stream=stream)
        for packet in source.container.demux(stream):
            if packet.pts == last and packet.duration:
                return max(1, round(packet.duration * tick / time_base))
    return None


def _matroska_end(container: InputContainer, stream: Stream, start: Fraction) -> Fraction | None:
    """The end of a track in seconds, by its tag DURATION, else by the file's if there is no other track; or None.

    Matroska's blocks rarely have durations. FFmpeg's tag counts from zero, mkvmerge's from the track's first frame.
    """
    tags = {key.upper(): value for key, value in stream.metadata.items()}
    text = next((value for key, value in tags.items() if key.startswith("DURATION")), "")
    if found := re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", text.strip()):
        end = int(found[1]) * 3600 + int(found[2]) * 60 + Fraction(found[3])
        return end + start if any(key.startswith("_STATISTICS") for key in tags) else end
    if container.duration and len(container.streams) == 1:
        return Fraction(container.duration, 1_000_000)  # AV_TIME_BASE
    return None
