"""What bench/gpu.py measures on a device, each in a process of its own: `python gpu_measures.py NAME ARGUMENT …`."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

WAYS = ("plain", "channels_last", "CUDA graph", "--compile")
WARM = 3  # passes before the time counts
LIMIT_SECONDS = 900.0  # for one number
BATCH = 8  # frames, the default of the command
COMPARED = 2  # frames, as fp32 on a CPU takes seconds for one


def measured(name: str, *arguments: object) -> dict:
    """The result of a function of MEASURES in a process of its own, or {"error": its last line}."""
    command = [sys.executable, __file__, name, *map(str, arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"not done within {LIMIT_SECONDS:.0f} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:200]}
    return json.loads(done.stdout.splitlines()[-1])


# The machine


def machine(device: str) -> dict:
    """Device, driver and versions."""
    import torch

    from upscaling import __version__

    facts = {"device": device, "torch": torch.__version__, "CUDA": torch.version.cuda, "ROCm": torch.version.hip}
    if device != "cpu":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory": f"{properties.total_memory / 2**30:.1f} GiB",
            "cuDNN": torch.backends.cudnn.version(),
        }
    cpu = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE)
    return facts | {
        "driver": _driver(),
        "CPU": f"{len(os.sched_getaffinity(0))} cores of {cpu[1] if cpu else platform.machine()}",
        "upscale": f"{__version__}, {_commit()}",
        "Python": platform.python_version(),
        "system": platform.platform(),
    }


def _driver() -> str | None:
    """The version of NVIDIA's kernel driver; None without one."""
    try:
        return Path("/proc/driver/nvidia/version").read_text().splitlines()[0].partition(":")[2].strip()
    except (OSError, IndexError):
        return None


def _commit() -> str:
    done = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "not from git"


class GpuMemory:
    """Within, the most memory in use on a device is watched: `peak` in bytes; None without nvidia-smi."""

    def __init__(self, device: str):
        program = shutil.which("nvidia-smi") if device != "cpu" else None
        query = ["--query-gpu=memory.used", "--format=csv,noheader,nounits", "-lms", "200", "-i", device[5:]]
        self._command = [program, *query] if program else None
        self.peak: int | None = None

    def __enter__(self) -> "GpuMemory":
        if self._command:
            self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
            self._thread = threading.Thread(target=self._read, daemon=True)
            self._thread.start()
        return self

    def _read(self) -> None:
        for line in self._process.stdout or ():
            if line.strip().isdigit():
                self.peak = max(self.peak or 0, int(line) << 20)

    def __exit__(self, *_: object) -> None:
        if self._command:
            self._process.terminate()
            self._thread.join(5)


# The bare network


def network(device: str, width: str, height: str, way: str, seconds: str) -> dict:
    """Frames/s of the default network at x2 in fp16, a whole frame at a time, and the most memory it allocates."""
    import torch

    from upscaling.inference.settings import ModelSettings
    from upscaling.inference.upscaler import compiled
    from upscaling.models.network import build, runner
    from upscaling.models.weights import load

    if device == "cpu" and way not in WAYS[:2]:
        return {"error": "only on CUDA"}
    dtype, place = (torch.float32 if device == "cpu" else torch.float16), torch.device(device)
    torch.backends.cudnn.benchmark = True
    found = build(load(ModelSettings.model), 2)
    picture = torch.rand(1, 3, int(height), int(width), device=place)
    with torch.inference_mode():
        if way == "plain":
            module, picture = found.module.to(place, dtype), picture.to(dtype)
        else:
            module, picture = runner(found, dtype, place), picture.contiguous(memory_format=torch.channels_last)
        run = {"CUDA graph": _graphed, "--compile": lambda m, _: compiled(m)}.get(way, lambda m, _: m)(module, picture)
        rate = _rate(lambda: run(picture), place, float(seconds))
    peak = torch.cuda.max_memory_allocated(place) if device != "cpu" else None
    return {"frames_per_second": round(rate, 2), "memory": peak}


