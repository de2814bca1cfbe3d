"""What the encoder is told: codec, pixel format, size, colour, times and options, the same in all segments of a job."""

from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path

from upscaling.common.system import core_limit
from upscaling.decode import colour_tags
from upscaling.decode.colour_tags import Colour
from upscaling.decode.probe import VideoInfo
from upscaling.encode.codecs import (
    AUTO,
    Encoder,
    check_opens,
    choose_encoder,
    encoder_options,
    keeps_alpha,
    result_format,
)
from upscaling.frames.layout import FrameLayout
from upscaling.frames.pixel_formats import PixelFormat, pixel_format
from upscaling.frames.placement import Placement

PROGRESSIVE = 1  # AV_FIELD_PROGRESSIVE
SVT_LEVELS = 6  # the most that its lp takes; lower levels are about a core each
FALLBACK_RATE = Fraction(25)  # frames/s, for rate control if the source's rate is unknown

# FFmpeg's names → ISO/IEC 23091-2 code points.
_MATRIX_CODES = {name: code for code, name in colour_tags.MATRICES.items()}
_PRIMARIES_CODES = {name: code for code, name in colour_tags.PRIMARIES.items()}
_TRANSFER_CODES = {name: code for code, name in colour_tags.TRANSFERS.items()}


@dataclass(frozen=True)
class EncodeSettings:
    """Everything that the encoder is told, and that must be the same in all segments of a job.

    `width` × `height` are pixels, a multiple of what `pixel_format` (a key of `pixel_formats.FORMATS`) needs.
    `colour` is the output's. Frame times are ticks of `time_base` seconds; `frame_rate` is in frames/s or
    None. `side_data` is that of `VideoInfo`.
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
    placement: Placement | None = None  # of the pictures in the frame, if they have another size

    def identity(self) -> dict[str, object]:
        """What the segments depend on, in JSON's types (fractions as "n/d")."""
        values = asdict(self)
        if self.placement is None:
            del values["placement"]  # as in jobs of versions without it
        return {
            name: f"{value.numerator}/{value.denominator}" if isinstance(value, Fraction) else value
            for name, value in values.items()
        }

    @property
    def layout(self) -> FrameLayout:
        """The layout of the frames that are encoded."""
        colour = self.colour
        return FrameLayout(
            self.width, self.height, self.pixel_format, colour.matrix, colour.full_range, colour.chroma_location
        )


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
) -> EncodeSettings:
    """Settings for a result of width × height pixels (before rounding up to what the pixel format needs).

    Opens the encoder to check that it works. InputError: the codec is unknown or unusable here (the message
    lists usable ones), or it does not support the crf, preset or pixel format.
    """
    encoder, fmt = choose_format(info, output, (width, height), codec, pix_fmt)
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
        colour=_result_colour(info, fmt.rgb, full_range=encoder.family != "prores"),
        time_base=info.time_base,
        frame_rate=info.frame_rate,
        sample_aspect_ratio=info.sample_aspect_ratio,
        options=options,
        side_data=dict(info.side_data),
    )


def choose_format(
    info: VideoInfo, output: Path, size: tuple[int, int], codec: str, pix_fmt: str | None
) -> tuple[Encoder, PixelFormat]:
    """The encoder and its pixel format for a result of about that size; InputError as for `encode_settings`."""
    source = pixel_format(info.pixel_format)
    extension = output.suffix.lower().lstrip(".")
    encoder = choose_encoder(codec, extension, source, size)
    return encoder, result_format(encoder, source, source.alpha and keeps_alpha(codec, extension), pix_fmt)


def _result_colour(info: VideoInfo, to_rgb: bool, full_range: bool) -> Colour:
    """The output's colour: the source's, except that RGB becomes BT.709 limited range YUV.

    `full_range` is false for codecs that have limited range only: ProRes decoders never take it for anything else.
    """
    source, from_rgb = info.colour, pixel_format(info.pixel_format).rgb
    if to_rgb:
        return source if from_rgb else replace(source, matrix="gbr", full_range=True)
    if from_rgb:
        return Colour("bt709", False, source.primaries, source.transfer, "left")
    return replace(source, full_range=source.full_range and full_range)


def colour_codes(colour: Colour) -> dict[str, int]:
    """Attributes of PyAV's codec contexts and frames for that colour."""
    return {
        "colorspace": _MATRIX_CODES.get(colour.matrix, colour_tags.UNSPECIFIED),
        "color_range": 2 if colour.full_range else 1,  # AVCOL_RANGE_JPEG, AVCOL_RANGE_MPEG
        "color_primaries": _PRIMARIES_CODES.get(colour.primaries, colour_tags.UNSPECIFIED),
        "color_trc": _TRANSFER_CODES.get(colour.transfer, colour_tags.UNSPECIFIED),
    }


def libav_options(settings: EncodeSettings) -> dict[str, str]:
    """The encoder's options, with chroma location and HDR metadata in the form that each encoder takes."""
    options = dict(settings.options)
    if pixel_format(settings.pixel_format).chroma == (1, 1):
        options["chroma_sample_location"] = settings.colour.chroma_location
    # (option, parameter of the mastering display, parameter of the light level)
    names = {
        "libx264": ("x264-params", "mastering-display", "cll"),
        "libx265": ("x265-params", "master-display", "max-cll"),
        "libsvtav1": ("svtav1-params", "mastering-display", "content-light"),
    }
    if settings.codec not in names:
        return options
    option, *parameters = names[settings.codec]
    texts = _hdr_texts(settings.side_data, decimal=settings.codec == "libsvtav1")
    hdr = [f"{name}={text}" for name, text in zip(parameters, texts, strict=True) if text]
    params = ([options[option]] if option in options else []) + hdr + _thread_parameters(settings.codec)
    return options | ({option: ":".join(params)} if params else {})


def _thread_parameters(codec: str) -> list[str]:
    """x265 and SVT-AV1 count the machine's cores themselves and pass over FFmpeg's number of threads."""
    cores = core_limit()
    if not cores or codec not in ("libx265", "libsvtav1"):
        return []
    return [f"pools={cores}"] if codec == "libx265" else [f"lp={min(cores, SVT_LEVELS)}"]


def _hdr_texts(side_data: dict[str, dict], decimal: bool) -> tuple[str, str]:
    """Mastering display and light level as encoders take them, "" for none: `G(x,y)B(x,y)R(x,y)WP(x,y)L(max,min)`.

    Numbers are decimals (SVT-AV1), or integers: chromaticities in 0.00002 and luminance in 0.0001 cd/m²
    (SMPTE ST 2086, as x264 and x265 have it). Encoders take no part of it: what the input does not say is 0, which
    H.274 has for unknown; AV1 has nothing for that.
    """
    mastering, light = side_data.get("mastering_display"), side_data.get("content_light_level")
    display = ""
    if mastering and (len(mastering) == 4 or not decimal):
        red, green, blue = mastering.get("primaries", [(0, 0)] * 3)
        points = {"G": green, "B": blue, "R": red, "WP": mastering.get("white_point", (0, 0))}
        points["L"] = (mastering.get("max_luminance", 0), mastering.get("min_luminance", 0))
        for name, pair in points.items():
            unit = 10_000 if name == "L" else 50_000
            x, y = (f"{float(Fraction(v)):.5f}" if decimal else str(round(Fraction(v) * unit)) for v in pair)
            display += f"{name}({x},{y})"
    return display, f"{light['max_content']},{light['max_average']}" if light else ""
