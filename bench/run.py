"""How fast is it here? One table: each row a ratio, its two sides measured in turns in this run, medians.

    python bench/run.py [ROW …] [--quick] [--clip FILE] [--framelift PROGRAM] [--times N]

Without ROW all of them; --list names them. Needs nothing but the project; rows that compare with ffmpeg,
framelift or realesrgan are left out where those are not there. Nothing else should run on the machine.
"""

import argparse
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from footage import make_clip
from measure import ROOT, alternate, bare_rate, best_bare_settings, command, medians, upscale

SMALL = (320, 180)
TINY = (64, 36)  # where the network is no more than a few milliseconds a frame
ENCODER = ("--preset", "medium", "--crf", "17")  # the same for all, and the defaults


@dataclass(frozen=True)
class Row:
    """A line of the table: `ratio` as `unit` says it."""

    name: str
    ours: str
    other: str
    ratio: float
    unit: str = "times as fast"


@dataclass(frozen=True)
class Bench:
    """What the rows need: where clips and outputs go, what they are cut from, how often and how long to measure."""

    folder: Path
    source: Path
    times: int
    quick: bool
    framelift: str | None

    def clip(self, size: tuple[int, int], frames: int, kind: str = "film") -> Path:
        name = f"{kind}_{size[0]}x{size[1]}_{frames}.mkv"
        return make_clip(self.source, self.folder / name, *size, frames, kind)

    def seconds(self, clip: Path, *options) -> Callable[[], float]:
        """A side: the whole command on a clip."""
        return lambda: upscale(clip, self.folder / "out.mp4", *options).seconds

    def frames(self, many: int) -> int:
        return many // 5 if self.quick else many


def against(bench: Bench, clip: Path, frames: int, other: Callable[[], float], label: str, *options) -> Row:
    """A row: the whole command beside another one on the same clip."""
    found = medians({"ours": bench.seconds(clip, *options), "other": other}, bench.times)
    ours, theirs = found["ours"], found["other"]
    return Row(label, f"{ours:.1f} s, {frames / ours:.2f} frame/s", f"{theirs:.1f} s", theirs / ours)


# Rows


