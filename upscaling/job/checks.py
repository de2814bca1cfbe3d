"""Checks of a run's paths and options before any file is opened; InputError says what is wrong."""

import os
from pathlib import Path

from upscaling.common.errors import InputError
from upscaling.frames import image_files
from upscaling.job import images
from upscaling.job.images import PictureTarget
from upscaling.job.options import Options


def picture_target(options: Options) -> PictureTarget | None:
    """The pictures that the output's name stands for, None for a video; InputError for options of videos only."""
    if not image_files.is_picture(options.output):
        return None
    for name in ("codec", "crf", "preset", "pix_fmt"):
        if getattr(options, name) not in (None, "auto"):
            raise InputError(f"--{name.replace('_', '-')} is for videos; {options.output.name} is a picture")
    return PictureTarget(options.output.absolute(), images.is_pattern(options.output))


def check_paths(options: Options, target: PictureTarget | None) -> Path:
    """Check the input's and the output's paths; return the absolute path of the output."""
    source, output = options.input, options.output
    if options.frames and options.time:
        raise InputError("choose --frames or --time, not both")
    if not images.is_pattern(source):
        _check_input(source)
    if output.is_dir():
        raise InputError(f"{output} is a directory; name a file in it")
    if options.compare is not None:
        _check_compare(options.compare)
    folder = output.absolute().parent
    if target and target.pattern and not folder.exists():
        folder = folder.parent  # the directory of numbered pictures is created
    if not folder.is_dir():
        raise InputError(f"output directory {folder} does not exist")
    if not os.access(folder, os.W_OK):
        raise InputError(f"cannot write to output directory {folder}: permission denied")
    if output.exists() and not output.is_file():
        raise InputError(f"{output} exists and is not a regular file")
    same = output.absolute() == source.absolute()  # also if both are patterns
    if same or (output.exists() and source.exists() and os.path.samefile(source, output)):
        raise InputError(f"{output} is the input itself; name another output")
    return output.absolute()


def _check_input(source: Path) -> None:
    if not source.exists():
        raise InputError(f"{source}: no such file")
    if not os.access(source, os.R_OK):
        raise InputError(f"cannot read {source}: permission denied")
    if source.is_file() and source.stat().st_size == 0:
        raise InputError(f"{source} is empty")


def _check_compare(path: Path) -> None:
    if not image_files.is_picture(path):
        raise InputError(f"--compare {path}: not the name of a picture; choose one such as compare.png")
    if not path.absolute().parent.is_dir():
        raise InputError(f"--compare {path}: directory {path.absolute().parent} does not exist")


def work_directory(options: Options, output: Path, target: PictureTarget | None) -> Path:
    """OUTPUT.work beside the output or in --work-dir; for numbered pictures beside their directory."""
    place = output.parent if target and target.pattern else output
    part = f".{options.part[0]}of{options.part[1]}" if options.part else ""
    directory = place.with_name(f"{place.name}{part}.work")
    if options.work_dir is not None:
        if not options.work_dir.is_dir():
            raise InputError(f"--work-dir {options.work_dir} does not exist")
        directory = options.work_dir.absolute() / directory.name
    if Path(os.path.realpath(options.input)).is_relative_to(os.path.realpath(directory)):
        raise InputError(f"{options.input} is in work directory {directory}, which is cleaned up; move it first")
    return directory
