"""The encoders, how one is chosen, and what --codec, --crf, --preset and --pix-fmt mean to each."""

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from typing import cast

import av
import av.error
from av.codec.codec import Codec, UnknownCodecError

from upscaling.common.errors import InputError
from upscaling.common.memory_limits import check_memory
from upscaling.common.system import scheduling_kept
from upscaling.common.text import did_you_mean
from upscaling.frames.pixel_formats import FORMATS, PixelFormat, pixel_format

os.environ.setdefault("SVT_LOG", "-1")  # SVT-AV1 writes to stderr by itself; so does x265, see _X265_OPTIONS

# x264's preset names, fastest first; every encoder with a speed setting takes them.
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo")
AUTO = "auto"
ALIASES = {
    "h264": "libx264", "x264": "libx264", "avc": "libx264",
    "hevc": "libx265", "h265": "libx265", "x265": "libx265",
    "av1": "libsvtav1", "svtav1": "libsvtav1",
    "vp9": "libvpx-vp9", "prores": "prores_ks",
}  # fmt: skip
# Formats that the encoder has in another memory layout only; libswscale repacks them without loss.
_REPACKED = {
    "nvenc": {"yuv420p10le": "p010le", "yuv422p": "nv16", "yuv422p10le": "p210le"},
    "ffv1": {"rgb24": "bgr0", "rgba": "bgra"},
}


@dataclass(frozen=True)
class Encoder:
    """One encoder: `quality` is its option for --crf (None: it has none), `crf` the default, in `crf_range`.

    `presets` maps every --preset that it supports to its options. `min_size` is the smallest (width, height)
    in pixels that it is known to encode without crashing.
    """

    name: str
    family: str  # FFmpeg's name of the coded format
    presets: dict[str, dict[str, str]]
    preset: str | None
    quality: str | None = None
    crf: int | None = None
    crf_range: tuple[int, int] = (0, 51)
    options: dict[str, str] = field(default_factory=dict)
    min_size: tuple[int, int] = (1, 1)

    def repacked(self, name: str) -> str:
        """The pixel format of the encoder for frames in `name`."""
        return _REPACKED.get("nvenc" if self.name.endswith("_nvenc") else self.name, {}).get(name, name)


def _by_preset(values: str, option: Callable[[str], dict[str, str]]) -> dict[str, dict[str, str]]:
    """x264's preset names mapped to an encoder's own values, in the order of PRESETS."""
    return {name: option(value) for name, value in zip(PRESETS, values.split(), strict=True)}


def _vp9_speed(value: str) -> dict[str, str]:
    speed = int(value)  # 6 and more are for the realtime deadline only
    return {"deadline": "realtime" if speed > 5 else "good", "cpu-used": value}


def _nvenc(family: str) -> Encoder:
    presets = _by_preset("p1 p1 p2 p3 p3 p4 p5 p6 p7 p7", lambda v: {"preset": v})
    own = {f"p{n}": {"preset": f"p{n}"} for n in range(1, 8)}
    return Encoder(
        name=f"{family}_nvenc",
        family=family,
        presets=presets | own,
        preset="p5",
        quality="cq",
        crf=20,
        crf_range=(1, 51),
        options={"rc": "vbr", "b": "0", "tune": "hq"},
        min_size=(160, 64),
    )


