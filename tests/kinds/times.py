"""Kinds of video that have decoding times in place of presentation times, and B-frames."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
from clips import make_clip

from kinds import Kind, Outcome
from kinds.clocks import pictures

FRAMES, RATE = 30, 25
X264 = {"crf": "10", "preset": "veryfast", "g": "12", "bf": "3", "x264-params": "b-adapt=0"}
MPEG = {"g": "12", "bf": "2", "q": "3"}
UNEVEN = [40 * number + 10 * (number % 3) for number in range(FRAMES)]  # ms


def clip(name: str, codec: str = "libx264", **more):
    """A maker of numbered pictures with B-frames."""
    options = X264 if codec == "libx264" else MPEG
    return lambda folder: make_clip(folder / name, FRAMES, codec=codec, options=options, **more)


def copied(folder: Path) -> Path:
    """Matroska with the times of packets from 0 on as they come, as tools make it that copy from AVI."""
    source, target = clip("in.mp4")(folder), folder / "in.mkv"
    with av.open(str(source)) as container, av.open(str(target), "w") as out:
        stream = container.streams.video[0]
        added = out.add_stream_from_template(stream)
        for number, packet in enumerate(packet for packet in container.demux(stream) if packet.size):
            packet.pts, packet.dts, packet.duration = number, number, 1
            packet.time_base, packet.stream = Fraction(1, RATE), added
            out.mux(packet)
    return target


def check_even(outcome: Outcome) -> None:
    """All frames in order and at an even pace, and nothing that had to be repaired."""
    assert outcome.status == 0 and not any("repaired" in line for line in outcome.lines), outcome.lines
    shown = pictures(outcome.output)
    assert [number for _, number in shown] == list(range(FRAMES))
    assert all(abs(b - a - Fraction(1, RATE)) <= Fraction(1, 1000) for (a, _), (b, _) in pairwise(shown)), shown


def check_uneven(outcome: Outcome) -> None:
    """The same, but the times of the file; it does not tell those of the last frames, which wait in the decoder."""
    assert outcome.status == 0 and not any("repaired" in line for line in outcome.lines), outcome.lines
    shown = pictures(outcome.output)
    assert [number for _, number in shown] == list(range(FRAMES))
    times = [(time - shown[0][0]) * 1000 for time, _ in shown]
    assert all(abs(time - at) <= 1 for time, at in zip(times[:-3], UNEVEN, strict=False)), times
    assert all(20 <= b - a <= 60 for a, b in pairwise(times)), times


def held(folder: Path) -> Path:
    """Matroska with uneven times, whose last frame is shown for 0.333 s; its blocks have no durations."""
    source, target = clip("in.mp4", pts=UNEVEN, time_base=Fraction(1, 1000))(folder), folder / "in.mkv"
    with av.open(str(source)) as container, av.open(str(target), "w") as out:
        stream = container.streams.video[0]
        added = out.add_stream_from_template(stream)
        added.codec_context.framerate = Fraction(0)
        for packet in container.demux(stream):
            if packet.size:
                is_last = round(packet.pts * packet.time_base * 1000) == UNEVEN[-1]
                packet.duration = round(Fraction(333, 1000) / packet.time_base) if is_last else 0
                packet.stream = added
                out.mux(packet)
    return target


def check_held(outcome: Outcome) -> None:
    assert outcome.status == 0, outcome.lines
    with av.open(str(outcome.output)) as container:
        assert abs(container.duration / 1000 - UNEVEN[-1] - 333) <= 2, container.duration
    shown = pictures(outcome.output)
    assert [round((time - shown[0][0]) * 1000) for time, _ in shown] == UNEVEN


KINDS = [
    Kind("H.264 with B-frames in ASF", clip("in.wmv", container="asf"), check_even),
    Kind("MPEG-2 with B-frames in ASF", clip("in.asf", "mpeg2video"), check_even, "out.mp4"),
    Kind("H.264 with B-frames in AVI", clip("in.avi"), check_even),
    Kind("an elementary stream of MPEG-1", clip("in.m1v", "mpeg1video", container="mpeg1video"), check_even),
    Kind("H.264 with B-frames in MXF", clip("in.mxf"), check_even),
    Kind("decoding times in Matroska", copied, check_even),
    Kind(
        "uneven times in ASF",
        clip("in.asf", pts=UNEVEN, time_base=Fraction(1, 1000)),
        check_uneven,
    ),
    Kind("a last frame that is held in Matroska", held, check_held),
    Kind("a last frame that is held in Matroska, to MP4", held, check_held, "out.mp4"),
]
