"""What a run will do: every option and input checked, nothing touched."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from pathlib import Path

from upscaling.common.devices import cuda_devices
from upscaling.common.errors import InputError
from upscaling.common.system import available_memory, core_share, cpu_has_bf16
from upscaling.decode.probe import VideoInfo
from upscaling.demux.packet_index import Part
from upscaling.encode.codecs import keeps_alpha
from upscaling.encode.settings import FALLBACK_RATE, EncodeSettings, choose_format, encode_settings
from upscaling.frames.conversion import FrameConversion
from upscaling.frames.frame_files import as_stored, check_frame_format
from upscaling.frames.layout import FrameLayout
from upscaling.inference.device_choice import DeviceChoice, choose
from upscaling.inference.settings import AUTO, LANCZOS, TORCH, ModelSettings, tile_size
from upscaling.job.identity import given_options
from upscaling.job.ledger import SegmentRecord
from upscaling.job.options import Options
from upscaling.job.parts import check_part_options, part_directory
from upscaling.models import weights
from upscaling.mux.muxer import check_container
from upscaling.mux.stream_selection import StreamChoice
from upscaling.pictures.writing import ALPHA
from upscaling.pipeline.checks import (
    check_opencv,
    check_overwritten,
    check_paths,
    check_writes,
    picture_target,
    work_directory,
    written_files,
)
from upscaling.pipeline.picture_target import PictureTarget, check_formats
from upscaling.pipeline.shape import Shape, output_shape
from upscaling.pipeline.sources import Source, VideoPartSource, VideoSource, frame_source
from upscaling.pipeline.worker_count import asked_workers, worker_count

WINDOW_BATCHES = 3  # batches per worker in the window: one in progress, one in its queue, one being encoded
LANCZOS_BATCH_BYTES = 16 << 20  # of frames in and out; a resize takes milliseconds, so larger batches gain nothing
SPARE_BYTES = 64 << 20  # kept free on the disk, for closing the segment of a run that ends because the disk is full


@dataclass(frozen=True)
class Plan:
    """A checked run."""

    options: Options
    output: Path  # absolute
    source: Source
    target: PictureTarget | None  # if the result is pictures
    encoding: EncodeSettings
    shape: Shape
    conversion: FrameConversion  # from the decoder's frames to the upscaled pictures
    choice: DeviceChoice
    models: tuple[ModelSettings, ...]  # one per worker
    identity: dict  # the input and every parameter that changes the result, as JSON has them
    work_dir: Path
    steady: bool  # the upscaled frames are steadied
    batch_size: int  # frames
    window: int  # frames that may be in storage at a time
    warnings: tuple[str, ...]  # what the result lacks, and the like

    @property
    def info(self) -> VideoInfo:
        return self.source.info

    @property
    def asked(self) -> dict[str, str]:
        """The options given that change the result, as text."""
        return given_options(self.options)

    @property
    def streams(self) -> StreamChoice:
        """What is wanted of sound and subtitles."""
        return stream_choice(self.options)

    @property
    def part(self) -> Part | None:
        """The part of --part."""
        return self.source.part if isinstance(self.source, VideoPartSource) else None

    @property
    def stored(self) -> FrameConversion:
        """The layouts of the frames in storage."""
        return as_stored(self.conversion, self.options.frame_format)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame in storage, decoded and upscaled together, and steadied."""
        return stored_bytes(self.stored, self.steady)

    def clip(self, records: Sequence[SegmentRecord]) -> tuple[Fraction, Fraction] | None:
        """Start and end, in seconds of the input, of what is copied from other streams; None for everything."""
        if not isinstance(self.source, VideoSource) or self.source.selection is None:
            return None
        base, rate = self.info.time_base, self.info.frame_rate or FALLBACK_RATE
        return records[0].pts[0] * base, records[-1].pts[-1] * base + 1 / rate


