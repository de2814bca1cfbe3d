"""Checks of a run's paths and options before anything is written; InputError says what is wrong."""

import functools
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from upscaling.common.driver_process import DriverSilent, ask_driver, exit_text
from upscaling.common.errors import InputError
from upscaling.common.text import SOFTWARE
from upscaling.job.options import Options
from upscaling.job.work_dir import work_dir_of
from upscaling.mux.containers import is_own_video
from upscaling.pictures import formats
from upscaling.pictures.metadata import is_own_picture
from upscaling.pictures.writing import EXTENSIONS, is_picture
from upscaling.pipeline import images
from upscaling.pipeline.picture_target import PictureTarget

PAGES = (".html", ".htm")
PAGE_MARK = f'<meta name="generator" content="{SOFTWARE}">'  # at the start of a page of --report
ADDRESS = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):/+")  # of a URI (RFC 3986)
OPENCV_SECONDS = 60.0
VIDEO_OPTIONS = (
    "codec", "crf", "preset", "pix_fmt", "audio", "audio_bitrate", "audio_language", "subtitle_language",
)  # fmt: skip


def picture_target(options: Options) -> PictureTarget | None:
    """The pictures that the output's name stands for, None for a video; InputError for options of videos only."""
    if not is_picture(options.output):
        if formats.is_named_picture(options.output):
            names = ", ".join(EXTENSIONS)
            raise InputError(f"{options.output.name}: pictures are written as {names}; choose one of them")
        return None
    for name in VIDEO_OPTIONS:
        if getattr(options, name) not in (None, "auto", ()):
            raise InputError(f"--{name.replace('_', '-')} is for videos; {options.output.name} is a picture")
    return PictureTarget(resolved(options.output), images.is_pattern(options.output))


@functools.cache
def check_opencv() -> None:
    """InputError if OpenCV cannot be loaded: on slim machines its wheel lacks libraries of the system."""
    try:
        done = ask_driver(["-P", "-c", "import cv2"], OPENCV_SECONDS)
    except DriverSilent:
        raise InputError("--steady needs OpenCV, which does not load within a minute; remove --steady") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [exit_text(done.returncode)])[-1]
        raise InputError(
            f"--steady needs OpenCV, which cannot be loaded ({last}); install it without a user interface: "
            "python -m pip uninstall opencv-python; python -m pip install opencv-python-headless"
        )


def resolved(path: Path) -> Path:
    """The absolute path of a file, in its directory's real path: without `..`, one path however it is written."""
    return Path(os.path.realpath(path.parent)) / path.name


def check_paths(options: Options, target: PictureTarget | None) -> Path:
    """Check the input's and the output's paths; return the resolved path of the output."""
    source, output = options.input, options.output
    if options.frames and options.time:
        raise InputError("choose --frames or --time, not both")
    if not images.is_pattern(source):
        check_input(source)
    if output.is_dir():
        raise InputError(f"{output} is a directory; name a file in it")
    if options.compare is not None:
        _check_compare(options.compare)
    output = resolved(output)
    folder = output.parent
    if target and target.pattern and not folder.exists():
        folder = folder.parent  # the directory of numbered pictures is created
    if not folder.is_dir():
        check_no_address(options.output)
        raise InputError(f"output directory {folder} does not exist")
    if not os.access(folder, os.W_OK):
        raise InputError(f"cannot write to output directory {folder}: permission denied")
    return output


def check_input(source: Path) -> None:
    """InputError if an input does not exist, cannot be read or is empty."""
    if not source.exists():
        check_no_address(source)
        if source.is_symlink():
            raise InputError(f"{source} is a link to {os.readlink(source)}, which does not exist")
        raise InputError(f"{source}: no such file")
    if not os.access(source, os.R_OK):
        raise InputError(f"cannot read {source}: permission denied")
    if source.is_file() and source.stat().st_size == 0:
        raise InputError(f"{source} is empty")


def check_no_address(path: Path) -> None:
    """InputError if the path is meant as an address, as https://host/film.mp4, of which Path makes one slash."""
    if match := ADDRESS.match(str(path)):
        address = f"{match[1]}://{str(path)[match.end() :]}"
        raise InputError(f"{address} is an address; INPUT and OUTPUT must be files on this machine: download it first")


def _check_compare(path: Path) -> None:
    if not is_picture(path):
        raise InputError(f"--compare {path}: not the name of a picture; choose one such as compare.png")
    if not path.absolute().parent.is_dir():
        raise InputError(f"--compare {path}: directory {path.absolute().parent} does not exist")


def work_directory(options: Options, output: Path) -> Path:
    """OUTPUT.work beside the output or in --work-dir; for numbered pictures the pattern is the output's name."""
    directory = work_dir_of(output, options.part)
    if options.work_dir is not None:
        if not options.work_dir.is_dir():
            raise InputError(f"--work-dir {options.work_dir} does not exist")
        directory = Path(os.path.realpath(options.work_dir)) / directory.name
    return directory


