"""The output's container: the supported ones, the codecs and tags that each holds, and its muxer's options."""

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
from av.stream import Disposition, Stream

from upscaling.common.errors import InputError
from upscaling.common.text import SOFTWARE
from upscaling.demux.input_file import VideoError, open_input
from upscaling.encode.codecs import ENCODERS

# Extension of the output → libavformat's muxer.
CONTAINERS = {"mp4": "mp4", "mkv": "matroska", "mov": "mov", "webm": "webm"}
MUXER_OPTIONS = {
    "strict": "experimental",  # TrueHD and the like in MP4
    # Half a second, in µs: packets come in order of time already, and those that wait for a sparse stream take memory.
    "max_interleave_delta": "500000",
}
# Tags that MP4's iTunes-style list has; others need the QuickTime-style one.
_ITUNES_TAGS = {
    "title", "artist", "album_artist", "composer", "album", "date", "comment", "genre", "copyright", "grouping",
    "lyrics", "description", "synopsis", "show", "episode_id", "network", "keywords", "track", "disc", "compilation",
    "creation_time", "media_type", "hd_video", "gapless_playback", "season_number", "episode_sort", "rating",
}  # fmt: skip
_STALE_TAGS = {  # they describe the input file, not the output
    "encoder", "vendor_id", "rotate", "duration", "alpha_mode", "major_brand", "minor_version", "compatible_brands",
    "timecode",  # a part has another
}  # fmt: skip
_STALE_PREFIXES = ("_statistics", "bps", "number_of_frames", "number_of_bytes", "duration-")  # Matroska's statistics
# ISO 639-2 codes of languages that QuickTime has → the only code by which libavformat finds each.
QUICKTIME_LANGUAGES = {
    "fre": "fra", "deu": "ger", "nld": "dut", "swe": "sve", "nob": "nor", "nno": "nor", "ell": "gre", "isl": "ice",
    "zho": "chi", "fas": "iri", "per": "iri", "sqi": "alb", "rum": "ron", "cze": "ces", "slo": "slk", "mkd": "mac",
    "msa": "may", "eus": "baq", "cym": "wel", "hye": "arm", "kat": "geo", "bod": "tib", "mya": "bur",
}  # fmt: skip
_REFUSED = {("mov", "av1"), ("mov", "vp9")}  # by libavformat, which tells only when it writes the header
_MAX_TIMESCALE = 10_000_000  # ticks/s; MP4's sample durations have 32 bits


def container_of(output: Path) -> str:
    """`mp4`, `mkv`, `mov` or `webm`, by the output's extension; InputError for any other."""
    extension = output.suffix.lower().lstrip(".")
    if extension not in CONTAINERS:
        raise InputError(f"cannot write {output.name!r}: unknown extension (choose from .{', .'.join(CONTAINERS)})")
    return extension


def check_codec(container: str, encoder_name: str) -> None:
    """InputError if the container can't hold the encoder's codec; the message names those that can."""
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


def is_own_video(path: Path) -> bool:
    """Whether this program has written a video file: the encoder tag of its video stream says so."""
    try:
        with open_input(path) as video:
            tags = [tag for stream in video.streams.video for tag in stream.metadata.items()]
    except VideoError:
        return False
    return any(key.lower() == "encoder" and text == SOFTWARE for key, text in tags)


def kept_tags(metadata: Mapping[str, str]) -> dict[str, str]:
    """The tags that are true of the output too; Matroska's upper case becomes the usual names."""
    kept = {}
    for key, value in metadata.items():
        lower = key.lower()
        if lower not in _STALE_TAGS and not lower.startswith(_STALE_PREFIXES):
            kept[lower if lower in _ITUNES_TAGS or lower == "handler_name" else key] = value
    return kept


def copy_metadata(target: Stream, source: Stream, disposition: Disposition | None = None) -> Stream:
    """Gives an output stream the tags, language and disposition of the input's (unless it is given); returns it."""
    kept = kept_tags(source.metadata)
    name = kept.pop("name", kept.pop("NAME", None))  # what a track's title is called in MP4
    target.metadata.update(({"title": name} if name else {}) | kept)
    flags = source.disposition if disposition is None else disposition
    target.disposition = flags & ~Disposition.multilayer  # views that are not in the output
    return target


def lost_tags(container: str, metadata: Mapping[str, str], has_cover: bool) -> list[str]:
    """Names of the tags that the container can't hold: beside a cover picture, MP4 has the usual ones only."""
    unknown = {key for key in kept_tags(metadata) if key.lower() not in _ITUNES_TAGS}
    return sorted(unknown) if container == "mp4" and has_cover else []


def muxer_options(
    container: str, metadata: Mapping[str, str], has_cover: bool, time_base: Fraction, sample_rates: Iterable[int]
) -> dict[str, str]:
    """The muxer's options, for frame times in `time_base` and sound of those rates in Hz."""
    options = dict(MUXER_OPTIONS)
    if container in ("mp4", "mov"):
        flags = "+faststart+write_colr"
        unknown = any(key.lower() not in _ITUNES_TAGS for key in kept_tags(metadata))
        if container == "mov" or (unknown and not has_cover):
            flags += "+use_metadata_tags"
        scale = timescale(time_base)
        # Edit lists count in the movie's timescale: one that holds every track's ticks makes track starts exact.
        common = math.lcm(scale, *sample_rates)
        movie = common if common <= _MAX_TIMESCALE else scale
        options |= {"movflags": flags, "video_track_timescale": str(scale), "movie_timescale": str(movie)}
    return options


def timescale(time_base: Fraction) -> int:
    """Ticks/s of an MP4 track that has every multiple of the time base; at least 10000, as FFmpeg does."""
    scale = time_base.denominator
    if scale > _MAX_TIMESCALE:
        return 1_000_000
    while scale < 10_000:
        scale *= 2
    return scale
