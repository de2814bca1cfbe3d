"""How near upscaled frames are to the original, and how still they hold: PSNR, SSIM, VMAF and flicker.

Frames are (N, 3, H, W) float32 RGB in [0, 1], consecutive ones of a clip.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import imageio_ffmpeg
import numpy as np
import torch
from torch.nn import functional as F

from upscaling.common.errors import UpscaleError
from upscaling.inference.steady import positions, warp

LUMA = (0.2126, 0.7152, 0.0722)  # of BT.709
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # Wang et al. 2004, with its K1 = 0.01 and K2 = 0.03
VMAF_RATE = 25
FLOW_TOLERANCE = (0.5, 0.02)  # pixels, and pixels a pixel of motion, by which the flows there and back may differ
FLOW_MARGIN = 5  # pixels round those that are left out


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB: the mean over frames; infinite for equal ones."""
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


def vmaf(frames: torch.Tensor, original: torch.Tensor) -> float:
    """VMAF against the original, 0 to 100: libvmaf's default model, in the ffmpeg that imageio-ffmpeg carries."""
    height, width = frames.shape[-2:]
    with tempfile.TemporaryDirectory() as folder:
        inputs = []
        for name, pictures in (("result", frames), ("original", original)):
            codes = (pictures * 255).round().byte().permute(0, 2, 3, 1).contiguous()  # (N, H, W, 3)
            (Path(folder) / name).write_bytes(codes.numpy().tobytes())
            video = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {VMAF_RATE} -i"
            inputs += [*video.split(), name]
        convert = "scale=out_color_matrix=bt709,format=yuv420p"
        graph = f"[0:v]{convert}[a];[1:v]{convert}[b];[a][b]libvmaf=log_fmt=json:log_path=log"
        program = imageio_ffmpeg.get_ffmpeg_exe()
        command = [program, "-v", "error", "-nostdin", *inputs, "-lavfi", graph, "-f", "null", "-"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UpscaleError(f"ffmpeg's libvmaf failed: {done.stderr.strip().splitlines()[-1:]}")
        return json.loads((Path(folder) / "log").read_text())["pooled_metrics"]["vmaf"]["mean"]


class Motion:
    """The motion in an original clip, by which flicker is measured.

    The optical flow is OpenCV's DIS in its medium preset, on the original at its full size. A pixel counts if the flows
    there and back agree: what is hidden in one of the two frames has no motion.
    """

    def __init__(self, original: torch.Tensor):
        self._original = _luma(original)
        codes = self._original.clip(0, 255).round().astype(np.uint8)
        self._steps = [_flow(codes[i], codes[i - 1]) for i in range(1, len(codes))]

    def flicker(self, frames: torch.Tensor) -> float:
        """Motion-compensated change of the error from frame to frame: RMS over pixels and frames, luma 0 to 255.

        The error is the frames less the original. What moves with the picture is no flicker, however wrong it is.
        """
        errors = _luma(frames) - self._original
        changes = []
        for index, (flow, counts) in enumerate(self._steps, start=1):
            change = errors[index] - warp(errors[index - 1], flow, cv2.INTER_CUBIC)
            changes.append(np.square(change[counts]).mean())
        return float(np.sqrt(np.mean(changes)))


def _luma(frames: torch.Tensor) -> np.ndarray:
    """(N, 3, H, W) in [0, 1] to (N, H, W) in [0, 255]."""
    return 255 * torch.einsum("nchw,c->nhw", frames, torch.tensor(LUMA)).numpy()


def _flow(to: np.ndarray, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The flow from frame `to` to frame `source`, (H, W, 2) in pixels, and which pixels have one, (H, W)."""
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    there = dis.calc(to, source, None)  # pyright: ignore[reportCallIssue, reportArgumentType]
    back = dis.calc(source, to, None)  # pyright: ignore[reportCallIssue, reportArgumentType]
    error = np.linalg.norm(there + warp(back, there, cv2.INTER_LINEAR), axis=-1)
    absolute, relative = FLOW_TOLERANCE
    position = positions(*to.shape) + there
    inside = ((position >= 0) & (position <= (to.shape[1] - 1, to.shape[0] - 1))).all(-1)
    agree = (error < absolute + relative * np.linalg.norm(there, axis=-1)) & inside
    margin = np.ones((FLOW_MARGIN, FLOW_MARGIN), np.uint8)
    return there, cv2.erode(agree.astype(np.uint8), margin).astype(bool)
