"""How far one coordinator carries: a simulation of a job with 1 to 1,000 workers, by costs that were measured.

    python bench/coordinator.py CLIP --json costs.json
    python bench/scaling.py costs.json --size 720p --gpu 22.6 [--cores 16] [--storage 1.25] [--svg curve.svg]

`--gpu` is what one worker upscales, frames/s of a 720p input; other sizes are taken by their pixels. `--storage`
is the shared storage's bandwidth in GB/s, for all that goes in and out of it; `--cores` are the coordinator's.

Every batch is simulated: decoded as soon as the window has room, claimed by a worker when one is free and looks,
its frames read, upscaled, written (a worker moves one batch while it upscales another), and encoded in the order
of the video. Decoding and encoding share the coordinator's cores, storage serves one transfer after the other.
"""

import argparse
import heapq
import itertools
import json
import math
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

PIXELS = {"720p": 1280 * 720, "1080p": 1920 * 1080, "2160p": 3840 * 2160}
WORKERS = (1, 2, 3, 6, 10, 20, 30, 60, 100, 200, 300, 600, 1000)
ROUNDS = 12  # batches a worker at the least, so that starting and ending weigh little
LEAST_BATCHES = 300
CLAIM_WAITS = 0.01, 0.5  # seconds until an idle worker looks again, on average: at first, and after long (task.py)
CLAIM_GROWTH = 0.25  # of the time that it has been idle, between the two
WINDOW_BYTES = 32 << 30  # of frames in storage at the most: half the memory of a coordinator with 64 GiB (plan.py)


@dataclass(frozen=True)
class Costs:
    """Seconds: of a frame or, where it says so, of a manifest; sizes in bytes a frame."""

    decode: float
    store: float
    encode: float
    upscale: float
    publish: float  # a manifest
    claim: float  # a manifest
    hear: float  # a manifest
    status: float  # one look at one task
    in_bytes: int
    out_bytes: int
    bandwidth: float  # bytes/s
    batch: int = 8
    beat: float = 0.5  # seconds between two looks at a task's status


@dataclass
class Server:
    """Something that does one thing after the other; `busy` are the seconds that it did."""

    loop: "Loop"
    free: float = 0.0
    busy: float = 0.0

    def take(self, seconds: float, then: Callable[[], None]) -> None:
        """Do something for `seconds` as soon as what was asked before is done, then call `then`."""
        start = max(self.loop.now, self.free)
        self.free = start + seconds
        self.busy += seconds
        self.loop.at(self.free, then)


@dataclass
class Loop:
    """Events in the order of their times."""

    now: float = 0.0
    events: list = field(default_factory=list)
    count: itertools.count = field(default_factory=itertools.count)

    def at(self, time: float, then: Callable[[], None]) -> None:
        heapq.heappush(self.events, (time, next(self.count), then))

    def run(self) -> None:
        while self.events:
            self.now, _, then = heapq.heappop(self.events)
            then()