def network(bench: Bench) -> Iterator[Row]:
    """The whole command beside the bare network in its best setting; steady: without start and end."""
    few, many = bench.frames(60), bench.frames(300)
    short, long = bench.clip(SMALL, few), bench.clip(SMALL, many)
    setting = best_bare_settings(*SMALL, 5)
    sides = {
        "bare": lambda: bare_rate(*SMALL, 10, *setting),
        "short": bench.seconds(short),
        "bare again": lambda: bare_rate(*SMALL, 10, *setting),
        "long": bench.seconds(long),
    }
    found = alternate(sides, bench.times)
    ratios = []
    for one, shorter, two, longer in zip(*(found[name] for name in sides), strict=False):
        bare = (one + two) / 2
        ratios.append(((many - few) / (longer - shorter) / bare, few / shorter / bare, many / longer / bare, bare))
    middle = [sorted(column)[len(column) // 2] for column in zip(*ratios, strict=True)]
    bare = f"bare network {middle[3]:.2f} frame/s ({setting[0]} x {setting[1]} threads)"
    for label, ratio in zip(("steady state", f"{few} frames", f"{many} frames"), middle, strict=False):
        yield Row(f"network, 320x180, {label}", f"{ratio * middle[3]:.2f} frame/s", bare, ratio)


def start(bench: Bench) -> Iterator[Row]:
    """A short clip beside importing torch and the network's time for it."""
    clip, size, frames = ROOT / "elk.mp4", (160, 90), 48
    setting = best_bare_settings(*size, 3)
    sides = {
        "ours": bench.seconds(clip),
        "import": lambda: command([sys.executable, "-c", "import torch"]).seconds,
        "bare": lambda: frames / bare_rate(*size, 5, *setting),
    }
    found = medians(sides, max(3, bench.times))
    least = found["import"] + found["bare"]
    parts = f"import torch {found['import']:.2f} s + network {found['bare']:.2f} s"
    yield Row("start-up, 48 frames of 160x90", f"{found['ours']:.2f} s", parts, found["ours"] / least, "times as long")


def ffmpeg(bench: Bench) -> Iterator[Row]:
    """The pipeline without a network beside ffmpeg's scaler with the same encoder."""
    program, frames = shutil.which("ffmpeg"), bench.frames(250)
    if program is None:
        return
    clip, target = bench.clip((1280, 720), frames), bench.folder / "ffmpeg.mp4"
    for preset in ("veryfast", "medium"):
        scaling = ["-vf", "scale=iw*2:ih*2:flags=lanczos", "-c:v", "libx264", "-preset", preset, "-crf", "17"]
        arguments = [program, "-v", "error", "-nostdin", "-y", "-i", clip, *scaling, target]

        def other(arguments: list = arguments) -> float:
            return command(arguments).seconds

        options = ("--model", "lanczos", "--preset", preset, "--crf", "17")
        yield against(bench, clip, frames, other, f"ffmpeg lanczos, 720p to 1440p, {preset}", *options)


def framelift(bench: Bench) -> Iterator[Row]:
    """framelift with each of its CPU backends, the network alone at x2, the same encoder settings."""
    if bench.framelift is None:
        return
    weights = _official_weights(bench.folder)
    for frames in (60, 300):
        clip = bench.clip(SMALL, bench.frames(frames))
        for backend in ("torch", "openvino"):
            arguments = [bench.framelift, "-i", clip, "-o", bench.folder / "framelift.mp4", "--scale", "2",
                         "--ai-strength", "1", "--device", "cpu", "--backend", backend, "--tile", "0",
                         "--weights-dir", weights, "--x264-preset", "medium", "--crf", "17"]  # fmt: skip

            def other(arguments: list = arguments) -> float:
                (bench.folder / "framelift.mp4").unlink(missing_ok=True)
                return command(arguments).seconds

            label = f"framelift {backend}, {bench.frames(frames)} frames of 320x180"
            try:
                yield against(bench, clip, bench.frames(frames), other, label, *ENCODER)
            except RuntimeError as error:
                print(f"{label}: left out: {error}", file=sys.stderr)


def engines(bench: Bench) -> Iterator[Row]:
    """The ncnn engine beside torch on the CPU, both in fp32: what a CPU without bf16 has."""
    frames = bench.frames(300)
    clip = bench.clip(SMALL, frames)
    options = ("--device", "cpu", "--precision", "fp32")
    other = bench.seconds(clip, *options, "--engine", "torch")
    label = f"--engine torch, fp32, {frames} frames of 320x180"
    yield against(bench, clip, frames, other, label, *options, "--engine", "ncnn")


def realesrgan(bench: Bench) -> Iterator[Row]:
    """Real-ESRGAN's classes used frame by frame, as its own video script does."""
    script = Path(__file__).with_name("frame_by_frame.py")
    for frames in (60, 300):
        clip = bench.clip(SMALL, bench.frames(frames))
        arguments = [sys.executable, script, clip, bench.folder / "frames.mp4", *ENCODER]
        label = f"Real-ESRGAN's classes, {bench.frames(frames)} frames of 320x180"

        def other(arguments: list = arguments) -> float:
            return command(arguments).seconds

        try:
            yield against(bench, clip, bench.frames(frames), other, label, *ENCODER)
        except (RuntimeError, OSError) as error:
            print(f"{label}: left out: {error}", file=sys.stderr)


def flat(bench: Bench) -> Iterator[Row]:
    """Ten times the frames: the same cost a frame, disk and memory."""
    few, many = bench.frames(300), bench.frames(3000)
    costs: dict[int, list] = {few: [], many: []}

    def side(frames: int) -> Callable[[], float]:
        clip = bench.clip(TINY, frames)

        def run() -> float:
            costs[frames].append(upscale(clip, bench.folder / "out.mp4", watch=True))
            return costs[frames][-1].seconds

        return run

    startup = bench.clip(TINY, 8)
    found = medians({"start": bench.seconds(startup), "few": side(few), "many": side(many)}, bench.times)
    each = [1000 * (found[name] - found["start"]) / (n - 8) for name, n in (("few", few), ("many", many))]
    label = f"{many} frames beside {few}, 64x36"
    yield Row(f"{label}: time a frame", f"{each[1]:.2f} ms", f"{each[0]:.2f} ms", each[1] / each[0], "times as much")
    for name, what in (("memory", "peak memory"), ("work", "peak work directory, its segments left out")):
        peak = [max(getattr(cost, name) for cost in costs[n]) / 2**20 for n in (few, many)]
        yield Row(f"{label}: {what}", f"{peak[1]:.1f} MiB", f"{peak[0]:.1f} MiB", peak[1] / peak[0], "times as much")


def scaling(bench: Bench) -> Iterator[Row]:
    """Workers, patch and batch sizes beside the defaults."""
    frames = bench.frames(120)
    clip = bench.clip(SMALL, frames)
    for option, values in (("--workers", (1, 2)), ("--batch-size", (1, 4, 32)), ("--patch-size", (0, 128, 64))):
        for value in values:
            found = medians({"default": bench.seconds(clip), "other": bench.seconds(clip, option, value)}, bench.times)
            ours, other = frames / found["other"], frames / found["default"]
            label = f"{option[2:]} {value}, {frames} frames of 320x180"
            yield Row(label, f"{ours:.2f} frame/s", f"defaults {other:.2f} frame/s", ours / other)


def held(bench: Bench) -> Iterator[Row]:
    """Frames that repeat, and frames of which only a corner changes, beside a film."""
    frames = bench.frames(120)
    film = bench.clip(SMALL, frames)
    for kind, label, options in (
        ("twos", "each frame twice", ()),
        ("screen", "a corner moves", ("--patch-size", "64")),
    ):
        clip = bench.clip(SMALL, frames, kind)
        found = medians({"film": bench.seconds(film, *options), "held": bench.seconds(clip, *options)}, bench.times)
        name = " ".join((f"{label}, {frames} frames of 320x180", *options))
        row = (frames / found[side] for side in ("held", "film"))
        yield Row(name, *(f"{rate:.2f} frame/s" for rate in row), found["film"] / found["held"])


ROWS = (network, start, engines, ffmpeg, framelift, realesrgan, flat, scaling, held)


# The table


def _official_weights(folder: Path) -> Path:
    """A directory with the default network under its official name, for programs that look for it there."""
    import torch

    from upscaling.models import weights

    place = folder / "weights"
    place.mkdir(exist_ok=True)
    torch.save({"params": weights.load("realesr-animevideov3")}, place / "realesr-animevideov3.pth")
    return place


def machine() -> str:
    """The machine in one line, for the table's head."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = names[0].partition(":")[2].strip() if names else platform.machine()
    return f"{len(os.sched_getaffinity(0))} cores of {model}, Python {platform.python_version()}"


def main() -> int:
    names = {row.__name__: row for row in ROWS}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", metavar="ROW", nargs="*", help=", ".join(names))
    parser.add_argument("--list", action="store_true", help="name the rows and what they show")
    parser.add_argument("--quick", action="store_true", help="a fifth of the frames, each side once")
    parser.add_argument("--times", type=int, default=3, help="how often each side is measured")
    parser.add_argument("--clip", type=Path, default=ROOT / "elk.mp4", help="what the clips are cut from")
    parser.add_argument("--framelift", default=shutil.which("framelift"), help="the program framelift")
    args = parser.parse_args()
    if args.list:
        print("\n".join(f"{name:<12}{row.__doc__}" for name, row in names.items()))
        return 0
    if unknown := [name for name in args.rows if name not in names]:
        parser.error(f"no row {unknown[0]}; there are {', '.join(names)}")
    print(f"{machine()}\n\n| what | upscale.py | beside | ratio |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="upscale-bench-") as folder:
        times = 1 if args.quick else args.times
        bench = Bench(Path(folder), args.clip, times, args.quick, args.framelift)
        for name in args.rows or names:
            for row in names[name](bench):
                print(f"| {row.name} | {row.ours} | {row.other} | {row.ratio:.2f} {row.unit} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
