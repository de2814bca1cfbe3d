"""Decoder: every frame once, in order, with the time and the picture that a player would show."""

import itertools
import random
from fractions import Fraction
from pathlib import Path

import av
import changing_clips
import clips
import field_clips
import numpy as np
import paff
import pytest
from clips import number_of

from upscaling.decode.decoder import Decoder
from upscaling.decode.probe import probe
from upscaling.demux.input_file import VideoError
from upscaling.demux.packet_index import read_packet_index
from upscaling.demux.reader import Reader
from upscaling.demux.timestamps import Timestamps
from upscaling.frames.pixel_formats import pixel_format, plane_shapes


def decoded(path, *, skip=0, stop=None, threads=0, **how) -> tuple[list[tuple[int, int, int]], list[str]]:
    """([(number, pts, number shown)], warnings)."""
    info = probe(path, **how)
    depth = pixel_format(info.pixel_format).depth
    with Decoder(info, skip=skip, stop=stop, threads=threads) as decoder:
        frames = [(frame.number, frame.pts, number_of(frame.planes[0], depth)) for frame in decoder]
        return frames, decoder.warnings


def copies(path, **how) -> list[list[np.ndarray]]:
    """The planes of every frame, copied."""
    with Decoder(probe(path, **how)) as decoder:
        return [[plane.copy() for plane in frame.planes] for frame in decoder]


X264 = {"preset": "medium", "crf": "10"}


@pytest.mark.parametrize(
    ("extension", "codec", "pix_fmt", "options"),
    [
        ("mp4", "libx264", "yuv420p", X264 | {"bf": "3", "b-pyramid": "normal"}),
        ("mkv", "libx264", "yuv444p", X264),
        ("mov", "libx265", "yuv420p10le", {"x265-params": "log-level=none:bframes=3"}),
        ("avi", "mpeg4", "yuv420p", {"bf": "2", "q": "3"}),
        ("ts", "mpeg2video", "yuv420p", {"bf": "2", "q": "3"}),
        ("webm", "libvpx-vp9", "yuv420p", {"crf": "10", "b": "0", "cpu-used": "8"}),
        ("mp4", "libsvtav1", "yuv420p", {"crf": "10", "preset": "12"}),
        ("mkv", "ffv1", "yuv422p12le", {}),
        ("mov", "prores_ks", "yuv422p10le", {}),
        ("avi", "mjpeg", "yuvj420p", {"q": "2"}),
    ],
)
@pytest.mark.parametrize("threads", [0, 1])
def test_every_frame_comes_out_once_and_in_order(tmp_path, extension, codec, pix_fmt, options, threads):
    clip = clips.make_clip(tmp_path / f"c.{extension}", 20, codec=codec, pix_fmt=pix_fmt, options=options, sound=False)
    frames, warnings = decoded(clip, threads=threads)
    info = probe(clip)
    assert [(number, shown) for number, _, shown in frames] == [(i + 1, i) for i in range(20)]
    first = frames[0][1]
    assert [(pts - first) * info.time_base for _, pts, _ in frames] == [Fraction(i, 25) for i in range(20)]
    assert warnings == []


@pytest.mark.parametrize(
    ("make", "name", "base"),
    [
        (clips.vfr, "c.mkv", Fraction(1, 1000)),
        (clips.late, "c.mkv", Fraction(1, 1000)),
        (clips.negative, "c.ts", Fraction(1, 90000)),
    ],
)
def test_times_are_the_files_own(tmp_path, make, name, base):
    clip, times = make(tmp_path / name)
    frames, warnings = decoded(clip)
    assert probe(clip).time_base == base
    assert [(pts, shown) for _, pts, shown in frames] == list(zip(times, range(len(times)), strict=True))
    assert warnings == []


def test_edit_list_hides_what_comes_before(tmp_path):
    frames, warnings = decoded(clips.trimmed(tmp_path / "c.mp4", first=3))
    assert [shown for _, _, shown in frames] == list(range(3, 12))
    assert frames[0][:2] == (1, 0) and warnings == []


def test_edit_list_that_starts_late(tmp_path):
    clip = clips.make_clip(tmp_path / "c.mp4", 4, pts=[25, 26, 27, 28], sound=True)
    frames, _ = decoded(clip)
    assert [pts * probe(clip).time_base for _, pts, _ in frames] == [1 + Fraction(i, 25) for i in range(4)]


