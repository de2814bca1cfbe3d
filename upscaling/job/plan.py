"""What a run would do: every input and option checked, nothing touched."""

import os
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path

from upscaling.cluster import slurm
from upscaling.common.devices import choose_devices, core_share, cuda_device_count
from upscaling.common.errors import InputError
from upscaling.decode.probe import VideoInfo
from upscaling.encode.codecs import keeps_alpha
from upscaling.encode.muxer import check_container
from upscaling.encode.segment_writer import FALLBACK_RATE, EncodeSettings, encode_settings
from upscaling.frames import image_files
from upscaling.frames.frame_files import as_stored, check_frame_format
from upscaling.frames.image_files import PictureTarget
from upscaling.frames.pixel_formats import FORMATS, frame_bytes
from upscaling.frames.settings import LANCZOS, ModelSettings, PictureSettings
from upscaling.inference import weights
from upscaling.job.ledger import SegmentRecord
from upscaling.job.notation import FrameRange
from upscaling.job.options import Options
from upscaling.job.parts import part_options
from upscaling.job.sources import PictureSource, VideoSource, picture_source, video_source

WINDOW_BATCHES = 3  # batches a worker in the window: one at work, one in its queue, one being encoded
LANCZOS_BATCH_BYTES = 16 << 20  # of frames in and out: they take milliseconds, so many in storage gain nothing
SPARE_BYTES = 64 << 20  # left free on the disk, for the segments of a run that ends because it is full


@dataclass(frozen=True)
class Plan:
    """A checked run. Sizes are in pixels, `window` is how many frames may be in storage at a time."""

    options: Options
    output: Path
    source: VideoSource | PictureSource
    target: PictureTarget | None  # where the result is pictures
    encoding: EncodeSettings
    picture: PictureSettings
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
    def frame_bytes(self) -> int:
        """Bytes of one frame in storage, its input and its output together."""
        p = self.stored
        return frame_bytes(FORMATS[p.pixel_format], p.width, p.height) + frame_bytes(
            FORMATS[p.out_pixel_format], *p.stored_size
        )

    @property
    def stored(self) -> PictureSettings:
        """The frames as they are in storage."""
        return as_stored(self.picture, self.options.frame_format)

    def clip(self, records: list[SegmentRecord]) -> tuple[Fraction, Fraction] | None:
        """From where to where, in seconds of the input, other streams are copied; None is all of them."""
        if not isinstance(self.source, VideoSource) or self.source.part is None:
            return None
        base, rate = self.info.time_base, self.info.frame_rate or FALLBACK_RATE
        return records[0].pts[0] * base, records[-1].pts[-1] * base + 1 / rate


