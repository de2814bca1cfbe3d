"""probe: the properties of each clip as a player has them, and one line for each file that is not a video."""

import math
import os
import re
import resource
import struct
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import av
import changing_clips
import clips
import field_clips
import numpy as np
import pytest

from upscaling.common.text import display_name
from upscaling.decode import changes
from upscaling.decode.deinterlace import Deinterlacing, FieldDetector
from upscaling.decode.planes import PlaneViewer, stored_format
from upscaling.decode.probe import probe
from upscaling.demux.input_file import VideoError
from upscaling.frames.orientation import Orientation, from_matrix
from upscaling.frames.pixel_formats import FORMATS, plane_shapes

BT709 = {"colorspace": 1, "color_primaries": 1, "color_trc": 1, "color_range": 1}
FULL = {"colorspace": 1, "color_primaries": 1, "color_trc": 1, "color_range": 2}
HDR10 = {"colorspace": 9, "color_primaries": 9, "color_trc": 16, "color_range": 1}
HLG = {"colorspace": 9, "color_primaries": 9, "color_trc": 18, "color_range": 1}


@pytest.mark.parametrize(
    ("height", "codec", "pix_fmt", "tags", "expected"),
    [
        (48, "ffv1", "yuv420p", {}, ("smpte170m", False, "smpte170m", "smpte170m", "left")),
        (576, "ffv1", "yuv420p", {}, ("smpte170m", False, "bt470bg", "smpte170m", "left")),
        (718, "ffv1", "yuv420p", {}, ("smpte170m", False, "smpte170m", "smpte170m", "left")),
        (720, "ffv1", "yuv420p", {}, ("bt709", False, "bt709", "bt709", "left")),
        (48, "libx264", "yuv420p", BT709, ("bt709", False, "bt709", "bt709", "left")),
        (48, "libx264", "yuv420p", FULL, ("bt709", True, "bt709", "bt709", "left")),
        (48, "libx264", "yuv420p", {"color_primaries": 9}, ("bt2020nc", False, "bt2020", "bt2020-10", "left")),
        (48, "libx264", "yuv420p", {"colorspace": 5}, ("bt470bg", False, "bt470bg", "smpte170m", "left")),
        (48, "libx264", "yuv420p10le", HDR10, ("bt2020nc", False, "bt2020", "smpte2084", "left")),
        (48, "libx264", "yuv420p10le", HLG, ("bt2020nc", False, "bt2020", "arib-std-b67", "left")),
        (48, "mjpeg", "yuvj420p", {}, ("bt470bg", True, "bt470bg", "smpte170m", "center")),
        (48, "ffv1", "bgr0", {}, ("gbr", True, "bt709", "iec61966-2-1", "left")),
    ],
)
def test_colours_are_read_or_assumed_as_players_do(tmp_path, height, codec, pix_fmt, tags, expected):
    clip = clips.make_clip(tmp_path / "c.mkv", 2, width=16, height=height, codec=codec, pix_fmt=pix_fmt, tags=tags)
    info = probe(clip)
    assert tuple(asdict(info.colour).values()) == expected
    assumed = not tags and codec == "ffv1" and pix_fmt == "yuv420p"
    assert any("not tagged" in note for note in info.notes) == assumed


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "expected"),
    [
        ("libx264", "yuv422p", "yuv422p"),
        ("libx264", "yuv444p", "yuv444p"),
        ("libx264", "yuv422p10le", "yuv422p10le"),
        ("ffv1", "yuv444p16le", "yuv444p16le"),
        ("ffv1", "gray", "gray"),
        ("ffv1", "gbrp10le", "rgb48le"),
        ("ffv1", "yuv440p", "yuv444p"),
        ("ffv1", "yuv411p", "yuv422p"),
        ("ffv1", "yuv410p", "yuv420p"),
        ("rawvideo", "nv12", "yuv420p"),
        ("rawvideo", "yuyv422", "yuv422p"),
        ("mjpeg", "yuvj444p", "yuv444p"),
        ("png", "rgb48be", "rgb48le"),
        ("png", "pal8", "rgb24"),
    ],
)
def test_pixel_format_that_holds_it_without_loss(tmp_path, codec, pix_fmt, expected):
    if pix_fmt == "pal8":
        frame = av.VideoFrame(64, 48, "pal8")
        clip = clips.make_clip(tmp_path / "c.mov", 1, codec=codec, pix_fmt=pix_fmt, pictures=[frame])
    else:
        clip = clips.make_clip(tmp_path / ("c.mov" if codec == "png" else "c.mkv"), 2, codec=codec, pix_fmt=pix_fmt)
    assert probe(clip).pixel_format == expected