_X264_PRESETS = {name: {"preset": name} for name in PRESETS}  # x265's too
_SVT_PRESETS = _by_preset("12 11 10 9 8 7 5 4 2 0", lambda v: {"preset": v})
_SVT_PRESETS |= {str(n): {"preset": str(n)} for n in range(14)}
_VP9_PRESETS = _by_preset("8 7 5 5 4 3 2 1 0 0", _vp9_speed) | {str(n): _vp9_speed(str(n)) for n in range(9)}
_PRORES_PRESETS = {p: {"profile": p} for p in ("proxy", "lt", "standard", "hq", "4444", "4444xq")}
# x265 writes to stderr by itself; an open GOP would depend on the segment before it.
_X265_OPTIONS = {"x265-params": "log-level=none:open-gop=0"}
# Below 64 pixels of width x265 4.x writes past its buffers (seen with glibc's malloc checks).
_X265_MIN_SIZE = (64, 16)
_VP9_OPTIONS = {"b": "0", "row-mt": "1"}
_FFV1_OPTIONS = {"level": "3", "slicecrc": "1", "g": "1"}
ENCODERS: dict[str, Encoder] = {
    e.name: e
    for e in (
        Encoder("libx264", "h264", _X264_PRESETS, "medium", quality="crf", crf=17),
        Encoder(
            "libx265", "hevc", _X264_PRESETS, "medium",
            quality="crf", crf=19, options=_X265_OPTIONS, min_size=_X265_MIN_SIZE,
        ),
        Encoder("libsvtav1", "av1", _SVT_PRESETS, "8", quality="crf", crf=26, crf_range=(1, 63), min_size=(4, 4)),
        Encoder(
            "libvpx-vp9", "vp9", _VP9_PRESETS, "4",
            quality="crf", crf=24, crf_range=(0, 63), options=_VP9_OPTIONS,
        ),
        Encoder("prores_ks", "prores", _PRORES_PRESETS, None, options={"vendor": "apl0"}),
        Encoder("ffv1", "ffv1", {}, None, options=_FFV1_OPTIONS),
        _nvenc("h264"), _nvenc("hevc"), _nvenc("av1"),
    )
}  # fmt: skip


def find_encoder(name: str) -> Encoder:
    """The encoder of that name or alias; InputError if there is none."""
    try:
        return ENCODERS[ALIASES.get(name, name)]
    except KeyError:
        near = did_you_mean(name, [*ENCODERS, *ALIASES])
        raise InputError(f"unknown codec {name!r}{near}; usable here: {', '.join(usable_encoders())}") from None


def supported_formats(encoder: Encoder) -> list[str]:
    """The keys of `pixel_formats.FORMATS` that the encoder supports; none if it is missing in this FFmpeg."""
    try:
        own = {f.name for f in Codec(encoder.name, "w").video_formats or ()}
    except UnknownCodecError:
        return []
    return [name for name in FORMATS if encoder.repacked(name) in own]


def open_encoder(context: av.VideoCodecContext) -> None:
    """Open an encoder; the only way to do so."""
    with scheduling_kept():
        context.open()


def open_error(encoder: Encoder, width: int, height: int, pix_fmt: str, options: dict[str, str]) -> str | None:
    """Why the encoder does not open, by trying it, in libav's words; None if it does."""
    if width < encoder.min_size[0] or height < encoder.min_size[1]:
        return f"it needs at least {encoder.min_size[0]}x{encoder.min_size[1]} pixels"
    if encoder.name.endswith("_nvenc") and (reason := missing_nvenc()):
        return reason
    try:
        context = cast(av.VideoCodecContext, av.CodecContext.create(encoder.name, "w"))
        context.width, context.height, context.pix_fmt = width, height, encoder.repacked(pix_fmt)
        context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
        context.options = dict(options)
        open_encoder(context)
    except (av.error.FFmpegError, ValueError) as error:
        check_memory(error)
        return getattr(error, "strerror", None) or str(error)
    return None


def missing_nvenc() -> str | None:
    """Why no NVENC encoder can open, if the driver's libraries that FFmpeg loads are not here."""
    for library in ("libcuda.so.1", "libnvidia-encode.so.1"):
        try:
            ctypes.CDLL(library)
        except OSError:
            return f"no NVIDIA driver: {library} cannot be loaded"
    return None


@lru_cache(maxsize=1)
def usable_encoders() -> tuple[str, ...]:
    """Names of the encoders that open on this machine, each tried with small frames."""
    formats = {name: supported_formats(encoder) for name, encoder in ENCODERS.items()}
    return tuple(
        name
        for name, encoder in ENCODERS.items()
        if formats[name] and open_error(encoder, 256, 128, formats[name][0], encoder.options) is None
    )


def check_opens(encoder: Encoder, width: int, height: int, pix_fmt: str, options: dict[str, str]) -> None:
    """InputError if the encoder does not open for such frames; the message tells whether the frames are the cause."""
    error = open_error(encoder, width, height, pix_fmt, options)
    if error is None:
        return
    if encoder.name not in usable_encoders():
        formats = supported_formats(encoder)
        reason = open_error(encoder, 256, 128, formats[0], encoder.options) if formats else "not built in"
        raise InputError(f"{encoder.name} can't be used here ({reason}); usable: {', '.join(usable_encoders())}")
    others = ", ".join(name for name in usable_encoders() if name != encoder.name)
    raise InputError(f"{encoder.name} can't encode {width}x{height} {pix_fmt}: {error}; others: {others}")


