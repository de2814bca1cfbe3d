"""The command line: options in groups, with their defaults; a wrong one gets one line, with the nearest right one.

Imports nothing heavy, so that --help is instant.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from upscaling.common.errors import InputError
from upscaling.common.text import did_you_mean
from upscaling.job.options import CHECKS, Options

EPILOG = """\
Progress goes to stderr; with --progress json one object a line goes to stdout.
Exit status: 0 done; 1 the job failed, rerun to resume (a folder: some file failed); 2 bad usage or input,
nothing was touched; 75 another run holds this job; 129, 130, 143 stopped by SIGHUP, SIGINT, SIGTERM.
In another terminal: python status.py OUTPUT.work --watch
"""


class Parser(argparse.ArgumentParser):
    """One line on stderr and exit status 2 for a wrong option, with the nearest right one."""

    def error(self, message: str):
        if match := re.match(r"unrecognized arguments: (--?[\w-]+)", message):
            known = [name for action in self._actions for name in action.option_strings]
            near = did_you_mean(match[1].replace("_", "-"), known) or "; --help lists them"
            message = f"there is no option {match[1]}{near}"
        self.exit(2, f"upscale: error: {message}\n")


class _Help(argparse.HelpFormatter):
    """Defaults of options that have one, once; the epilog's lines as they are."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=30, width=100)

    def _get_help_string(self, action):
        shown = action.default not in (None, False, 0, argparse.SUPPRESS) and "%(default)" not in action.help
        return f"{action.help} (default: %(default)s)" if shown else action.help

    def _fill_text(self, text, width, indent):
        return text if "\n" in text else super()._fill_text(text, width, indent)


