"""The joined output, as a player's demuxer sees it: every time, tag, stream and byte that the input promises."""

import resource
import signal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import pytest
from av.stream import Disposition
from clips import add_sound, make_clip, number_of, video_frame
from passthrough import decoded, passthrough, see, times

from upscaling.common.errors import InputError
from upscaling.decode.probe import probe
from upscaling.encode.segment_writer import FRAME_INDEX_OFFSET, SegmentError
from upscaling.encode.settings import encode_settings
from upscaling.mux.containers import container_of
from upscaling.mux.matroska import display_size
from upscaling.mux.muxer import check_container, join
from upscaling.mux.packet_repair import PacketRepair
from upscaling.mux.subtitles import ASS_HEADER, convert
from upscaling.mux.video_track import Segment

MS = Fraction(1, 1000)
STYLE = b"\0\0\0\x16styl\0\1"  # the start of mov_text's box of one style
HOLDERS = [
    ("libx264", "mp4"), ("libx264", "mkv"), ("libx264", "mov"),
    ("libx265", "mp4"), ("libx265", "mkv"), ("libx265", "mov"),
    ("libsvtav1", "mp4"), ("libsvtav1", "mkv"), ("libsvtav1", "webm"),
    ("libvpx-vp9", "mp4"), ("libvpx-vp9", "mkv"), ("libvpx-vp9", "webm"),
    ("prores_ks", "mov"), ("prores_ks", "mkv"), ("ffv1", "mkv"), ("ffv1", "mp4"),
]  # fmt: skip


def tolerance(path: Path) -> Fraction:
    """How far a time may be off in that container: nothing, or what whole milliseconds cost."""
    return MS / 2 if path.suffix in (".mkv", ".webm") else Fraction(0)


def assert_times(path: Path, wanted: list[Fraction]) -> None:
    got = times(path)
    assert len(got) == len(wanted)
    assert max(abs(a - b) for a, b in zip(got, wanted, strict=True)) <= tolerance(path)


def decoding_times(path: Path) -> list[tuple[int, int]]:
    with av.open(str(path)) as container:
        return [(p.dts, p.pts) for p in container.demux(container.streams.video[0]) if p.size and p.dts is not None]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """13 frames at 29.97/s with B-frames and AAC."""
    options = {"crf": "10", "preset": "fast"}
    folder = tmp_path_factory.mktemp("plain")
    return make_clip(folder / "plain.mp4", 13, rate=Fraction(30000, 1001), sound=True, options=options)


@pytest.mark.parametrize(("codec", "container"), HOLDERS)
def test_every_frame_at_its_time(tmp_path, plain, codec, container):
    result = passthrough(plain, tmp_path / f"o.{container}", length=5, codec=codec)
    assert result.warnings == []
    assert_times(result.path, times(plain))
    frames = decoded(result.path)
    luma = [frame.reformat(format="gray").to_ndarray() for frame in frames]
    assert [number_of(picture) for picture in luma] == list(range(13))
    pairs = decoding_times(result.path)
    assert all(dts <= pts for dts, pts in pairs)
    assert all(a[0] < b[0] for a, b in pairwise(pairs))


@pytest.mark.parametrize("container", ["mp4", "mov"])
def test_length_and_rate_of_mp4(tmp_path, plain, container):
    result = passthrough(plain, tmp_path / f"o.{container}", length=5)
    with av.open(str(result.path)) as out, av.open(str(plain)) as source:
        stream, original = out.streams.video[0], source.streams.video[0]
        assert stream.duration * stream.time_base == original.duration * original.time_base
        assert stream.average_rate == stream.base_rate == Fraction(30000, 1001)
        assert stream.frames == 13