@pytest.mark.parametrize(
    ("times", "expected", "repaired"),
    [
        ([0, 40, 80, 120], [0, 40, 80, 120], 0),
        ([0, 40, 40, 80], [0, 40, 41, 80], 1),
        ([0, 40, 40, 40, 80], [0, 40, 41, 42, 80], 2),
        ([0, 40, 120, 80, 160], [0, 40, 120, 121, 160], 1),
        ([0, 40, 90000, 120, 160, 200], [0, 40, 80, 120, 160, 200], 1),
        ([90000, 40, 80, 120], [0, 40, 80, 120], 1),
        ([0, 40, 80, 60000, 60040], [0, 40, 80, 60000, 60040], 0),
        ([0, 40, 80, 80], [0, 40, 80, 81], 1),
        ([5000, 5040, 5080, 0, 40, 80, 120], [5000, 5040, 5080, 5120, 5160, 5200, 5240], 4),
        ([5000, 5040, 3000, 3040, 3080, 5200, 5240], [5000, 5040, 5080, 5120, 5160, 5200, 5240], 3),
        ([0, 1, 1, 1, 2], [0, 1, 2, 3, 4], 3),
    ],
)
def test_timestamps_are_repaired_minimally(times, expected, repaired):
    clock = Timestamps(step=40, second=1000)
    found = list(clock.repair((time, None, 0, index) for index, time in enumerate(times)))
    assert found == list(zip(expected, range(len(times)), strict=True))
    assert clock.repaired == repaired
    assert len(clock.warnings()) == bool(repaired)
    assert all(f"{repaired} of {len(times)}" in line for line in clock.warnings())


@pytest.mark.parametrize(
    ("frames", "expected", "missing"),
    [
        ([(None, None, 0)] * 3, [0, 40, 80], 3),
        ([(None, 7, 0), (None, 50, 0), (None, 50, 20), (None, None, 0)], [7, 50, 90, 110], 4),
        ([(10, 0, 40), (None, None, 0), (90, 80, 0)], [10, 50, 90], 1),
    ],
)
def test_missing_timestamps_are_filled_in(frames, expected, missing):
    clock = Timestamps(step=40, second=1000)
    assert [pts for pts, _ in clock.repair((*frame, None) for frame in frames)] == expected
    assert (clock.missing, clock.repaired, len(clock.warnings())) == (missing, 0, 1)


def test_any_timestamps_come_out_strictly_increasing():
    dice = random.Random(3)
    for _ in range(300):
        times = [dice.choice([None, dice.randrange(-50, 400), index * 40]) for index in range(12)]
        clock = Timestamps(step=40, second=1000)
        found = [pts for pts, _ in clock.repair((time, None, 0, None) for time in times)]
        assert len(found) == 12 and all(a < b for a, b in itertools.pairwise(found)), times


def test_duplicate_and_backward_times_of_a_file(tmp_path):
    clip = clips.wrong_times(tmp_path / "c.mkv", [0, 40, 40, 80, 120, 100, 160, 200])
    frames, warnings = decoded(clip)
    assert [pts for _, pts, _ in frames] == [0, 40, 41, 80, 120, 121, 160, 200]
    assert [shown for *_, shown in frames] == list(range(8))
    assert len(warnings) == 1 and "2 of 8 timestamps" in warnings[0]


