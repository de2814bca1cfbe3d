"""Kinds of files that were once upscaled wrongly, from decoding to the joined output, as a player shows them."""

import random
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import make_clip, number_of, video_frame
from passthrough import passthrough, see

from upscaling.decode.decoder import Decoder
from upscaling.decode.probe import probe
from upscaling.mux.muxer import join
from upscaling.mux.packet_repair import PacketRepair
from upscaling.mux.subtitles import ASS_HEADER

MS = Fraction(1, 1000)


def short_packets(path: Path) -> Path:
    """Sound in packets of 40 samples, 1200 a second as TrueHD has them: Matroska gives several the same time."""

    def add(container, _stream):
        sound = container.add_stream("pcm_s16le", rate=48000, layout="mono")
        packets = []
        for index in range(300):
            packet = av.Packet(bytes([index % 256]) * 80)
            packet.pts = packet.dts = index * 40
            packet.duration, packet.time_base, packet.stream = 40, Fraction(1, 48000), sound
            packets.append(packet)
        return packets

    return make_clip(path, 6, setup=add)


@pytest.mark.parametrize("container", ["mkv", "mov"])
def test_packets_shorter_than_a_millisecond_do_not_drift(tmp_path, container):
    source = short_packets(tmp_path / "c.mkv")
    before = see(source)[1]
    assert len(set(before.pts)) < len(before.pts) == 300
    result = passthrough(source, tmp_path / f"o.{container}")
    after = see(result.path)[1]
    assert result.warnings == []
    assert b"".join(after.data) == b"".join(before.data)
    assert after.pts[0] == before.pts[0] and abs(after.pts[-1] + after.durations[-1] - Fraction(1, 4)) <= MS
    if container == "mkv":
        assert after.pts == before.pts


def test_avi_with_b_frames_is_shown_at_an_even_pace(tmp_path):
    source = make_clip(tmp_path / "c.avi", 14, options={"preset": "medium", "bf": "2", "crf": "10"})
    with Decoder(probe(source)) as decoder:
        frames = [(frame.pts, number_of(frame.planes[0])) for frame in decoder]
    assert decoder.warnings == []
    assert [pts - frames[0][0] for pts, _ in frames] == [shown for _, shown in frames] == list(range(14))


def test_sound_before_the_zero_of_a_wrapping_clock_is_not_priming(tmp_path):
    """A transport stream whose sound and picture both begin before the clock's zero: players see them together."""
    ticks = [(1 << 33) + time for time in (-10800, -7200, -3600, 0, 3600, 7200)]
    options = {"crf": "10", "preset": "ultrafast", "bf": "0"}
    source = make_clip(
        tmp_path / "c.ts", 6, time_base=Fraction(1, 90000), pts=ticks, options=options,
        sound=True, sound_start=Fraction((1 << 33) - 12600, 90000),
    )  # fmt: skip
    before = see(source)
    assert before[1].pts[0] < 0
    result = passthrough(source, tmp_path / "o.mkv")
    after = see(result.path)
    assert [one.kind for one in after] == ["video", "audio"]
    assert abs((after[1].pts[0] - after[0].pts[0]) - (before[1].pts[0] - before[0].pts[0])) <= MS
    with av.open(str(result.path)) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) > 8000


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_damage_in_av1_costs_no_frames_beside_it(tmp_path, threads):
    """dav1d's frame threads would throw away all that they have in flight."""
    options = {"preset": "10", "svtav1-params": "keyint=5"}
    source = make_clip(tmp_path / "c.mp4", 20, codec="libsvtav1", options=options)
    with av.open(str(source)) as container:
        packet = [p for p in container.demux(video=0) if p.size][7]
        start, size = packet.pos, packet.size
    data = bytearray(source.read_bytes())
    data[start + 2 : start + size] = random.Random(1).randbytes(size - 2)
    source.write_bytes(data)
    with Decoder(probe(source), threads=threads) as decoder:
        shown = [number_of(frame.planes[0]) for frame in decoder]
    assert {*range(5), *range(10, 20)} <= set(shown)
    assert len(decoder.warnings) == 1 and "damaged input" in decoder.warnings[0]