def make_plan(options: Options) -> Plan:
    """Check everything that can be checked before the first byte is written; InputError says what is wrong."""
    if options.part is not None:
        check_part_options(options)
    target = picture_target(options)
    output = check_paths(options, target)
    work_dir = work_directory(options, output)
    found = None if options.model == LANCZOS else weights.locate(options.model, options.denoise)
    source = frame_source(options, target, keep_alpha=_keeps_alpha(options, output, target))
    if target is not None:
        target = replace(target, animated=target.is_animated(source.max_frames))
    written = list(written_files(options, target, source.numbers))
    read = [("the input", path) for path in source.paths] + [
        ("the model", path) for path in (found.files if found else ())
    ]
    check_writes(written, read, work_dir)
    hint = f", or --into FOLDER if {options.output} is an input, too"  # two files of an expanded *.mp4
    check_overwritten(
        [path for what, path in written if what not in ("--log-file", "--report")], options.overwrite, hint
    )
    file = found.files[0] if found else None
    workers = worker_count(options, source, file)
    choice = choose(options.device, options.engine, options.precision, options.model, file, workers)
    models = model_settings(options, choice)
    shape = _shape(options, source.info, output, target)
    encoding, encoding_warnings = _encoding(options, source.info, output, target, shape)
    conversion = frame_conversion(source.info, encoding, shape.picture)
    storage_warnings = check_frame_format(options.frame_format, conversion)
    steady = is_steady(options, source)
    batch_size, window = window_frames(options, as_stored(conversion, options.frame_format), work_dir, steady)
    if source.max_frames is not None:  # share few frames among all workers
        batch_size = min(batch_size, -(-source.max_frames // workers))
    return Plan(
        options=options,
        output=part_directory(output, *options.part) if options.part else output,
        source=source,
        target=target,
        encoding=encoding,
        shape=shape,
        conversion=conversion,
        choice=choice,
        models=models,
        identity=job_identity(options, source, encoding, conversion, found, models),
        work_dir=work_dir,
        steady=steady,
        batch_size=batch_size,
        window=window,
        warnings=(*source.info.notes, *encoding_warnings, *storage_warnings),
    )


# Steps


def _keeps_alpha(options: Options, output: Path, target: PictureTarget | None) -> bool:
    extension = output.suffix.lower().lstrip(".")
    return extension in ALPHA if target else keeps_alpha(options.codec, extension)


def model_settings(options: Options, choice: DeviceChoice) -> tuple[ModelSettings, ...]:
    """The settings of each worker: its device, and its share of the cores."""
    devices = choice.devices
    is_name = options.model == LANCZOS or options.model in weights.MODELS
    return tuple(
        ModelSettings(
            model=options.model if is_name else str(Path(options.model).absolute()),
            device=device,
            engine=choice.engine,
            precision=options.precision,
            patch_size=tile_size(options.patch_size),
            batch_size=options.batch_size,
            threads=core_share(len(devices)),
            denoise=options.denoise,
            strength=options.strength,
            compile=options.compile,
            workers_on_device=devices.count(device),
        )
        for device in devices
    )


def _shape(options: Options, info: VideoInfo, output: Path, target: PictureTarget | None) -> Shape:
    """The size of the pictures and of the frames that are written."""
    size = (info.width, info.height)

    def of_multiple(multiple: tuple[int, int]) -> Shape:
        return output_shape(options.scale, options.fit, size, info.sample_aspect_ratio, multiple)

    shape = of_multiple((1, 1))
    if target is not None:
        return shape
    _, fmt = choose_format(info, output, shape.frame, options.codec, options.pix_fmt)
    return of_multiple(fmt.multiple)


def _encoding(
    options: Options, info: VideoInfo, output: Path, target: PictureTarget | None, shape: Shape
) -> tuple[EncodeSettings, Sequence[str]]:
    """The encoder's settings for frames of that shape, and what the output's format loses, one line each."""
    pixel_shape = Fraction(1) if shape.square else info.sample_aspect_ratio
    if target is not None:
        encoding = target.settings(info, *shape.frame)
        encoding = replace(encoding, placement=shape.placement, sample_aspect_ratio=pixel_shape)
        return encoding, check_formats(target, info, *shape.frame)
    encoding = encode_settings(
        info, output, *shape.frame,
        codec=options.codec, crf=options.crf, preset=options.preset, pix_fmt=options.pix_fmt,
    )  # fmt: skip
    encoding = replace(encoding, placement=shape.placement, sample_aspect_ratio=pixel_shape)
    return encoding, check_container(info, output, encoding, stream_choice(options))


def frame_conversion(info: VideoInfo, encoding: EncodeSettings, size: tuple[int, int]) -> FrameConversion:
    """From the decoder's frames to the encoder's; `size` is the exact upscaled (width, height) in pixels."""
    target = FrameLayout(
        width=size[0],
        height=size[1],
        pixel_format=encoding.pixel_format,
        matrix=encoding.colour.matrix,
        full_range=encoding.colour.full_range,
        chroma_location=encoding.colour.chroma_location,
    )
    return FrameConversion(source=info.layout, target=target)


def is_steady(options: Options, source: Source) -> bool:
    """Whether frames are steadied: a single picture has no neighbours. InputError if that is impossible."""
    if options.steady and options.model == LANCZOS:
        raise InputError("--steady evens out what a network adds, and --model lanczos adds nothing; remove one of them")
    if not options.steady or source.max_frames == 1:
        return False
    check_opencv()
    return True


def window_frames(options: Options, stored: FrameConversion, work_dir: Path, steady: bool = False) -> tuple[int, int]:
    """(batch size, frames in the window), limited by --work-space, the free disk and the free memory.

    Raises InputError if not even two frames fit.
    """
    one = stored_bytes(stored, steady)
    place = next(path for path in (work_dir, *work_dir.parents) if path.exists())
    disk = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize - SPARE_BYTES
    memory = available_memory()
    limits = [options.work_space, None if memory is None else memory // 2]  # frames are cached in memory
    space = min(disk, *(limit for limit in limits if limit is not None))
    size = options.batch_size
    if options.model == LANCZOS:
        size = max(1, min(size, LANCZOS_BATCH_BYTES // one))
    window = min(asked_workers(options) * size * WINDOW_BATCHES, space // one)
    if window < 2:
        raise InputError(
            f"frames of {stored.target.width}x{stored.target.height} need {2 * one / 2**20:.0f} MiB of work space, "
            f"only {max(0, space) / 2**20:.0f} MiB are free in {place}; free some or choose another --work-dir"
        )
    return max(1, min(size, window // 2)), window


def stored_bytes(stored: FrameConversion, steady: bool) -> int:
    """Bytes of one frame in storage: decoded, upscaled and, if asked, steadied."""
    return stored.source.frame_bytes + stored.target.padded.frame_bytes * (2 if steady else 1)


def stream_choice(options: Options) -> StreamChoice:
    """What the options say about sound and subtitles."""
    return StreamChoice(**{one.name: getattr(options, one.name) for one in fields(StreamChoice)})


# Identity


def job_identity(
    options: Options,
    source: Source,
    encoding: EncodeSettings,
    conversion: FrameConversion,
    found: weights.Weights | None,
    models: Sequence[ModelSettings],
) -> dict:
    """The input and every parameter that changes the result, as JSON has them. `models` are the workers'."""
    return {
        **source.identity(),
        "frames": source.info.identity(),
        "conversion": asdict(conversion),
        "frame_format": options.frame_format,
        "model": _model_identity(found, models),
        "encoding": encoding.identity(),
        **({"steady": True} if options.steady and source.max_frames != 1 else {}),
    }


def _model_identity(found: weights.Weights | None, models: Sequence[ModelSettings]) -> dict:
    if found is None:
        return {"sha256": LANCZOS}  # a plain resize is the same on every machine
    settings = models[0]
    precisions = {
        resolved_precision(model.precision, model.device, model.engine) for model in models
    }  # GPUs may differ
    return {
        "sha256": list(found.sums),
        "blend": found.blend,
        "strength": settings.strength,
        "device": settings.device.partition(":")[0],
        "engine": settings.engine,
        "precision": ",".join(sorted(precisions)),
        "patch_size": settings.patch_size,
    }


def resolved_precision(asked: str, device: str, engine: str = TORCH) -> str:
    """fp32, bf16 or fp16; the same as the engine chooses, without importing torch."""
    if asked != AUTO:
        return asked
    if device.startswith("cuda"):
        broken = [found.name for found in cuda_devices().devices if not found.fp16_works]
        return "fp32" if device in broken else "fp16"
    if device.startswith("vulkan"):
        return "fp16"
    return "bf16" if engine == TORCH and cpu_has_bf16() else "fp32"