class Job:
    """One job with so many workers; `window` batches may be in storage at a time."""

    def __init__(self, costs: Costs, workers: int, batches: int):
        self.c, self.workers, self.batches = costs, workers, batches
        most = WINDOW_BYTES // (costs.batch * (costs.in_bytes + costs.out_bytes))
        self.window = max(1, min(3 * workers, most))
        self.loop = Loop()
        self.decoder, self.encoder, self.storage, self.main = (Server(self.loop) for _ in range(4))
        self.gpus = [Server(self.loop) for _ in range(workers)]
        self.queue: deque[int] = deque()
        # Each worker has one batch on its device and the next one on its way: two that look for work.
        self.idle = deque((worker, 0.0) for worker in (*range(workers), *range(workers)))  # (worker, since)
        self.decoded = self.read = self.encoded = 0
        self.complete: set[int] = set()
        self.reading = self.decoding = False

    def run(self) -> float:
        """Frames/s."""
        self._decode()
        self.loop.run()
        assert self.encoded == self.batches
        return self.batches * self.c.batch / self.loop.now

    def _decode(self) -> None:
        if self.decoding or self.decoded == self.batches or self.decoded - self.encoded >= self.window:
            return
        self.decoding = True
        self.decoder.take(self.c.batch * (self.c.decode + self.c.store), self._store)

    def _store(self) -> None:
        number, self.decoded, self.decoding = self.decoded, self.decoded + 1, False
        # What the main loop does for a manifest, and beside it for the tasks in the time of one manifest.
        self.storage.take(
            self.c.batch * self.c.in_bytes / self.c.bandwidth,
            lambda: self.main.take(self.c.publish + self.c.hear, lambda: self._publish(number)),
        )
        self._decode()

    def _publish(self, number: int) -> None:
        self.queue.append(number)
        if self.idle:
            # Of several idle workers the first to look finds it.
            looks = len(self.idle)
            worker, since = self.idle.popleft()
            wait = max(CLAIM_WAITS[0], min(CLAIM_WAITS[1], CLAIM_GROWTH * (self.loop.now - since)))
            self.loop.at(self.loop.now + wait / looks, lambda: self._claim(worker))

    def _claim(self, worker: int) -> None:
        if not self.queue:
            self.idle.append((worker, self.loop.now))
            return
        number, c = self.queue.popleft(), self.c
        read, write = c.batch * c.in_bytes / c.bandwidth, c.batch * c.out_bytes / c.bandwidth

        def upscale() -> None:
            self.gpus[worker].take(c.claim + c.batch * c.upscale, lambda: self.storage.take(write, done))

        def done() -> None:
            self.complete.add(number)
            self._read()
            self._claim(worker)

        self.storage.take(read, upscale)

    def _read(self) -> None:
        """The encoder's next batch, while it still has the one before at work."""
        if self.reading or self.read not in self.complete or self.read > self.encoded + 1:
            return
        self.reading = True
        self.storage.take(self.c.batch * self.c.out_bytes / self.c.bandwidth, self._encode)

    def _encode(self) -> None:
        self.read, self.reading = self.read + 1, False
        self.encoder.take(self.c.batch * self.c.encode, self._encoded)
        self._read()

    def _encoded(self) -> None:
        self.encoded += 1
        self._read()
        self._decode()

    def busy(self) -> dict[str, float]:
        """The share of the time that each part was busy, 0 to 1."""
        watching = min(1.0, self.workers * self.c.status / self.c.beat)
        return {
            "workers": self.batches * self.c.batch * self.c.upscale / self.workers / self.loop.now,
            "decoder": self.decoder.busy / self.loop.now,
            "encoder": self.encoder.busy / self.loop.now,
            "storage": self.storage.busy / self.loop.now,
            "main loop": self.main.busy / self.loop.now + watching,
        }


def costs_of(measured: dict, size: str, gpu: float, cores: float, bandwidth: float) -> Costs:
    """What bench/coordinator.py measured, for a coordinator of so many cores and workers of that speed."""
    one, manifest = measured["sizes"][size], measured["manifest"]
    # Decoding and encoding go on at the same time and share the cores as they need them.
    decode, encode = one["decode"]["cpu"], one["encode"]["cpu"]
    return Costs(
        decode=decode / cores, store=one["store"]["cpu"], encode=(decode + encode) / cores,
        upscale=PIXELS[size] / PIXELS["720p"] / gpu, in_bytes=one["in_bytes"], out_bytes=one["out_bytes"],
        bandwidth=bandwidth, **manifest,
    )  # fmt: skip


def simulate(costs: Costs, workers: int) -> tuple[float, str, dict[str, float]]:
    """(frames/s, what limits it, how busy each part is)."""
    job = Job(costs, workers, max(LEAST_BATCHES, ROUNDS * workers))
    rate = job.run()
    busy = job.busy()
    return rate, max(busy, key=busy.get), busy


def curve(costs: Costs, title: str) -> list[tuple[int, float]]:
    """Print the table for 1 to 1,000 workers; its (workers, frames/s)."""
    print(f"\n{title}: one worker {1 / costs.upscale:.1f} frames/s, encoder {1 / costs.encode:.1f}, "
          f"decoder {1 / (costs.decode + costs.store):.1f}, "
          f"storage {costs.bandwidth / 2 / (costs.in_bytes + costs.out_bytes):.0f}")  # fmt: skip
    parts = ("workers", "encoder", "decoder", "storage", "main loop")
    print("workers  frames/s  of ideal  limit      busy: " + "  ".join(f"{part:>9}" for part in parts))
    points = []
    for workers in WORKERS:
        rate, limit, busy = simulate(costs, workers)
        points.append((workers, rate))
        shares = "  ".join(f"{100 * busy[part]:8.0f}%" for part in parts)
        ideal = 100 * rate * costs.upscale / workers
        print(f"{workers:7d} {rate:9.1f} {ideal:8.0f}%  {limit:9}        {shares}")
    return points


