"""The output: segments joined with exact times, and every other stream of the input copied beside them.

Reads segments and input in step, and holds no more than a moment of either in memory.
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
from upscaling.common.text import SOFTWARE, Loss
from upscaling.decode.probe import VideoInfo
from upscaling.decode.timecode import timecode_at
from upscaling.demux.survey import TimedInput
from upscaling.encode.message_units import lost_messages
from upscaling.encode.output_file import OutputFile
from upscaling.encode.settings import EncodeSettings
from upscaling.mux import matroska, subtitles
from upscaling.mux.containers import (
    CONTAINERS,
    QUICKTIME_LANGUAGES,
    check_codec,
    container_of,
    copy_metadata,
    kept_tags,
    lost_tags,
    muxer_options,
)
from upscaling.mux.read_damage import UnreadablePlaces
from upscaling.mux.stream_copy import CoverStream, StreamCopier
from upscaling.mux.stream_selection import EVERYTHING, StreamChoice, open_streams, select_streams
from upscaling.mux.timeline import Clip, Timeline
from upscaling.mux.video_marks import complete_marks, lost_marks
from upscaling.mux.video_track import Segment, VideoTrack


def check_container(
    info: VideoInfo, output: Path, settings: EncodeSettings, choice: StreamChoice = EVERYTHING
) -> list[str]:
    """Checks before anything runs; returns one warning for everything that the output can't hold as it is.

    InputError if the output's container is unknown or can't hold the codec, or if the choice can't be had.
    """
    container = container_of(output)
    check_codec(container, settings.codec)
    with open_streams(info) as source:
        selection = select_streams(source.container, info, container, choice)
        warnings = selection.notes
        lost = lost_tags(container, source.container.metadata, _has_cover(selection.copiers))
        warnings += lost_marks(container, settings)
        warnings += lost_messages(settings, settings.side_data.get("messages", {}).get("kinds", ()))
        if lost:
            warnings.append(f"tags are left out ({', '.join(lost)}): mp4 holds them or a cover picture, mkv could both")
        return warnings


def _has_cover(copiers: list[StreamCopier]) -> bool:
    return any(isinstance(copier, CoverStream) for copier in copiers)


def join(
    segments: Sequence[Segment],
    info: VideoInfo,
    settings: EncodeSettings,
    target: Path | int,
    container: str,
    clip: Clip | None = None,
    choice: StreamChoice = EVERYTHING,
) -> list[str]:
    """Writes the segments' frames at their times, all other streams of the input, tags and chapters.

    `target` is the name of a temporary file, or a descriptor of an unnamed one, see OutputFile.

    `container` is one of `containers.CONTAINERS`. With `clip`, only that part of the other streams goes in
    and everything is moved so that the first frame is shown at zero. Returns warnings, one line each. When
    it returns, the disk has the file. SegmentError: a segment does not fit the others or its list of times;
    OSError: the disk does not take it.
    """
    track = VideoTrack(segments, info, settings, until=clip[1] if clip else None)
    # Types of streams to copy; fewer after damage that only shows when it is written.
    attempts = [{"video", "audio", "subtitle", "data", "attachment"}, {"audio"}, set()]
    warnings: list[str] = []
    while True:
        try:
            return warnings + _Join(track, info, container, clip, choice, attempts[0]).write(target)
        except av.error.FFmpegError as error:
            failed, *attempts = attempts
            if not attempts:
                raise UpscaleError(f"cannot write the {container} output: {error}") from error
            with open_streams(info) as source:
                kinds = {stream.type for stream in source.container.streams}
                lost = " and ".join(sorted((failed - attempts[0]) & kinds))
            warnings.append(Loss(f"damaged input: {lost} streams can't be copied ({error.strerror}), left out"))


class _Join:
    """One writing of the output, with the input's streams of some types."""

    def __init__(
        self,
        track: VideoTrack,
        info: VideoInfo,
        container: str,
        clip: Clip | None,
        choice: StreamChoice,
        types: set[str],
    ) -> None:
        self._track, self._info, self._container, self._choice, self._types = track, info, container, choice, types
        self._timeline = Timeline.starting_at(track.start, clip)
        self._damage = UnreadablePlaces()
        self._is_matroska = container in ("mkv", "webm")

    def write(self, target: Path | int) -> list[str]:
        """Writes the file; returns what was wrong with the copied streams, one line each."""
        file = OutputFile(target)
        try:
            with open_streams(self._info) as source:
                copiers = select_streams(source.container, self._info, self._container, self._choice).copiers
                copiers = [copier for copier in copiers if copier.stream.type in self._types]
                self._mux(file, source, copiers)
                reports = [copier.report() for copier in copiers]
                reports.append(self._damage.report(copiers))
            file.close()
            return [report for report in reports if report]
        finally:
            file.abandon()

    def _mux(self, file: OutputFile, timed: TimedInput, copiers: list[StreamCopier]) -> None:
        # 1. The output, with options that depend on its streams.
        source = timed.container
        out = self._open(file, source, _has_cover(copiers))
        # 2. Its streams: the video, then the others, attachments last (they have no packets).
        video = self._add_video(out, source)
        for copier in sorted(copiers, key=lambda copier: copier.is_attachment):
            copier.prepare(self._timeline.clip)
            copier.add_to(out)
        # 3. Everything else that the header holds.
        self._set_languages(out)
        out.metadata.update(kept_tags(source.metadata))
        if self._is_matroska and any(key.lower() == "timecode" for key in source.metadata):
            out.metadata.update(self._timecode())  # where it was; the muxers of MP4 and MOV make a track of the video's
        out.set_chapters(self._timeline.chapters(source))
        out.start_encoding()
        # 4. All packets in the order of decoding.
        others = self._other_packets(timed, copiers)
        for packet in heapq.merge(self._track.packets(video, self._timeline.shift), others, key=_decoding_time):
            out.mux_one(packet)
            file.check()
        # 5. The trailer, and what libavformat can't write.
        out.close()
        file.check()
        if self._needs_display_size():
            self._track.write_display_size(Path(file.name), self._container)
        marks = self._track.marks(self._container)
        if not self._is_matroska and marks.keys() & {"stereo", "projection"}:
            complete_marks(Path(file.name), marks)

    def _open(self, file: OutputFile, source: InputContainer, has_cover: bool) -> OutputContainer:
        sound = [stream.codec_context for stream in source.streams.audio if stream.codec_context is not None]
        rates = [context.sample_rate for context in sound if context.sample_rate]
        options = muxer_options(self._container, source.metadata, has_cover, self._track.settings.time_base, rates)
        return av.open(
            file, "w", format=CONTAINERS[self._container], container_options=options,
            metadata_errors="surrogateescape", buffer_size=1 << 20,
        )  # fmt: skip

    def _add_video(self, out: OutputContainer, source: InputContainer) -> Stream:
        video = self._track.add_to(out, self._container)
        if self._info.stream_index < len(source.streams):  # in a damaged file it may only show up later
            copy_metadata(video, source.streams[self._info.stream_index])
        video.metadata["encoder"] = SOFTWARE  # libavformat keeps the file's own encoder tag for its name
        video.metadata.update(self._timecode())
        if self._needs_display_size():
            video.metadata["title"] = video.metadata.get("title", "") + matroska.DISPLAY_ROOM
        return video

    def _timecode(self) -> dict[str, str]:
        """The tag with the time code of the first frame; empty if there is none."""
        timecode = self._track.settings.side_data.get("timecode")
        return {"timecode": timecode_at(timecode, self._track.start)} if timecode else {}

    def _needs_display_size(self) -> bool:
        return self._is_matroska and self._track.settings.sample_aspect_ratio != 1

    def _set_languages(self, out: OutputContainer) -> None:
        if self._container == "mov":
            for stream in out.streams:
                language = stream.metadata.get("language", "")
                if language in QUICKTIME_LANGUAGES:
                    stream.metadata["language"] = QUICKTIME_LANGUAGES[language]

    def _other_packets(self, source: TimedInput, copiers: list[StreamCopier]) -> Iterator[av.Packet]:
        """Packets of the other streams in the input's order, times repaired and moved."""
        for copier in copiers:
            yield from copier.first_packets()
        readers = {copier.stream.index: copier for copier in copiers if copier.reads_packets}
        if not readers:
            return
        for stream in source.container.streams:
            if stream.index not in readers:
                stream.discard = Discard.all  # the demuxer does not even read what it can skip
        for packet in source.packets([copier.stream for copier in readers.values()], self._damage.count):
            self._damage.read(packet)
            if not subtitles.is_gap(packet):
                yield from readers[packet.stream_index].copy(packet, self._timeline)
        for copier in readers.values():
            yield from copier.copy(None, self._timeline)


def _decoding_time(packet: av.Packet) -> Fraction:
    assert packet.dts is not None  # PacketRepair and VideoTrack set it
    return packet.dts * packet.time_base
