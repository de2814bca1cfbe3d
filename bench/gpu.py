"""How fast is it on this GPU? One command for a person with a card, who sends back what it prints and writes.

    python bench/gpu.py [--json gpu.json] [--quick] [--device cuda:0]     some 20 minutes; nothing else should run
    python bench/gpu.py --cpu                                             the same code on a CPU, frames and times tiny

The bare network in fp16 in several ways; the stages of a batch on the device; the whole command with 1 to 6 workers,
x264 and NVENC; and how far the result is from fp32 on the CPU. Each number is taken in a process of its own, so that
one that fails leaves the others.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from footage import make_clip
from gpu_measures import WAYS, GpuMemory, machine, measured
from measure import ROOT, upscale

from upscaling.common.devices import cuda_devices

MIB = 1 << 20
X264, NVENC = "libx264", "h264_nvenc"
# What others have published for this network or its class; not checked here: (what, size, frame/s).
PUBLISHED = (
    ("V100, torch", "1280x720", 22.6),
    ("RTX 4090, TensorRT, compact x2", "1280x720", 139.7),
    ("RTX 4090, TensorRT, compact x2", "1920x1080", 61.5),
)


@dataclass(frozen=True)
class Scope:
    """What is measured, and how long."""

    device: str
    sizes: tuple[tuple[int, int], ...]  # (width, height) of the input
    workers: tuple[int, ...]
    codecs: tuple[str, ...]
    seconds: float  # of each way to run the network
    frames: tuple[int, int]  # of the short and of the long clip: their difference has neither start nor end


def scope_for(args: argparse.Namespace) -> Scope:
    if args.cpu:
        return Scope("cpu", ((64, 36),), (1,), (X264,), 0.1, (2, 4))
    frames = (60, 180) if args.quick else (100, 500)
    sizes = ((1280, 720), (1920, 1080))
    return Scope(args.device, sizes, (1, 2, 3, 6), (X264, NVENC), 3 if args.quick else 10, frames)


@dataclass
class Report:
    """All that was found; rows are as the tables have them."""

    machine: dict
    network: list[dict] = field(default_factory=list)  # size, way, frames_per_second, memory or error
    stages: list[dict] = field(default_factory=list)  # size, milliseconds a frame by stage, or error
    commands: list[dict] = field(default_factory=list)  # size, workers, codec, frames_per_second, … or error
    distance: list[dict] = field(default_factory=list)  # size, decibels, codes or error


def run(scope: Scope, report: Report, folder: Path) -> None:
    """Fill the report; what is being measured is said on stderr."""
    for width, height in scope.sizes:
        size = f"{width}x{height}"
        for way in WAYS:
            say(f"network {size}, {way}")
            found = measured("network", scope.device, width, height, way, scope.seconds)
            report.network.append({"size": size, "way": way, **found})
        short, long = (make_clip(ROOT / "elk.mp4", folder / f"{size}_{n}.mkv", width, height, n) for n in scope.frames)
        for name, rows in (("stages", report.stages), ("distance", report.distance)):
            say(f"{name} {size}")
            rows.append({"size": size, **measured(name, scope.device, short)})
        for codec in scope.codecs:
            for workers in scope.workers:
                say(f"the command {size}, {codec}, workers: {workers}")
                row = command_row(scope, short, long, codec, workers)
                report.commands.append({"size": size, "codec": codec, "workers": workers, **row})


def command_row(scope: Scope, short: Path, long: Path, codec: str, workers: int) -> dict:
    """The whole command on a short and a long clip: frame/s with and without start and end, and its peak memory."""
    options = ("--device", scope.device, "--workers", str(workers), "--codec", codec)
    output, (few, many) = long.with_name("out.mkv"), scope.frames
    try:
        start = upscale(short, output, *options).seconds
        with GpuMemory(scope.device) as on_device:
            cost = upscale(long, output, *options, watch=True)
    except (RuntimeError, OSError) as error:
        return {"error": str(error)[-200:]}
    return {
        "frames_per_second": round(many / cost.seconds, 2),
        "steady_frames_per_second": round((many - few) / max(1e-3, cost.seconds - start), 2),
        "cpu_seconds_per_frame": round(cost.cpu / many, 4),
        "host_memory": cost.memory,
        "device_memory": on_device.peak,  # of everything on the device
    }


def say(line: str) -> None:
    print(f"{line} …", file=sys.stderr, flush=True)


# The tables


def tables(report: Report) -> str:
    """The report as Markdown."""
    facts = [f"- {name}: {value}" for name, value in report.machine.items()]
    network = [row_of(row, "way", "frames_per_second", "memory") for row in report.network]
    network += [f"| {size} | published by others: {what} | {rate} | |" for what, size, rate in PUBLISHED]
    names = list(dict.fromkeys(name for row in report.stages for name in row if name not in ("size", "error")))
    columns = ("codec", "workers", "steady_frames_per_second", "frames_per_second", "cpu_seconds_per_frame",
               "host_memory", "device_memory")  # fmt: skip
    parts = [
        facts,
        table(["size", "bare network, x2 (fp16 on CUDA)", "frame/s", "memory"], network),
        table(["size", *(f"{name}, ms/frame" for name in names)], [row_of(row, *names) for row in report.stages]),
        table(
            ["size", "codec", "workers", "steady frame/s", "frame/s", "CPU s/frame", "memory", "device memory"],
            [row_of(row, *columns) for row in report.commands],
        ),
        table(
            ["size", "from fp32 on the CPU, dB", "largest difference, codes"],
            [row_of(row, "decibels", "codes") for row in report.distance],
        ),
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def table(heads: list[str], rows: list[str]) -> list[str]:
    return [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), *rows]


def row_of(row: dict, *names: str) -> str:
    """A row; what was not measured is empty, and an error stands in the last cell."""
    cells = [row["size"], *(cell(name, row.get(name)) for name in names)]
    if "error" in row:
        cells[-1] = str(row["error"]).replace("|", "/")
    return f"| {' | '.join(cells)} |"


def cell(name: str, value: object) -> str:
    if value is None:
        return ""
    return f"{value / MIB:.0f} MiB" if name.endswith("memory") and isinstance(value, int) else str(value)


# The command


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), help="where the numbers go (default: gpu.json)")
    parser.add_argument("--quick", action="store_true", help="fewer frames and seconds")
    parser.add_argument("--device", default="cuda:0", help="cuda:N (default: cuda:0)")
    parser.add_argument("--cpu", action="store_true", help="a rehearsal on the CPU with tiny frames")
    args = parser.parse_args(argv)
    if not args.device.startswith("cuda:"):
        parser.error("--device must be cuda:N")
    return args


def main(argv: list[str] | None = None) -> int:
    """Measure and print; the exit status: 0, or 1 without the device."""
    args = parse_arguments(argv)
    scope, found = scope_for(args), cuda_devices()
    if not args.cpu and args.device not in [device.name for device in found.devices]:
        print(f"gpu.py: no {args.device} here ({found.problem or 'no CUDA device found'}); --cpu rehearses on the CPU")
        return 1
    report = Report(machine(scope.device))
    with tempfile.TemporaryDirectory(prefix="upscale-bench-") as folder:
        try:
            run(scope, report, Path(folder))
        finally:  # what was found until then is worth something
            args.json.write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")
            print(tables(report))
    say(f"please send this table and {args.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
