"""How good is each model? Frames are scaled down, up again by each model, and compared with what they were.

    python bench/quality.py CLIP [--frames 3] [--scales 2 4] [--model NAME|FILE …] [--precision fp32 bf16]

One row a model and precision, beside a plain Lanczos resize: PSNR of RGB and SSIM of luma (means over frames), VMAF
where an ffmpeg with libvmaf is on the PATH, how far the precision is from fp32 of the same model, and seconds a frame.
Without --model, all that are on this machine. Scaling down is OpenCV's INTER_AREA, the mean of blocks.
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch.nn import functional as F

from upscaling.common.errors import InputError, UpscaleError
from upscaling.decode.decoder import Decoder
from upscaling.decode.probe import probe
from upscaling.frames.yuv import to_rgb
from upscaling.inference.rescale import rescale
from upscaling.inference.settings import LANCZOS, ModelSettings
from upscaling.inference.upscaler import Upscaler
from upscaling.models import weights

LUMA = (0.2126, 0.7152, 0.0722)  # of BT.709
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # Wang et al. 2004, with its K1 = 0.01 and K2 = 0.03
VMAF_RATE = 25


def read_frames(clip: str, count: int, multiple: int) -> torch.Tensor:
    """`count` frames spread over the clip, (count, 3, H, W) in [0, 1], cut to multiples of `multiple`."""
    info = probe(clip)
    step = max(1, (info.frame_count or count) // count)
    frames = []
    with Decoder(info) as decoder:
        for frame in decoder:
            if (frame.number - 1) % step == 0:
                flat = np.concatenate([plane.reshape(-1) for plane in frame.planes])
                frames.append(to_rgb(torch.from_numpy(flat)[None], info.layout).clamp(0, 1))
            if len(frames) == count:
                break
    height, width = info.height // multiple * multiple, info.width // multiple * multiple
    if not height or not width:
        raise InputError(f"{clip} is too small: {info.width}x{info.height}")
    return torch.cat(frames)[..., :height, :width].contiguous()


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [0, 1]: the mean over frames; infinite for equal ones."""
    errors = (a.double() - b.double()).square().mean((1, 2, 3))
    return float((-10 * errors.log10()).mean())