@pytest.mark.parametrize("container", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize(
    ("base", "pts"),
    [
        (MS, [0, 40, 50, 60, 3000, 3100, 9000, 9010]),  # a screen recording
        (MS, [1, 34, 67, 101, 134, 167]),  # rounded
        (Fraction(1, 90000), [900000 + i * 3003 for i in range(7)]),  # 10 s in
        (Fraction(1, 600), [i * 20 + i % 3 for i in range(9)]),  # a phone
        (Fraction(1001, 24000), list(range(6))),
        (Fraction(1, 12800), [512 * i for i in range(1)]),  # one frame
    ],
)
def test_any_timing(tmp_path, container, base, pts):
    source = make_clip(tmp_path / "in.mp4", len(pts), time_base=base, pts=pts)
    wanted = [time * base for time in pts]
    assert times(source) == wanted
    result = passthrough(source, tmp_path / f"o.{container}", length=3)
    assert_times(result.path, wanted)


@pytest.mark.parametrize("container", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize("delay", [Fraction(0), Fraction(1, 2), Fraction(10)])
def test_sound_is_copied_and_keeps_its_offset(tmp_path, container, delay):
    rate = Fraction(25)
    source = make_clip(
        tmp_path / "in.mp4", 10, rate=rate, time_base=Fraction(1, 12800), pts=[512 * i + 256 for i in range(10)],
        sound=True, sound_start=delay,
    )  # fmt: skip
    result = passthrough(source, tmp_path / f"o.{container}")
    before, after = see(source)[1], see(result.path)[1]
    assert after.data == before.data
    limit = MS / 2 if container == "mkv" else 0
    assert all(abs(a - b) <= limit for a, b in zip(after.pts, before.pts, strict=True))
    assert_times(result.path, times(source))
    assert abs(_audible_from(result.path) - _audible_from(source)) <= MS


def _audible_from(path: Path) -> Fraction:
    with av.open(str(path)) as container:
        frame = next(container.decode(audio=0))
        return frame.pts * frame.time_base


def _text_stream(out, language: str):
    stream = out.add_stream("srt")
    stream.codec_context.subtitle_header = ASS_HEADER
    stream.time_base = MS
    stream.metadata["language"] = language
    return stream


def _png() -> bytes:
    context = av.CodecContext.create("png", "w")
    context.width, context.height, context.pix_fmt, context.time_base = 16, 16, "rgb24", Fraction(1, 25)
    frame = video_frame(3, 16, 16, "rgb24")
    frame.pts = 0
    return b"".join(bytes(p) for p in [*context.encode(frame), *context.encode(None)])


@pytest.fixture(scope="module")
def rich(tmp_path_factory) -> Path:
    """A Matroska file with two sound tracks, subtitles, chapters, a font, a cover and tags."""
    path = tmp_path_factory.mktemp("rich") / "rich.mkv"
    with av.open(str(path), "w") as out:
        picture = out.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        picture.width, picture.height = 64, 48
        picture.metadata.update(language="ger", title="Main")
        text = _text_stream(out, "fre")
        sounds = []
        for language, title, disposition in (("eng", "Film", 1), ("jpn", "Talk", 8)):
            stream, packets = add_sound(out, Fraction(2, 5), "ac3")
            stream.metadata.update(language=language, title=title)
            stream.disposition = disposition
            sounds += packets
        out.add_attachment("a font.ttf", "application/x-truetype-font", b"\0\1\0\0font")
        out.add_attachment("cover.png", "image/png", _png())
        out.metadata.update(title="The Elk", artist="Zoë", comment="c", mood="calm")
        chapters = [(0, 200, "One"), (200, 400, "Two")]
        out.set_chapters(
            [{"id": i, "start": a, "end": b, "time_base": MS, "metadata": {"title": t}}
             for i, (a, b, t) in enumerate(chapters, 1)]
        )  # fmt: skip
        packets = sounds
        for i in range(10):
            frame = video_frame(i)
            frame.pts, frame.time_base = i, Fraction(1, 25)
            packets += picture.encode(frame)
        packets += picture.encode(None)
        for start, words in ((40, "<i>Hello</i>\nworld & <b>you</b>"), (200, "{\\an8}Second")):
            packet = av.Packet(words.encode())
            packet.pts = packet.dts = start
            packet.duration, packet.time_base, packet.stream = 100, MS, text
            packets.append(packet)
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
            out.mux(packet)
    return path


def test_matroska_keeps_everything(tmp_path, rich):
    result = passthrough(rich, tmp_path / "o.mkv")
    assert result.notes == result.warnings == []
    before, after = see(rich), see(result.path)
    assert [(s.kind, s.codec) for s in after] == [(s.kind, s.codec) for s in before]
    for old, new in zip(before, after, strict=True):
        assert new.disposition == old.disposition
        for key in ("language", "title", "filename", "mimetype"):
            assert new.metadata.get(key) == old.metadata.get(key)
        if old.kind != "video" or old.codec == "png":
            assert (new.data, new.pts) == (old.data, old.pts)
    with av.open(str(rich)) as old, av.open(str(result.path)) as new:
        assert _chapters(new) == _chapters(old) == [(0, Fraction(1, 5), "One"), (Fraction(1, 5), Fraction(2, 5), "Two")]
        lower = {key.lower(): value for key, value in new.metadata.items()}
        assert lower | {"title": "The Elk", "artist": "Zoë", "comment": "c", "mood": "calm"} == lower


def _chapters(container) -> list[tuple]:
    return [
        (c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"]["title"]) for c in container.chapters()
    ]


def test_mp4_keeps_what_it_can_hold_and_names_the_rest(tmp_path, rich):
    result = passthrough(rich, tmp_path / "o.mp4")
    assert [note for note in result.notes if "left out" in note] == result.notes
    assert len(result.notes) == 2
    assert "a font.ttf" in result.notes[0] and "mkv could" in result.notes[0]
    assert "MOOD" in result.notes[1]
    seen = see(result.path)
    assert [s.codec for s in seen if s.kind == "audio"] == ["ac3", "ac3"]
    assert [s.metadata["language"] for s in seen if s.kind == "audio"] == ["eng", "jpn"]
    text = next(s for s in seen if s.kind == "subtitle")
    assert (text.codec, text.metadata["language"]) == ("mov_text", "fre")
    words = [(at, data) for at, data in zip(text.pts, text.data, strict=True) if len(data) > 2]
    assert [(at, data[2 : 2 + data[1]]) for at, data in words] == [
        (Fraction(1, 25), b"Hello\nworld & you"), (Fraction(1, 5), b"Second"),
    ]  # fmt: skip
    with av.open(str(result.path)) as container:  # what FFmpeg makes of it: ASS
        shown = [one.ass.decode() for packet in container.demux(subtitles=0) for one in packet.decode() if packet.size]
    assert shown[0].endswith("{\\i1}Hello{\\r}\\Nworld & {\\b1}you")
    cover = next(s for s in seen if s.disposition & Disposition.attached_pic)
    assert cover.data == [_png()]
    with av.open(str(result.path)) as container:
        assert _chapters(container)[1] == (Fraction(1, 5), Fraction(2, 5), "Two")
        assert (container.metadata["title"], container.metadata["artist"]) == ("The Elk", "Zoë")


def test_tracks_titles_and_subtitles_survive_mp4_and_back(tmp_path, rich):
    there = passthrough(rich, tmp_path / "o.mp4")
    again = passthrough(there.path, tmp_path / "p.mp4")
    back = passthrough(again.path, tmp_path / "q.mkv")
    assert again.notes == back.notes == []
    text = next(s for s in see(back.path) if s.kind == "subtitle")
    assert (text.codec, text.data) == ("subrip", [b"<i>Hello</i>\nworld & <b>you</b>", b"Second"])
    assert text.pts == [Fraction(1, 25), Fraction(1, 5)]
    sound = [s.metadata.get("title") for s in see(back.path) if s.kind == "audio"]
    assert sound == ["Film", "Talk"]


def test_webm_names_what_it_encodes_or_leaves_out(tmp_path, rich):
    result = passthrough(rich, tmp_path / "o.webm")
    sound, rest = result.notes[:2], result.notes[2:]
    assert all("(ac3, " in note and "converted to Opus: webm can't hold it as it is" in note for note in sound)
    assert len(rest) == 2  # a font, a cover
    assert all("webm can't hold it, mkv could" in note for note in rest)
    assert [s.codec for s in see(result.path)] == ["vp9", "webvtt", "opus", "opus"]


def test_unusual_tags_survive_mp4_without_a_cover(tmp_path):
    source = make_clip(tmp_path / "in.mkv", 2, setup=lambda out, _: out.metadata.update(mood="calm", title="t"))
    with av.open(str(passthrough(source, tmp_path / "o.mp4").path)) as container:
        tags = {key.lower(): value for key, value in container.metadata.items()}
    assert (tags["mood"], tags["title"]) == ("calm", "t")


def test_rotated_output_has_no_rotation_tag(tmp_path):
    source = make_clip(tmp_path / "in.mp4", 3, setup=lambda _, stream: stream.set_display_rotation(90))
    result = passthrough(source, tmp_path / "o.mp4")
    frame = decoded(result.path)[0]
    assert (frame.width, frame.height, frame.rotation) == (48, 64, 0)


@pytest.mark.parametrize(("codec", "container"), HOLDERS)
def test_colour_shape_and_hdr_reach_the_header(tmp_path, codec, container):
    def setup(_, stream):
        stream.codec_context.sample_aspect_ratio = Fraction(16, 11)

    light = "log-level=none:master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)"
    tags = {"colorspace": 9, "color_range": 1, "color_primaries": 9, "color_trc": 16}
    source = make_clip(
        tmp_path / "in.mp4", 6, codec="libx265", pix_fmt="yuv420p10le", tags=tags, setup=setup,
        options={"x265-params": light + ":max-cll=1000,400"},
    )  # fmt: skip
    result = passthrough(source, tmp_path / f"o.{container}", codec=codec)
    with av.open(str(result.path)) as out:
        stream = out.streams.video[0]
        context = stream.codec_context
        assert stream.sample_aspect_ratio == Fraction(16, 11)
        assert (context.colorspace, context.color_range, context.color_primaries, context.color_trc) == (9, 1, 9, 16)
        frame = next(out.decode(stream))  # decoders pass the container's side data on
        names = {data.type.name for data in frame.side_data}
    assert {"MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"} <= names


def test_hevc_in_mp4_is_tagged_as_apple_wants(tmp_path, plain):
    with av.open(str(passthrough(plain, tmp_path / "o.mp4", codec="hevc").path)) as out:
        assert out.streams.video[0].codec_context.codec_tag == "hvc1"


def test_mp4_starts_fast(tmp_path, plain):
    data = passthrough(plain, tmp_path / "o.mp4").path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize(("container", "codec"), [("webm", "auto"), ("mkv", "vp9"), ("mov", "prores"), ("mkv", "ffv1")])
def test_alpha_survives(tmp_path, container, codec):
    pictures = []
    for number in range(3):
        picture = video_frame(number, pix_fmt="rgba").to_ndarray()
        picture[:, :32, 3] = 40 + number
        pictures.append(av.VideoFrame.from_ndarray(picture, format="rgba"))
    source = make_clip(tmp_path / "in.mov", 3, codec="png", pix_fmt="rgba", pictures=pictures, options={})
    result = passthrough(source, tmp_path / f"o.{container}", codec=codec, keep_alpha=True)
    frames = decoded(result.path, "libvpx-vp9" if result.settings.codec == "libvpx-vp9" else None)
    for number, frame in enumerate(frames):
        alpha = frame.to_ndarray(format="rgba")[..., 3]
        assert abs(int(alpha[20, 10]) - 40 - number) <= 2
        assert alpha[20, 50] >= 253


def test_resumed_is_the_same_as_uninterrupted(tmp_path, plain):
    """Segments cut elsewhere: the same frames at the same times."""
    one = passthrough(plain, tmp_path / "one.mp4", length=100)
    many = passthrough(plain, tmp_path / "many.mp4", length=2)
    assert len(one.segments) == 1 and len(many.segments) == 7
    assert see(one.path)[1].pts == see(many.path)[1].pts
    assert times(one.path) == times(many.path)


def test_a_later_segment_may_reorder_further_than_the_first(tmp_path):
    """The first segment has one frame, hence no B-frames."""
    source = make_clip(tmp_path / "in.mp4", 9)
    result = passthrough(source, tmp_path / "o.mp4", length=8)
    reversed_cut = [
        Segment(result.segments[1].path, (0,)),
        Segment(result.segments[0].path, tuple(range(512, 4608, 512))),
    ]
    join(reversed_cut, result.info, result.settings, tmp_path / "p.mp4", "mp4")
    assert times(tmp_path / "p.mp4") == [Fraction(i, 25) for i in range(9)]


def test_the_last_frame_is_shown_as_long_as_in_the_input(tmp_path):
    """A part of uneven timing: up to where the part ends; the whole: as long as the input's track."""
    pts = [0, 100, 150, 1000, 1300, 1900]
    source = make_clip(tmp_path / "in.mp4", 6, time_base=MS, pts=pts)
    whole = passthrough(source, tmp_path / "o.mp4", length=3)
    with av.open(str(source)) as old, av.open(str(whole.path)) as new:
        before, after = old.streams.video[0], new.streams.video[0]
        assert after.duration * after.time_base == before.duration * before.time_base
    join(whole.segments[:1], whole.info, whole.settings, tmp_path / "p.mp4", "mp4", clip=(Fraction(0), Fraction(1)))
    with av.open(str(tmp_path / "p.mp4")) as part:
        assert part.streams.video[0].duration * part.streams.video[0].time_base == 1


def test_a_full_disk_ends_the_join(tmp_path, plain):
    result = passthrough(plain, tmp_path / "o.mp4", crf=1)
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, old[1]))
    try:
        for name in ("p.mp4", "p.mkv"):
            with pytest.raises(OSError, match="too large"):
                join(result.segments, result.info, result.settings, tmp_path / name, name[2:])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(
    "name", ["a 'b\"\nc.mp4", "-x.mp4", "http:x%03d.mkv", b"\xff\xfe.mp4".decode("utf-8", "surrogateescape")]
)
def test_any_file_name(tmp_path, plain, name):
    source = tmp_path / ("in" + name.replace("/", ""))
    source.write_bytes(plain.read_bytes())
    assert len(times(passthrough(source, tmp_path / name).path)) == 13


def test_only_a_part_of_the_input(tmp_path, rich):
    """Frames 3..7 of 10: everything is moved so that the first is at zero, and what lies outside is gone."""
    whole = passthrough(rich, tmp_path / "o.mkv", length=3)
    part = whole.segments[1:2]
    first, last = Fraction(120, 1000), Fraction(240, 1000)
    join(part, whole.info, whole.settings, tmp_path / "p.mkv", "mkv", clip=(first, last))
    assert times(tmp_path / "p.mkv") == [0, Fraction(1, 25), Fraction(2, 25)]
    before, after = see(rich), see(tmp_path / "p.mkv")
    for old, new in zip(before, after, strict=True):
        if old.kind == "audio":
            kept = [(p - first, d) for p, d in zip(old.pts, old.data, strict=True) if first <= p < last]
            assert (new.pts, new.data) == ([p for p, _ in kept], [d for _, d in kept])
        elif old.kind == "subtitle":  # one began before, one goes on behind
            assert (new.pts, new.durations) == ([0, Fraction(2, 25)], [Fraction(1, 50), Fraction(1, 25)])
    with av.open(str(tmp_path / "p.mkv")) as container:
        assert _chapters(container) == [(0, Fraction(8, 100), "One"), (Fraction(8, 100), Fraction(12, 100), "Two")]


def test_half_a_file_keeps_its_sound_in_time(tmp_path, plain):
    """Matroska cut in the middle, and bytes wrong in what is left."""
    whole = passthrough(plain, tmp_path / "whole.mkv").path
    data = bytearray(whole.read_bytes())
    broken = tmp_path / "broken.mkv"
    broken.write_bytes(data[: len(data) * 3 // 4])
    result = passthrough(broken, tmp_path / "o.mp4")
    before, after = see(broken)[1], see(result.path)[1]
    assert len(after.data) > 3
    assert all(abs(a - b) <= MS for a, b in zip(after.pts, before.pts, strict=True))
    assert after.data == before.data


def _packets(*pairs: tuple[int | None, int | None]) -> list[av.Packet]:
    packets = []
    for pts, dts in pairs:
        packet = av.Packet(b"x")
        packet.pts, packet.dts, packet.duration, packet.time_base = pts, dts, 10, MS
        packets.append(packet)
    return packets


@pytest.mark.parametrize(
    ("damaged", "repaired"),
    [
        ([(0, 0), (10, 10), (20, 20)], [0, 10, 20]),
        ([(0, 0), (None, None), (20, 20)], [0, 10, 20]),
        ([(0, 0), (10, None), (None, 20)], [0, 10, 20]),
        ([(0, 0), (10, 10), (10, 10), (30, 30)], [0, 10, 11, 30]),
        ([(0, 0), (999999, 999999), (20, 20), (30, 30)], [0, 10, 20, 30]),
        ([(100, 100), (110, 110), (5, 5), (130, 130)], [100, 110, 111, 130]),
        ([(None, None), (None, None)], [0, 10]),
    ],
)
def test_damaged_packet_times_are_repaired(damaged, repaired):
    repair, out = PacketRepair(strict=True), []
    for packet in [*_packets(*damaged), None]:
        out += [(p.pts, p.dts) for p in repair.push(packet)]
    assert [pts for pts, _ in out] == repaired
    assert all(a[1] < b[1] for a, b in pairwise(out))


@pytest.mark.parametrize(
    ("data", "source", "target", "result"),
    [
        (b"<font>a</font>\r\nb", "subrip", "mov_text", b"\0\x03a\nb"),
        (
            "é<I>x</I>y".encode(),
            "subrip",
            "mov_text",
            b"\0\x04\xc3\xa9xy" + STYLE + b"\0\1\0\2\0\1\2\x10\xff\xff\xff\xff",
        ),
        (b"\0\3axy" + STYLE + b"\0\1\0\2\0\1\6\x10\xff\xff\xff\xff", "mov_text", "subrip", b"a<i><u>x</u></i>y"),
        (b"<b>a <i>b</i></b> <u>c", "subrip", "webvtt", b"<b>a </b><b><i>b</i></b> <u>c</u>"),
        (b"0,0,Default,,0,0,0,,{\\pos(1,2)\\b1}a{\\b0\\i1}b{\\r}c", "ass", "subrip", b"<b>a</b><i>b</i>c"),
        ("é".encode(), "subrip", "mov_text", b"\0\x02\xc3\xa9"),
        (b"0,0,Default,,0,0,0,,{\\i1}a, b\\Nc", "ass", "subrip", b"<i>a, b\nc</i>"),
        (b"a &amp; b <c.x>d</c>", "webvtt", "subrip", b"a & b d"),
        (b"\0\x03a<b\0\0\0\x0cstyl", "mov_text", "webvtt", b"a&lt;b"),
        (b"\0\0", "mov_text", "subrip", None),
        (b"1 < 2 and 3 > 2", "subrip", "subrip", b"1 < 2 and 3 > 2"),
    ],
)
def test_text_subtitles_are_converted(data, source, target, result):
    assert convert(data, source, target) == result


@pytest.mark.parametrize(
    ("name", "codec", "words"),
    [
        ("o.avi", "auto", r"\.mp4, \.mkv, \.mov, \.webm"),
        ("o", "auto", "cannot write 'o'"),
        ("o.mp4", "prores", r"\.mp4 can't hold prores.*\.mkv, \.mov can"),
        ("o.webm", "h264", r"\.webm can't hold h264"),
        ("o.mov", "av1", r"\.mov can't hold av1"),
    ],
)
def test_unsupported_outputs_are_refused_before_anything_runs(tmp_path, plain, name, codec, words):
    info = probe(plain)
    with pytest.raises(InputError, match=words):
        check_container(info, tmp_path / name, encode_settings(info, tmp_path / name, 64, 48, codec=codec))


def test_container_is_chosen_by_extension_in_any_case():
    assert container_of(Path("A.MKV")) == "mkv"


def test_wrong_lists_of_times_are_refused(tmp_path, plain):
    result = passthrough(plain, tmp_path / "o.mp4", length=5)
    one = result.segments[0]
    for wrong in (one.pts[:-1], (*one.pts, one.pts[-1] + 1), one.pts[::-1]):
        with pytest.raises(SegmentError):
            join([Segment(one.path, wrong)], result.info, result.settings, tmp_path / "p.mp4", "mp4")
    with pytest.raises(SegmentError):
        join([], result.info, result.settings, tmp_path / "p.mp4", "mp4")


def test_an_unwritable_target_is_an_error(tmp_path, plain):
    result = passthrough(plain, tmp_path / "o.mp4")
    with pytest.raises(OSError, match="No such file"):
        join(result.segments, result.info, result.settings, tmp_path / "missing" / "o.mp4", "mp4")


@pytest.mark.parametrize(
    ("size", "aspect", "result"),
    [
        ((720, 576), Fraction(16, 11), (1060, 583)),
        ((64, 48), Fraction(1), (64, 48)),
        ((1999, 3), Fraction(997, 991), None),
    ],
)
def test_display_size_has_the_exact_ratio_if_it_can(size, aspect, result):
    width, height = display_size(*size, aspect)
    if result:
        assert (width, height) == result
        assert Fraction(width, height) == Fraction(*size) * aspect
    assert width >= size[0] and height >= size[1]


def test_frame_index_offset_leaves_room_for_any_reordering():
    assert FRAME_INDEX_OFFSET > 64