def test_every_stored_format_holds_itself():
    for name in FORMATS:
        kept = stored_format(name, alpha=True)
        assert kept.name == name
        frame = av.VideoFrame(17, 9, name)
        viewer = PlaneViewer(kept, False)
        assert viewer.fit(frame) is frame, "no conversion where the layout is the same"
        assert [plane.shape for plane in viewer.planes(frame)] == plane_shapes(kept, 17, 9)


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("name", ["nv12", "p010le", "yuyv422", "gray16be", "yuv420p16be", "bgr0", "gbrp", "gbrp16le"])
def test_conversion_keeps_every_sample(name, full_range):
    """There and back: what the nearest format holds gives the same bytes again."""
    frame = av.VideoFrame(34, 18, name)
    random = np.random.default_rng(1)
    for plane in frame.planes:
        samples = np.frombuffer(plane, np.uint8)
        samples[:] = random.integers(0, 256, samples.size)
        if name == "p010le":
            samples[0::2] &= 0xC0  # its lowest six bits are not part of the sample
    kept = stored_format(name)
    viewer = PlaneViewer(kept, full_range)
    there = viewer.fit(frame)
    # One thread: with slices, libswscale writes past the end of packed rows into those of another thread.
    back = there.reformat(format=name, src_color_range=1 + full_range, dst_color_range=1 + full_range, threads=1)
    for before, after in zip(frame.planes, back.planes, strict=True):
        row = {"nv12": 34, "p010le": 68, "yuyv422": 68, "bgr0": 136}  # bytes; what comes after it is padding
        used = row.get(name) or before.width * (2 if "16" in name else 1)
        first, second = (np.frombuffer(p, np.uint8).reshape(-1, p.line_size)[:, :used] for p in (before, after))
        keep = [0, 1, 2] if name == "bgr0" else [0]
        step = 4 if name == "bgr0" else 1
        for channel in keep:
            assert np.array_equal(first[:18, channel::step], second[:18, channel::step])


def test_hdr_metadata(tmp_path):
    light = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1):max-cll=1000,400"
    options = {"x265-params": light + ":log-level=none", "preset": "ultrafast"}
    clip = clips.make_clip(tmp_path / "c.mkv", 2, codec="libx265", pix_fmt="yuv420p10le", tags=HDR10, options=options)
    found = probe(clip).side_data
    mastering = found["mastering_display"]
    red, green, blue = (tuple(map(Fraction, point)) for point in mastering["primaries"])
    assert red == (Fraction("0.68"), Fraction("0.32")) and blue == (Fraction("0.15"), Fraction("0.06"))
    assert green == (Fraction("0.265"), Fraction("0.69"))
    assert Fraction(mastering["max_luminance"]) == 1000 and Fraction(mastering["min_luminance"]) == Fraction(1, 10000)
    assert found["content_light_level"] == {"max_content": 1000, "max_average": 400}


def test_declared_rate_is_checked_against_the_times(tmp_path):
    def claim(_, stream):
        stream.codec_context.framerate = 1000

    times = list(range(0, 40 * 20, 40))
    clip = clips.make_clip(tmp_path / "c.mkv", 20, codec="ffv1", time_base=Fraction(1, 1000), pts=times, setup=claim)
    with av.open(str(clip)) as container:
        assert container.streams.video[0].average_rate == 1000, "the clip claims what it should"
    info = probe(clip)
    assert info.frame_rate == 25
    assert info.frame_count == pytest.approx(20, abs=1)


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(30000, 1001), Fraction(25), Fraction(60000, 1001)])
@pytest.mark.parametrize("extension", ["mkv", "mp4", "ts"])
def test_common_rates_are_exact(tmp_path, rate, extension):
    assert probe(clips.make_clip(tmp_path / f"c.{extension}", 50, rate=rate)).frame_rate == rate


@pytest.mark.parametrize("bframes", range(3, 9))
def test_b_frames_that_are_not_read_yet_do_not_skew_the_rate(tmp_path, bframes):
    """The rate is measured on the first packets: the last of them may be shown after some that come later."""
    gop = f"bframes={bframes}:b-pyramid=none:b-adapt=0:scenecut=0:keyint=400"
    options = {"preset": "ultrafast", "x264-params": gop}
    info = probe(clips.make_clip(tmp_path / "c.mkv", 320, options=options))
    assert (info.frame_rate, info.frame_count) == (25, 320)