def ssim(a: torch.Tensor, b: torch.Tensor) -> float:
    """Structural similarity of luma (Wang et al. 2004), the mean over pixels and frames; 1 for equal pictures."""
    x, y = (torch.einsum("nchw,c->nhw", p.double(), torch.tensor(LUMA, dtype=torch.float64))[:, None] for p in (a, b))
    axis = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    bell = torch.exp(-(axis**2) / (2 * SSIM_SIGMA**2))
    kernel = torch.outer(bell, bell)[None, None] / bell.sum() ** 2  # (1, 1, 11, 11)

    def mean(p: torch.Tensor) -> torch.Tensor:
        return F.conv2d(p, kernel)

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    index = (2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return float(index.mean())


def has_vmaf() -> bool:
    """Whether an ffmpeg with libvmaf is on the PATH."""
    program = shutil.which("ffmpeg")
    if program is None:
        return False
    listing = subprocess.run([program, "-hide_banner", "-filters"], capture_output=True, text=True, check=False)
    return any(line.split()[1:2] == ["libvmaf"] for line in listing.stdout.splitlines())


def vmaf(frames: torch.Tensor, original: torch.Tensor) -> float:
    """VMAF of frames against the original, by ffmpeg's libvmaf with its default model: 0 to 100."""
    height, width = frames.shape[-2:]
    with tempfile.TemporaryDirectory() as folder:
        inputs = []
        for name, pictures in (("result", frames), ("original", original)):
            codes = (pictures * 255).round().byte().permute(0, 2, 3, 1).contiguous()  # (N, H, W, 3)
            (Path(folder) / name).write_bytes(codes.numpy().tobytes())
            inputs += [
                "-f",
                "rawvideo",
                "-pix_fmt",
                "rgb24",
                "-s",
                f"{width}x{height}",
                "-r",
                str(VMAF_RATE),
                "-i",
                name,
            ]
        convert = "scale=out_color_matrix=bt709,format=yuv420p"
        graph = f"[0:v]{convert}[a];[1:v]{convert}[b];[a][b]libvmaf=log_fmt=json:log_path=log"
        command = ["ffmpeg", "-v", "error", "-nostdin", *inputs, "-lavfi", graph, "-f", "null", "-"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UpscaleError(f"ffmpeg's libvmaf failed: {done.stderr.strip().splitlines()[-1:]}")
        return json.loads((Path(folder) / "log").read_text())["pooled_metrics"]["vmaf"]["mean"]


def models_here() -> list[str]:
    """Names of the models whose files are on this machine: nothing is downloaded."""
    return [name for name in weights.MODELS if weights.at_hand(name) is not None]


def upscaled(small: torch.Tensor, settings: ModelSettings, width: int, height: int) -> tuple[torch.Tensor, float]:
    """(frames (N, 3, height, width), seconds a frame); loading and the first, slower frame are not counted."""
    if settings.model == LANCZOS:
        start = time.perf_counter()
        return rescale(small, width, height), (time.perf_counter() - start) / len(small)
    upscaler = Upscaler(settings)
    small = small.to(upscaler.device)
    upscaler(small[:1], width, height)
    start = time.perf_counter()
    frames = [upscaler(frame[None], width, height).cpu().clone() for frame in small]
    return torch.cat(frames), (time.perf_counter() - start) / len(small)


def measure(original: torch.Tensor, scale: int, options: argparse.Namespace, with_vmaf: bool) -> None:
    """Prints the rows of one scale."""
    height, width = original.shape[-2:]
    small = rescale(original, width // scale, height // scale)
    for name in [LANCZOS, *options.model]:
        exact = None
        for precision in ["fp32"] if name == LANCZOS else dict.fromkeys(["fp32", *options.precision]):
            settings = ModelSettings(model=name, device=options.device, precision=precision, threads=options.threads)
            frames, seconds = upscaled(small, settings, width, height)
            exact = frames if precision == "fp32" else exact
            against = "" if precision == "fp32" else f"{psnr(frames, exact):.1f}"
            score = f"{vmaf(frames, original):8.2f}" if with_vmaf else "       -"
            print(
                f"x{scale}  {Path(name).name:28} {precision:5} {psnr(frames, original):8.2f} "
                f"{ssim(frames, original):8.4f} {score} {against:>9} {seconds:9.3f}",
                flush=True,
            )


def main() -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="quality.py", description=__doc__.split("\n")[0])
    parser.add_argument("clip")
    parser.add_argument("--frames", type=int, default=3, help="how many, spread over the clip")
    parser.add_argument("--scales", type=int, nargs="+", default=[2, 4], choices=range(2, 9))
    parser.add_argument("--model", nargs="+", help="names or files; without it all that are on this machine")
    parser.add_argument("--precision", nargs="+", default=[], choices=["fp32", "bf16", "fp16"], help="beside fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    options.model = options.model or models_here()
    options.precision = options.precision or ["bf16" if options.device == "cpu" else "fp16"]
    try:
        original = read_frames(options.clip, max(1, options.frames), math.lcm(*options.scales))
        with_vmaf = has_vmaf()
        print(f"{options.clip}: {len(original)} frames of {original.shape[3]}x{original.shape[2]}")
        if not with_vmaf:
            print("VMAF left out: there is no ffmpeg with libvmaf on the PATH")
        print(f"{'':3} {'model':28} {'':5} {'PSNR dB':>8} {'SSIM':>8} {'VMAF':>8} {'to fp32':>9} {'s/frame':>9}")
        for scale in options.scales:
            measure(original, scale, options, with_vmaf)
    except UpscaleError as error:
        print(f"quality: error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
