"""Measuring for bench/run.py: commands with their processes, the bare network, sides that take turns."""

import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SAMPLE_SECONDS = 0.1  # between looks at a command's memory and work directory
WARM = 3  # passes of the bare network before its time counts


@dataclass(frozen=True)
class Cost:
    """What a command took: seconds, CPU seconds of all its processes, peak bytes of memory and of `work`.

    `work` is the work directory without the finished part of the video, which grows into the result.
    """

    seconds: float
    cpu: float
    memory: int = 0
    work: int = 0


def command(arguments: list, work: Path | None = None) -> Cost:
    """Runs a command to its end; RuntimeError with its last words where it fails.

    With `work`, a directory that it fills, memory (proportional set size) and that directory are watched as well.
    """
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(
        [str(a) for a in arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace",
    )  # fmt: skip
    peaks = [0, 0]
    if work is not None:
        threading.Thread(target=_watch, args=(process, work, peaks), daemon=True).start()
    words = process.communicate()[0]
    seconds = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(f"{arguments[0]}: {' '.join(words.split()[-60:])}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, *peaks)


def upscale(source: Path, output: Path, *options, watch: bool = False) -> Cost:
    """The whole command `python upscale.py SOURCE OUTPUT 2 OPTIONS`."""
    work = output.with_name(output.name + ".work")
    cost = command(
        [sys.executable, ROOT / "upscale.py", source, output, "2", "--restart", "--progress", "none", *options],
        work if watch else None,
    )
    output.unlink()
    return cost


def _watch(process: subprocess.Popen, work: Path, peaks: list[int]) -> None:
    while process.poll() is None:
        peaks[0] = max(peaks[0], sum(_proportional_bytes(pid) for pid in _family(process.pid)))
        peaks[1] = max(peaks[1], _bytes_in_use(work))
        time.sleep(SAMPLE_SECONDS)


def _family(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for parent in found:
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                found += map(int, Path(f"/proc/{parent}/task/{task}/children").read_text().split())
        except OSError:
            pass  # it has ended
    return found


def _proportional_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    except (OSError, StopIteration):
        return 0


def _bytes_in_use(work: Path) -> int:
    total = 0
    for place, folders, names in os.walk(work):
        if "segments" in folders:
            folders.remove("segments")
        for name in names:
            if name.startswith("joined."):
                continue
            try:
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
            except OSError:
                pass  # it has gone
    return total


# The bare network


def bare_rate(width: int, height: int, seconds: float, processes: int, threads: int) -> float:
    """Frames/s of the default network at x2 by itself, as PyTorch runs it: each process gives it frame after frame."""
    command = [sys.executable, Path(__file__), width, height, seconds, processes, threads]
    done = subprocess.run([str(a) for a in command], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def best_bare_settings(width: int, height: int, seconds: float) -> tuple[int, int]:
    """(processes, threads of each) with which the bare network is fastest here."""
    cores = len(os.sched_getaffinity(0))
    return max({(cores, 1), (1, cores)}, key=lambda setting: bare_rate(width, height, seconds, *setting))


def _bare(width: int, height: int, seconds: float, threads: int, start, rates) -> None:
    import torch

    from upscaling.common.system import retain_freed_memory
    from upscaling.inference.settings import ModelSettings
    from upscaling.inference.upscaler import DTYPES, choose_precision
    from upscaling.models.network import build
    from upscaling.models.weights import load

    torch.set_num_threads(threads)
    retain_freed_memory()
    layout = {"dtype": DTYPES[choose_precision("auto", torch.device("cpu"))], "memory_format": torch.channels_last}
    network = build(load(ModelSettings.model), 2).module.to(**layout)
    picture = torch.rand(1, 3, height, width).to(**layout)
    with torch.inference_mode():
        for _ in range(WARM):
            network(picture)
        start.wait()
        count, begin = 0, time.perf_counter()
        while (spent := time.perf_counter() - begin) < seconds:
            network(picture)
            count += 1
    rates.put(count / spent)


def main() -> None:
    width, height, seconds, processes, threads = (float(a) for a in sys.argv[1:])
    context = multiprocessing.get_context("spawn")
    start, rates = context.Barrier(int(processes)), context.Queue()
    arguments = (int(width), int(height), seconds, int(threads), start, rates)
    workers = [context.Process(target=_bare, args=arguments) for _ in range(int(processes))]
    for worker in workers:
        worker.start()
    print(sum(rates.get() for _ in workers))
    for worker in workers:
        worker.join()


# Side by side


def alternate(sides: dict[str, Callable[[], float]], times: int) -> dict[str, list[float]]:
    """Each side's numbers, the sides taking turns: what slows the machine for a while slows all of them."""
    numbers: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(times):
        for name in list(sides)[:: 1 if turn % 2 == 0 else -1]:
            numbers[name].append(sides[name]())
    return numbers


def medians(sides: dict[str, Callable[[], float]], times: int) -> dict[str, float]:
    return {name: statistics.median(numbers) for name, numbers in alternate(sides, times).items()}


if __name__ == "__main__":
    main()