def test_duration_and_count(tmp_path):
    info = probe(clips.make_clip(tmp_path / "c.mp4", 10, sound=True))
    assert (info.duration, info.frame_count, info.codec) == (Fraction(10, 25), 10, "h264")
    late, _ = clips.late(tmp_path / "late.mkv")
    assert probe(late).duration == pytest.approx(Fraction(160, 1000), abs=0.05)


def test_uneven_times_give_their_average(tmp_path):
    clip, times = clips.vfr(tmp_path / "c.mkv")
    assert probe(clip).frame_rate == pytest.approx(6 / (times[-1] / 1000), rel=0.01)


@pytest.mark.parametrize("ratio", [Fraction(11, 12), Fraction(64, 45)])
def test_sample_aspect_ratio(tmp_path, ratio):
    def stretch(_, stream):
        stream.codec_context.sample_aspect_ratio = ratio

    assert probe(clips.make_clip(tmp_path / "c.mp4", 2, setup=stretch)).sample_aspect_ratio == ratio

    def stretch_and_turn(out, stream):
        stretch(out, stream)
        stream.set_display_rotation(90)

    info = probe(clips.make_clip(tmp_path / "r.mp4", 2, setup=stretch_and_turn))
    assert info.sample_aspect_ratio == 1 / ratio, "a turned pixel is as wide as it was high"


def test_main_stream_is_never_cover_art(tmp_path):
    info = probe(clips.with_cover(tmp_path / "c.mp4"))
    assert (info.width, info.height) == (64, 48)


@pytest.mark.parametrize(("default", "width"), [(0, 64), (1, 128), (None, 128)])
def test_main_stream_is_the_default_one_else_the_largest(tmp_path, default, width):
    assert probe(clips.two_pictures(tmp_path / "c.mkv", default)).width == width


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "options"),
    [
        ("c.mov", "prores_ks", "yuva444p10le", {"profile": "4444"}),
        ("c.webm", "libvpx-vp9", "yuva420p", {"auto-alt-ref": "0"}),
        ("c.mov", "qtrle", "argb", None),
        ("c.mkv", "ffv1", "yuva420p", None),
    ],
)
def test_alpha_is_dropped_with_a_note_or_kept(tmp_path, name, codec, pix_fmt, options):
    clip = clips.with_alpha(tmp_path / name, codec, pix_fmt, options=options)
    dropped, kept = probe(clip), probe(clip, keep_alpha=True)
    assert not dropped.alpha and not FORMATS[dropped.pixel_format].alpha
    assert any("alpha" in note for note in dropped.notes)
    assert kept.alpha and FORMATS[kept.pixel_format].alpha
    assert not any("alpha" in note for note in kept.notes)


def test_opaque_gif_gets_no_note_about_alpha(tmp_path):
    clip = clips.make_clip(tmp_path / "c.gif", 3, codec="gif", pix_fmt="rgb8", rate=Fraction(10))
    info = probe(clip)
    assert (info.pixel_format, info.frame_rate) == ("rgb24", 10)
    assert not any("alpha" in note for note in info.notes)


FLAGGED = Deinterlacing("auto", flagged_only=True, found=True)
NONE_YET = Deinterlacing("auto", flagged_only=True, found=False)
TOP_FIRST = Deinterlacing("tff", flagged_only=False, found=True)
BOTTOM_FIRST = Deinterlacing("bff", flagged_only=False, found=True)


@pytest.mark.parametrize(
    ("make", "mode", "expected"),
    [
        (field_clips.interlaced, "auto", FLAGGED),
        (lambda p: field_clips.interlaced(p, "bff"), "auto", FLAGGED),
        (lambda p: field_clips.interlaced(p, "tff", flagged=False, size="320x240"), "auto", TOP_FIRST),
        (lambda p: field_clips.interlaced(p, "bff", flagged=False, size="320x240"), "auto", BOTTOM_FIRST),
        (field_clips.telecined, "auto", TOP_FIRST),
        (field_clips.progressive, "auto", NONE_YET),
        (lambda p: field_clips.progressive(p, vertical=True), "auto", NONE_YET),
        (lambda p: clips.make_clip(p, 20), "auto", NONE_YET),
        (field_clips.interlaced, "off", None),
        (field_clips.progressive, "on", Deinterlacing("auto", flagged_only=False, found=True)),
        (lambda p: field_clips.interlaced(p, "bff", flagged=False, size="320x240"), "on", BOTTOM_FIRST),
        (lambda p: clips.make_clip(p, 3, width=6, height=6), "on", None),
    ],
)
def test_interlaced_and_telecined_are_recognised(tmp_path, make, mode, expected):
    info = probe(make(tmp_path / "c.mp4"), deinterlace=mode)
    assert info.deinterlacing == expected
    found = expected is not None and expected.found
    assert info.deinterlace == found == any("bwdif" in note for note in info.notes)