class _Version(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        from upscaling.cli.versions import report

        print(report())
        parser.exit(0)


class _Group:
    """Adds options of `Options` to a group: default and check come from there."""

    def __init__(self, parser: Parser, title: str):
        self.group = parser.add_argument_group(title)

    def value(self, flag: str, metavar: str, text: str, kind=None) -> None:
        name = flag[2:].replace("-", "_")
        check = _as_type(CHECKS[name]) if name in CHECKS else kind or str
        self.group.add_argument(flag, metavar=metavar, type=check, default=getattr(Options, name), help=text)

    def switch(self, flag: str, text: str) -> None:
        self.group.add_argument(flag, action="store_true", help=text)


def _as_type(check):
    def parse(text: str):
        try:
            return check(text)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def build_parser() -> Parser:
    """The parser of `upscale.py`."""
    parser = Parser(
        prog="upscale.py",
        usage="python upscale.py INPUT OUTPUT [SCALE] [options]",
        description="Upscale videos and pictures with Real-ESRGAN on this machine.",
        epilog=EPILOG,
        formatter_class=_Help,
        allow_abbrev=False,
        add_help=False,
    )
    what = parser.add_argument_group("what to do")
    what.add_argument("input", metavar="INPUT", type=Path,
                      help="a video, a picture, a folder of them, or numbered pictures: frames_%%06d.png; it is "
                      "only read")  # fmt: skip
    what.add_argument("output", metavar="OUTPUT", type=Path,
                      help="its name tells the container (mp4, mkv, mov, webm) or the picture's format (png, jpg, "
                      "webp, tif); a folder; or frames_%%06d.png for numbered pictures")  # fmt: skip
    what.add_argument("scale", metavar="SCALE", type=_as_type(CHECKS["scale"]), nargs="?", default="2",
                      help="1 to 8, fractions too, or a size: 1920x1080, x1080, 4k")  # fmt: skip
    what.add_argument("-h", "--help", action="help", help="show this and exit")
    what.add_argument("--version", action=_Version, nargs=0, dest=argparse.SUPPRESS,
                      help="show the versions that a bug report needs and exit")  # fmt: skip
    _part_options(_Group(parser, "a look, or a part"))
    _folder_options(_Group(parser, "folders"))
    _model_options(_Group(parser, "model"))
    _worker_options(_Group(parser, "workers"))
    _part_of_video_options(_Group(parser, "a cluster"))
    _encoder_options(_Group(parser, "output video"))
    _job_options(_Group(parser, "the job"))
    _report_options(_Group(parser, "reports"))
    return parser


def _part_options(group: _Group) -> None:
    group.switch("--dry-run", "say what would be done, with time and disk estimated from a few measured frames")
    group.value("--frames", "A:B", "only frames A to B, from 1, both included; A: and :B too")
    group.value("--time", "FROM-TO", "only that part, as 00:10-00:20; sound and subtitles are cut to it")
    group.value("--compare", "FILE", "also write a picture: plain resize left, result right, zoomed below", Path)


def _folder_options(group: _Group) -> None:
    group.switch("--recursive", "folders within the folder too")
    group.value("--settle", "SECONDS", "leave files that changed less than that ago for the next run")
    group.value("--container", "NAME", "of all results: mp4, mkv, mov, webm; auto: the input's, mkv for others")


def _model_options(group: _Group) -> None:
    group.value("--model", "NAME|FILE", "a name (see weights.py --list), a weights file, or lanczos: a plain resize")
    group.value("--denoise", "0..1", "for realesr-general-x4v3")
    group.value("--strength", "0..1", "1: the network's picture alone; less: blended with a plain resize")


def _worker_options(group: _Group) -> None:
    group.value("--workers", "N", "worker processes")
    group.value("--batch-size", "N", "frames that go through the network together")
    group.value("--patch-size", "N", "pixels; 0: whole frames")
    group.value("--device", "NAME", "auto, cpu, cuda, or a list: cuda:0,cuda:1")
    group.value("--precision", "NAME", "fp32, bf16, fp16; auto: fp16 on CUDA, bf16 on a CPU that has it, else fp32")
    group.switch("--compile", "torch.compile with CUDA graphs; CUDA only")
    group.value("--stall-timeout", "SECONDS", "a worker silent for that long counts as dead")


def _part_of_video_options(group: _Group) -> None:
    group.value("--segment-of", "I/N", "only part I of N, cut at keyframes; its work directory is kept for joining")
    group.value("--join-segments", "N", "join the N parts that --segment-of has made, without encoding again")


def _encoder_options(group: _Group) -> None:
    group.value("--codec", "NAME", "libx264, libx265, libsvtav1, libvpx-vp9, prores_ks, ffv1, h264_nvenc, hevc_nvenc, "
                "av1_nvenc; auto: H.264 for 8 bit, HEVC Main 10 for more")  # fmt: skip
    group.value("--crf", "N", "quality, lower is better; the codec's own default")
    group.value("--preset", "NAME", "the codec's speed; the codec's own default")
    group.value("--pix-fmt", "NAME", "the output's pixel format, e.g. yuv444p10le")
    group.value("--deinterlace", "auto|on|off", "auto: where the picture shows combing")
    group.value("--frame-rate", "N", "of numbered pictures, frames/s: 25 where nothing is said; 30000/1001 too")


def _job_options(group: _Group) -> None:
    group.value("--work-dir", "DIR", "where OUTPUT.work goes; beside the output where nothing is said", Path)
    group.value("--work-space", "SIZE", "most that frames may take on disk, e.g. 500M")
    group.value("--segment-frames", "N", "frames in a segment: what a crash may cost; a minute's work at the most")
    group.value("--frame-format", "NAME", "of the frames at work: npy, or png: slower, 8-bit RGB, for a person to open")
    group.switch("--keep-work", "keep the work directory after success")
    group.switch("--restart", "start afresh, whatever an earlier run has done")
    group.switch("--no-clobber", "leave an output that is there, and exit 0")


def _report_options(group: _Group) -> None:
    group.value("--progress", "NAME", "bars, plain, json, none; auto: bars in a terminal, else plain")
    group.value("--log-file", "FILE", "append what happens, with times", Path)
    group.group.add_argument("-v", "--verbose", dest="verbosity", action="count", default=0, help="say more")
    group.group.add_argument("-q", "--quiet", action="store_true", help="errors only")


def _joined(argv: Sequence[str]) -> list[str]:
    """`--sbatch --partition=gpu` as one word: what an option's value looks like is no concern of argparse here."""
    words = list(argv)
    if "--sbatch" in words[:-1]:
        at = words.index("--sbatch")
        words[at : at + 2] = [f"--sbatch={words[at + 1]}"]
    return words


def parse_options(argv: Sequence[str] | None = None) -> Options:
    """Options from a command line; exits with status 2 and one line where it is wrong."""
    args = vars(build_parser().parse_args(_joined(sys.argv[1:] if argv is None else argv)))
    if args.pop("quiet"):
        args["verbosity"] = -1
    return Options(**args)
