"""Every option of a run, declared once: command line, checks, `upscale_video` and docs/USAGE.md follow from here."""
# ruff: noqa: RUF009 - value, switch and positional are dataclasses.field with metadata

import numbers
import os
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

from upscaling.common.errors import InputError
from upscaling.common.languages import parse_languages
from upscaling.common.notation import (
    MAX_PARTS,
    FrameRange,
    Scale,
    TimeRange,
    choice,
    exact,
    integer,
    number,
    parse_bit_rate,
    parse_bytes,
    parse_frames,
    parse_part,
    parse_rate,
    parse_scale,
    parse_time,
)

MAX_WORKERS = 64
MAX_BATCH = 256  # frames
MIN_PATCH, MAX_PATCH = 32, 8192  # pixels

# Groups of --help and of docs/USAGE.md, in the order of the fields below.
FILES = "input and output"
RANGE = "preview and range"
FOLDERS = "folders"
MODEL = "model"
WORKERS = "workers and devices"
CLUSTER = "several machines"
DECODING = "input video"
ENCODING = "output video"
STREAMS = "sound and subtitles"
JOB = "job control"
LOGGING = "progress and logging"


@dataclass(frozen=True)
class Option:
    """How the command line and `upscale_video` take one field.

    `metavar` is None for a switch. `parse` turns text into the field's value and raises InputError.
    `keyword` says whether `upscale_video` takes it; `default_text` is how the default is written, if str() is not.
    `parse` of an `exact` option also takes a Fraction; numbers from Python reach it as such. A `repeated` option's
    values are collected in a tuple. A `hidden` field is set by other words of the command.
    """

    group: str
    help: str
    metavar: str | None = None
    parse: Callable[[Any], Any] = str
    keyword: bool = True
    default_text: str = ""
    exact: bool = False
    repeated: bool = False
    hidden: bool = False


def value(default: Any, metavar: str, group: str, help: str, parse: Callable[[Any], Any] = str, **more) -> Any:
    """A field of an options class that takes a value: `--name METAVAR`."""
    return field(default=default, metadata={"option": Option(group, help, metavar, parse, **more)})


def switch(group: str, help: str, **more) -> Any:
    """A field of an options class that is False unless the command has `--name`."""
    return field(default=False, metadata={"option": Option(group, help, **more)})


def positional(metavar: str, help: str) -> Any:
    """A path that has to be named."""
    return field(metadata={"option": Option(FILES, help, metavar, Path)})


def declared(options_class: type) -> dict[str, Option]:
    """{field name: its declaration} of an options class, in order."""
    return {one.name: one.metadata["option"] for one in fields(options_class)}


