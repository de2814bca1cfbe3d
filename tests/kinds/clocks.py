"""Kinds of transport and program streams: clocks that start again or jump, programs, streams that begin late."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
from clips import add_sound, encoded, make_clip, number_of, video_frame

from kinds import Kind, Outcome

FRAMES, RATE = 30, 25
GOP = {"crf": "10", "preset": "veryfast", "g": "10", "bf": "2", "x264-params": "open-gop=1"}
MPEG2 = {"codec": "mpeg2video", "options": {"g": "10", "bf": "2", "q": "3"}}
SPLICED = "its clock starts again or jumps at 0:00:01"


def recording(path: Path, start: float = 1.0, sound: float | None = 0, subtitles=(), frames: int = FRAMES, **more):
    """The bytes of numbered pictures from `start` seconds on; `sound` begins so much later (None: there is none)."""
    more = {"options": GOP} | more

    def setup(out, _):
        packets = [] if sound is None else add_sound(out, Fraction(frames, RATE), "mp2", Fraction(start + sound))[1]
        return packets + [subtitle(out, start + time) for time in subtitles]

    first = round(start * RATE)
    return make_clip(path, frames, pts=range(first, first + frames), setup=setup, **more).read_bytes()


def subtitle(out, time: float) -> av.Packet:
    """A DVB subtitle at that time, without a picture (ETSI EN 300 743: a page composition, the end of the set)."""
    stream = next((stream for stream in out.streams if stream.type == "subtitle"), None)
    if stream is None:
        stream = out.add_stream("dvbsub")
        stream.codec_context.extradata = b"\0\1\0\1\x10"
    packet = av.Packet(bytes.fromhex("2000 0f10000100020510 0f8000010000 ff"))
    packet.pts = packet.dts = round(time * 90000)
    packet.time_base, packet.stream = Fraction(1, 90000), stream
    return packet


def joined(*parts: dict, extension: str = "ts", **common):
    """A maker of recordings one after another in one file."""

    def make(folder: Path) -> Path:
        source = folder / f"in.{extension}"
        data = [recording(folder / f"{number}.{extension}", **common, **part) for number, part in enumerate(parts)]
        source.write_bytes(b"".join(data))
        return source

    return make


def pictures(path: Path) -> list[tuple[Fraction, int]]:
    """(seconds, number) of each frame."""
    with av.open(str(path)) as container:
        return [
            (frame.pts * frame.time_base, number_of(frame.to_ndarray(format="gray")[::2, ::2]))
            for frame in container.decode(video=0)
        ]


def sound(path: Path) -> list[tuple[Fraction, Fraction]]:
    """(start, end) in seconds of each frame of sound."""
    with av.open(str(path)) as container:
        return [
            (frame.pts * frame.time_base, frame.pts * frame.time_base + Fraction(frame.samples, frame.sample_rate))
            for frame in container.decode(audio=0)
        ]


def check_joined(outcome: Outcome, parts: int = 2) -> None:
    """All parts' frames at an even pace, with their sound, and one line that says so."""
    assert outcome.status == 0, outcome.lines
    shown = pictures(outcome.output)
    assert [number for _, number in shown] == [*range(FRAMES)] * parts
    assert all(abs(b - a - Fraction(1, RATE)) <= Fraction(1, 1000) for (a, _), (b, _) in pairwise(shown))
    assert sum(SPLICED in line for line in outcome.lines) == 1, outcome.lines
    assert any(f"{parts * FRAMES} frames of 64x48" in line for line in outcome.lines), "the number that bars expect"
    assert not any("repaired" in line for line in outcome.lines), outcome.lines
    heard = sound(outcome.output)
    assert abs(heard[-1][1] - shown[-1][0] - Fraction(1, RATE)) < Fraction(1, 10)
    assert abs(heard[0][0] - shown[0][0]) < Fraction(1, 10)
    assert all(-Fraction(1, 20) < start - end < Fraction(1, 10) for (_, end), (start, _) in pairwise(heard))


def check_joined_with_subtitles(outcome: Outcome) -> None:
    check_joined(outcome)
    first = pictures(outcome.output)[0][0]
    with av.open(str(outcome.output)) as container:
        times = [packet.pts * packet.time_base - first for packet in container.demux(subtitles=0) if packet.size]
    assert [float(time) for time in times] == [0.2, 1.1, 1.4, 2.3]


def check_converted(outcome: Outcome) -> None:
    """Sound that is encoded anew does not come later with every break."""
    check_joined(outcome, parts=6)