# Files that are read and files that are written: Named is what a message calls a file, and its path.

Named = tuple[str, Path]


def check_writes(written: Iterable[Named], read: Iterable[Named], work_dir: Path | None = None) -> None:
    """InputError if a file to be written is one that is read, or has two uses, or is in the work directory.

    Files are compared by device and inode, so that another spelling, a link or a second name does not matter.
    """
    uses: dict[tuple, str] = {}
    for what, path in read:
        uses[identity(path)] = f"is {what} itself"
        _check_outside(path, work_dir)
    for what, path in written:
        use = uses.setdefault(identity(path), f"is {what}, too")
        if use != f"is {what}, too":
            raise InputError(f"{what} {path} {use}; choose another name")
        _check_outside(path, work_dir)


def identity(path: Path) -> tuple:
    """(device, inode) of a file that exists, else its real path."""
    try:
        info = os.stat(path)
        return info.st_dev, info.st_ino
    except OSError:
        return (os.path.realpath(path),)


def _check_outside(path: Path, work_dir: Path | None) -> None:
    if work_dir is not None and Path(os.path.realpath(path)).is_relative_to(work_dir):
        raise InputError(f"{path} is in work directory {work_dir}, which is cleaned up; move it first")


def written_files(options: Options, target: PictureTarget | None, numbers: Collection[int] | None) -> Iterator[Named]:
    """What a run writes: the output, or the files of its pattern that exist; the comparison, the page and the log.

    `numbers` are those of the pictures, None if they count from 1.
    """
    if target is not None and target.pattern:
        wanted = None if numbers is None else set(numbers)
        for number, path in images.existing_files(target.path):
            if number in wanted if wanted is not None else number > 0:
                yield "output", path
    else:
        yield "output", options.output
    if options.compare is not None:
        yield "--compare", options.compare
    if options.report is not None:
        yield "--report", options.report
    if options.log_file is not None:
        yield "--log-file", options.log_file


def check_log_and_report(options: Options) -> None:
    """`check_writes` for what the log and the page could destroy, before either is opened."""
    log, report = options.log_file, options.report
    if log is None and report is None:
        return
    if log is not None and log.is_fifo():
        raise InputError(f"--log-file {log} is a FIFO; name a file")
    if report is not None:
        _check_report(options, report)
    read = [("the input", path) for path in _inputs(options)] + [("the model", Path(options.model))]
    check_writes(written_files(options, picture_target(options), None), read)


def _check_report(options: Options, page: Path) -> None:
    for name in ("dry_run", "part", "join", "slurm"):
        if getattr(options, name):
            raise InputError(f"--report is for a run on this machine, not for --{name.replace('_', '-')}; remove one")
    if page.suffix.lower() not in PAGES:
        raise InputError(f"--report {page}: not the name of a page; choose one such as report.html")
    folder = Path(os.path.realpath(page)).parent
    if not folder.is_dir():
        raise InputError(f"--report {page}: directory {folder} does not exist")
    if not os.access(folder, os.W_OK):
        raise InputError(f"cannot write --report {page}: permission denied in {folder}")
    if any(part.name.endswith(".work") and (part / "job.json").exists() for part in (folder, *folder.parents)):
        raise InputError(f"--report {page} is in a work directory, which is cleaned up; choose another place")
    check_overwritten([page], options.overwrite)


def is_own_page(path: Path) -> bool:
    """Whether this program has written a page of --report: its generator says so."""
    with path.open("rb") as file:
        return PAGE_MARK.encode() in file.read(1024)


def _inputs(options: Options) -> Iterator[Path]:
    """The files that the inputs' names stand for, without opening any; of folders all that are no logs and pages."""
    for source in options.inputs or (options.input,):
        if images.is_pattern(source):
            yield from (path for _, path in images.existing_files(source))
        elif source.is_dir():
            for folder, folders, files in os.walk(source):
                yield from (Path(folder, name) for name in files if not name.endswith((".log", ".txt", *PAGES)))
                folders[:] = folders if options.recursive else []
        else:
            yield source


def check_overwritten(paths: Iterable[Path], overwrite: bool, hint: str = "") -> None:
    """InputError for a file that exists and is not regular, or, without --overwrite, is not a result of this program.

    An empty file counts for nothing, as mktemp makes one. `hint` is put at the end of the message.
    """
    for path in paths:
        try:
            info = path.stat()
        except OSError:
            continue
        if not stat.S_ISREG(info.st_mode):
            raise InputError(f"{path} exists and is not a regular file")
        is_own = is_own_picture if is_picture(path) else is_own_page if path.suffix.lower() in PAGES else is_own_video
        if not overwrite and info.st_size and not is_own(path):
            raise InputError(f"{path} exists and was not made by this program; add --overwrite to replace it{hint}")
