"""Segments: every encoder returns the frames that it is given, and options have the documented effect."""

import dataclasses
import json
import resource
import signal
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from upscaling.common.errors import InputError
from upscaling.decode.colour_tags import Colour
from upscaling.decode.probe import VideoInfo
from upscaling.encode import codecs
from upscaling.encode.segment_writer import SegmentError, SegmentWriter
from upscaling.encode.settings import encode_settings
from upscaling.frames.av_planes import av_planes
from upscaling.frames.pixel_formats import pixel_format, plane_shapes

BT709 = Colour("bt709", False, "bt709", "bt709", "left")
ENCODERS = ["libx264", "libx265", "libsvtav1", "libvpx-vp9", "prores_ks", "ffv1"]


def video(pixel_format: str = "yuv420p", width: int = 64, height: int = 48, **changes) -> VideoInfo:
    """What `probe` says of a clip of that format."""
    base = VideoInfo(
        path=Path("in.mkv"), stream_index=0, codec="ffv1", width=width, height=height, pixel_format=pixel_format,
        colour=BT709, time_base=Fraction(1, 30000), frame_rate=Fraction(30000, 1001), frame_count=None, duration=None,
        sample_aspect_ratio=Fraction(1), deinterlace=False,
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def settings_of(info: VideoInfo, output: str = "out.mkv", **asked):
    return encode_settings(info, Path(output), info.width, info.height, **asked)


def smooth(settings, number: int) -> list[np.ndarray]:
    """Planes of a picture that any codec keeps well: slopes that move with `number`, read-only as an mmap is."""
    fmt, planes = pixel_format(settings.pixel_format), []
    for index, shape in enumerate(plane_shapes(fmt, settings.width, settings.height)):
        y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
        values = (60 + 20 * index + x * 40 // shape[1] + y * 40 // shape[0] + number * 2) << (fmt.depth - 8)
        values = np.repeat(values[..., None], fmt.channels, -1) if fmt.rgb else values
        plane = values.astype(fmt.dtype)
        plane.flags.writeable = False
        planes.append(plane)
    return planes


def write(path: Path, settings, pts: list[int]) -> Path:
    with SegmentWriter(path, settings) as writer:
        for number, time in enumerate(pts):
            writer.write(smooth(settings, number), time)
    return path


def frames_of(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return sorted(container.decode(video=0), key=lambda frame: frame.pts)


def psnr(frame: av.VideoFrame, planes: list[np.ndarray], fmt) -> float:
    error = []
    for got, wanted in zip(av_planes(frame, fmt), planes, strict=True):
        error.append(np.mean((got.astype(float) - wanted) ** 2))
    peak = (1 << fmt.depth) - 1
    return 10 * np.log10(peak**2 / max(np.mean(error), 1e-9))


@pytest.mark.parametrize("codec", ENCODERS)
def test_frames_come_back_in_order(tmp_path, codec):
    best = {"crf": codecs.ENCODERS[codec].crf_range[0]} if codecs.ENCODERS[codec].quality else {}
    settings = settings_of(video(), codec=codec, **best)
    pts = [1001 * i for i in range(7)]
    path = write(tmp_path / "s.mkv", settings, pts)
    frames = frames_of(path)
    assert len(frames) == 7
    fmt = pixel_format(settings.pixel_format)
    if codec != "prores_ks":  # its decoder has 12 bit
        for number, frame in enumerate(frames):
            assert psnr(frame, smooth(settings, number), fmt) >= 45


@pytest.mark.parametrize(
    ("codec", "output", "source", "encoder", "result"),
    [
        ("auto", "o.mp4", "yuv420p", "libx264", "yuv420p"),
        ("auto", "o.mp4", "gray", "libx264", "yuv420p"),
        ("auto", "o.mkv", "yuv422p10le", "libx265", "yuv420p10le"),
        ("auto", "o.mp4", "rgb48le", "libx265", "yuv420p10le"),
        ("auto", "o.webm", "yuv420p", "libvpx-vp9", "yuv420p"),
        ("auto", "o.webm", "yuva420p", "libvpx-vp9", "yuva420p"),
        ("auto", "o.mp4", "rgba", "libx264", "yuv420p"),
        ("h264", "o.mp4", "yuv420p10le", "libx264", "yuv420p10le"),
        ("hevc", "o.mp4", "yuv420p", "libx265", "yuv420p"),
        ("av1", "o.mp4", "yuv420p", "libsvtav1", "yuv420p"),
        ("vp9", "o.webm", "yuv420p", "libvpx-vp9", "yuv420p"),
        ("prores", "o.mov", "yuv420p", "prores_ks", "yuv422p10le"),
        ("prores", "o.mov", "rgba", "prores_ks", "yuva444p10le"),
        ("ffv1", "o.mkv", "yuv444p12le", "ffv1", "yuv444p12le"),
        ("ffv1", "o.mkv", "rgb24", "ffv1", "rgb24"),
        ("ffv1", "o.mkv", "rgba64le", "ffv1", "rgba64le"),
    ],
)
def test_choice_of_encoder_and_pixel_format(codec, output, source, encoder, result):
    settings = settings_of(video(source), output, codec=codec)
    assert (settings.codec, settings.pixel_format) == (encoder, result)


def test_deep_webm_keeps_ten_bits():
    settings = settings_of(video("yuv420p10le"), "o.webm")
    assert settings.pixel_format == "yuv420p10le"


@pytest.mark.parametrize(("size", "result"), [((1, 1), (2, 2)), ((65, 49), (66, 50)), ((64, 48), (64, 48))])
def test_sizes_become_what_the_pixel_format_needs(tmp_path, size, result):
    settings = settings_of(video(width=size[0], height=size[1]))
    assert (settings.width, settings.height) == result
    assert len(frames_of(write(tmp_path / "s.mkv", settings, [0, 1]))) == 2


def test_small_deep_pictures_avoid_x265():
    """x265 writes past its buffers there."""
    assert settings_of(video("yuv420p10le", 34, 18)).codec == "libx264"
    with pytest.raises(InputError, match="at least 64x16"):
        settings_of(video("yuv420p10le", 34, 18), codec="libx265")


@pytest.mark.parametrize("codec", ENCODERS)
@pytest.mark.parametrize("preset", ["ultrafast", "medium", "veryslow"])
def test_every_preset_opens_or_is_refused(codec, preset):
    if codecs.ENCODERS[codec].quality is None:
        with pytest.raises(InputError, match=codec):
            settings_of(video(), codec=codec, preset=preset)
    else:
        assert settings_of(video(), codec=codec, preset=preset).options


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"codec": "h265000"}, "unknown codec.*libx264"),
        ({"crf": 52}, "--crf 52 is out of range for libx264: from 0"),
        ({"codec": "prores", "crf": 20}, "prores_ks does not support --crf"),
        ({"codec": "ffv1", "preset": "fast"}, "ffv1 does not support --preset"),
        ({"preset": "quick"}, "invalid --preset 'quick' for libx264 .choose from ultrafast"),
        ({"codec": "libsvtav1", "pix_fmt": "yuv444p"}, "libsvtav1 does not support --pix-fmt yuv444p"),
        ({"pix_fmt": "pal8"}, "libx264 does not support --pix-fmt pal8"),
    ],
)
def test_what_an_encoder_has_not_is_one_line(asked, words):
    with pytest.raises(InputError, match=words) as caught:
        settings_of(video(), **asked)
    assert "\n" not in str(caught.value)


