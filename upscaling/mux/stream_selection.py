"""Which streams of the input go into the output beside the main stream, each with its way there."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition, Stream

from upscaling.common.errors import InputError
from upscaling.common.languages import by_language
from upscaling.common.text import Loss
from upscaling.decode.probe import VideoInfo
from upscaling.demux.channels import channel_order
from upscaling.demux.clock import Clock
from upscaling.demux.input_file import Input
from upscaling.demux.main_stream import is_encrypted
from upscaling.demux.survey import TimedInput, has_parameters, open_timed, survey
from upscaling.mux.audio_copy import PrimedAudio, RepackedAac, UndecodedAudio
from upscaling.mux.audio_encode import EncodedAudio, audio_context, carries_data
from upscaling.mux.audio_formats import ENCODERS, encodings, holds
from upscaling.mux.containers import CONTAINERS
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
_COPIERS: tuple[type[StreamCopier], ...] = (StreamCopier, TextSubtitles, CoverStream, CoverAttachment, Attachment)
_EMPTY = "the file has no packet of it that tells its parameters"  # so that there may be nothing to lose
_DATA = "data in place of sound (SMPTE 337M, such as Dolby E)"
_AUDIO_COPIERS: tuple[type[StreamCopier], ...] = (RepackedAac, PrimedAudio, StreamCopier, UndecodedAudio)


@dataclass(frozen=True)
class StreamChoice:
    """What the user wants of sound and subtitles: as the options of the same names have it, see job/options.py."""

    audio: str = "auto"
    audio_bitrate: int | None = None  # bits/s
    audio_language: tuple[str, ...] = ()  # all if empty
    subtitle_language: tuple[str, ...] = ()

    def check(self, container: str) -> None:
        """InputError for what contradicts itself, or what a container can't hold."""
        if not holds(container, self.audio):
            others = [f".{name}" for name in CONTAINERS if holds(name, self.audio)]
            raise InputError(f"--audio {self.audio}: .{container} can't hold it; {', '.join(others)} can")
        if self.audio_bitrate is not None and self.audio not in ("auto", "aac", "opus"):
            raise InputError("--audio-bitrate is for --audio auto, aac and opus")
        if self.audio_language and self.audio == "none":
            raise InputError("choose --audio none or --audio-language, not both")


EVERYTHING = StreamChoice()


@dataclass
class Selection:
    """Copiers in the order of the output's streams, a line for each stream that is changed or left out against the
    user's wish, and what happens to each stream, by its index in the input.
    """

    copiers: list[StreamCopier] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    outcomes: dict[int, str] = field(default_factory=dict)


def open_streams(info: VideoInfo) -> TimedInput:
    """The input, for its other streams, tags and chapters; an empty container if the frames are pictures.

    Errors as for `open_timed`.
    """
    if not info.pictures:
        return open_timed(info.path)
    empty = BytesIO(b";FFMETADATA1\n")
    return TimedInput(Input(empty, av.open(empty, "r", format="ffmetadata")), Clock())


def select_streams(
    source: InputContainer, info: VideoInfo, container: str, choice: StreamChoice = EVERYTHING
) -> Selection:
    """The streams beside the main stream; InputError for a choice that can't be had."""
    choice.check(container)
    found = Selection(outcomes={info.stream_index: "upscaled"})
    own = program_streams(source, info)
    wanted = _wanted([stream for stream in source.streams if stream.index in own], choice)
    others = [stream.index for stream in source.streams if stream.index not in own]
    if others:
        line = f"{_listed(others)} left out: of other programs than the picture's own (stream {info.stream_index})"
        found.notes.append(line)
        found.outcomes |= dict.fromkeys(others, "left out: of another program")
    for stream in source.streams:
        if stream.index == info.stream_index or stream.index not in own:
            continue
        if _is_written_by_muxer(source, stream):
            found.outcomes[stream.index] = "written anew"
        elif stream.index not in wanted:
            found.outcomes[stream.index] = "left out, as was asked for"
        elif reason := _add(found, stream, info.path, container, choice):
            found.outcomes[stream.index] = f"left out: {reason}"
            line = f"{describe(stream)} is left out: {reason}"
            found.notes.append(line if reason == _EMPTY else Loss(line))
    _put_in_order(found.copiers, wanted, choice)
    return found


