"""Real-ESRGAN's own way with a video, for comparison: its classes, one process, frame after frame, whole frames.

    python bench/frame_by_frame.py IN OUT [--crf 17] [--preset medium]

What realesrgan's inference_realesrgan_video.py does with -n realesr-animevideov3 -s 2 --fp32: an ffmpeg program
decodes into a pipe, RealESRGANer.enhance takes each frame, another ffmpeg encodes what comes through a pipe.
"""

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(1, str(Path(__file__).resolve().parent.parent / "tests"))

import numpy as np
from realesrgan_reference import enhancer

from upscaling.decode.probe import probe
from upscaling.models import weights


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("output")
    parser.add_argument("--crf", default="17")
    parser.add_argument("--preset", default="medium")
    args = parser.parse_args()
    info, model = probe(args.source), enhancer(weights.load("realesr-animevideov3"))
    width, height, rate = info.width, info.height, str(info.frame_rate)
    quiet = ["ffmpeg", "-v", "error", "-nostdin", "-y"]
    raw = ["-f", "rawvideo", "-pix_fmt", "bgr24"]
    encoding = ["-pix_fmt", "yuv420p", "-c:v", "libx264", "-crf", args.crf, "-preset", args.preset]
    size = f"{2 * width}x{2 * height}"
    with (
        subprocess.Popen([*quiet, "-i", args.source, *raw, "-"], stdout=subprocess.PIPE) as reader,
        subprocess.Popen([*quiet, *raw, "-s", size, "-r", rate, "-i", "-", *encoding, args.output],
                         stdin=subprocess.PIPE) as writer,
    ):  # fmt: skip
        while data := reader.stdout.read(width * height * 3):
            picture = np.frombuffer(data, np.uint8).reshape(height, width, 3)
            writer.stdin.write(model.enhance(picture, outscale=2)[0].tobytes())
        writer.stdin.close()
        if writer.wait():
            sys.exit("frame_by_frame: ffmpeg could not encode")


if __name__ == "__main__":
    main()
