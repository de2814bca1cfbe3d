"""The output's container: which there are, which codecs and tags each holds, what its muxer is told."""

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
from av.stream import Stream

from upscaling.common.errors import InputError
from upscaling.encode.codecs import ENCODERS

# Extension of the output → libavformat's muxer.
CONTAINERS = {"mp4": "mp4", "mkv": "matroska", "mov": "mov", "webm": "webm"}
# Half a second: packets come in order of time already, and what waits for a sparse stream stays in memory.
# strict: TrueHD and the like in MP4.
MUXER_OPTIONS = {"strict": "experimental", "max_interleave_delta": "500000"}
# Tags that the iTunes-style list of MP4 has a place for; others need the QuickTime-style one.
_ITUNES_TAGS = {
    "title", "artist", "album_artist", "composer", "album", "date", "comment", "genre", "copyright", "grouping",
    "lyrics", "description", "synopsis", "show", "episode_id", "network", "keywords", "track", "disc", "compilation",
    "creation_time", "media_type", "hd_video", "gapless_playback", "season_number", "episode_sort", "rating",
}  # fmt: skip
_OLD_TAGS = {  # they tell of the file that was, not of the one that is written
    "encoder", "vendor_id", "rotate", "duration", "alpha_mode", "major_brand", "minor_version", "compatible_brands",
}  # fmt: skip
_OLD_PREFIXES = ("_statistics", "bps", "number_of_frames", "number_of_bytes", "duration-")  # of Matroska's statistics
# ISO 639-2's codes of languages that QuickTime has a number for, by the only code that libavformat finds it with.
QUICKTIME_LANGUAGES = {
    "fre": "fra", "deu": "ger", "nld": "dut", "swe": "sve", "nob": "nor", "nno": "nor", "ell": "gre", "isl": "ice",
    "zho": "chi", "fas": "iri", "per": "iri", "sqi": "alb", "rum": "ron", "cze": "ces", "slo": "slk", "mkd": "mac",
    "msa": "may", "eus": "baq", "cym": "wel", "hye": "arm", "kat": "geo", "bod": "tib", "mya": "bur",
}  # fmt: skip
_REFUSED = {("mov", "av1"), ("mov", "vp9")}  # by libavformat, but only when it writes the header
_MAX_TIMESCALE = 10_000_000  # ticks a second that MP4's 32-bit sample durations bear


def container_of(output: Path) -> str:
    """`mp4`, `mkv`, `mov` or `webm`, by the output's name; InputError for any other."""
    extension = output.suffix.lower().lstrip(".")
    if extension not in CONTAINERS:
        raise InputError(f"can't write {output.name!r}: the output is one of .{', .'.join(CONTAINERS)}")
    return extension


def check_codec(container: str, encoder_name: str) -> None:
    """InputError where the container can't hold what that encoder makes; says which could."""
    family = ENCODERS[encoder_name].family
    if not _holds(container, family):
        others = [f".{name}" for name in CONTAINERS if _holds(name, family)]
        raise InputError(f".{container} can't hold {family} video ({encoder_name}); {', '.join(others)} can")


def _holds(container: str, family: str) -> bool:
    if (container, family) in _REFUSED:
        return False
    out = av.open(BytesIO(), "w", format=CONTAINERS[container])
    try:
        out.add_mux_stream(family, width=64, height=64)
    except ValueError:
        return False
    return True


def kept_tags(metadata: Mapping[str, str]) -> dict[str, str]:
    """The tags that still hold for the output; Matroska's capitals become the usual names."""
    kept = {}
    for key, value in metadata.items():
        lower = key.lower()
        if lower not in _OLD_TAGS and not lower.startswith(_OLD_PREFIXES):
            kept[lower if lower in _ITUNES_TAGS or lower == "handler_name" else key] = value
    return kept


def copy_metadata(target: Stream, source: Stream) -> Stream:
    """Gives an output stream the tags, language and disposition of the input's; returns it."""
    kept = kept_tags(source.metadata)
    name = kept.pop("name", kept.pop("NAME", None))  # what a track's title is called in MP4
    target.metadata.update(({"title": name} if name else {}) | kept)
    target.disposition = source.disposition
    return target


def lost_tags(container: str, metadata: Mapping[str, str], has_cover: bool) -> list[str]:
    """Names of the tags that the container has no place for: MP4 beside a cover picture takes the usual ones only."""
    unknown = {key for key in kept_tags(metadata) if key.lower() not in _ITUNES_TAGS}
    return sorted(unknown) if container == "mp4" and has_cover else []


def muxer_options(
    container: str, metadata: Mapping[str, str], has_cover: bool, time_base: Fraction, sample_rates: Iterable[int]
) -> dict[str, str]:
    """What the muxer is told, for a main picture with frame times in `time_base` and sound of those rates in Hz."""
    options = dict(MUXER_OPTIONS)
    if container in ("mp4", "mov"):
        flags = "+faststart+write_colr"
        unknown = any(key.lower() not in _ITUNES_TAGS for key in kept_tags(metadata))
        if container == "mov" or (unknown and not has_cover):
            flags += "+use_metadata_tags"
        scale = timescale(time_base)
        # Edit lists count in the movie's timescale: one that holds every track's ticks makes starts exact, not to 1 ms.
        common = math.lcm(scale, *sample_rates)
        movie = common if common <= _MAX_TIMESCALE else scale
        options |= {"movflags": flags, "video_track_timescale": str(scale), "movie_timescale": str(movie)}
    return options


def timescale(time_base: Fraction) -> int:
    """Ticks a second of an MP4 track that holds every multiple of the time base; 10000 or more, as FFmpeg does."""
    scale = time_base.denominator
    if scale > _MAX_TIMESCALE:
        return 1_000_000
    while scale < 10_000:
        scale *= 2
    return scale
