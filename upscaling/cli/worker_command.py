"""`python worker.py MANIFEST`: upscale the frames of one manifest, without a job around it."""

import argparse
import os
import sys
from collections.abc import Sequence

import numpy as np

from upscaling.common.errors import UpscaleError
from upscaling.common.memory_limits import OutOfMemory, memory_error
from upscaling.common.system import THREADS_SLEEP, usable_cores
from upscaling.common.text import one_line
from upscaling.inference.device_choice import choose
from upscaling.inference.settings import LANCZOS, ModelSettings
from upscaling.models.weights import locate
from upscaling.workers import status
from upscaling.workers.manifest import ManifestError
from upscaling.workers.manifest_reader import read_manifest
from upscaling.workers.worker import Worker, error_text


class ProgressLines:
    """In place of a result pipe: prints a line for each batch."""

    def __init__(self):
        self.ready = False

    def send(self, message: tuple) -> None:
        if message[0] == "ready":
            self.ready = True
        elif message[0] == "batch":
            print(f"worker: batch {message[2]} done", file=sys.stderr)


class OneTask:
    """In place of a task pipe: a single manifest, then the end."""

    def __init__(self, path: str):
        self.paths = [path]

    def poll(self) -> bool:
        return bool(self.paths)

    def recv(self) -> str:
        if not self.paths:
            raise EOFError
        return self.paths.pop()


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="worker.py", description="Upscale the frames of one manifest.")
    parser.add_argument("manifest", metavar="MANIFEST", help="a file that manifest.py has written")
    parser.add_argument("--model", default=ModelSettings.model, help="name or weights file (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda:N or vulkan:N (default: %(default)s)")
    parser.add_argument("--engine", default="auto", choices=("auto", "torch", "ncnn"))
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"))
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: one per core that it may use)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status: 0 done, 1 failed, 2 bad usage, manifest or model."""
    args = parse_arguments(argv)
    for name, value in THREADS_SLEEP.items():
        os.environ.setdefault(name, value)
    results = ProgressLines()
    try:
        manifest = read_manifest(args.manifest)
        manifest.output_dir.mkdir(parents=True, exist_ok=True)
        model = args.model if manifest.upscaled_dir is None else LANCZOS  # steadying needs no network
        file = None if model == LANCZOS else locate(model).files[0]
        choice = choose(args.device, args.engine, args.precision, model, file, 1)
        for warning in choice.warnings:
            print(f"worker: warning: {warning}", file=sys.stderr)
        settings = ModelSettings(
            model=model,
            device=choice.devices[0],
            engine=choice.engine,
            precision=args.precision,
            patch_size=manifest.patch_size,
            batch_size=manifest.batch_size,
            threads=args.threads or usable_cores(),
        )
        row = np.zeros(1, status.row_dtype())[0]
        Worker(manifest.worker, row, OneTask(args.manifest), results, settings, in_job=False).run()
    except EOFError:  # of OneTask
        print(one_line(f"worker: {len(manifest.frames)} frames done: {manifest.output_dir}"), file=sys.stderr)
        return 0
    except Exception as error:
        error = memory_error(error) or error
        print(f"worker: error: {error_text(error)}", file=sys.stderr)
        known = isinstance(error, UpscaleError | ManifestError) and not isinstance(error, OutOfMemory)
        bad_input = known and not results.ready
        return 2 if bad_input else 1