def test_hevc_frames_that_depend_on_a_lost_one_are_kept(tmp_path):
    options = {"preset": "ultrafast", "x265-params": "log-level=none:keyint=30:bframes=0:scenecut=0"}
    pictures = [video_frame(index, 128, 96) for index in range(20)]
    source = make_clip(
        tmp_path / "c.mp4", 20, width=128, height=96, codec="libx265", options=options, pictures=pictures
    )
    with av.open(str(source)) as container:
        packet = [p for p in container.demux(video=0) if p.size][5]
        start = packet.pos
    data = bytearray(source.read_bytes())
    data[start + 4 : start + 10] = b"\xff" * 6  # the NAL unit's header: this picture is gone
    source.write_bytes(data)
    with Decoder(probe(source)) as decoder:
        frames = [frame.number for frame in decoder]
    assert len(frames) >= 19
    assert len(decoder.warnings) == 1 and "damaged input" in decoder.warnings[0]


def test_palette_without_transparent_pixels_has_no_alpha_to_drop(tmp_path):
    source = tmp_path / "c.avi"
    with av.open(str(source), "w") as out:
        stream = out.add_stream("rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "pal8"
        for index in range(3):
            indices = np.full((48, 64), index, np.uint8)
            palette = np.full((256, 4), 255, np.uint8)  # (index, argb)
            frame = av.VideoFrame.from_ndarray((indices, palette), format="pal8")
            frame.pts = index
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    assert not any("alpha" in note for note in probe(source).notes)


@pytest.mark.parametrize(("language", "in_mov"), [("deu", "ger"), ("fre", "fra"), ("jpn", "jpn"), ("swe", "sve")])
def test_quicktime_keeps_languages_under_its_own_codes(tmp_path, language, in_mov):
    def add(container, stream):
        stream.metadata["language"] = language

    source = make_clip(tmp_path / "c.mkv", 3, setup=add)
    passthrough(source, tmp_path / "o.mp4")
    assert see(tmp_path / "o.mp4")[0].metadata["language"] == language
    passthrough(source, tmp_path / "o.mov")
    assert see(tmp_path / "o.mov")[0].metadata["language"] == in_mov


def test_captions_at_the_same_time_are_not_damage(tmp_path):
    """Six lines that appear together; MP4 wants a tick between them."""

    def add(container, stream):
        text = container.add_stream("subrip")
        text.codec_context.subtitle_header, text.codec_context.time_base = ASS_HEADER, MS
        packets = []
        for index in range(6):
            packet = av.Packet(f"line {index}".encode())
            packet.pts = packet.dts = 40
            packet.duration, packet.time_base, packet.stream = 80, MS, text
            packets.append(packet)
        return packets

    source = make_clip(tmp_path / "c.mkv", 6, setup=add)
    for name, spread in (("o.mkv", 0), ("o.mp4", 5)):
        result = passthrough(source, tmp_path / name)
        after = next(one for one in see(result.path) if one.kind == "subtitle")
        assert result.warnings == []
        starts = [pts for pts, data in zip(after.pts, after.data, strict=True) if b"line" in data]
        assert len(starts) == 6 and starts[0] == 40 * MS and starts[-1] == (40 + spread) * MS


@pytest.mark.parametrize(("duration", "written"), [(500, 500), ((1 << 32) - 1, 0)])
def test_an_endless_duration_does_not_cost_the_stream(duration, written):
    packet = av.Packet(b"x")
    packet.pts = packet.dts = 0
    packet.duration, packet.time_base = duration, MS
    repair = PacketRepair(strict=True)
    assert [p.duration for p in [*repair.push(packet), *repair.push(None)]] == [written]


WINDOWS_SOUND = [("c.wmv", "wmav2"), ("c.avi", "adpcm_ms"), ("c.avi", "adpcm_ima_wav"), ("c.avi", "pcm_mulaw")]


def sound_of(path: Path) -> tuple[Fraction, np.ndarray]:
    """(time of the first sample in seconds, samples as floats in [-1, 1])."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
        samples = np.concatenate([frame.to_ndarray()[0].astype(float) for frame in frames])
        return frames[0].pts * frames[0].time_base, samples / (32768 if "s16" in frames[0].format.name else 1)


@pytest.mark.parametrize(("name", "codec"), WINDOWS_SOUND)
def test_windows_sound_becomes_flac_in_matroska(tmp_path, name, codec):
    source = make_clip(tmp_path / name, 50, codec="mpeg4", sound=codec)
    result = passthrough(source, tmp_path / "o.mkv")
    loss = " without loss" if codec == "pcm_mulaw" else ""
    assert result.notes == [f"audio stream 1 ({codec}) is converted to FLAC{loss}: mkv can't hold it as it is"]
    assert result.warnings == []
    assert see(result.path)[1].codec == "flac"
    (start, before), (new_start, after) = sound_of(source), sound_of(result.path)
    assert len(after) == len(before) > 90_000 and abs(new_start - start) <= MS
    rounding = 1 / 32768 if codec == "wmav2" else 0  # its decoder has floats, FLAC 16 bits
    assert np.abs(after - before).max() <= rounding


@pytest.mark.parametrize(("name", "codec"), WINDOWS_SOUND[:-1])
def test_windows_sound_becomes_aac_in_mp4(tmp_path, name, codec):
    source = make_clip(tmp_path / name, 50, codec="mpeg4", sound=codec)
    result = passthrough(source, tmp_path / "o.mp4")
    assert result.notes == [f"audio stream 1 ({codec}) is converted to AAC: mp4 can't hold it as it is"]
    assert result.warnings == []
    assert see(result.path)[1].codec == "aac"
    (start, before), (new_start, after) = sound_of(source), sound_of(result.path)
    after = after[round((start - new_start) * 48000) :]  # from the same moment on
    middle = slice(20_000, 70_000)
    assert np.corrcoef(before[middle], after[middle])[0, 1] > 0.99


def test_converted_sound_of_a_part_keeps_its_offset(tmp_path):
    source = make_clip(tmp_path / "c.avi", 50, codec="mpeg4", sound="pcm_mulaw")
    whole = passthrough(source, tmp_path / "o.mkv", length=25)
    clip = (Fraction(1), Fraction(2))
    assert join(whole.segments[1:], whole.info, whole.settings, tmp_path / "p.mkv", "mkv", clip) == []
    (_, before), (start, part) = sound_of(source), sound_of(tmp_path / "p.mkv")
    first = round((1 + start) * 48000)
    assert 0 <= start < 2048 / 48000 and 46_000 < len(part) <= 50_000
    near = range(first - 48, first + 49)  # Matroska rounds times to milliseconds
    assert any(np.array_equal(part, before[at : at + len(part)]) for at in near)


def test_a_damaged_packet_of_converted_sound_costs_that_packet_alone(tmp_path):
    source = make_clip(tmp_path / "c.avi", 50, codec="mpeg4", sound="adpcm_ms")
    with av.open(str(source)) as container:
        packet = [p for p in container.demux(audio=0) if p.size][10]
        start = packet.pos + (8 if source.read_bytes()[packet.pos : packet.pos + 4] == b"01wb" else 0)
    data = bytearray(source.read_bytes())
    data[start] = 255  # the block's predictor, of which there are 7
    source.write_bytes(data)
    result = passthrough(source, tmp_path / "o.mkv")
    assert result.warnings == ["audio stream 1 (adpcm_ms): 1 packet could not be decoded"]
    assert len(sound_of(result.path)[1]) > 90_000


@pytest.mark.parametrize("aspect", [Fraction(1), Fraction(16, 11)])
def test_matroska_with_very_many_tracks(tmp_path, aspect):
    """The display size is written into the finished header, whose tracks must stay as they are."""

    def add(container, stream):
        stream.codec_context.sample_aspect_ratio = aspect
        stream.metadata["title"] = "Main"
        for index in range(60):
            text = container.add_stream("subrip")
            text.codec_context.subtitle_header, text.codec_context.time_base = ASS_HEADER, MS
            text.metadata.update({"language": "eng", "title": f"{index}"})

    source = make_clip(tmp_path / "c.mkv", 3, setup=add)
    passthrough(source, tmp_path / "o.mkv")
    titles = [one.metadata["title"] for one in see(tmp_path / "o.mkv")]
    assert titles == ["Main", *(f"{index}" for index in range(60))]
    assert probe(tmp_path / "o.mkv").sample_aspect_ratio == aspect
