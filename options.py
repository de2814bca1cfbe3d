"""The command line: its options, their defaults and ranges, and what a SCALE may say."""

import argparse
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from errors import InputError

MAX_WORKERS = 64
MAX_BATCH = 256  # frames
MIN_PATCH, MAX_PATCH = 32, 8192  # pixels
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
NAMED_SIZES = {"720p": (1280, 720), "1080p": (1920, 1080), "1440p": (2560, 1440), "2160p": (3840, 2160),
               "4k": (3840, 2160), "8k": (7680, 4320)}  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """What SCALE asks for: a `factor`, or a size in pixels of which one side may be open (None).

    `within` means the largest size of the source's shape that fits, as `4k` asks for.
    """

    factor: Fraction | None = None
    width: int | None = None
    height: int | None = None
    within: bool = False

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) in pixels of a `width` × `height` picture scaled; InputError outside 1 to 8 times."""
        if self.factor is not None:
            across = down = self.factor
        else:
            across = Fraction(self.width, width) if self.width else None
            down = Fraction(self.height, height) if self.height else None
            if across is None or down is None or self.within:
                across = down = min(f for f in (across, down) if f is not None)
        size = max(1, round_half_up(width * across)), max(1, round_half_up(height * down))
        if not (1 <= across <= 8 and 1 <= down <= 8):
            raise InputError(f"from {width}x{height} to {size[0]}x{size[1]} is not 1 to 8 times; choose another SCALE")
        return size


def round_half_up(number: Fraction) -> int:
    """To the nearest whole number, halves up."""
    return int(number + Fraction(1, 2))


def parse_scale(text: str) -> Scale:
    """`2`, `1.5`, `3/2`, `1920x1080`, `x1080` (height), `1920x` (width) or `4k`; InputError for anything else."""
    low = text.strip().lower()
    if low in NAMED_SIZES:
        width, height = NAMED_SIZES[low]
        return Scale(width=width, height=height, within=True)
    if match := re.fullmatch(r"(?=.*[0-9])([1-9][0-9]{0,4})?x([1-9][0-9]{0,4})?", low, re.ASCII):
        return Scale(width=int(match[1]) if match[1] else None, height=int(match[2]) if match[2] else None)
    if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,9}|/[1-9][0-9]{0,5})?x?", low, re.ASCII):
        factor = Fraction(low.removesuffix("x"))
        if 1 <= factor <= 8:
            return Scale(factor=factor)
    raise InputError(f"SCALE {text!r}: choose a number from 1 to 8, or a size such as 1920x1080, x1080 or 4k")


def parse_bytes(text: str) -> int:
    """`500M`, `2G`, `1048576`: bytes, in powers of 1024."""
    match = re.fullmatch(r"([0-9]{1,12})(\.[0-9]{1,3})?\s*([kmgt]?)i?b?", text.strip(), re.ASCII | re.IGNORECASE)
    if not match:
        raise InputError(f"{text!r} is not a size in bytes such as 500M or 2G")
    return int(Fraction(match[1] + (match[2] or "")) * UNITS[match[3].upper()])


@dataclass(frozen=True)
class Options:
    """Everything that a run is asked for; the defaults are those of the command."""

    input: Path
    output: Path
    scale: Scale = Scale(Fraction(2))
    model: str = "realesr-animevideov3"
    denoise: float | None = None
    strength: float = 1.0
    workers: int = 6
    batch_size: int = 8
    patch_size: int = 256
    device: str = "auto"
    precision: str = "auto"
    compile: bool = False
    codec: str = "auto"
    crf: float | None = None
    preset: str | None = None
    pix_fmt: str | None = None
    deinterlace: str = "auto"
    work_dir: Path | None = None
    work_space: int | None = None
    keep_work: bool = False
    restart: bool = False
    no_clobber: bool = False
    stall_timeout: float = 600.0
    progress: str = "auto"
    log_file: Path | None = None
    verbosity: int = 0


class Parser(argparse.ArgumentParser):
    """One line on stderr and exit status 2 for a wrong option, with the nearest right one."""

    def error(self, message: str):
        if match := re.match(r"unrecognized arguments: (--[a-z-]+)", message):
            known = [name for action in self._actions for name in action.option_strings]
            if near := difflib.get_close_matches(match[1], known, 1):
                message = f"there is no option {match[1]}; did you mean {near[0]}?"
        self.exit(2, f"upscale: error: {message}\n")


def _whole(low: int, high: int, also: int | None = None):
    def parse(text: str) -> int:
        value = int(text) if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) else -1
        if value != also and not low <= value <= high:
            extra = "" if also is None else f", or {also}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}{extra}")
        return value

    return parse


def _number(low: float, high: float):
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")
        return value

    return parse


def _says(function):
    def parse(text: str):
        try:
            return function(text)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def build_parser() -> Parser:
    """The parser of `upscale.py`; imports nothing heavy, so that --help is instant."""
    parser = Parser(
        prog="upscale.py",
        usage="python upscale.py INPUT OUTPUT SCALE [options]",
        description="Upscale a video with Real-ESRGAN on this machine.",
        epilog="Exit status: 0 done; 1 the job failed, rerun to resume; 2 bad usage or input, nothing was touched; "
        "75 another run holds this job; 129, 130, 143 stopped by SIGHUP, SIGINT, SIGTERM.",
        formatter_class=lambda prog: argparse.ArgumentDefaultsHelpFormatter(prog, max_help_position=30, width=100),
        allow_abbrev=False,
    )
    parser.add_argument("input", metavar="INPUT", type=Path, help="the video to upscale; it is only read")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="its name tells the container: mp4, mkv, mov, webm")
    parser.add_argument("scale", metavar="SCALE", type=_says(parse_scale), nargs="?", default="2",
                        help="1 to 8, fractions too, or a size: 1920x1080, x1080, 4k")  # fmt: skip
    _model_options(parser.add_argument_group("model"))
    _worker_options(parser.add_argument_group("workers"))
    _encoder_options(parser.add_argument_group("output video"))
    _job_options(parser.add_argument_group("the job"))
    _report_options(parser.add_argument_group("reports"))
    return parser


def _model_options(group) -> None:
    group.add_argument("--model", default=Options.model, metavar="NAME|FILE",
                       help="a name (see weights.py --list), a weights file, or lanczos for a plain resize")  # fmt: skip
    group.add_argument("--denoise", type=_number(0, 1), metavar="0..1", help="for realesr-general-x4v3")
    group.add_argument("--strength", type=_number(0, 1), default=1.0, metavar="0..1",
                       help="1: the network's picture alone; less: blended with a plain resize")  # fmt: skip


def _worker_options(group) -> None:
    group.add_argument(
        "--workers", type=_whole(1, MAX_WORKERS), default=Options.workers, metavar="N", help="worker processes"
    )
    group.add_argument("--batch-size", type=_whole(1, MAX_BATCH), default=Options.batch_size, metavar="N",
                       help="frames that go through the network together")  # fmt: skip
    group.add_argument("--patch-size", type=_whole(MIN_PATCH, MAX_PATCH, 0), default=Options.patch_size, metavar="N",
                       help="pixels; 0: whole frames")  # fmt: skip
    group.add_argument("--device", default="auto", metavar="auto|cpu|cuda|cuda:0,cuda:1")
    group.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"),
                       help="auto: fp16 on CUDA, bf16 on a CPU that has it, else fp32")  # fmt: skip
    group.add_argument("--compile", action="store_true", help="torch.compile with CUDA graphs; CUDA only")
    group.add_argument("--stall-timeout", type=_number(1, 1e6), default=600.0, metavar="SECONDS",
                       help="a worker silent for that long counts as dead")  # fmt: skip


def _encoder_options(group) -> None:
    group.add_argument("--codec", default="auto", metavar="NAME",
                       help="libx264, libx265, libsvtav1, libvpx-vp9, prores_ks, ffv1, h264_nvenc, hevc_nvenc, "
                       "av1_nvenc; auto: H.264 for 8 bit, HEVC Main 10 for more")  # fmt: skip
    group.add_argument("--crf", type=_number(0, 63), metavar="N", help="quality, lower is better; the codec's default")
    group.add_argument("--preset", metavar="NAME", help="the codec's speed; the codec's default")
    group.add_argument("--pix-fmt", metavar="NAME", help="the output's pixel format, e.g. yuv444p10le")
    group.add_argument("--deinterlace", choices=("auto", "on", "off"), default="auto")


def _job_options(group) -> None:
    group.add_argument("--work-dir", type=Path, metavar="DIR", help="where OUTPUT.work goes; beside the output")
    group.add_argument("--work-space", type=_says(parse_bytes), metavar="SIZE",
                       help="most that frames may take on disk, e.g. 500M")  # fmt: skip
    group.add_argument("--keep-work", action="store_true", help="keep the work directory after success")
    group.add_argument("--restart", action="store_true", help="start afresh, whatever an earlier run has done")
    group.add_argument("--no-clobber", action="store_true", help="leave an output that is there, and exit 0")


def _report_options(group) -> None:
    group.add_argument("--progress", choices=("auto", "bars", "plain", "json", "none"), default="auto")
    group.add_argument("--log-file", type=Path, metavar="FILE", help="append what happens, with times")
    group.add_argument("-v", "--verbose", dest="verbosity", action="count", default=0)
    group.add_argument("-q", "--quiet", action="store_true", help="errors only")


def parse_options(argv: Sequence[str] | None = None) -> Options:
    """Options from a command line; exits with status 2 and one line where it is wrong."""
    args = vars(build_parser().parse_args(argv))
    if args.pop("quiet"):
        args["verbosity"] = -1
    return Options(**args)
