"""Encoders: which one is chosen, its pixel format and options, and one line for what it does not support."""

import os

import pytest
from encoding import ENCODERS, settings_of, video

from upscaling.common.errors import InputError
from upscaling.encode import codecs
from upscaling.encode.segment_writer import SegmentWriter


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


def test_small_ten_bit_frames_are_not_encoded_with_x265():
    """x265 4.x writes past its buffers below 64 pixels of width."""
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
def test_an_unsupported_option_is_one_line(asked, words):
    with pytest.raises(InputError, match=words) as caught:
        settings_of(video(), **asked)
    assert "\n" not in str(caught.value)


def test_an_unusable_encoder_is_refused_with_the_usable_ones():
    if "h264_nvenc" in codecs.usable_encoders():
        assert settings_of(video(width=256, height=144), codec="h264_nvenc").options["cq"]
    else:
        with pytest.raises(InputError, match=r"h264_nvenc can't be used here \(no NVIDIA driver: lib.*libx264"):
            settings_of(video(width=256, height=144), codec="h264_nvenc")


@pytest.mark.skipif(os.geteuid() != 0, reason="SVT-AV1 makes threads real-time only if it is run by root")
def test_an_encoder_does_not_make_this_process_real_time(tmp_path):
    writer = SegmentWriter(tmp_path / "segment.mkv", settings_of(video("yuv420p"), codec="libsvtav1"))
    policies = {os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")}
    writer.__exit__(Exception, None, None)  # nothing was written
    assert policies == {os.SCHED_OTHER}