def split(costs: Costs, title: str, frames: int) -> None:
    """Print what 1 to 64 jobs by --segment-of make of a video of `frames` frames, with 1,000 workers in all.

    The storage is shared by all; the last part decodes everything before it first, and its rate counts.
    """
    print(f"\n{title}, {frames} frames, 1000 workers, by --segment-of")
    print("  parts  frames/s   a part  skipping")
    for parts in (1, 2, 4, 8, 16, 32, 64):
        rate, _, _ = simulate(replace(costs, bandwidth=costs.bandwidth / parts), max(1, 1000 // parts))
        skip = frames * (parts - 1) / parts * costs.decode
        seconds = skip + frames / parts / rate
        print(f"{parts:7d} {frames / seconds:9.1f} {rate:8.1f} {100 * skip / seconds:8.0f}%")


def svg(curves: dict[str, list[tuple[int, float]]]) -> str:
    """The curves on logarithmic axes."""
    width, height, left, bottom = 720, 440, 60, 50
    rates = [rate for points in curves.values() for _, rate in points]
    low, high = math.floor(math.log10(min(rates))), math.ceil(math.log10(max(rates)))

    def x(workers: float) -> float:
        return left + math.log10(workers) / 3 * (width - left - 20)

    def y(rate: float) -> float:
        return height - bottom - (math.log10(rate) - low) / (high - low) * (height - bottom - 20)

    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
             'font-size="12"><rect width="100%" height="100%" fill="white"/>']  # fmt: skip
    for exponent in range(4):
        at = x(10**exponent)
        lines.append(f'<path d="M{at:.1f} 20V{height - bottom}" stroke="#ddd"/>')
        lines.append(f'<text x="{at:.1f}" y="{height - bottom + 18}" text-anchor="middle">{10**exponent}</text>')
    for exponent in range(low, high + 1):
        at = y(10.0**exponent)
        lines.append(f'<path d="M{left} {at:.1f}H{width - 20}" stroke="#ddd"/>')
        lines.append(f'<text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{10.0**exponent:g}</text>')
    lines.append(f'<text x="{width / 2}" y="{height - 12}" text-anchor="middle">workers</text>')
    lines.append('<text x="12" y="14">frames/s</text>')
    colours = itertools.cycle(("#0b6", "#06c", "#c30", "#909", "#a70", "#555"))
    for number, ((title, points), colour) in enumerate(zip(curves.items(), colours, strict=False)):
        path = " ".join(f"{x(workers):.1f},{y(rate):.1f}" for workers, rate in points)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines.append(f'<text x="{left + 10}" y="{34 + 16 * number}" fill="{colour}">{title}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("costs", type=Path, help="as bench/coordinator.py --json writes them")
    parser.add_argument("--size", action="append", choices=tuple(PIXELS), help="of the input; all that were measured")
    parser.add_argument("--gpu", type=float, action="append", help="frames/s of one worker at 720p; 22.6 and 139.7")
    parser.add_argument("--cores", type=float, default=16, help="of the coordinator")
    parser.add_argument("--storage", type=float, default=1.25, help="GB/s of the shared storage")
    parser.add_argument("--split", type=int, metavar="FRAMES", help="also what --segment-of makes of so many frames")
    parser.add_argument("--svg", type=Path)
    args = parser.parse_args()
    measured = json.loads(args.costs.read_text())
    curves = {}
    for size in args.size or measured["sizes"]:
        for gpu in args.gpu or (22.6, 139.7):
            title = f"{size} to twice its size, {gpu:g} frames/s at 720p a GPU, {args.cores:g} cores"
            costs = costs_of(measured, size, gpu, args.cores, args.storage * 1e9)
            curves[title] = curve(costs, title)
            if args.split:
                split(costs, title, args.split)
    if args.svg:
        args.svg.write_text(svg(curves))
    return 0


if __name__ == "__main__":
    sys.exit(main())
