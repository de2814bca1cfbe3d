"""What a run would do: every input and option checked, nothing touched."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import weights
from devices import choose_devices, core_share, cuda_device_count
from encode import EncodeSettings, encode_settings
from encoders import keeps_alpha
from errors import InputError
from frame import FORMATS, frame_bytes
from job import input_identity
from mux import check_container
from options import Options
from settings import LANCZOS, ModelSettings, PictureSettings
from video import VideoInfo, probe

WINDOW_BATCHES = 3  # batches a worker in the window: one at work, one in its queue, one being encoded
SPARE_BYTES = 64 << 20  # left free on the disk, for the segments of a run that ends because it is full


@dataclass(frozen=True)
class Plan:
    """A checked run. Sizes are in pixels, `window` is how many frames may be in storage at a time."""

    options: Options
    output: Path
    info: VideoInfo
    encoding: EncodeSettings
    picture: PictureSettings
    models: tuple[ModelSettings, ...]  # one a worker
    identity: dict
    work_dir: Path
    batch_size: int
    window: int
    warnings: tuple[str, ...]

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame in storage, its input and its output together."""
        p = self.picture
        return frame_bytes(FORMATS[p.pixel_format], p.width, p.height) + frame_bytes(
            FORMATS[p.out_pixel_format], *p.stored_size
        )


def make_plan(options: Options) -> Plan:
    """Check everything that can be checked before the first byte is written; InputError says what is wrong."""
    output = check_paths(options.input, options.output)
    work_dir = work_directory(options, output)
    found = None if options.model == LANCZOS else weights.locate(options.model, options.denoise)
    models = model_settings(options)
    keep_alpha = keeps_alpha(options.codec, output.suffix.lower().lstrip("."))
    info = probe(options.input, deinterlace=options.deinterlace, keep_alpha=keep_alpha)
    width, height = options.scale.size(info.width, info.height)
    encoding = encode_settings(
        info,
        output,
        width,
        height,
        codec=options.codec,
        crf=options.crf,
        preset=options.preset,
        pix_fmt=options.pix_fmt,
    )
    warnings = check_container(info, output, encoding)
    picture = PictureSettings(
        info.width, info.height, info.pixel_format,
        info.colour.matrix, info.colour.full_range, info.colour.chroma_location,
        width, height, encoding.pixel_format,
        encoding.colour.matrix, encoding.colour.full_range, encoding.colour.chroma_location,
    )  # fmt: skip
    batch_size, window = window_frames(options, picture, work_dir)
    return Plan(
        options, output, info, encoding, picture, models, identity(options, info, encoding, picture, found), work_dir,
        batch_size, window, (*info.notes, *warnings),
    )  # fmt: skip


def check_paths(source: Path, output: Path) -> Path:
    """The absolute output path; InputError where the input or the output can't be what they are said to be."""
    if not source.exists():
        raise InputError(f"{source}: no such file")
    if source.is_dir():
        raise InputError(f"{source} is a directory; name a video")
    if not os.access(source, os.R_OK):
        raise InputError(f"{source} may not be read by this user")
    if source.is_file() and source.stat().st_size == 0:
        raise InputError(f"{source} is empty")
    if output.is_dir():
        raise InputError(f"{output} is a directory; name a file in it")
    if not output.parent.is_dir():
        raise InputError(f"the output's directory {output.parent} does not exist; make it first")
    if not os.access(output.parent, os.W_OK):
        raise InputError(f"the output's directory {output.parent} may not be written to by this user")
    if output.exists() and os.path.samefile(source, output):
        raise InputError(f"{output} is the input itself; name another output")
    return output.absolute()


def work_directory(options: Options, output: Path) -> Path:
    """OUTPUT.work beside the output, or inside --work-dir."""
    if options.work_dir is None:
        return output.with_name(output.name + ".work")
    if not options.work_dir.is_dir():
        raise InputError(f"--work-dir {options.work_dir} does not exist; make it first")
    return options.work_dir.absolute() / (output.name + ".work")


def model_settings(options: Options) -> tuple[ModelSettings, ...]:
    """The settings of each worker: its device, and its share of the cores where that is the CPU."""
    devices = choose_devices(
        "cpu" if options.model == LANCZOS else options.device, options.workers, cuda_device_count()
    )
    named = options.model == LANCZOS or options.model in weights.MODELS
    model = options.model if named else str(Path(options.model).absolute())
    return tuple(
        ModelSettings(
            model, device, options.precision, options.patch_size, options.batch_size, core_share(options.workers),
            options.denoise, options.strength, options.compile,
        )
        for device in devices
    )  # fmt: skip


def window_frames(options: Options, picture: PictureSettings, work_dir: Path) -> tuple[int, int]:
    """(batch size, frames that may be in storage at a time), fitted to --work-space, the disk and memory.

    InputError where not even one frame fits.
    """
    input_bytes = frame_bytes(FORMATS[picture.pixel_format], picture.width, picture.height)
    one = input_bytes + frame_bytes(FORMATS[picture.out_pixel_format], *picture.stored_size)
    place = work_dir if work_dir.exists() else work_dir.parent
    disk = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize - SPARE_BYTES
    space = min(disk, options.work_space if options.work_space is not None else disk, available_memory() // 2)
    wanted = options.workers * options.batch_size * WINDOW_BATCHES
    window = min(wanted, space // one) if one else wanted
    if window < 2:
        raise InputError(
            f"frames of {picture.out_width}x{picture.out_height} need {2 * one / 2**20:.0f} MiB of work space at the "
            f"least, there are {max(0, space) / 2**20:.0f} MiB in {place}; free some or choose another --work-dir"
        )
    return max(1, min(options.batch_size, window // 2)), window


def available_memory() -> int:
    """Bytes of memory that new work may take without swapping (MemAvailable of proc(5))."""
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return 1 << 62


def identity(
    options: Options,
    info: VideoInfo,
    encoding: EncodeSettings,
    picture: PictureSettings,
    found: weights.Weights | None,
) -> dict:
    """The input and every parameter that changes the result, as JSON has them."""
    return {
        "input": input_identity(options.input),
        "frames": info.identity(),
        "picture": asdict(picture),
        "model": {
            "sha256": list(found.sums) if found else LANCZOS,
            "blend": found.blend if found else None,
            "strength": options.strength,
            "precision": options.precision,
            "device": options.device.partition(":")[0],
            "patch_size": options.patch_size,
        },
        "encoding": encoding.identity(),
    }