def test_noise_and_stillness_are_not_interlaced():
    random, detector, still = np.random.default_rng(2), FieldDetector(), FieldDetector()
    for _ in range(40):
        detector.push(random.integers(0, 256, (120, 160)).astype(np.uint8), 8)
        still.push(np.full((120, 160), 500, np.uint16), 10)
    assert detector.field_order() is None and still.field_order() is None
    assert still.counts == {"still": 39}


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((1, 0, 0, 1), Orientation()),
        ((-1, 0, 0, 1), Orientation(mirror_x=True)),
        ((1, 0, 0, -1), Orientation(mirror_y=True)),
        ((-1, 0, 0, -1), Orientation(False, True, True)),
        ((0, 1, -1, 0), Orientation(True, True, False)),
        ((0, -1, 1, 0), Orientation(True, False, True)),
        ((0, 1, 1, 0), Orientation(transpose=True)),
        ((0, -1, -1, 0), Orientation(True, True, True)),
        ((2, 0, 0, 1), Orientation()),
        ((0, 0, 0, 0), Orientation()),
        ((0.7, 0.7, -0.7, 0.7), None),
    ],
)
def test_display_matrix(matrix, expected):
    a, b, c, d = (round(value * 65536) for value in matrix)
    assert from_matrix(struct.pack("=9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)) == expected


@pytest.mark.parametrize("degrees", [0, 90, -90, 180, -180, 270])
def test_a_rotation_turns_counterclockwise(degrees):
    picture = np.arange(6).reshape(2, 3)
    assert np.array_equal(from_matrix(rotation(degrees)).apply([picture])[0], np.rot90(picture, degrees // 90))
    assert from_matrix(rotation(45)) is None


def rotation(degrees: int) -> bytes:
    """The display matrix of a counterclockwise rotation, as av_display_rotation_set makes it (libavutil/display.c)."""
    cos, sin = (round(f(math.radians(degrees)) * 65536) for f in (math.cos, math.sin))
    return struct.pack("=9i", cos, -sin, 0, sin, cos, 0, 0, 0, 1 << 30)


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (Orientation(), ("left", "center", "topleft")),
        (Orientation(mirror_x=True), ("center", "center", "center")),
        (Orientation(mirror_y=True), ("left", "center", "left")),
        (Orientation(transpose=True), ("center", "center", "topleft")),
    ],
)
def test_chroma_location_of_a_rotated_picture(orientation, expected):
    found = tuple(orientation.chroma_location(name) for name in ("left", "center", "topleft"))
    assert found == expected


# Files that are not videos, and names that FFmpeg would take for URLs or patterns


def _sound_only(path: Path) -> None:
    with av.open(str(path), "w") as out:
        _, packets = clips.add_sound(out, Fraction(1, 2))
        out.mux(packets)


def _cover_only(path: Path) -> None:
    with av.open(str(path), "w") as out:
        sounds = clips.add_sound(out, Fraction(1, 2))[1]
        stream, packets = clips.encoded(out, "mjpeg", "yuvj420p", (64, 64), 1)
        stream.disposition = 0x400
        out.mux(packets + sounds)


def _too_large(path: Path) -> None:
    clips.make_clip(path, 1, codec="rawvideo", container="avi")
    data = bytearray(path.read_bytes())
    at = data.index(b"strf") + 4 + 4 + 4  # size of the chunk, size of the BITMAPINFOHEADER: then width and height
    data[at : at + 8] = struct.pack("<ii", 30000, 30000)
    path.write_bytes(data)


def _no_frame(path: Path) -> None:
    clips.make_clip(path, 3, codec="libx264", options={"bf": "0"})
    data = path.read_bytes()
    start, size = data.index(b"mdat") + 4, int.from_bytes(data[data.index(b"mdat") - 4 : data.index(b"mdat")], "big")
    path.write_bytes(data[:start] + b"\xff" * (size - 8) + data[start + size - 8 :])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: None, "c.mp4: No such file"),
        (lambda p: p.mkdir(), "is a directory"),
        (lambda p: p.touch(), "is empty"),
        (os.mkfifo, "not a regular file"),
        (lambda p: p.write_bytes(b"no video at all, just words\n" * 50), "not a video"),
        (lambda p: p.write_bytes(bytes(range(256)) * 40), "not a video"),
        (lambda p: p.write_bytes(b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"), "is a playlist"),
        (_sound_only, "no video stream"),
        (_cover_only, "cover art but no video"),
        (_too_large, "larger than 8192x8192"),
        (_no_frame, "no frame"),
    ],
    ids=["missing", "directory", "empty", "fifo", "text", "binary", "playlist", "sound", "cover", "large", "damaged"],
)
def test_other_files_are_refused_in_one_line(tmp_path, make, words):
    path = tmp_path / "c.mp4"
    make(path)
    with pytest.raises(VideoError, match=re.escape(words)) as caught:
        probe(path)
    assert "\n" not in str(caught.value) and "c.mp4" in str(caught.value)
    assert caught.value.exit_status == 2


def test_frames_too_large_in_the_stream_itself_take_no_memory(tmp_path):
    """The header says 64x48, the pictures inside say 65500x65500."""
    path = clips.make_clip(tmp_path / "c.avi", 3, codec="mjpeg", pix_fmt="yuvj420p")
    data = bytearray(path.read_bytes())
    for found in list(re.finditer(b"\xff\xc0\x00\x11\x08", bytes(data))):  # SOF0: height, width (ITU-T T.81 B.2.2)
        data[found.end() : found.end() + 4] = struct.pack(">HH", 65500, 65500)
    path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(VideoError, match="no frame"):
        probe(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB; such a frame has 4 GiB


NAMES = [
    "a:b.mp4",
    "-x.mp4",
    "http:x.mp4",
    "concat:a.mp4",
    'it\'s "so" & $(so).mp4',
    "a\nb.mp4",
    "%03d.mp4",
    "ü 🦌.mp4",
]


@pytest.mark.parametrize("name", [*map(os.fsencode, NAMES), b"\xff\xfe.mp4", b"file:x.mp4", b"pipe:.mp4"])
def test_any_file_name_is_a_local_file(tmp_path, monkeypatch, name):
    clips.make_clip(tmp_path / "plain.mp4", 2)
    os.rename(os.fsencode(tmp_path / "plain.mp4"), os.path.join(os.fsencode(tmp_path), name))
    monkeypatch.chdir(tmp_path)
    assert probe(os.fsdecode(name)).width == 64, "a relative name"
    assert probe(Path(os.fsdecode(name)).absolute()).width == 64
    assert display_name(os.fsdecode(name)).isprintable()


def test_probing_leaves_the_file_as_it_is(tmp_path):
    clip = clips.make_clip(tmp_path / "c.mp4", 2)
    clip.chmod(0o444)
    before, status = clip.read_bytes(), clip.stat()
    probe(clip)
    assert (clip.read_bytes(), clip.stat().st_mtime_ns) == (before, status.st_mtime_ns)
    assert list(tmp_path.iterdir()) == [clip]


def test_identity_is_stable_and_differs_with_the_result(tmp_path):
    clip = field_clips.interlaced(tmp_path / "c.mp4")
    assert probe(clip).identity() == probe(clip).identity() != probe(clip, deinterlace="off").identity()


def test_changes_far_into_a_large_file_are_found_at_sampled_places(tmp_path, monkeypatch):
    """What is not read is sampled: most frames decide over the size all the same."""
    part = changing_clips.joined(tmp_path / "c.ts", [{"width": 64, "height": 48, "frames": 25}, {"frames": 75}])
    with av.open(str(part)) as source, av.open(str(tmp_path / "c.mkv"), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in [p for p in source.demux(video=0) if p.size]:
            packet.stream = stream
            out.mux(packet)
    whole = probe(tmp_path / "c.mkv")
    monkeypatch.setattr(changes, "SURVEY_BYTES", 100)
    sampled = probe(tmp_path / "c.mkv")
    assert (whole.width, whole.height) == (sampled.width, sampled.height) == (160, 120)
    assert whole.shape == sampled.shape and set(whole.changes) == set(sampled.changes)
