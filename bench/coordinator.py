"""What a coordinator does for each frame and manifest, measured here on a clip: decode, store, encode, hear.

    python bench/coordinator.py CLIP [--sizes 720p,1080p,2160p] [--frames 24] [--repeat 3] [--json costs.json]

The clip's pictures are taken at each size (resized, encoded with x264 as a camera's file would be), then each
step of the coordinator is timed alone, with the program's own code and its default encoder. The best of several
runs counts: what others do on the machine meanwhile only adds. bench/scaling.py simulates with the result.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import av
import numpy as np

from upscaling.cluster import claims, roster
from upscaling.decode.decoder import Decoder
from upscaling.decode.probe import VideoInfo, probe
from upscaling.encode.segment_writer import SegmentWriter, encode_settings
from upscaling.frames import pixel_formats
from upscaling.frames.settings import PictureSettings
from upscaling.frames.swscale import Resizer
from upscaling.job.notation import NAMED_SIZES
from upscaling.workers import status
from upscaling.workers.manifest import Manifest, write_manifest

BATCH = 8  # frames in a manifest
LIVE_TASKS = 1000  # whose status files are read


def best(repeat: int, function: Callable[[], object]) -> tuple[float, float]:
    """(seconds, seconds of CPU in all threads together) of the quickest of `repeat` runs."""
    times = []
    for _ in range(repeat):
        started, worked = time.perf_counter(), time.process_time()
        function()
        times.append((time.perf_counter() - started, time.process_time() - worked))
    return min(times)


def per(cost: tuple[float, float], count: int) -> dict[str, float]:
    """A cost shared by `count` frames or manifests."""
    return {"seconds": cost[0] / count, "cpu": cost[1] / count}


def resized(clip: Path, size: tuple[int, int], frames: int, target: Path) -> Path:
    """The first frames of a clip at another size, in H.264."""
    with av.open(str(clip)) as source, av.open(str(target), "w") as out:
        rate = source.streams.video[0].average_rate or Fraction(25)
        stream = out.add_stream("libx264", rate=rate, options={"crf": "18", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number, picture in enumerate(source.decode(video=0)):
            if number == frames:
                break
            small = picture.reformat(*size, "yuv420p", interpolation="BICUBIC")
            small.pts, small.time_base = number, 1 / rate
            out.mux(stream.encode(small))
        out.mux(stream.encode(None))
    return target


def decoded(info: VideoInfo) -> list[np.ndarray]:
    """All frames, each as the flat array that the pipeline stores."""
    frames = []
    with Decoder(info) as decoder:
        for one in decoder:
            frames.append(np.concatenate([np.ascontiguousarray(plane).ravel() for plane in one.planes]))
    return frames


def upscaled(info: VideoInfo, frames: list[np.ndarray]) -> tuple[PictureSettings, list[np.ndarray]]:
    """Twice the size, by the plain resize: real pictures for the encoder."""
    colour = (info.colour.matrix, info.colour.full_range, info.colour.chroma_location)
    picture = PictureSettings(info.width, info.height, info.pixel_format, *colour,
                              2 * info.width, 2 * info.height, info.pixel_format, *colour)  # fmt: skip
    resizer, fmt = Resizer(picture), pixel_formats.FORMATS[picture.out_pixel_format]
    results = [np.empty(pixel_formats.sample_count(fmt, *picture.stored_size), fmt.dtype) for _ in frames]
    for one, result in zip(frames, results, strict=True):
        resizer(one, result)
    return picture, results


def measure_size(clip: Path, size: tuple[int, int], count: int, repeat: int, place: Path, preset: str | None) -> dict:
    """Seconds and CPU seconds a frame of each step, and bytes a frame, for an input size in pixels."""
    info = probe(resized(clip, size, count, place / "in.mp4"))
    frames = decoded(info)
    count = len(frames)
    decode = per(best(repeat, lambda: decoded(info)), count)
    picture, results = upscaled(info, frames)

    def store(name: str, arrays: list[np.ndarray]) -> None:
        for number, samples in enumerate(arrays):
            with (place / f"{name}_{number}.npy").open("wb") as file:
                np.lib.format.write_array(file, samples, allow_pickle=False)

    stored = per(best(repeat, lambda: store("in", frames)), count)
    store("out", results)
    settings = encode_settings(info, place / "out.mp4", picture.out_width, picture.out_height, preset=preset)
    fmt = pixel_formats.FORMATS[settings.pixel_format]

    def encode() -> None:
        with SegmentWriter(place / "segment.mkv", settings) as writer:
            for number in range(count):
                samples = np.load(place / f"out_{number}.npy", mmap_mode="r")
                writer.write(pixel_formats.planes(samples, fmt, settings.width, settings.height), number)

    encoded = per(best(repeat, encode), count)
    return {
        "decode": decode, "store": stored, "encode": encoded, "in_bytes": frames[0].nbytes,
        "out_bytes": results[0].nbytes, "codec": settings.codec, "options": settings.options,
    }  # fmt: skip


def claim_all(job: Path, taken: list[Path]) -> None:
    """Claim manifest after manifest until the queue is empty."""
    life = claims.new_claimant(0)
    while names := claims.waiting(job):
        taken.append(claims.claim(job, names[0], life))


def measure_claims(job: Path, repeat: int, manifests: int = 50) -> dict:
    """Seconds a manifest of each end of the claim directory, and seconds to read one task's status."""
    claims.make_folders(job)
    for name in ("input_frames", "output_frames", "manifests"):
        (job / name).mkdir()
    names = tuple(f"frame_{n:06d}.npy" for n in range(1, BATCH + 1))
    for name in names:
        (job / "input_frames" / name).touch()
    manifest = Manifest(0, job / "input_frames", job / "output_frames", Fraction(2), BATCH, 256, "yuv420p",
                        "bt709 limited", BATCH, {0: names}, frame_size=(16, 16))  # fmt: skip
    seconds = {"publish": [], "claim": [], "hear": []}
    for _ in range(repeat):
        paths = [job / "manifests" / f"manifest_{n:06d}.txt" for n in range(manifests)]
        for path in paths:
            write_manifest(manifest, path)
        taken: list[Path] = []
        seconds["publish"].append(best(1, lambda paths=paths: [claims.publish(job, path) for path in paths])[0])
        seconds["claim"].append(best(1, lambda taken=taken: claim_all(job, taken))[0])
        for path in taken:
            claims.finish(path)
        seconds["hear"].append(best(1, lambda: [claims.hear(result.path) for result in claims.results(job)])[0])
    tasks = roster.Roster(job, "t", np.zeros(LIVE_TASKS, status.row_dtype()))
    row = dict.fromkeys(status.row_dtype().names, 0)
    for index in range(LIVE_TASKS):
        about = {"id": claims.new_claimant(index), "token": "t", "count": 1, "state": "ready", "node": "n", "row": row}
        claims.put_json(job / claims.TASKS / f"task_{index}.json", about, durable=False)
    statuses = best(repeat, lambda: [tasks.read(one, 0.0) for one in tasks.tasks])[0] / LIVE_TASKS
    return {name: min(times) / manifests for name, times in seconds.items()} | {"status": statuses}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("--sizes", default="720p,1080p,2160p")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--preset", help="of the encoder; its default")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    steps = ("decode", "store", "encode")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    print("frames/s of each step alone here, and for each core that it has to itself (by the CPU time that it took)")
    print(f"{'input':>6} " + " ".join(f"{step:>8} {'a core':>8}" for step in steps))
    costs: dict = {"sizes": {}}
    for name in args.sizes.split(","):
        with tempfile.TemporaryDirectory() as place:
            cost = measure_size(args.clip, NAMED_SIZES[name], args.frames, args.repeat, Path(place), args.preset)
        costs["sizes"][name] = cost
        rates = " ".join(f"{1 / cost[step]['seconds']:8.2f} {1 / cost[step]['cpu']:8.2f}" for step in steps)
        print(f"{name:>6} {rates}   {cost['codec']} {cost['options']}", flush=True)
    with tempfile.TemporaryDirectory() as place:
        costs["manifest"] = measure_claims(Path(place), args.repeat)
    print("claim directory, ms: " + ", ".join(f"{step} {1e3 * s:.3f}" for step, s in costs["manifest"].items()))
    print(f"load {os.getloadavg()[0]:.1f} at the end")
    if args.json:
        args.json.write_text(json.dumps(costs, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