def test_raw_stream_without_times(tmp_path):
    clip = clips.make_clip(tmp_path / "c.h264", 8, container="h264", options=X264 | {"bf": "2"})
    frames, warnings = decoded(clip)
    base = probe(clip).time_base
    assert [(shown, pts * base) for _, pts, shown in frames] == [(i, Fraction(i, 25)) for i in range(8)]
    assert len(warnings) == 1 and "no timestamps" in warnings[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda p: clips.make_clip(p, 20, options=X264 | {"bf": "3"}),
        field_clips.interlaced,
        lambda p: changing_clips.joined(p.with_suffix(".ts"), [{"sar": (16, 11), "frames": 8}, {"sar": (12, 11)}]),
        lambda p: changing_clips.interlaced_stretches(p.with_suffix(".ts"), [(k % 2 == 1, 4) for k in range(5)]),
        changing_clips.hevc_fields,
    ],
)
@pytest.mark.parametrize(("skip", "stop"), [(0, 1), (1, None), (7, None), (7, 12), (19, None), (20, None), (500, None)])
def test_skip_and_stop_are_exact(tmp_path, make, skip, stop):
    clip = make(tmp_path / "c.mp4")

    def run(**which):
        with Decoder(probe(clip), **which) as decoder:
            return [(f.number, f.pts, b"".join(p.tobytes() for p in f.planes)) for f in decoder]

    assert run(skip=skip, stop=stop) == run()[skip:stop]


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirror_x", [False, True])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p10le", "bgr0"])
def test_display_matrix_rotates_the_frames(tmp_path, degrees, mirror_x, pix_fmt):
    codec = {"bgr0": "libx264rgb"}.get(pix_fmt, "libx264")
    how = {"codec": codec, "pix_fmt": pix_fmt, "options": {"qp": "0", "preset": "ultrafast"}, "frames": 2}
    plain = copies(clips.make_clip(tmp_path / "plain.mp4", **how))
    clip = clips.rotated(tmp_path / "c.mp4", degrees, mirror_x, **how)
    info = probe(clip)
    assert (info.width, info.height) == ((48, 64) if degrees % 180 else (64, 48))
    assert not [note for note in info.notes if "360°" in note]
    for before, after in zip(plain, copies(clip), strict=True):
        for upright, found in zip(before, after, strict=True):
            expected = np.rot90(upright, degrees // 90)
            assert np.array_equal(found, expected[:, ::-1] if mirror_x else expected)


@pytest.mark.parametrize("pix_fmt", ["yuv422p", "yuv420p"])
def test_rotated_frames_have_the_shapes_of_their_format(tmp_path, pix_fmt):
    """Odd sizes, and 4:2:2, which lying on its side only 4:4:4 holds."""
    clip = clips.rotated(tmp_path / "c.mkv", 90, codec="ffv1", pix_fmt=pix_fmt, width=65, height=49, frames=2)
    info = probe(clip)
    fmt = pixel_format(info.pixel_format)
    assert fmt.name == {"yuv422p": "yuv444p"}.get(pix_fmt, pix_fmt)
    for number, planes in enumerate(copies(clip)):
        assert [plane.shape for plane in planes] == plane_shapes(fmt, 49, 65)
        assert np.array_equal(np.rot90(planes[0], -1), clips.picture(number, 65, 49))


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 5), (65, 49), (17, 64)])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le", "gray", "bgr0"])
def test_odd_sizes(tmp_path, size, pix_fmt):
    clip = clips.make_clip(tmp_path / "c.nut", 2, codec="rawvideo", pix_fmt=pix_fmt, width=size[0], height=size[1])
    info = probe(clip)
    assert (info.width, info.height) == size
    for planes in copies(clip):
        assert [plane.shape for plane in planes] == plane_shapes(pixel_format(info.pixel_format), *size)


def test_planes_are_views_of_the_decoders_memory(tmp_path):
    clip = clips.make_clip(tmp_path / "c.mp4", 2)
    with Decoder(probe(clip)) as decoder:
        for frame in decoder:
            assert all(plane.base is not None for plane in frame.planes)
            assert [plane.dtype for plane in frame.planes] == [np.uint8] * 3


@pytest.mark.parametrize("order", ["tff", "bff"])
@pytest.mark.parametrize("flagged", [True, False])
def test_deinterlacing_keeps_every_frame_and_leaves_no_combs(tmp_path, order, flagged):
    clip = field_clips.interlaced(tmp_path / "c.mp4", order, flagged)
    woven, smooth = copies(clip, deinterlace="off"), copies(clip)
    assert len(woven) == len(smooth) == 20
    frames, _ = decoded(clip)
    assert [(number, pts) for number, pts, _ in frames] == [(i + 1, i * 512) for i in range(20)]
    for before, after in zip(woven[1:-1], smooth[1:-1], strict=True):
        assert combing(after[0]) < combing(before[0]) / 3
        kept = 0 if order == "tff" else 1  # the field that comes first is shown as it is
        assert np.array_equal(after[0][kept::2], before[0][kept::2])


def test_deinterlacing_of_a_format_that_is_converted(tmp_path):
    pictures = [field_clips.moving(time, "160x120").reformat(format="nv12") for time in range(12)]
    how = {"codec": "rawvideo", "pix_fmt": "nv12", "width": 160, "height": 120, "pictures": pictures}
    clip = clips.make_clip(tmp_path / "c.nut", 12, **how)
    frames, warnings = decoded(clip, deinterlace="on")
    assert len(frames) == 12 and warnings == []


def combing(luma: np.ndarray) -> float:
    rows = luma.astype(int)
    return float(np.abs(2 * rows[1:-1] - rows[:-2] - rows[2:]).mean())