def choose_encoder(codec: str, extension: str, source: PixelFormat, size: tuple[int, int]) -> Encoder:
    """The encoder for --codec: `auto` is H.264 for 8 bit and HEVC Main 10 for more, VP9 or AV1 in WebM.

    `extension` is the output's, `source` the input's pixel format, `size` the result's (width, height).
    H.264 replaces HEVC if the frames are too small for x265.
    """
    if codec != AUTO:
        return find_encoder(codec)
    deep = source.depth > 8
    if extension == "webm":
        vp9 = find_encoder("libvpx-vp9")
        if deep and not source.alpha and "yuv420p10le" not in supported_formats(vp9):  # as in many builds of libvpx
            return find_encoder("libsvtav1")
        return vp9
    hevc = find_encoder("libx265")
    fits = size[0] >= hevc.min_size[0] and size[1] >= hevc.min_size[1]
    return hevc if deep and fits else find_encoder("libx264")


def keeps_alpha(codec: str, extension: str) -> bool:
    """Whether an alpha channel can be kept: ProRes 4444 in MOV or Matroska, VP9 in WebM or Matroska, FFV1."""
    if codec == AUTO:
        return extension == "webm"
    return (ALIASES.get(codec, codec), extension) in {
        ("prores_ks", "mov"), ("prores_ks", "mkv"), ("libvpx-vp9", "webm"), ("libvpx-vp9", "mkv"),
        ("ffv1", "mkv"), ("ffv1", "mov"),
    }  # fmt: skip


def result_format(encoder: Encoder, source: PixelFormat, alpha: bool, requested: str | None) -> PixelFormat:
    """The result's pixel format: the requested one, or the encoder's usual one for that source.

    `alpha`: the source's alpha channel is to be kept. InputError if the encoder does not support the request.
    """
    supported = supported_formats(encoder)
    if requested is not None:
        if requested not in supported:
            choices = ", ".join(supported)
            raise InputError(f"{encoder.name} does not support --pix-fmt {requested} (choose from {choices})")
        return pixel_format(requested)
    deep = source.depth > 8
    wanted = ["yuv420p10le", "yuv420p"] if deep else ["yuv420p"]
    if encoder.family == "prores":
        wanted = ["yuva444p10le"] if alpha else ["yuv422p10le"]
    elif encoder.family == "ffv1":
        own = source.name.replace("12le", "16le") if alpha else opaque(source).name  # few decode 12 bit with alpha
        wanted = [own, "yuv444p16le"]
    elif alpha:
        wanted = (["yuva420p10le"] if deep else []) + ["yuva420p", *wanted]
    for name in wanted:
        if name in supported:
            return pixel_format(name)
    raise InputError(f"{encoder.name} can't be used here; usable: {', '.join(usable_encoders())}")


def opaque(source: PixelFormat) -> PixelFormat:
    """The same format without an alpha channel."""
    return next(f for f in FORMATS.values() if f == replace(source, name=f.name, alpha=False))


def encoder_options(encoder: Encoder, fmt: PixelFormat, crf: float | None, preset: str | None) -> dict[str, str]:
    """libav's options for the requested quality and speed; InputError if the encoder does not support them."""
    options = dict(encoder.options)
    if crf is not None and encoder.quality is None:
        raise InputError(f"{encoder.name} does not support --crf")
    if encoder.quality is not None:
        low, high = encoder.crf_range
        value = encoder.crf if crf is None else crf
        assert value is not None  # an encoder with a quality option has a default
        if not low <= value <= high:
            raise InputError(f"--crf {value} is out of range for {encoder.name}: from {low} (best) to {high}")
        options[encoder.quality] = f"{value:g}"
    if preset is not None and preset not in encoder.presets:
        if not encoder.presets:
            raise InputError(f"{encoder.name} does not support --preset")
        choices = ", ".join(encoder.presets)
        raise InputError(f"invalid --preset {preset!r} for {encoder.name} (choose from {choices})")
    options |= encoder.presets.get(preset or encoder.preset or "", {})
    if encoder.family == "vp9" and fmt.alpha:
        options["auto-alt-ref"] = "0"  # libvpx has no alternate reference frames with alpha
    return options
