"""What a run would do: every input and option checked, nothing touched."""

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from upscaling.common.errors import InputError
from upscaling.common.system import available_memory, choose_devices, core_share, cuda_device_count
from upscaling.decode.packet_index import Part
from upscaling.decode.probe import VideoInfo
from upscaling.encode.codecs import keeps_alpha
from upscaling.encode.muxer import check_container
from upscaling.encode.settings import FALLBACK_RATE, EncodeSettings, encode_settings
from upscaling.frames import image_files
from upscaling.frames.conversion import FrameConversion
from upscaling.frames.frame_files import as_stored, check_frame_format
from upscaling.frames.layout import FrameLayout
from upscaling.inference import weights
from upscaling.inference.settings import LANCZOS, ModelSettings
from upscaling.job import images
from upscaling.job.checks import check_paths, picture_target, work_directory
from upscaling.job.fingerprint import identity
from upscaling.job.images import PictureTarget
from upscaling.job.ledger import SegmentRecord
from upscaling.job.notation import FrameRange
from upscaling.job.options import Options
from upscaling.job.parts import check_part_options, part_directory
from upscaling.job.sources import (
    Source,
    VideoPartSource,
    VideoSource,
    part_source,
    picture_source,
    video_source,
)

WINDOW_BATCHES = 3  # batches a worker in the window: one at work, one in its queue, one being encoded
LANCZOS_BATCH_BYTES = 16 << 20  # of frames in and out: they take milliseconds, so many in storage gain nothing
SPARE_BYTES = 64 << 20  # left free on the disk, for the segments of a run that ends because it is full


@dataclass(frozen=True)
class Plan:
    """A checked run. Sizes are in pixels, `window` is how many frames may be in storage at a time."""

    options: Options
    output: Path
    source: Source
    target: PictureTarget | None  # where the result is pictures
    encoding: EncodeSettings
    conversion: FrameConversion
    models: tuple[ModelSettings, ...]  # one a worker
    identity: dict
    work_dir: Path
    batch_size: int
    window: int
    warnings: tuple[str, ...]

    @property
    def info(self) -> VideoInfo:
        return self.source.info

    @property
    def part(self) -> Part | None:
        """The part of --part."""
        return self.source.part if isinstance(self.source, VideoPartSource) else None

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame in storage, its input and its output together."""
        return self.stored.source.frame_bytes + self.stored.target.padded.frame_bytes

    @property
    def stored(self) -> FrameConversion:
        """The frames as they are in storage."""
        return as_stored(self.conversion, self.options.frame_format)

    def clip(self, records: list[SegmentRecord]) -> tuple[Fraction, Fraction] | None:
        """From where to where, in seconds of the input, other streams are copied; None is all of them."""
        if not isinstance(self.source, VideoSource) or self.source.part is None:
            return None
        base, rate = self.info.time_base, self.info.frame_rate or FALLBACK_RATE
        return records[0].pts[0] * base, records[-1].pts[-1] * base + 1 / rate


def make_plan(options: Options) -> Plan:
    """Check everything that can be checked before the first byte is written; InputError says what is wrong."""
    if options.part is not None:
        check_part_options(options)
    target = picture_target(options)
    output = check_paths(options, target)
    work_dir = work_directory(options, output, target)
    if Path(os.path.realpath(options.input)).is_relative_to(os.path.realpath(work_dir)):
        raise InputError(f"{options.input} lies in the work directory {work_dir}, which is cleaned up; move it first")
    found = None if options.model == LANCZOS else weights.locate(options.model, options.denoise)
    extension = output.suffix.lower().lstrip(".")
    keep_alpha = extension in image_files.ALPHA if target else keeps_alpha(options.codec, extension)
    source = frame_source(options, target, keep_alpha)
    info = source.info
    workers = min(options.workers, source.most or options.workers)  # no model is loaded for nothing
    models = model_settings(options, workers)
    width, height = options.scale.size(info.width, info.height)
    if target:
        encoding = target.settings(info, width, height)
        warnings = images.check_formats(target, info, width, height)
    else:
        encoding = encode_settings(
            info, output, width, height,
            codec=options.codec, crf=options.crf, preset=options.preset, pix_fmt=options.pix_fmt,
        )  # fmt: skip
        warnings = check_container(info, output, encoding)
    conversion = frame_conversion(info, encoding, width, height)
    warnings = [*warnings, *check_frame_format(options.frame_format, conversion)]
    batch_size, window = window_frames(options, as_stored(conversion, options.frame_format), work_dir)
    if source.most is not None:  # few frames are shared by all workers
        batch_size = min(batch_size, -(-source.most // workers))
    if options.part is not None:
        output = part_directory(output, *options.part)
    return Plan(
        options, output, source, target, encoding, conversion, models,
        identity(options, source, encoding, conversion, found), work_dir, batch_size, window, (*info.notes, *warnings),
    )  # fmt: skip


def frame_conversion(info: VideoInfo, encoding: EncodeSettings, width: int, height: int) -> FrameConversion:
    """From decoded frames to the encoder's; width × height is the exact upscaled size in pixels."""
    target = FrameLayout(
        width=width,
        height=height,
        pixel_format=encoding.pixel_format,
        matrix=encoding.colour.matrix,
        full_range=encoding.colour.full_range,
        chroma_location=encoding.colour.chroma_location,
    )
    return FrameConversion(source=info.layout, target=target)