def _wanted(streams: Sequence[Stream], choice: StreamChoice) -> list[int]:
    """The indices of the streams that the user wants, in the order of languages."""
    indices = []
    languages = {"audio": ("--audio-language", choice.audio_language)}
    languages["subtitle"] = ("--subtitle-language", choice.subtitle_language)
    kinds = dict.fromkeys(stream.type for stream in streams)
    for kind in {**kinds, "audio": None, "subtitle": None}:
        of_kind = [stream for stream in streams if stream.type == kind]
        option, codes = languages.get(kind, ("", ()))
        if kind == "audio" and choice.audio == "none":
            continue
        try:
            order = by_language([stream.language for stream in of_kind], codes) if codes else range(len(of_kind))
        except InputError as error:
            raise InputError(f"{option}: {error}") from None
        indices += [of_kind[at].index for at in order]
    return indices


def program_streams(source: InputContainer, info: VideoInfo) -> set[int]:
    """Indices of the streams of the main stream's program; of all streams if the file has no programs."""
    if info.stream_index >= len(source.streams):  # in a damaged file it may only show up later
        return {stream.index for stream in source.streams}
    ids, main = survey(info.path, source).ids, source.streams[info.stream_index]
    return {stream.index for stream in source.streams if ids.belongs(stream.id, main.id)}


def _listed(indices: list[int]) -> str:
    """`stream 1 is`, `streams 1, 2 are`."""
    numbers = ", ".join(map(str, indices))
    return f"streams {numbers} are" if len(indices) > 1 else f"stream {numbers} is"


def _add(found: Selection, stream: Stream, path: Path, container: str, choice: StreamChoice) -> str:
    """Adds the stream's copier, and a note if it is changed; returns why there is none."""
    if not has_parameters(stream):
        return _EMPTY
    if _is_encrypted(stream, path):
        return "it is encrypted"
    has_data = carries_data(stream, path)
    copier = _copier(stream, path, container, choice, has_data)
    if copier is not None:
        found.copiers.append(copier)
        found.outcomes[stream.index] = copier.outcome
        note = copier.note()
        if has_data:
            note = f"{describe(stream)} has {_DATA}; players that can't read it play noise"
        if choice.audio in ENCODERS and isinstance(copier, UndecodedAudio):
            note = f"{describe(stream)} stays as it is: FFmpeg has no decoder for it"
        found.notes += [note] if note else []
        return ""
    others = [
        name
        for name in ("mkv", "mp4", "mov", "webm")
        if name != container and holds(name, choice.audio) and _copier(stream, path, name, choice, has_data)
    ]
    hint = f"{others[0]} could" if others else "no container written here can"
    if has_data:
        return f"it has {_DATA}, which encoding would destroy; {hint} hold it"
    if choice.audio == "copy" and _copier(stream, path, container, EVERYTHING, has_data):
        hint += ", and --audio auto converts it"
    return f"{container} can't hold it, {hint}"


def _copier(stream: Stream, path: Path, container: str, choice: StreamChoice, has_data: bool) -> StreamCopier | None:
    return next((copier for copier in _copiers(stream, path, container, choice, has_data) if copier.fits()), None)


def _copiers(
    stream: Stream, path: Path, container: str, choice: StreamChoice, has_data: bool
) -> Iterator[StreamCopier]:
    """Every way for the stream, the best first; with data in place of samples only those without loss."""
    if stream.type != "audio":
        yield from (kind(stream, path, container) for kind in _COPIERS)
        return
    context = audio_context(stream)
    codec = context.codec.canonical_name if context is not None else ""
    is_codec = choice.audio in ENCODERS
    keeps = not is_codec or (choice.audio_bitrate is None and codec.removesuffix("_latm") == choice.audio)
    copied = [kind(stream, path, container) for kind in _AUDIO_COPIERS]
    if keeps and not (container in ("mkv", "webm") and channel_order(stream)):  # which have no such order
        yield from copied
    if context is not None:
        for encoding in encodings(codec, context.format.name, container, choice.audio):
            if has_data and not encoding.lossless:
                continue
            yield EncodedAudio(stream, path, container, encoding, choice.audio_bitrate, is_codec)
    if not keeps:
        yield from copied


def _put_in_order(copiers: list[StreamCopier], wanted: list[int], choice: StreamChoice) -> None:
    """Puts sound and subtitles in the order of the languages; the first sound is the default one then."""
    for kind in ("audio", "subtitle"):
        places = [at for at, copier in enumerate(copiers) if copier.stream.type == kind]
        ordered = sorted((copiers[at] for at in places), key=lambda copier: wanted.index(copier.stream.index))
        for at, copier in zip(places, ordered, strict=True):
            copiers[at] = copier
            if kind == "audio" and choice.audio_language:
                flags = copier.disposition & ~Disposition.default
                copier.disposition = flags | Disposition.default if at == places[0] else flags


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