def check_selection(outcome: Outcome) -> None:
    """Half a second on both sides of the break: --time counts without it."""
    assert outcome.status == 0, outcome.lines
    shown, heard = pictures(outcome.output), sound(outcome.output)
    assert [number for _, number in shown] == [*range(FRAMES - 10, FRAMES), *range(10)]
    assert [time for time, _ in shown] == [Fraction(number, RATE) for number in range(20)]
    assert abs(heard[0][0]) < Fraction(1, 20) and abs(heard[-1][1] - Fraction(20, RATE)) < Fraction(1, 20)


# Programs


def channel(folder: Path, number: int, size: tuple[int, int], rate: int) -> bytes:
    """A transport stream of six pictures from number `10 * number` on, with PIDs of its own, and sound of `rate` Hz."""
    path = folder / f"channel_{number}.ts"
    options = {"mpegts_start_pid": str(0x100 * number), "mpegts_pmt_start_pid": str(0x1000 + number)}
    with av.open(str(path), "w", options=options | {"mpegts_service_id": str(number)}) as out:
        _, packets = encoded(out, "mpeg2video", "yuv420p", size, 6, first=10 * number)
        packets += add_sound(out, Fraction(6, RATE), "mp2", rate=rate)[1]
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            out.mux(packet)
    return path.read_bytes()


def transport_packets(data: bytes) -> list[bytes]:
    return [data[at : at + 188] for at in range(0, len(data), 188)]


def association_table(programs: dict[int, int]) -> bytes:
    """A transport packet with a program association table (ISO/IEC 13818-1 2.4.4.3): number → PID of its map."""
    body = b"".join(number.to_bytes(2, "big") + (0xE000 | pid).to_bytes(2, "big") for number, pid in programs.items())
    section = b"\0" + (0xB000 | len(body) + 9).to_bytes(2, "big") + b"\0\1\xc1\0\0" + body
    crc = 0xFFFFFFFF  # 0x04C11DB7, most significant bit first
    for byte in section:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc >> 31 else 0)) & 0xFFFFFFFF
    return (b"\x47\x40\0\x10\0" + section + crc.to_bytes(4, "big")).ljust(188, b"\xff")


def two_programs(folder: Path) -> Path:
    """Two channels in one transport stream, the smaller picture first."""
    source = folder / "in.ts"
    streams = [channel(folder, 1, (64, 48), 32000), channel(folder, 2, (128, 96), 48000)]
    packets = [packet for pair in zip(*map(transport_packets, streams), strict=False) for packet in pair]
    packets = [packet for packet in packets if packet[1:3] not in (b"\x40\0", b"\x40\x11")]  # without PAT and SDT
    source.write_bytes(association_table({1: 0x1001, 2: 0x1002}) + b"".join(packets))
    return source


def check_programs(outcome: Outcome) -> None:
    """The larger picture, its sound and nothing else; a line names what is left out."""
    assert outcome.status == 0, outcome.lines
    with av.open(str(outcome.output)) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]
        assert container.streams.video[0].width == 256 and container.streams.audio[0].sample_rate == 48000
    assert [number for _, number in pictures(outcome.output)] == list(range(20, 26))
    assert sum("streams 0, 1 are left out" in line for line in outcome.lines) == 1, outcome.lines


# Streams that begin late


def late_sound(extension: str):
    """A maker of ten seconds of picture, whose sound begins after nine."""

    def make(folder: Path) -> Path:
        def setup(out, _):
            return add_sound(out, Fraction(1), "mp2", Fraction(9))[1]

        still = [video_frame(0) for _ in range(10 * RATE)]
        return make_clip(folder / f"in.{extension}", len(still), pictures=still, setup=setup, **MPEG2)

    return make


def check_late_sound(outcome: Outcome) -> None:
    assert outcome.status == 0 and not any("left out" in line for line in outcome.lines), outcome.lines
    shown, heard = pictures(outcome.output), sound(outcome.output)
    assert len(shown) == 10 * RATE
    assert shown[-1][0] - shown[0][0] == 10 - Fraction(1, RATE)
    assert abs(heard[0][0] - shown[0][0] - 9) < Fraction(1, 10)
    assert abs(heard[-1][1] - shown[-1][0] - Fraction(1, RATE)) < Fraction(1, 10)


KINDS = [
    Kind("the clock starts again", joined({}, {}, subtitles=(0.2, 1.1)), check_joined_with_subtitles),
    Kind("the clock jumps ahead", joined({}, {"start": 50000}), check_joined, "out.mp4"),
    Kind(
        "the clock of a program stream starts again and again",
        joined(*[{}] * 6, extension="mpg", **MPEG2),
        check_converted,
        options=("--audio", "flac"),
    ),
    Kind("a selection over a break", joined({}, {}), check_selection, options=("--time", "0.8-1.6")),
    Kind("two programs", two_programs, check_programs),
    Kind("sound that begins late", late_sound("ts"), check_late_sound, "out.mp4"),
    Kind("sound that begins late in a program stream", late_sound("mpg"), check_late_sound),
]