def frame_source(options: Options, target: PictureTarget | None, keep_alpha: bool) -> Source:
    """What the frames are taken from, by the input's name."""
    path, part = options.input, options.frames or options.time
    pictures = None
    if images.is_pattern(path):
        pictures = images.files_of_pattern(path)
    elif path.is_dir():
        pictures = images.numbered_pictures(path)
    elif image_files.is_picture(path):
        pictures = ((1, path),)
    one = isinstance(part, FrameRange) and part.first == part.last
    if target and not target.pattern and not one and (pictures is None or len(pictures) > 1):
        raise InputError(
            f"{target.path.name} is one picture, the input has many frames; name a pattern such as "
            f"{target.path.stem}_%06d{target.path.suffix}, or choose one frame with --frames 10"
        )
    if options.part is not None:
        if pictures is not None or target is not None:
            raise InputError("--part takes a video and makes a video, not pictures")
        return part_source(path, *options.part, options.deinterlace, keep_alpha)
    if pictures is not None:
        return picture_source(pictures, part, options.frame_rate, keep_alpha)
    if options.frame_rate is not None:
        raise InputError("--frame-rate is for numbered pictures; a video has its own")
    return video_source(path, part, options.deinterlace, keep_alpha)


def model_settings(options: Options, workers: int) -> tuple[ModelSettings, ...]:
    """The settings of each worker: its device, and its share of the cores where that is the CPU."""
    devices = choose_devices("cpu" if options.model == LANCZOS else options.device, workers, cuda_device_count())
    named = options.model == LANCZOS or options.model in weights.MODELS
    model = options.model if named else str(Path(options.model).absolute())
    return tuple(
        ModelSettings(
            model=model,
            device=device,
            precision=options.precision,
            patch_size=options.patch_size,
            batch_size=options.batch_size,
            threads=core_share(workers),
            denoise=options.denoise,
            strength=options.strength,
            compile=options.compile,
            workers_on_device=devices.count(device),
        )
        for device in devices
    )


def window_frames(options: Options, conversion: FrameConversion, work_dir: Path) -> tuple[int, int]:
    """(batch size, frames that may be in storage at a time), fitted to --work-space, the disk and memory.

    InputError where not even one frame fits.
    """
    target = conversion.target
    one = conversion.source.frame_bytes + target.padded.frame_bytes
    place = work_dir if work_dir.exists() else work_dir.parent
    disk = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize - SPARE_BYTES
    memory = available_memory()
    limits = [options.work_space, None if memory is None else memory // 2]  # frames are cached in memory
    space = min(disk, *(limit for limit in limits if limit is not None))
    size = options.batch_size
    if options.model == LANCZOS:
        size = max(1, min(size, LANCZOS_BATCH_BYTES // max(1, one)))
    wanted = options.workers * size * WINDOW_BATCHES
    window = min(wanted, space // one) if one else wanted
    if window < 2:
        raise InputError(
            f"frames of {target.width}x{target.height} need {2 * one / 2**20:.0f} MiB of work space at the "
            f"least, there are {max(0, space) / 2**20:.0f} MiB in {place}; free some or choose another --work-dir"
        )
    return max(1, min(size, window // 2)), window
