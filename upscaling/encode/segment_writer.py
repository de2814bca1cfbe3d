"""Segments: the encoder's settings, and the files that frames are encoded into.

A segment is a Matroska file that starts with a key frame and depends on no other. Matroska keeps whole
milliseconds only, so a segment's packets carry no times: their timestamp is the frame's rank in presentation
order (plus `FRAME_INDEX_OFFSET`), and the true times stand in `mux.Segment.pts`. The encoder itself sees true times.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from upscaling.common.errors import UpscaleError
from upscaling.decode import colour_tags
from upscaling.decode.colour_tags import Colour
from upscaling.decode.probe import VideoInfo
from upscaling.encode.codecs import AUTO, ENCODERS, check_opens, choose, encoder_options, keeps_alpha, result_format
from upscaling.encode.output_file import Sink
from upscaling.frames.pixel_formats import pixel_format, plane_shapes

FRAME_INDEX_OFFSET = 1000  # ticks (ms) before the first frame's timestamp: room for decoding times below it
PROGRESSIVE = 1  # AV_FIELD_PROGRESSIVE
FALLBACK_RATE = Fraction(25)  # frames a second, for rate control where the source's rate is not known

# ISO/IEC 23091-2 code points under FFmpeg's names.
_MATRIX_CODES = {name: code for code, name in colour_tags.MATRICES.items()}
_PRIMARIES_CODES = {name: code for code, name in colour_tags.PRIMARIES.items()}
_TRANSFER_CODES = {name: code for code, name in colour_tags.TRANSFERS.items()}


class SegmentError(UpscaleError):
    """A segment is damaged, incomplete, or does not fit the other segments of its job."""


@dataclass(frozen=True)
class EncodeSettings:
    """Everything that the encoder is told, and that must be the same in all segments of a job.

    `width` × `height` are pixels, a multiple of what `pixel_format` (a name of `frame.FORMATS`) needs.
    `colour` is the output's. Frame times are ticks of `time_base` seconds; `frame_rate` is in frames/s or
    None. `side_data` is that of `video.VideoInfo`.
    `threads` 0 means as many as the encoder likes.
    """

    codec: str
    pixel_format: str
    width: int
    height: int
    colour: Colour
    time_base: Fraction
    frame_rate: Fraction | None
    sample_aspect_ratio: Fraction
    options: dict[str, str]
    side_data: dict[str, dict] = field(default_factory=dict)
    threads: int = 0

    def identity(self) -> dict[str, object]:
        """What the segments depend on, in JSON's types (fractions as "n/d"); threads are no part of it."""
        values = asdict(self)
        del values["threads"]
        return {k: f"{v.numerator}/{v.denominator}" if isinstance(v, Fraction) else v for k, v in values.items()}


