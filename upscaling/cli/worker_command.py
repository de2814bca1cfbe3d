"""`python worker.py MANIFEST`: one manifest by itself."""

import argparse
import os
import sys
from collections.abc import Sequence

import numpy as np

from upscaling.common.errors import UpscaleError
from upscaling.inference.settings import ModelSettings
from upscaling.workers import manifest as manifests
from upscaling.workers import status
from upscaling.workers.manifest import ManifestError
from upscaling.workers.worker import Worker, one_line

# The command


class _Console:
    """Takes the place of the results pipe when a manifest is run by itself."""

    def send(self, message: tuple) -> None:
        if message[0] == "batch":
            print(f"worker: batch {message[2]} done", file=sys.stderr)


class _One:
    """Takes the place of the tasks pipe when a manifest is run by itself."""

    def __init__(self, path: str):
        self.paths = [path]

    def poll(self) -> bool:
        return bool(self.paths)

    def recv(self) -> str:
        if not self.paths:
            raise EOFError
        return self.paths.pop()


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="worker.py", description="Upscale the frames of one manifest.")
    parser.add_argument("manifest", metavar="MANIFEST", help="as manifest.py writes them")
    parser.add_argument("--model", default=ModelSettings.model, help="name or file")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda:N")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"))
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all cores")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """`python worker.py MANIFEST`: exit status 0 done, 1 failed, 2 bad usage or manifest."""
    args = _arguments(argv)
    try:
        work = manifests.read_manifest(args.manifest)
        work.output_dir.mkdir(parents=True, exist_ok=True)
        device = args.device
        if device == "auto":
            import torch

            device = "cuda:0" if torch.cuda.is_available() else "cpu"
        settings = ModelSettings(
            args.model, device, args.precision, work.patch_size, work.batch_size,
            args.threads or len(os.sched_getaffinity(0)),
        )  # fmt: skip
        row = np.zeros(1, status.row_dtype())[0]
        worker = Worker(work.worker, row, _One(args.manifest), _Console(), settings, in_job=False)
        worker.load()
    except (UpscaleError, ManifestError) as error:
        print(f"worker: error: {one_line(error)}", file=sys.stderr)
        return 2
    try:
        worker.serve()
    except EOFError:
        print(f"worker: {len(work.frames)} frames done: {work.output_dir}", file=sys.stderr)
        return 0
    except Exception as error:
        print(f"worker: error: {one_line(error)}", file=sys.stderr)
        return 1
