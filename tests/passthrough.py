"""A video decoded, encoded in segments and joined, without upscaling; the streams of a file as a demuxer has them."""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

from upscaling.decode.decoder import Decoder
from upscaling.decode.probe import VideoInfo, probe
from upscaling.encode.segment_writer import SegmentWriter
from upscaling.encode.settings import EncodeSettings, encode_settings
from upscaling.frames.av_planes import av_planes
from upscaling.frames.pixel_formats import pixel_format
from upscaling.mux.muxer import check_container, join
from upscaling.mux.stream_selection import EVERYTHING
from upscaling.mux.video_track import Segment


def planes_in(planes, info: VideoInfo, settings: EncodeSettings) -> list[np.ndarray]:
    """A decoded frame's planes in the settings' pixel format and size, converted by libswscale if they differ."""
    picture = av.VideoFrame(info.width, info.height, info.pixel_format)
    for target, samples in zip(av_planes(picture, pixel_format(info.pixel_format)), planes, strict=True):
        target[:] = samples
    if (info.pixel_format, info.width, info.height) != (settings.pixel_format, settings.width, settings.height):
        picture = picture.reformat(settings.width, settings.height, settings.pixel_format)
    return av_planes(picture, pixel_format(settings.pixel_format))


@dataclass
class Result:
    path: Path
    info: VideoInfo
    settings: EncodeSettings
    segments: list[Segment] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # before anything runs
    warnings: list[str] = field(default_factory=list)  # of the join


def write_segments(folder: Path, info: VideoInfo, settings: EncodeSettings, length: int) -> list[Segment]:
    """Segments of `length` frames of the whole video, in `folder`."""
    segments, writer, pts = [], None, []
    with Decoder(info) as decoder:
        for frame in decoder:
            if writer is None:
                path = folder / f"segment_{len(segments):06d}.mkv"
                writer, pts = SegmentWriter(path, settings), []
            writer.write(planes_in(frame.planes, info, settings), frame.pts)
            pts.append(frame.pts)
            if len(pts) == length:
                writer.close()
                segments.append(Segment(path, tuple(pts)))
                writer = None
    if writer is not None:
        writer.close()
        segments.append(Segment(path, tuple(pts)))
    return segments


def passthrough(
    source: Path, output: Path, *, length: int = 4, keep_alpha: bool = False, clip=None, choice=EVERYTHING, **options
) -> Result:
    """Writes `output` from `source` at its own size; `options` go to `encode_settings`."""
    info = probe(source, keep_alpha=keep_alpha)
    settings = encode_settings(info, output, info.width, info.height, **options)
    result = Result(output, info, settings)
    result.notes = check_container(info, output, settings, choice)
    folder = output.with_name(output.name + ".segments")
    folder.mkdir()
    result.segments = write_segments(folder, info, settings, length)
    result.warnings = join(result.segments, info, settings, output, output.suffix[1:], clip, choice)
    return result


@dataclass
class Seen:
    """One stream as a demuxer gives it; `pts` and `durations` in seconds, `data` the packets' content."""

    kind: str
    codec: str
    pts: list[Fraction]
    durations: list[Fraction]
    data: list[bytes]
    metadata: dict[str, str]
    disposition: Disposition


def see(path: Path) -> list[Seen]:
    """Every stream of a file with all its packets; cover pictures and attachments have theirs, too."""
    with av.open(str(path)) as container:
        seen = []
        for stream in container.streams:
            context = stream.codec_context
            codec = context.codec.canonical_name if context is not None else ""
            data = [stream.data] if stream.type == "attachment" else []
            seen.append(Seen(stream.type, codec, [], [], data, dict(stream.metadata), stream.disposition))
        for packet in container.demux():
            if packet.size:
                one, base = seen[packet.stream_index], Fraction(packet.time_base)
                one.pts.append(None if packet.pts is None else packet.pts * base)
                one.durations.append((packet.duration or 0) * base)
                one.data.append(bytes(packet))
    return seen


def decoded(path: Path, decoder: str | None = None) -> list[av.VideoFrame]:
    """All frames of the first video stream, by a decoder of that name."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if decoder is None:
            return list(container.decode(stream))
        context = av.CodecContext.create(decoder, "r")
        frames = []
        for packet in container.demux(stream):
            frames += context.decode(packet if packet.size else None)
        for frame in frames:
            frame.time_base = stream.time_base
        return frames


def times(path: Path) -> list[Fraction]:
    """When each frame of the first video stream is shown, in seconds, exactly."""
    return [frame.pts * Fraction(frame.time_base) for frame in decoded(path)]