def encode_settings(
    info: VideoInfo,
    output: Path,
    width: int,
    height: int,
    *,
    codec: str = AUTO,
    crf: float | None = None,
    preset: str | None = None,
    pix_fmt: str | None = None,
    threads: int = 0,
) -> EncodeSettings:
    """Settings for a result of width × height pixels (before rounding up to what the pixel format needs).

    Opens the encoder to see that it works. InputError: an unknown or here unusable codec (lists what is
    usable), or a crf, preset or pixel format that it has not.
    """
    source = pixel_format(info.pixel_format)
    extension = output.suffix.lower().lstrip(".")
    encoder = choose(codec, extension, source, (width, height))
    fmt = result_format(encoder, source, source.alpha and keeps_alpha(codec, extension), pix_fmt)
    options = encoder_options(encoder, fmt, crf, preset)
    width, height = (
        -(-size // multiple) * multiple for size, multiple in zip((width, height), fmt.multiple, strict=True)
    )
    check_opens(encoder, width, height, fmt.name, options)
    return EncodeSettings(
        codec=encoder.name,
        pixel_format=fmt.name,
        width=width,
        height=height,
        colour=_result_colour(info.colour, source.rgb, fmt.rgb, full_range=encoder.family != "prores"),
        time_base=info.time_base,
        frame_rate=info.frame_rate,
        sample_aspect_ratio=info.sample_aspect_ratio,
        options=options,
        side_data=dict(info.side_data),
        threads=threads,
    )


def _result_colour(source: Colour, from_rgb: bool, to_rgb: bool, full_range: bool) -> Colour:
    """The output's colour: the source's, but that RGB becomes BT.709 limited range YUV.

    Without `full_range` full range becomes limited: ProRes is never anything else to its decoders.
    """
    if to_rgb:
        return source if from_rgb else replace(source, matrix="gbr", full_range=True)
    if from_rgb:
        return Colour("bt709", False, source.primaries, source.transfer, "left")
    return replace(source, full_range=source.full_range and full_range)


class SegmentWriter:
    """One segment: `write` every frame in presentation order, then `close`. A context manager.

    Leaving the context by an exception leaves an unfinished file behind.
    """

    def __init__(self, path: Path, settings: EncodeSettings) -> None:
        self._settings = settings
        self._format = pixel_format(settings.pixel_format)
        self._shapes = plane_shapes(self._format, settings.width, settings.height)
        self._colour = colour_codes(settings.colour)
        self._pts: list[int] = []  # of the frames written, ticks of the settings' time base
        self._ranks: dict[int, int] = {}  # encoder's pts → rank, for frames inside the encoder
        self._emitted = 0
        self._sink = Sink(path)
        try:
            self._container = av.open(self._sink, "w", format="matroska", buffer_size=1 << 20)
            self._stream = self._open_stream()
        except BaseException:
            self._sink.abandon()
            raise

    def _open_stream(self) -> av.VideoStream:
        settings = self._settings
        rate = settings.frame_rate or FALLBACK_RATE
        stream = self._container.add_stream(settings.codec, rate=_int32(rate))
        context = stream.codec_context
        context.width, context.height = settings.width, settings.height
        context.pix_fmt = ENCODERS[settings.codec].repacked(settings.pixel_format)
        context.time_base = settings.time_base
        context.sample_aspect_ratio = settings.sample_aspect_ratio
        context.thread_count = settings.threads
        context.thread_type = "AUTO"  # as ffmpeg has it; PyAV's own SLICE leaves x264 on little more than one core
        context.field_order = PROGRESSIVE
        for name, value in self._colour.items():
            setattr(context, name, value)
        context.options = _libav_options(settings)
        if self._format.alpha and settings.codec == "libvpx-vp9":
            stream.metadata["alpha_mode"] = "1"  # else no demuxer passes the alpha channel on
        context.open()
        return stream

    def write(self, planes: Sequence[np.ndarray], pts: int) -> None:
        """Encodes a frame that is shown `pts` ticks of the settings' time base after zero.

        `planes` have the shapes of `frame.plane_shapes` of the settings' size; they are copied. Raises
        OSError where the disk does not take it, ValueError where `pts` does not grow.
        """
        if self._pts and pts <= self._pts[-1]:
            raise ValueError(f"frame times must grow, but {pts} follows {self._pts[-1]}")
        picture = av.VideoFrame(self._settings.width, self._settings.height, self._format.name)
        for plane, samples, shape in zip(picture.planes, planes, self._shapes, strict=True):
            if samples.shape != shape:
                raise ValueError(f"a plane of shape {samples.shape} where {shape} is needed")
            row = math.prod(shape[1:])  # samples a row, all channels
            rows = np.frombuffer(plane, self._format.dtype).reshape(-1, plane.line_size // self._format.dtype.itemsize)
            np.copyto(rows[: shape[0], :row], samples.reshape(shape[0], row))
        for name, value in self._colour.items():
            setattr(picture, name, value)
        self._pts.append(pts)
        picture.pts = pts - self._pts[0]  # encoders have less room for large numbers than we have
        picture.time_base = self._settings.time_base
        self._ranks[picture.pts] = len(self._pts) - 1
        self._mux(self._stream.encode(picture))

    def _mux(self, packets: Sequence[av.Packet]) -> None:
        for packet in packets:
            packet.pts = FRAME_INDEX_OFFSET + self._ranks.pop(packet.pts)
            packet.dts = self._emitted
            packet.duration = 1
            packet.time_base = Fraction(1, 1000)
            self._emitted += 1
            self._container.mux_one(packet)
        self._sink.check()

    def close(self) -> None:
        """Waits until every frame is encoded and the file is on the disk.

        OSError if the disk does not take it, SegmentError if the encoder did not return every frame.
        """
        if self._sink.closed:
            return
        try:
            if self._pts:
                self._mux(self._stream.encode(None))
            if self._ranks:
                raise SegmentError(f"{self._settings.codec} lost {len(self._ranks)} of {len(self._pts)} frames")
            self._container.close()
            self._sink.close()
        finally:
            self._sink.abandon()

    def __enter__(self) -> "SegmentWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._sink.abandon()


def _int32(rate: Fraction) -> Fraction:
    """The rate with a numerator and denominator that libav's 32 bits hold."""
    return rate if rate.numerator < 1 << 31 else rate.limit_denominator(1001)


def colour_codes(colour: Colour) -> dict[str, int]:
    """Attributes of PyAV's codec contexts and frames for that colour."""
    return {
        "colorspace": _MATRIX_CODES.get(colour.matrix, colour_tags.UNSPECIFIED),
        "color_range": 2 if colour.full_range else 1,  # AVCOL_RANGE_JPEG, AVCOL_RANGE_MPEG
        "color_primaries": _PRIMARIES_CODES.get(colour.primaries, colour_tags.UNSPECIFIED),
        "color_trc": _TRANSFER_CODES.get(colour.transfer, colour_tags.UNSPECIFIED),
    }


def _libav_options(settings: EncodeSettings) -> dict[str, str]:
    options = dict(settings.options)
    if pixel_format(settings.pixel_format).chroma == (1, 1):
        options["chroma_sample_location"] = settings.colour.chroma_location
    display, light = _hdr_texts(settings.side_data, plain=settings.codec == "libsvtav1")
    params = []
    if settings.codec == "libx265":
        params = [options["x265-params"]]
        params += [f"pools={settings.threads}"] if settings.threads else []
        params += [f"master-display={display}"] if display else []
        params += [f"max-cll={light}"] if light else []
    elif settings.codec == "libx264":
        params = [f"mastering-display={display}"] if display else []
        params += [f"cll={light}"] if light else []
    elif settings.codec == "libsvtav1":
        params = [f"mastering-display={display}"] if display else []
        params += [f"content-light={light}"] if light else []
    name = {"libx265": "x265-params", "libx264": "x264-params", "libsvtav1": "svtav1-params"}.get(settings.codec)
    return options | ({name: ":".join(params)} if name and params else {})


def _hdr_texts(side_data: dict[str, dict], plain: bool) -> tuple[str, str]:
    """Mastering display and light level as encoders take them, "" for none: `G(x,y)B(x,y)R(x,y)WP(x,y)L(max,min)`.

    Chromaticities count in 0.00002 and luminance in 0.0001 cd/m² (SMPTE ST 2086 as x264 and x265 have it),
    or are plain decimals (SVT-AV1).
    """
    mastering, light = side_data.get("mastering_display"), side_data.get("content_light_level")
    display = ""
    if mastering and len(mastering) == 4:  # encoders take all of it or nothing
        red, green, blue = mastering["primaries"]
        points = {"G": green, "B": blue, "R": red, "WP": mastering["white_point"]}
        points["L"] = (mastering["max_luminance"], mastering["min_luminance"])
        for name, pair in points.items():
            unit = 10_000 if name == "L" else 50_000
            x, y = (f"{float(Fraction(v)):.5f}" if plain else str(round(Fraction(v) * unit)) for v in pair)
            display += f"{name}({x},{y})"
    return display, f"{light['max_content']},{light['max_average']}" if light else ""
