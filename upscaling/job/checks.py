"""What can be said of a run's paths before anything is opened; InputError says what is wrong."""

import os
from pathlib import Path

from upscaling.common.errors import InputError
from upscaling.frames import image_files
from upscaling.job import images
from upscaling.job.images import PictureTarget
from upscaling.job.options import Options


def picture_target(options: Options) -> PictureTarget | None:
    """Where the result is pictures by the output's name; InputError for options that only videos have."""
    if not image_files.is_picture(options.output):
        return None
    for name in ("crf", "preset", "pix_fmt"):
        if getattr(options, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} is for videos; {options.output.name} is a picture")
    if options.codec != "auto":
        raise InputError(f"--codec is for videos; {options.output.name} is a picture")
    return PictureTarget(options.output.absolute(), images.is_pattern(options.output))


def check_paths(options: Options, target: PictureTarget | None) -> Path:
    """The absolute output path; InputError where the input or the output can't be what they are said to be."""
    source, output = options.input, options.output
    if options.frames and options.time:
        raise InputError("choose --frames or --time, not both")
    if not images.is_pattern(source):
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
    part = f".{options.part[0]}of{options.part[1]}" if options.part else ""
    name = f"{place.name}{part}.work"
    if options.work_dir is None:
        return place.with_name(name)
    if not options.work_dir.is_dir():
        raise InputError(f"--work-dir {options.work_dir} does not exist; make it first")
    return options.work_dir.absolute() / name