def test_progressive_frames_are_not_touched(tmp_path):
    clip = field_clips.progressive(tmp_path / "c.mp4")
    off, auto = copies(clip, deinterlace="off"), copies(clip)
    assert all(np.array_equal(a, b) for x, y in zip(off, auto, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("first", [False, True])
def test_progressive_stretches_are_untouched(tmp_path, first):
    pattern = [(first != (number % 2 == 1), frames) for number, frames in enumerate((5, 6, 1, 2, 4, 1, 3))]
    clip = changing_clips.interlaced_stretches(tmp_path / "c.ts", pattern)
    interlaced = [frame.interlaced_frame for frame in av.open(str(clip)).decode(video=0)]
    off, auto = copies(clip, deinterlace="off"), copies(clip)
    same = [all(np.array_equal(a, b) for a, b in zip(x, y, strict=True)) for x, y in zip(off, auto, strict=True)]
    assert same == [not one for one in interlaced] and len(set(same)) == 2
    assert max(combing(planes[0]) for planes in auto) < 1.5 * min(combing(planes[0]) for planes in auto)


def test_a_field_without_another_is_doubled_in_hevc(tmp_path):
    """One packet of a second field is missing: 20 frames all the same, at their times; that one has its rows twice."""
    whole = changing_clips.hevc_fields(tmp_path / "whole.mkv")
    clip = tmp_path / "c.mkv"
    with av.open(str(whole)) as source, av.open(str(clip), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        lost = 11 * 20  # ms: a second field, to which no other picture refers
        assert any(packet.pts == lost for packet in packets)
        for packet in packets:
            if packet.pts != lost:
                packet.stream = stream
                out.mux(packet)
    info = probe(clip, deinterlace="off")
    with Decoder(info) as decoder:
        frames = [(frame.pts, np.array_equal(frame.planes[0][::2], frame.planes[0][1::2])) for frame in decoder]
    assert frames == [(number * 40, number == lost // 40) for number in range(20)]
    assert read_packet_index(clip, info.field_gap).part(1, 1).frames == 20


def test_h264_fields_without_another_are_told(tmp_path):
    """FFmpeg does not return them; the frames around them have their own pictures and times."""
    pictures = [picture for number in range(12) for picture in paff.fields(number, changing_clips.planes(number))]
    del pictures[2 * 7], pictures[2 * 3 + 1]
    clip = paff.Stream(64, 48).write(tmp_path / "c.ts", pictures)
    frames, warnings = decoded(clip, deinterlace="off")
    assert [(pts // 3600, shown) for _, pts, shown in frames] == [(n, n) for n in range(12) if n not in (3, 7)]
    assert warnings == ["2 frames of which the file has one field only were left out"]


def test_telecined_video_has_no_combs_left(tmp_path):
    clip = field_clips.telecined(tmp_path / "c.mp4")
    worst = max(combing(planes[0]) for planes in copies(clip, deinterlace="off"))
    assert max(combing(planes[0]) for planes in copies(clip)[1:-1]) < worst / 3


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "name"),
    [("prores_ks", "yuva444p10le", "c.mov"), ("libvpx-vp9", "yuva420p", "c.webm"), ("qtrle", "argb", "c.mov")],
)
def test_alpha_is_decoded_where_it_is_kept(tmp_path, codec, pix_fmt, name):
    options = {"prores_ks": {"profile": "4444"}, "libvpx-vp9": {"auto-alt-ref": "0"}}.get(codec)
    clip = clips.with_alpha(tmp_path / name, codec, pix_fmt, options=options)
    info = probe(clip, keep_alpha=True)
    for planes in copies(clip, keep_alpha=True):
        alpha = planes[0][..., 3] if info.pixel_format == "rgba" else planes[3]
        full = (1 << pixel_format(info.pixel_format).depth) - 1
        assert np.abs(alpha / full - 100 / 255).max() < 0.02
    assert (len(copies(clip)) == 4 and len(copies(clip)[0]) < len(copies(clip, keep_alpha=True)[0])) or codec == "qtrle"


def test_gif_and_apng(tmp_path):
    for name, codec, pix_fmt in (("c.gif", "gif", "rgb8"), ("c.apng", "apng", "rgb24")):
        rate = Fraction(10)
        clip = clips.make_clip(tmp_path / name, 5, codec=codec, pix_fmt=pix_fmt, rate=rate, container=codec)
        with Decoder(probe(clip)) as decoder:
            base = probe(clip).time_base
            frames = [(frame.pts * base, number_of(frame.planes[0].mean(axis=2))) for frame in decoder]
        assert frames == [(Fraction(i, 10), i) for i in range(5)]


def test_size_that_changes_within_the_video(tmp_path):
    clip = clips.resized_on_the_way(tmp_path / "c.ts")
    frames, warnings = decoded(clip)
    assert len(frames) == 12 and [shown for *_, shown in frames[:6]] == list(range(6))
    notes = [note for note in probe(clip).notes if "size" in note]
    assert notes == ["from 0:00:00.8 on the size is 128x96 instead of 64x48: scaled"] and warnings == []


def test_default_stream_is_decoded(tmp_path):
    frames, _ = decoded(clips.two_pictures(tmp_path / "c.mkv", 1))
    assert [shown for *_, shown in frames] == list(range(20, 26))


# Damage


def test_decodable_frames_of_a_truncated_file_are_kept(tmp_path):
    clip = clips.truncated(tmp_path / "c.mkv")
    frames, _ = decoded(clip)
    assert 5 < len(frames) < 30
    shown = [shown for *_, shown in frames]
    assert shown[:5] == list(range(5)) and shown == sorted(set(shown))


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_damaged_packets_are_counted_and_the_rest_is_kept(tmp_path, threads):
    clip = clips.damaged(tmp_path / "c.mp4")
    frames, warnings = decoded(clip, threads=threads)
    assert {number for number in range(30) if number != 10} <= {shown for *_, shown in frames}
    assert len(warnings) == 1 and "damaged input" in warnings[0]


@pytest.mark.parametrize("seed", range(6))
def test_random_damage_gives_the_same_frames_twice(tmp_path, seed):
    clip = clips.make_clip(tmp_path / "c.mkv", 40, options=X264 | {"bf": "2", "g": "10"})
    data, dice = bytearray(clip.read_bytes()), random.Random(seed)
    for _ in range(4):
        at = dice.randrange(1200, len(data) - 60)
        data[at : at + 40] = dice.randbytes(40)
    clip.write_bytes(data)
    first, warnings = decoded(clip)
    again, _ = decoded(clip, threads=1)
    assert [frame[:2] for frame in first] == [frame[:2] for frame in again]
    assert len(warnings) <= 2 and all("\n" not in line for line in warnings)


def test_frames_behind_a_damaged_end_are_not_lost(tmp_path, monkeypatch):
    """The decoder gives up while it is emptied: the end is decoded again, by one thread."""
    clip = clips.make_clip(tmp_path / "c.mp4", 20, options=X264 | {"bf": "2", "g": "5"})
    original = Reader._decode
    monkeypatch.setattr(Reader, "_decode", lambda self, packet: original(self, packet) if packet else [])
    frames, _ = decoded(clip, threads=4)
    assert [shown for *_, shown in frames] == list(range(20))


def test_file_without_a_frame_that_decodes(tmp_path):
    clip = clips.make_clip(tmp_path / "c.mkv", 5, codec="mpeg4")
    info = probe(clip)
    with av.open(str(clip)) as container:
        spans = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(clip.read_bytes())
    for position, size in spans:
        data[position + 6 : position + size] = b"\xff" * (size - 6)
    clip.write_bytes(data)
    with Decoder(info) as decoder, pytest.raises(VideoError, match="no frame"):
        list(decoder)


def test_decoder_of_a_file_that_is_gone(tmp_path):
    clip = clips.make_clip(tmp_path / "c.mkv", 2)
    info = probe(clip)
    Path(clip).unlink()
    with pytest.raises(VideoError, match="No such file"):
        Decoder(info)


def test_no_frame_is_lost_where_a_sequence_with_b_frames_follows_one_without(tmp_path):
    """FFmpeg's decoder drops every frame of the second one if it is not drained in between."""
    interlaced = field_clips.interlaced(tmp_path / "a.ts", frames=20, size="64x64")
    options = {"preset": "ultrafast", "bf": "2", "g": "10"}
    progressive = clips.make_clip(tmp_path / "b.ts", 20, width=64, height=64, options=options)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(interlaced.read_bytes() + progressive.read_bytes())
    for deinterlace in ("off", "auto"):
        with Decoder(probe(joined, deinterlace=deinterlace)) as decoder:
            numbers = [number_of(frame.planes[0]) for frame in decoder]
        assert len(numbers) == 40 and numbers[20:] == list(range(20))
