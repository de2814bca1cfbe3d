"""Compare an upscaled video with its source: frames, times, sound offset and colours, side by side.

    python bench/fidelity.py SOURCE RESULT [--pictures N]

Both are decoded as a player shows them (upright, deinterlaced); frames are compared at the source's size.
Exit status: 0 if they agree, 1 if they differ, 2 for bad usage or input.
"""

import argparse
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import av
import av.error
import numpy as np
from av.video.reformatter import Interpolation

from upscaling.common.errors import InputError
from upscaling.decode.decoder import Decoder
from upscaling.decode.probe import VideoInfo, probe
from upscaling.encode.settings import colour_codes
from upscaling.frames.av_planes import av_planes
from upscaling.frames.pixel_formats import pixel_format

LARGEST_SHIFT = 0.5  # 8-bit codes that a channel's mean may move
AV_TOLERANCE = Fraction(1, 1000)  # seconds
_YUV, _RGB = "yuv444p16le", "gbrp16le"  # what pictures are compared in; 256 steps are one 8-bit code


@dataclass
class Row:
    name: str
    source: str
    result: str
    good: bool


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--pictures", type=int, default=None, help="compare the colours of the first N frames only")
    options = parser.parse_args(arguments)
    try:
        rows = compare(options.source, options.result, options.pictures)
    except InputError as error:
        print(f"fidelity: error: {error}", file=sys.stderr)
        return error.exit_status
    widths = [
        max(len(text) for text in column) for column in zip(*((r.name, r.source, r.result) for r in rows), strict=True)
    ]
    for row in rows:
        cells = (text.ljust(width) for text, width in zip((row.name, row.source, row.result), widths, strict=True))
        print("  ".join(cells), " " if row.good else " DIFFERS")
    return 0 if all(row.good for row in rows) else 1


def compare(source: Path, result: Path, pictures: int | None = None) -> list[Row]:
    """One row for each property; InputError if a file is not a video."""
    infos = probe(source), probe(result)
    times, shifts, psnr = _walk(infos, pictures)
    rows = [Row("frames", str(len(times[0])), str(len(times[1])), len(times[0]) == len(times[1]) > 0)]
    rows += _time_rows(infos, times)
    rows += _sound_rows(infos, times)
    rows += _colour_rows(infos)
    names = "RGB" if pixel_format(infos[0].pixel_format).rgb else ("luma", "Cb", "Cr")
    if shifts is not None:
        for name, shift in zip(names, shifts, strict=True):
            rows.append(Row(f"mean shift of {name}", "0", f"{shift:+.3f} codes", abs(shift) <= LARGEST_SHIFT))
        rows.append(Row("PSNR at the source's size", "", f"{psnr:.1f} dB", True))
    return rows


def _walk(infos: tuple[VideoInfo, VideoInfo], pictures: int | None):
    """Decodes both in step: (times of both in seconds, mean shift of each channel in 8-bit codes or None, PSNR)."""
    times: tuple[list[Fraction], list[Fraction]] = ([], [])
    total, squares, count = np.zeros(3), 0.0, 0
    with Decoder(infos[0]) as first, Decoder(infos[1]) as second:
        ends = object()
        walks = iter(first), iter(second)
        while True:
            frames = next(walks[0], ends), next(walks[1], ends)
            if frames == (ends, ends):
                break
            for frame, info, seen in zip(frames, infos, times, strict=True):
                if frame is not ends:
                    seen.append(frame.pts * info.time_base)
            if ends not in frames and (pictures is None or count < pictures):
                difference = _samples(frames[1], infos[1], infos[0]) - _samples(frames[0], infos[0], infos[0])
                total += difference.mean(axis=(1, 2))
                squares += float((difference**2).mean())
                count += 1
    if count == 0:
        return times, None, None
    return times, total / count, 10 * np.log10(255**2 * count / squares) if squares else float("inf")