@dataclass(frozen=True)
class Options:
    """Everything that a run is asked for."""

    input: Path = positional(
        "INPUT", "a video, a picture, a folder of them, or numbered pictures such as frames_%06d.png; it is only read"
    )
    output: Path = positional(
        "OUTPUT",
        "a video (mp4, mkv, mov, webm), a picture (png, jpg, webp, tif), an animation (gif, apng, webp), a folder, or "
        "numbered pictures such as frames_%06d.png",
    )
    scale: Scale = value(
        Scale(Fraction(2)), "SCALE", FILES, "a number from 1 to 8 (fractions allowed), or a size: 1920x1080, x1080, 4k",
        parse_scale, default_text="2", exact=True,
    )  # fmt: skip

    fit: str = value(
        "inside", "NAME", FILES,
        "how a size such as 1920x1080 fits another shape: inside (at most so large), pad (with black), crop or stretch",
        choice("inside", "pad", "crop", "stretch"),
    )  # fmt: skip

    into: Path | None = value(
        None, "FOLDER", FILES, "the folder for the results of several inputs: INPUT... --into FOLDER [SCALE]", Path,
        keyword=False,
    )  # fmt: skip
    inputs: tuple[Path, ...] = value((), "INPUT", FILES, "", keyword=False, repeated=True, hidden=True)

    dry_run: bool = switch(
        RANGE, "show what would be done, with time and disk space estimated from a few frames", keyword=False
    )
    frames: FrameRange | None = value(
        None, "A:B", RANGE, "only frames A to B, counted from 1, both included; also A:, :B or one number", parse_frames
    )
    time: TimeRange | None = value(
        None, "FROM-TO", RANGE, "only this time range, such as 00:10-00:20; sound and subtitles are cut to it",
        parse_time,
    )  # fmt: skip
    preview: Path | None = value(
        None, "SHEET", RANGE,
        "only write a picture that shows three crops of INPUT in each model that is on this machine, with their times; "
        "without OUTPUT",
        Path, keyword=False,
    )  # fmt: skip
    compare: Path | None = value(
        None, "FILE", RANGE, "also write a picture that compares a plain resize (left) with the result (right)", Path
    )

    recursive: bool = switch(FOLDERS, "include subfolders", keyword=False)
    include: tuple[str, ...] = value(
        (), "PATTERN", FOLDERS,
        "only files whose name, or path in the folder, matches a pattern such as '*.mkv'; may be repeated",
        keyword=False, repeated=True,
    )  # fmt: skip
    exclude: tuple[str, ...] = value(
        (), "PATTERN", FOLDERS, "no files or folders that match a pattern such as '*sample*'; may be repeated",
        keyword=False, repeated=True,
    )  # fmt: skip
    settle: float = value(
        60, "SECONDS", FOLDERS, "skip files modified less than this many seconds ago; the next run takes them",
        number(0, 1e9), keyword=False,
    )  # fmt: skip
    container: str = value(
        "auto", "NAME", FOLDERS, "container of the results: mp4, mkv, mov, webm; auto: as the input, else mkv",
        choice("auto", "mp4", "mkv", "mov", "webm"), keyword=False,
    )  # fmt: skip

    model: str = value(
        "realesr-animevideov3", "NAME|FILE", MODEL,
        "a model's name (see --list-models), a weights file (.pth, .safetensors, .param), or lanczos: a plain resize",
    )  # fmt: skip
    denoise: float | None = value(
        None, "0..1", MODEL, "denoising strength, only for realesr-general-x4v3", number(0, 1)
    )
    strength: float = value(
        1, "0..1", MODEL, "share of the network in the result; the rest is a plain resize", number(0, 1)
    )
    steady: bool = switch(MODEL, "less flicker: average the detail that the network adds over neighbouring frames")

    workers: int | str = value(
        "auto", "N", WORKERS, f"worker processes (1-{MAX_WORKERS}), fewer for small pictures",
        integer(1, MAX_WORKERS, "auto"), default_text="6",
    )  # fmt: skip
    batch_size: int = value(8, "N", WORKERS, f"frames per batch (1-{MAX_BATCH})", integer(1, MAX_BATCH))
    patch_size: int | str = value(
        "auto", "N", WORKERS, f"tile size in pixels (auto, or {MIN_PATCH}-{MAX_PATCH}; 0 = no tiling)",
        integer(MIN_PATCH, MAX_PATCH, 0, "auto"),
    )  # fmt: skip
    device: str = value(
        "auto", "NAME", WORKERS,
        "auto, cpu, cuda, vulkan, or a list such as cuda:0,cuda:1 (see --list-devices); auto: CUDA, else a Vulkan GPU, "
        "else the CPU",
    )  # fmt: skip
    engine: str = value(
        "auto", "NAME", WORKERS,
        "torch (CUDA and CPU) or ncnn (Vulkan and CPU); auto: on a CPU torch if it has bf16 instructions, else ncnn",
        choice("auto", "torch", "ncnn"),
    )  # fmt: skip
    precision: str = value(
        "auto", "NAME", WORKERS,
        "fp32, bf16 or fp16; auto: fp16 on CUDA and Vulkan, bf16 on CPUs that support it, else fp32",
        choice("auto", "fp32", "bf16", "fp16"),
    )  # fmt: skip
    compile: bool = switch(WORKERS, "use torch.compile with CUDA graphs (CUDA only)")
    stall_timeout: float = value(
        600, "SECONDS", WORKERS, "replace a worker that sends no heartbeat for this long", number(1, 1e6)
    )

    part: tuple[int, int] | None = value(
        None, "I/N", CLUSTER, "upscale only part I of N, cut at keyframes, into OUTPUT.parts", parse_part, keyword=False
    )
    join: int | None = value(
        None, "N", CLUSTER, "join the N parts that --part has made; nothing is encoded again", integer(2, MAX_PARTS),
        keyword=False,
    )  # fmt: skip

    slurm: bool = switch(
        CLUSTER, "have Slurm upscale the parts as an array job and join them in a second one", keyword=False
    )
    parts: int | None = value(
        None, "N", CLUSTER, "with --slurm: number of parts (default: some minutes of work each)", integer(2, MAX_PARTS),
        keyword=False,
    )  # fmt: skip
    at_once: int | None = value(
        None, "M", CLUSTER, "with --slurm: run at most M tasks at the same time", integer(1, MAX_PARTS), keyword=False
    )
    sbatch: str | None = value(
        None, "OPTIONS", CLUSTER, 'with --slurm: options of sbatch, such as "--partition=gpu --gres=gpu:1"',
        keyword=False,
    )  # fmt: skip
    detach: bool = switch(CLUSTER, "with --slurm: submit the jobs, print their numbers and end", keyword=False)

    deinterlace: str = value(
        "auto",
        "NAME",
        DECODING,
        "auto, on or off; auto: frames flagged as interlaced, or all if they show combing",
        choice("auto", "on", "off"),
    )
    frame_rate: Fraction | None = value(
        None, "FPS", DECODING, "frame rate of numbered pictures, such as 24 or 30000/1001 (25 if not given)",
        parse_rate, exact=True,
    )  # fmt: skip

    codec: str = value(
        "auto", "NAME", ENCODING, "h264 (libx264), hevc (libx265), av1 (libsvtav1), vp9 (libvpx-vp9), prores "
        "(prores_ks), ffv1, h264_nvenc, hevc_nvenc or av1_nvenc; auto: in mp4, mkv and mov H.264 for 8 bits and HEVC "
        "Main 10 for more, in webm VP9, or AV1 for more than 8 bits",
    )  # fmt: skip
    crf: float | None = value(
        None, "N", ENCODING, "constant quality, lower is better (default: the codec's own)", number(0, 63)
    )
    preset: str | None = value(None, "NAME", ENCODING, "encoder preset, its speed (default: the codec's own)")
    pix_fmt: str | None = value(None, "NAME", ENCODING, "pixel format of the output, such as yuv444p10le")

    audio: str = value(
        "auto", "NAME", STREAMS,
        "auto: copy, and encode what the output's container can't hold; copy: never encode; aac, opus or flac: all "
        "sound in that codec; none: no sound",
        choice("auto", "copy", "aac", "opus", "flac", "none"),
    )  # fmt: skip
    audio_bitrate: int | None = value(
        None, "RATE", STREAMS, "bits/s of each stream of sound that is encoded to AAC or Opus, such as 128k "
        "(default: 96k a channel for AAC, 64k for Opus)", parse_bit_rate,
    )  # fmt: skip
    audio_language: tuple[str, ...] = value(
        (), "LIST", STREAMS, "only sound in these languages, in this order: ISO 639 codes such as en,ger; und: untold",
        parse_languages,
    )  # fmt: skip
    subtitle_language: tuple[str, ...] = value(
        (), "LIST", STREAMS, "only subtitles in these languages, in this order", parse_languages
    )

    work_dir: Path | None = value(
        None, "DIR", JOB, "put the work directory OUTPUT.work here (default: beside the output)", Path
    )
    work_space: int | None = value(
        None, "SIZE", JOB, "most disk space that frames may take, such as 500M or 2G", parse_bytes
    )
    frame_format: str = value(
        "npy", "NAME", JOB, "format of the frames at work: npy, or png (slower, 8-bit RGB, can be opened in a viewer)",
        choice("npy", "png"),
    )  # fmt: skip
    segment_frames: int = value(
        250, "N", JOB, "frames per segment: at most this many are lost in a crash, and at most a minute's work",
        integer(1, 1_000_000),
    )  # fmt: skip
    keep_work: bool = switch(JOB, "keep the work directory after success")
    restart: bool = switch(JOB, "discard what an earlier run finished and start again")
    overwrite: bool = switch(JOB, "replace files that this program did not make; its own results are always replaced")
    no_clobber: bool = switch(JOB, "if the output exists, skip it and exit with status 0")

    progress: str = value(
        "auto", "NAME", LOGGING, "bars, plain, json or none; auto: bars in a terminal, else plain",
        choice("auto", "bars", "plain", "json", "none"),
    )  # fmt: skip
    report: Path | None = value(
        None, "PAGE.html", LOGGING,
        "write a page to read in a browser: before and after, what was done, what failed; it is kept up to date", Path,
    )  # fmt: skip
    log_file: Path | None = value(None, "FILE", LOGGING, "append messages with their times to this file", Path)
    verbosity: int = value(0, "N", LOGGING, "1: more messages; -1: errors, and what is lost, only", integer(-1, 9))