def make_plan(options: Options) -> Plan:
    """Check everything that can be checked before the first byte is written; InputError says what is wrong."""
    if options.slurm:
        slurm.check(options.sbatch)
        options = replace(options, workers=options.slurm_workers)
    if options.segment_of is not None:
        options = part_options(options)
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
        warnings = image_files.check_formats(target, info)
    else:
        encoding = encode_settings(
            info, output, width, height,
            codec=options.codec, crf=options.crf, preset=options.preset, pix_fmt=options.pix_fmt,
        )  # fmt: skip
        warnings = check_container(info, output, encoding)
    picture = picture_settings(info, encoding, width, height)
    warnings = [*warnings, *check_frame_format(options.frame_format, picture)]
    batch_size, window = window_frames(options, as_stored(picture, options.frame_format), work_dir)
    if source.most is not None:  # few frames are shared by all workers
        batch_size = min(batch_size, -(-source.most // workers))
    return Plan(
        options, output, source, target, encoding, picture, models,
        identity(options, source, encoding, picture, found), work_dir, batch_size, window, (*info.notes, *warnings),
    )  # fmt: skip


def picture_settings(info: VideoInfo, encoding: EncodeSettings, width: int, height: int) -> PictureSettings:
    """Frames as they are decoded and as they are encoded; width × height is the exact upscaled size."""
    before, after = info.colour, encoding.colour
    return PictureSettings(
        info.width, info.height, info.pixel_format, before.matrix, before.full_range, before.chroma_location,
        width, height, encoding.pixel_format, after.matrix, after.full_range, after.chroma_location,
    )  # fmt: skip


def picture_target(options: Options) -> PictureTarget | None:
    """Where the result is pictures by the output's name; InputError for options that only videos have."""
    if not image_files.is_picture(options.output):
        return None
    for name in ("crf", "preset", "pix_fmt"):
        if getattr(options, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} is for videos; {options.output.name} is a picture")
    if options.codec != "auto":
        raise InputError(f"--codec is for videos; {options.output.name} is a picture")
    return PictureTarget(options.output.absolute(), image_files.is_pattern(options.output))


def frame_source(options: Options, target: PictureTarget | None, keep_alpha: bool) -> VideoSource | PictureSource:
    """What the frames are taken from, by the input's name."""
    path, part = options.input, options.frames or options.time
    pictures = None
    if image_files.is_pattern(path):
        pictures = image_files.files_of_pattern(path)
    elif path.is_dir():
        pictures = image_files.numbered_pictures(path)
    elif image_files.is_picture(path):
        pictures = ((1, path),)
    one = isinstance(part, FrameRange) and part.first == part.last
    if target and not target.pattern and not one and (pictures is None or len(pictures) > 1):
        raise InputError(
            f"{target.path.name} is one picture, the input has many frames; name a pattern such as "
            f"{target.path.stem}_%06d{target.path.suffix}, or choose one frame with --frames 10"
        )
    if pictures is not None:
        return picture_source(pictures, part, options.frame_rate, keep_alpha)
    if options.frame_rate is not None:
        raise InputError("--frame-rate is for numbered pictures; a video has its own")
    return video_source(path, part, options.deinterlace, keep_alpha)


def check_paths(options: Options, target: PictureTarget | None) -> Path:
    """The absolute output path; InputError where the input or the output can't be what they are said to be."""
    source, output = options.input, options.output
    if options.frames and options.time:
        raise InputError("choose --frames or --time, not both")
    if not image_files.is_pattern(source):
        check_input(source)
    if output.is_dir():
        raise InputError(f"{output} is a directory; name a file in it")
    if options.compare is not None and not image_files.is_picture(options.compare):
        raise InputError(f"--compare {options.compare} is not the name of a picture; choose compare.png")
    if options.compare is not None and not options.compare.absolute().parent.is_dir():
        raise InputError(f"the directory of --compare {options.compare} does not exist; make it first")
    folder = output.absolute().parent
    if target and target.pattern and not folder.exists():
        folder = folder.parent  # the pictures' own directory is made
    if not folder.is_dir():
        raise InputError(f"the output's directory {folder} does not exist; make it first")
    if not os.access(folder, os.W_OK):
        raise InputError(f"the output's directory {folder} may not be written to by this user")
    if output.exists() and not output.is_file():
        raise InputError(f"{output} is there and is no regular file; name another output")
    same = output.absolute() == source.absolute()  # also where they are patterns
    if same or (output.exists() and source.exists() and os.path.samefile(source, output)):
        raise InputError(f"{output} is the input itself; name another output")
    return output.absolute()


def check_input(source: Path) -> None:
    """InputError where the input is not there, can't be read, or is empty."""
    if not source.exists():
        raise InputError(f"{source}: no such file")
    if not os.access(source, os.R_OK):
        raise InputError(f"{source} may not be read by this user")
    if source.is_file() and source.stat().st_size == 0:
        raise InputError(f"{source} is empty")


def work_directory(options: Options, output: Path, target: PictureTarget | None) -> Path:
    """OUTPUT.work beside the output, or inside --work-dir; numbered pictures' is beside their directory."""
    place = output.parent if target and target.pattern else output
    if options.work_dir is None:
        return place.with_name(place.name + ".work")
    if not options.work_dir.is_dir():
        raise InputError(f"--work-dir {options.work_dir} does not exist; make it first")
    return options.work_dir.absolute() / (place.name + ".work")


def model_settings(options: Options, workers: int) -> tuple[ModelSettings, ...]:
    """The settings of each worker: its device, and its share of the cores where that is the CPU."""
    if options.slurm:  # each task takes the device that it sees
        devices = [slurm_device(options.device)] * workers
    else:
        devices = choose_devices("cpu" if options.model == LANCZOS else options.device, workers, cuda_device_count())
    named = options.model == LANCZOS or options.model in weights.MODELS
    model = options.model if named else str(Path(options.model).absolute())
    return tuple(
        ModelSettings(
            model, device, options.precision, options.patch_size, options.batch_size, core_share(workers),
            options.denoise, options.strength, options.compile,
            sharers=1 if options.slurm else devices.count(device),  # what a task may take is Slurm's to say
        )
        for device in devices
    )  # fmt: skip


def slurm_device(device: str) -> str:
    """--device for tasks of Slurm: the scheduler says which GPU a task has; InputError for a number."""
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device {device}: with --slurm choose auto, cpu or cuda; Slurm gives each task its GPU")
    return device


def window_frames(options: Options, picture: PictureSettings, work_dir: Path) -> tuple[int, int]:
    """(batch size, frames that may be in storage at a time), fitted to --work-space, the disk and memory.

    InputError where not even one frame fits.
    """
    input_bytes = frame_bytes(FORMATS[picture.pixel_format], picture.width, picture.height)
    one = input_bytes + frame_bytes(FORMATS[picture.out_pixel_format], *picture.stored_size)
    place = work_dir if work_dir.exists() else work_dir.parent
    disk = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize - SPARE_BYTES
    space = min(disk, options.work_space if options.work_space is not None else disk, available_memory() // 2)
    size = options.batch_size
    if options.model == LANCZOS and not options.slurm:
        size = max(1, min(size, LANCZOS_BATCH_BYTES // max(1, one)))
    wanted = options.workers * size * WINDOW_BATCHES
    window = min(wanted, space // one) if one else wanted
    if window < 2:
        raise InputError(
            f"frames of {picture.out_width}x{picture.out_height} need {2 * one / 2**20:.0f} MiB of work space at the "
            f"least, there are {max(0, space) / 2**20:.0f} MiB in {place}; free some or choose another --work-dir"
        )
    return max(1, min(size, window // 2)), window


def available_memory() -> int:
    """Bytes of memory that new work may take without swapping (MemAvailable of proc(5))."""
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return 1 << 62


def identity(
    options: Options,
    source: VideoSource | PictureSource,
    encoding: EncodeSettings,
    picture: PictureSettings,
    found: weights.Weights | None,
) -> dict:
    """The input and every parameter that changes the result, as JSON has them."""
    return {
        **source.identity(),
        "frames": source.info.identity(),
        "picture": asdict(picture),
        "frame_format": options.frame_format,
        "model": model_identity(options, found),
        "encoding": encoding.identity(),
    }


def model_identity(options: Options, found: weights.Weights | None) -> dict:
    """What the frames' upscaling depends on, as JSON has it."""
    return {
        "sha256": list(found.sums) if found else LANCZOS,
        "blend": found.blend if found else None,
        "strength": options.strength,
        "precision": options.precision,
        "device": options.device.partition(":")[0],
        "patch_size": options.patch_size,
    }


def parameters(options: Options) -> dict:
    """Everything asked for that changes a result, whatever the input, as JSON has it; for folders."""
    found = None if options.model == LANCZOS else weights.locate(options.model, options.denoise)
    names = ("scale", "codec", "crf", "preset", "pix_fmt", "deinterlace", "frames", "time", "container", "frame_format")
    return {"model": model_identity(options, found)} | {name: str(getattr(options, name)) for name in names}