def test_nvenc_is_refused_with_what_is_usable_instead():
    if "h264_nvenc" in codecs.usable_encoders():
        assert settings_of(video(width=256, height=144), codec="h264_nvenc").options["cq"]
    else:
        with pytest.raises(InputError, match=r"h264_nvenc can't be used here .*libx264"):
            settings_of(video(width=256, height=144), codec="h264_nvenc")


def test_pixel_format_as_asked(tmp_path):
    settings = settings_of(video(), codec="libx264", pix_fmt="yuv444p10le")
    path = write(tmp_path / "s.mkv", settings, [0, 1])
    assert frames_of(path)[0].format.name == "yuv444p10le"


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1", "libvpx-vp9"])
def test_colour_is_written_into_the_stream(tmp_path, codec):
    colour = Colour("bt2020nc", True, "bt2020", "arib-std-b67", "topleft")
    path = write(tmp_path / "s.mkv", settings_of(video(colour=colour), codec=codec), [0, 1])
    frame = frames_of(path)[0]
    assert (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc) == (9, 2, 9, 18)


def test_prores_is_limited_range_whatever_its_source_was():
    colour = Colour("smpte170m", True, "bt709", "bt709", "center")
    assert settings_of(video("yuv420p", colour=colour), "o.mov", codec="prores").colour.full_range is False
    assert settings_of(video("yuv420p", colour=colour)).colour == colour


