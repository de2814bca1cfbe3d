"""Which streams of the input go into the output beside the main stream, each with its way there."""

from pathlib import Path

from av.container import InputContainer
from av.stream import Stream

from upscaling.decode.probe import VideoInfo
from upscaling.demux.main_stream import is_encrypted
from upscaling.demux.survey import has_parameters, survey
from upscaling.mux.audio_copy import EncodedAudio, PrimedAudio
from upscaling.mux.stream_copy import (
    Attachment,
    CoverAttachment,
    CoverStream,
    StreamCopier,
    TextSubtitles,
    describe,
    first_packet,
)

# In the order in which they are tried.
_COPIERS: tuple[type[StreamCopier], ...] = (
    PrimedAudio, StreamCopier, TextSubtitles, EncodedAudio, CoverStream, CoverAttachment, Attachment,
)  # fmt: skip


def select_streams(source: InputContainer, info: VideoInfo, container: str) -> tuple[list[StreamCopier], list[str]]:
    """Copiers for the streams beside the main stream, and one line for each stream that is changed or left out."""
    copiers, warnings = [], []
    own = program_streams(source, info)
    others = [stream.index for stream in source.streams if stream.index not in own]
    if others:
        warnings.append(
            f"{_listed(others)} left out: of other programs than the picture's own (stream {info.stream_index})"
        )
    for stream in source.streams:
        if stream.index == info.stream_index or stream.index not in own or _is_written_by_muxer(source, stream):
            continue
        if not has_parameters(stream):
            warnings.append(f"{describe(stream)} is left out: the file has no packet of it that tells its parameters")
            continue
        if _is_encrypted(stream, info.path):
            warnings.append(f"{describe(stream)} is left out: it is encrypted")
            continue
        copier = _copier(stream, info.path, container)
        if copier is not None:
            copiers.append(copier)
            warnings += [note] if (note := copier.note()) else []
            continue
        others = [
            name for name in ("mkv", "mp4", "mov", "webm") if name != container and _copier(stream, info.path, name)
        ]
        hint = f"{others[0]} could" if others else "no container written here can"
        warnings.append(f"{describe(stream)} is left out: {container} can't hold it, {hint}")
    return copiers, warnings


def program_streams(source: InputContainer, info: VideoInfo) -> set[int]:
    """Indices of the streams of the main stream's program; of all streams if the file has no programs."""
    if info.stream_index >= len(source.streams):  # in a damaged file it may only show up later
        return {stream.index for stream in source.streams}
    ids, main = survey(info.path, source).ids, source.streams[info.stream_index]
    return {stream.index for stream in source.streams if ids.belongs(stream.id, main.id)}


def _listed(indices: list[int]) -> str:
    """`stream 1 is`, `streams 1, 2 are`."""
    return (
        f"stream{'s' if len(indices) > 1 else ''} {', '.join(map(str, indices))} {'are' if len(indices) > 1 else 'is'}"
    )


def _copier(stream: Stream, path: Path, container: str) -> StreamCopier | None:
    return next((copier for kind in _COPIERS if (copier := kind(stream, path, container)).fits()), None)


def _is_encrypted(stream: Stream, path: Path) -> bool:
    """Whether the stream needs a key; MP4's demuxer marks the packets only."""
    if stream.type == "audio" and "mp4" in stream.container.format.name:
        packet = first_packet(path, stream.index)
        if packet is not None and packet.has_sidedata("encryption_info"):
            return True
    return is_encrypted(stream)


def _is_written_by_muxer(source: InputContainer, stream: Stream) -> bool:
    """Whether this is a data track that the muxer writes by itself from the chapters or the time code tag."""
    if stream.type != "data":
        return False
    chapters = len(source.chapters())
    return "timecode" in stream.metadata or (chapters > 0 and stream.frames == chapters)