def _samples(frame, info: VideoInfo, reference: VideoInfo) -> np.ndarray:
    """(3, height, width) float64 in 8-bit codes, at the reference's size, as YUV if the reference is, else as RGB."""
    picture = av.VideoFrame(info.width, info.height, info.pixel_format)
    for plane, samples in zip(av_planes(picture, pixel_format(info.pixel_format)), frame.planes, strict=True):
        plane[:] = samples
    for name, value in colour_codes(info.colour).items():
        setattr(picture, name, value)
    target = _RGB if pixel_format(reference.pixel_format).rgb else _YUV
    matrix = {} if info.colour.matrix == "gbr" else {"src_colorspace": colour_codes(info.colour)["colorspace"]}
    if target == _YUV and info.colour.matrix == reference.colour.matrix:
        matrix |= {"dst_colorspace": matrix["src_colorspace"]}
    # Same range on both sides: a shift of the range shows as a shift of the mean.
    ranges = {"src_color_range": 1, "dst_color_range": 1} if target == _YUV else {}
    shrunk = picture.reformat(
        reference.width, reference.height, target, interpolation=Interpolation.AREA, **matrix, **ranges
    )
    planes = []
    for plane in shrunk.planes:
        rows = np.frombuffer(plane, "<u2").reshape(-1, plane.line_size // 2)
        planes.append(rows[: reference.height, : reference.width].astype(np.float64) / 256)
    return np.stack(planes if target == _YUV else [planes[2], planes[0], planes[1]])  # gbrp: G, B, R


def _time_rows(infos: tuple[VideoInfo, VideoInfo], times) -> list[Row]:
    if not times[0] or not times[1]:
        return []
    # A container with coarser ticks rounds; most have no times below zero, so everything is moved up there.
    allowed = max(info.time_base for info in infos) / 2 if infos[1].time_base > infos[0].time_base else Fraction(0)
    moved = min(times[0][0], Fraction(0))
    error = max(abs(a - moved - b) for a, b in zip(*times, strict=False))
    return [
        Row(
            "first frame",
            _seconds(times[0][0]),
            _seconds(times[1][0]),
            abs(times[0][0] - moved - times[1][0]) <= allowed,
        ),
        Row("last frame", _seconds(times[0][-1]), _seconds(times[1][-1]), len(times[0]) == len(times[1])),
        Row("largest error of a time", "", _seconds(error), error <= allowed),
    ]


def _seconds(time: Fraction | None) -> str:
    return "-" if time is None else f"{float(time):.6f} s"


def _sound_rows(infos: tuple[VideoInfo, VideoInfo], times) -> list[Row]:
    starts = [_sound_start(info.path) for info in infos]
    if starts == [None, None]:
        return []
    offsets = [None if s is None or not t else s - t[0] for s, t in zip(starts, times, strict=True)]
    good = None not in offsets and abs(offsets[0] - offsets[1]) <= AV_TOLERANCE
    counts = [_sound_packets(info.path) for info in infos]
    return [
        Row("sound after picture", *map(_seconds, offsets), good),
        Row("sound packets", *(" + ".join(map(str, c)) or "0" for c in counts), counts[0] == counts[1]),
    ]


def _sound_start(path: Path) -> Fraction | None:
    """Seconds at which the first sample of the first audio stream is played; None if there is none."""
    with av.open(str(path.absolute()), metadata_errors="replace") as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                continue
            for frame in frames:
                if frame.pts is not None and frame.samples:
                    return frame.pts * frame.time_base
    return None


def _sound_packets(path: Path) -> list[int]:
    with av.open(str(path.absolute()), metadata_errors="replace") as container:
        counts = dict.fromkeys((stream.index for stream in container.streams.audio), 0)
        if counts:
            try:
                for packet in container.demux(list(container.streams.audio)):
                    if packet.size:
                        counts[packet.stream_index] += 1
            except av.error.FFmpegError:
                pass
    return list(counts.values())


def _colour_rows(infos: tuple[VideoInfo, VideoInfo]) -> list[Row]:
    first, second = (info.colour for info in infos)
    rows = [
        Row("primaries", first.primaries, second.primaries, first.primaries == second.primaries),
        Row("transfer", first.transfer, second.transfer, first.transfer == second.transfer),
    ]
    made_yuv = first.matrix == "gbr" and second.matrix != "gbr"  # so matrix and range differ
    ranges = ["full" if colour.full_range else "limited" for colour in (first, second)]
    rows += [
        Row("matrix", first.matrix, second.matrix, made_yuv or first.matrix == second.matrix),
        Row("range", *ranges, made_yuv or ranges[0] == ranges[1]),
        Row("pixel shape", *(str(i.sample_aspect_ratio) for i in infos), _same_shape(*infos)),
        Row(
            "HDR",
            *(", ".join(sorted(i.side_data)) or "-" for i in infos),
            set(infos[0].side_data) <= set(infos[1].side_data),
        ),
    ]
    return rows


def _same_shape(source: VideoInfo, result: VideoInfo) -> bool:
    a, b = source.sample_aspect_ratio, result.sample_aspect_ratio
    return abs(a / b - 1) < Fraction(1, 100)  # Matroska has the display size in whole pixels


if __name__ == "__main__":
    sys.exit(main())