def test_rgb_becomes_bt709_limited():
    colour = Colour("gbr", True, "bt709", "iec61966-2-1", "left")
    result = settings_of(video("rgb24", colour=colour)).colour
    assert (result.matrix, result.full_range, result.transfer) == ("bt709", False, "iec61966-2-1")


@pytest.mark.parametrize("codec", ["libx265", "libsvtav1"])
def test_hdr_side_data_is_in_the_pictures(tmp_path, codec):
    hdr = {
        "mastering_display": {
            "primaries": [["17/25", "8/25"], ["53/200", "69/100"], ["3/20", "3/50"]],
            "white_point": ["3127/10000", "329/1000"],
            "min_luminance": "1/10000",
            "max_luminance": "1000",
        },
        "content_light_level": {"max_content": 1000, "max_average": 400},
    }
    path = write(tmp_path / "s.mkv", settings_of(video("yuv420p10le", side_data=hdr), codec=codec), [0, 1, 2])
    data = {d.type.name: np.frombuffer(bytes(d), np.int32) for d in frames_of(path)[0].side_data if len(bytes(d)) < 99}
    numbers = data["MASTERING_DISPLAY_METADATA"]
    assert numbers[0] / numbers[1] == pytest.approx(0.68, abs=1e-4)  # red x
    assert numbers[18] / numbers[19] == pytest.approx(1000)  # max luminance
    assert data["CONTENT_LIGHT_LEVEL"][:2].tolist() == [1000, 400]


def test_times_may_be_far_from_zero_and_uneven(tmp_path):
    pts = [90_000_000_000, 90_000_000_001, 90_000_900_000, 90_030_000_000]
    assert len(frames_of(write(tmp_path / "s.mkv", settings_of(video()), pts))) == 4
    assert len(frames_of(write(tmp_path / "t.mkv", settings_of(video()), [-5000, -3000, 7]))) == 3


def test_times_that_do_not_grow_are_refused(tmp_path):
    with SegmentWriter(tmp_path / "s.mkv", settings := settings_of(video())) as writer:
        writer.write(smooth(settings, 0), 5)
        with pytest.raises(ValueError, match="must grow"):
            writer.write(smooth(settings, 1), 5)


def test_identity_is_json():
    info = video("yuv420p10le")
    one, two = settings_of(info).identity(), settings_of(info).identity()
    assert one == two == json.loads(json.dumps(one))
    assert one != settings_of(info, crf=30).identity()


def test_an_encoder_that_loses_a_frame_is_an_error(tmp_path, monkeypatch):
    settings = settings_of(video(), codec="ffv1")
    writer = SegmentWriter(tmp_path / "s.mkv", settings)
    writer.write(smooth(settings, 0), 0)
    original = writer._mux
    monkeypatch.setattr(writer, "_mux", lambda packets: original(packets[:-1]))
    writer.write(smooth(settings, 1), 1)
    with pytest.raises(SegmentError, match="ffv1 lost 1 of 2 frames"):
        writer.close()


def test_a_full_disk_is_an_error_and_not_a_short_file(tmp_path):
    settings = settings_of(video(), codec="ffv1")
    noise = np.random.default_rng(1)
    shapes = plane_shapes(pixel_format(settings.pixel_format), 64, 48)
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, old[1]))
    try:
        with pytest.raises(OSError, match="too large"), SegmentWriter(tmp_path / "s.mkv", settings) as writer:
            for pts in range(12):
                writer.write([noise.integers(0, 255, shape, np.uint8) for shape in shapes], pts)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


def test_encoders_are_silent(tmp_path, capfd):
    for codec in ENCODERS:
        write(tmp_path / f"{codec}.mkv", settings_of(video(), codec=codec), [0, 1])
    assert capfd.readouterr() == ("", "")