def _graphed(module, picture) -> Callable:
    """The module's pass on this picture, recorded once and replayed."""
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM):
            module(picture)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        module(picture)
    return lambda _: graph.replay()


def _rate(step: Callable[[], object], place, seconds: float) -> float:
    """How often a step runs in a second, its work on the device included."""
    for _ in range(WARM):
        step()
    _wait(place)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(WARM):  # few waits: they cost what is measured
            step()
        _wait(place)
        count += WARM
    return count / (time.perf_counter() - start)


def _wait(place) -> None:
    import torch

    if place.type == "cuda":
        torch.cuda.synchronize(place)


# Stages and distance


def plan_for(clip: str, device: str, precision: str = "auto"):
    """The plan of the command for a clip."""
    from upscaling.common.notation import parse_scale
    from upscaling.job.options import Options
    from upscaling.pipeline.plan import make_plan

    output = Path(clip).with_name("never.mkv")
    size = {"input": Path(clip), "output": output, "scale": parse_scale("2")}
    return make_plan(Options(**size, device=device, engine="torch", precision=precision, workers=1))


def frames_of(plan, count: int) -> list:
    """The first frames of a plan's source, flat."""
    import numpy as np

    with plan.source.open(0) as decoder:
        return [np.concatenate([np.ravel(plane) for plane in frame.planes]) for frame in islice(decoder, count)]


def stages(device: str, clip: str) -> dict:
    """Milliseconds a frame of each stage by itself, without the overlap that they have in the command."""
    import torch

    from upscaling.cli.dry_run import measure
    from upscaling.frames.yuv import from_rgb, to_rgb
    from upscaling.inference.upscaler import Upscaler

    plan, place = plan_for(clip, device), torch.device(device)
    costs = measure(plan)
    frames, (source, target) = frames_of(plan, BATCH), (plan.conversion.source, plan.conversion.target.padded)
    times: dict[str, float] = {"decode": costs.decode_seconds * 1000}

    @contextmanager
    def timed(name: str):
        _wait(place)
        start = time.perf_counter()
        yield
        _wait(place)
        times[name] = (time.perf_counter() - start) * 1000 / len(frames)

    upscaler = Upscaler(plan.models[0])
    staged = torch.empty((len(frames), source.sample_count), dtype=torch.from_numpy(frames[0]).dtype,
                         pin_memory=place.type == "cuda")  # fmt: skip
    with torch.inference_mode():
        for _ in range(WARM):  # the last time counts
            with timed("staging"):
                for row, frame in zip(staged, frames, strict=True):
                    row.numpy()[:] = frame
            with timed("upload"):
                samples = staged.to(place, non_blocking=True)
            with timed("to RGB"):
                rgb = to_rgb(samples, source).clamp_(0, 1)
            with timed("network"):
                result = upscaler(rgb, target.width, target.height)
            with timed("to YUV"):
                out = from_rgb(result, target, samples.new_empty((len(frames), target.sample_count)))
            with timed("download"):
                out.cpu()
    times["one frame, all of a worker"], times["encode"] = costs.worker_seconds * 1000, costs.encode_seconds * 1000
    return {name: round(value, 2) for name, value in times.items()}


def distance(device: str, clip: str) -> dict:
    """How far the device's samples are from those of fp32 on the CPU: PSNR and the largest difference."""
    import numpy as np

    from upscaling.inference.engine import make_upscaler

    results = []
    for place, precision in ((device, "auto"), ("cpu", "fp32")):
        plan = plan_for(clip, place, precision)
        upscaler = make_upscaler(plan.models[0], lambda: None)
        upscaler.submit(frames_of(plan, COMPARED), plan.conversion)
        results.append(np.stack([out.astype(np.float64) for out in upscaler.collect()]))
    difference = results[0] - results[1]
    error = max(float((difference**2).mean()), 1e-9)
    return {"decibels": round(10 * float(np.log10(255**2 / error)), 2), "codes": int(np.abs(difference).max())}


MEASURES = {"network": network, "stages": stages, "distance": distance}

if __name__ == "__main__":
    print(json.dumps(MEASURES[sys.argv[1]](*sys.argv[2:])))