def make_options(**values) -> Options:
    """Options from Python values or from the text that the command takes; InputError names the wrong one."""
    for one in fields(Options):
        if one.name in values and (one.default is MISSING or values[one.name] is not one.default):
            try:
                values[one.name] = from_python(one.metadata["option"], values[one.name])
            except InputError as error:
                raise InputError(f"{one.name}: {error}") from None
    return Options(**values)


def from_python(option: Option, given: Any) -> Any:
    """A value from Python as the field has it: text is read as on the command line; InputError for a wrong type."""
    if option.metavar is None:
        if not isinstance(given, bool):
            raise InputError(f"invalid value {given!r} (choose True or False)")
        return given
    if isinstance(given, Scale | FrameRange | TimeRange):
        return given
    if option.repeated:
        words = given if isinstance(given, list | tuple) else [given]
        if not all(isinstance(word, str) for word in words):
            raise InputError(f"invalid value {given!r} (choose text, or a list of texts)")
        return tuple(map(option.parse, words))
    if isinstance(given, os.PathLike | bytes):
        return option.parse(os.fsdecode(given))
    if option.parse is parse_languages and isinstance(given, list | tuple):
        given = ",".join(map(str, given))
    if isinstance(given, str):
        return option.parse(given)
    if isinstance(given, numbers.Real) and not isinstance(given, bool) and option.parse is not Path:
        return option.parse(exact(given) if option.exact else str(given))
    wanted = "a path" if option.parse is Path else "a number or text as on the command line"
    raise InputError(f"invalid value {given!r} of type {type(given).__name__} (choose {wanted})")
