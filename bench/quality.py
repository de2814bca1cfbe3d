"""How good is each model, and --steady? Frames are scaled down, up again, and compared with what they were.

    python bench/quality.py CLIP [--frames 8] [--start N] [--shrink 2] [--scales 2 4] [--model NAME|FILE …]
                                 [--precision bf16 …]

Consecutive frames from the middle of the clip, or from frame N on. One row a model and precision without --steady and
one with it, beside a plain Lanczos resize: PSNR of RGB, SSIM of luma and VMAF (means over frames), flicker (the
motion-compensated change of the error, RMS of luma on 0 to 255; in excess of the plain resize's, and how much of that
--steady takes away), how far the precision is from fp32 of the same model, and seconds a frame, on the clock and of
CPU. Without --model, all models that are on this machine. Scaling down is OpenCV's INTER_AREA, the mean of blocks;
--shrink does so before anything else, which takes the traces of compression away.
"""

import argparse
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from picture_measures import Motion, psnr, ssim, vmaf

from upscaling.common.errors import InputError, UpscaleError
from upscaling.decode.decoder import Decoder
from upscaling.decode.probe import VideoInfo, probe
from upscaling.frames.conversion import FrameConversion
from upscaling.frames.layout import FrameLayout
from upscaling.frames.yuv import from_rgb, to_rgb
from upscaling.inference.rescale import rescale
from upscaling.inference.settings import LANCZOS, ModelSettings
from upscaling.inference.steady import steady_frames
from upscaling.inference.upscaler import Upscaler
from upscaling.models import weights

DEEP = "rgb48le"  # of what --steady takes and returns: no rounding is measured
HEADER = (
    f"{'':3} {'model':26} {'':5} {'PSNR dB':>8} {'SSIM':>8} {'VMAF':>8} {'flicker':>8} {'excess':>8} "
    f"{'gone':>7} {'to fp32':>8} {'s/frame':>8} {'CPU s':>8}"
)
STEADY = "  with --steady"
INNER = slice(1, -1)  # the frames that are measured: all but the first and the last have both neighbours


def read_frames(clip: str, count: int, start: int | None, shrink: int, multiple: int) -> torch.Tensor:
    """`count` consecutive frames that differ, (count, 3, H, W) in [0, 1], cut to multiples of `multiple`."""
    info = probe(clip)
    first = max(0, ((info.frame_count or 0) - count) // 2) if start is None else start - 1
    height, width = (side // (shrink * multiple) * multiple for side in (info.height, info.width))
    if not height or not width:
        raise InputError(f"{clip} is too small: {info.width}x{info.height}")
    frames: list[torch.Tensor] = []
    with Decoder(info, skip=first) as decoder:
        for flat in _distinct(decoder, info):
            rgb = to_rgb(torch.from_numpy(flat)[None], info.layout).clamp(0, 1)[
                ..., : height * shrink, : width * shrink
            ]
            frames.append(rescale(rgb.contiguous(), width, height))
            if len(frames) == count:
                return torch.cat(frames)
    raise InputError(f"{clip} has only {len(frames)} frames from frame {first + 1} on; choose another --start")


def _distinct(decoder: Decoder, info: VideoInfo) -> Iterator[np.ndarray]:
    """Frames as flat samples; one that equals the one before it is left out, as a run leaves it out."""
    last = None
    for frame in decoder:
        flat = np.concatenate([plane.reshape(-1) for plane in frame.planes])
        if last is None or not np.array_equal(flat, last):
            yield flat
        last = flat


def models_here() -> list[str]:
    """Names of the models whose files are on this machine: nothing is downloaded."""
    return [name for name in weights.MODELS if weights.at_hand(name) is not None]


@dataclass
class Cost:
    """Seconds a frame."""

    clock: float = 0.0
    cpu: float = 0.0

    @contextmanager
    def measured(self, frames: int) -> Iterator[None]:
        """Add what the block takes for that many frames."""
        clock, cpu = time.perf_counter(), time.process_time()
        yield
        self.clock += (time.perf_counter() - clock) / frames
        self.cpu += (time.process_time() - cpu) / frames


def upscaled(small: torch.Tensor, settings: ModelSettings, width: int, height: int) -> tuple[torch.Tensor, Cost]:
    """(frames (N, 3, height, width), their cost); loading and the first, slower frame are not counted."""
    cost = Cost()
    if settings.model == LANCZOS:
        with cost.measured(len(small)):
            return rescale(small, width, height), cost
    upscaler = Upscaler(settings)
    small = small.to(upscaler.device)
    upscaler(small[:1], width, height)
    with cost.measured(len(small)):
        frames = [upscaler(frame[None], width, height).cpu().clone() for frame in small]
    return torch.cat(frames), cost


def steadied(small: torch.Tensor, frames: torch.Tensor) -> tuple[torch.Tensor, Cost]:
    """What --steady makes of the frames, and what it costs beside the network."""
    source, target = (FrameLayout(p.shape[-1], p.shape[-2], DEEP, "gbr", True) for p in (small, frames))
    stored = []
    for pictures, layout in ((small, source), (frames, target)):
        samples = torch.empty((len(pictures), layout.sample_count), dtype=torch.uint16)
        stored.append(list(from_rgb(pictures, layout, samples).numpy()))
    cost = Cost()
    with cost.measured(len(frames)):
        steady = list(steady_frames(*stored, range(len(frames)), FrameConversion(source, target), lambda: None))
    return to_rgb(torch.from_numpy(np.stack(steady)), target), cost


class Table:
    """The rows of one scale; only INNER frames are measured."""

    def __init__(self, scale: int, original: torch.Tensor, plain: torch.Tensor):
        self._scale, self._original = scale, original[INNER].contiguous()
        self._motion = Motion(self._original)
        self._plain = self._motion.flicker(plain[INNER])
        self._excess = 0.0  # of the last row without --steady

    def row(
        self, name: str, precision: str, frames: torch.Tensor, cost: Cost, fp32: torch.Tensor | None = None
    ) -> None:
        """Print what is measured of the frames (N, 3, H, W); `fp32` is what a lower precision is compared with."""
        frames = frames[INNER].contiguous()
        flicker = self._motion.flicker(frames)
        if name == STEADY:
            gone = f"{1 - (flicker - self._plain) / self._excess:7.0%}" if self._excess > 0 else "      -"
        else:
            self._excess, gone = flicker - self._plain, "       "
        against = "" if fp32 is None else f"{psnr(frames, fp32[INNER]):.1f}"
        print(
            f"x{self._scale}  {name:26} {precision:5} {psnr(frames, self._original):8.2f} "
            f"{ssim(frames, self._original):8.4f} {vmaf(frames, self._original):8.2f} "
            f"{flicker:8.3f} {flicker - self._plain:8.3f} {gone} {against:>8} {cost.clock:8.3f} {cost.cpu:8.3f}",
            flush=True,
        )


def measure(original: torch.Tensor, scale: int, options: argparse.Namespace) -> None:
    """Prints the rows of one scale."""
    height, width = original.shape[-2:]
    small = rescale(original, width // scale, height // scale)
    table = Table(scale, original, rescale(small, width, height))
    for name in [LANCZOS, *options.model]:
        exact = None
        for precision in ["fp32"] if name == LANCZOS else options.precision:
            settings = ModelSettings(model=name, device=options.device, precision=precision, threads=options.threads)
            frames, cost = upscaled(small, settings, width, height)
            exact = frames if precision == "fp32" else exact
            table.row(Path(name).name, precision, frames, cost, None if precision == "fp32" else exact)
            if name != LANCZOS:
                steady, added = steadied(small, frames)
                table.row(STEADY, precision, steady, Cost(cost.clock + added.clock, cost.cpu + added.cpu))


def main() -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="quality.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("clip")
    parser.add_argument("--frames", type=int, default=8, help="how many, one after another; at least 2")
    parser.add_argument("--start", type=int, help="number of the first one, from 1; default: those in the middle")
    parser.add_argument("--shrink", type=int, default=1, help="how many times smaller to make the clip first")
    parser.add_argument("--scales", type=int, nargs="+", default=[2, 4], choices=range(2, 9))
    parser.add_argument("--model", nargs="+", help="names or files; without it all that are on this machine")
    parser.add_argument(
        "--precision", nargs="+", choices=["fp32", "bf16", "fp16"], help="default: fp32 and the fast one"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    options.model = options.model or models_here()
    options.precision = options.precision or ["fp32", "bf16" if options.device == "cpu" else "fp16"]
    try:
        count = max(2, options.frames) + 2  # one before and one after, for --steady
        start = None if options.start is None else max(1, options.start - 1)
        original = read_frames(options.clip, count, start, max(1, options.shrink), math.lcm(*options.scales))
        print(f"{options.clip}: {len(original) - 2} frames of {original.shape[3]}x{original.shape[2]}")
        print(HEADER)
        for scale in options.scales:
            measure(original, scale, options)
    except UpscaleError as error:
        print(f"quality: error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
