"""Messages of frames (captions, HDR10+): each in the new frame of its own frame, whatever happens to the run."""

import signal
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from clips import make_clip, video_frame
from runs import LOSSLESS, ROOT, Run, records, wait_until
from side_data_clips import ST3D, SV3D, captions_t35, hdr10plus_t35, marked, rewritten, side_data, with_sei

from upscaling.decode.colour_tags import Colour
from upscaling.decode.hdr10plus import hdr10plus_message
from upscaling.encode.message_units import lost_messages
from upscaling.encode.settings import EncodeSettings
from upscaling.frames.placement import Placement


def captioned(path: Path, frames: int, first: int = 0) -> Path:
    """H.264 with captions from frame `first` on; frames 20 to 35 are a still, frame 40 has a thousand bytes of them."""
    pictures = [video_frame(20 if 20 <= number < 36 else number) for number in range(frames)]
    options = {"preset": "ultrafast", "crf": "0", "bf": "0"}
    clip = make_clip(path.with_name("plain.ts"), frames, pictures=pictures, options=options)

    def message(data: bytes, number: int) -> bytes:
        messages = [(4, captions_t35(number + copy)) for copy in range(30 if number == 40 else 1)]
        return with_sei(data, "h264", messages if number >= first else [])

    return rewritten(clip, path, message)


def captions(path: Path) -> list[bytes | None]:
    return [frame.get("A53_CC") for frame in side_data(path)]


def test_resumed_runs_and_parts_have_the_same_captions(tmp_path):
    source, output, part = captioned(tmp_path / "in.ts", 64), tmp_path / "out.mkv", tmp_path / "part.mkv"
    expected = captions(source)
    assert len(set(expected)) == 64 and len(expected[40]) > 93  # more than one message holds
    folder = tmp_path / "fault"
    folder.mkdir()
    slow = {"script": ROOT / "tests" / "faulty.py", "env": {"FAULT": f"slow:0:{folder}"}}
    run = Run(tmp_path, source, output, *LOSSLESS, "--segment-frames", "8", **slow)
    wait_until(lambda: records(tmp_path / "out.mkv.work") >= 2, "two segments")
    run.signal(signal.SIGKILL)
    run.wait()
    run.check_gone()
    again = Run(tmp_path, source, output, *LOSSLESS, "--segment-frames", "8").succeed()
    assert "resuming: " in again.errors
    assert captions(output) == expected
    Run(tmp_path, source, part, *LOSSLESS, "--frames", "11:50").succeed()
    assert captions(part) == expected[10:50]


def test_captions_that_begin_after_the_first_frames_are_named_when_the_result_cannot_carry_them(tmp_path):
    source = captioned(tmp_path / "in.ts", 48, first=40)
    run = Run(tmp_path, source, tmp_path / "out.mkv", *LOSSLESS[:3], "--codec", "ffv1").succeed()
    assert run.errors.count("closed captions are dropped: ffv1 can't carry them, h264, hevc and av1 could") == 1


def test_marks_of_the_whole_frame_are_named_when_it_is_padded(tmp_path):
    source, output = marked(SV3D + ST3D)(tmp_path), tmp_path / "out.mp4"
    run = Run(tmp_path, source, output, "192x96", "--fit", "pad", *LOSSLESS[1:3]).succeed()
    assert run.errors.count("mark is dropped: the picture is padded or cropped") == 2
    assert not {"SPHERICAL", "STEREO3D"} & side_data(output)[0].keys()


def test_an_hdr10plus_struct_becomes_the_message_that_it_came_from(tmp_path):
    options = {"x265-params": "log-level=none", "preset": "ultrafast", "bf": "0"}
    clip = make_clip(tmp_path / "a.ts", 3, codec="libx265", pix_fmt="yuv420p10le", options=options, rate=Fraction(24))
    rewritten(clip, tmp_path / "b.ts", lambda data, number: with_sei(data, "hevc", [(4, hdr10plus_t35(number))]))
    structs = [frame["DYNAMIC_HDR_PLUS"] for frame in side_data(tmp_path / "b.ts")]
    assert list(map(hdr10plus_message, structs)) == list(map(hdr10plus_t35, range(3)))
    assert hdr10plus_message(structs[0][:-1]) is None
    several_windows = structs[0][:2] + b"\2" + structs[0][3:]
    assert hdr10plus_message(several_windows) is None


def test_what_a_codec_cannot_carry_is_one_line_each():
    settings = EncodeSettings(
        codec="libx264", pixel_format="yuv420p", width=64, height=48,
        colour=Colour("bt709", False, "bt709", "bt709", "left"),
        time_base=Fraction(1, 25), frame_rate=Fraction(25), sample_aspect_ratio=Fraction(1), options={},
    )  # fmt: skip
    assert lost_messages(settings, ["A53_CC", "AFD", "AMBIENT_VIEWING_ENVIRONMENT"]) == []
    assert lost_messages(replace(settings, codec="libvpx-vp9"), ["A53_CC", "DYNAMIC_HDR_PLUS"]) == [
        "closed captions are dropped: vp9 can't carry them, h264, hevc and av1 could",
        "HDR10+ metadata are dropped: vp9 can't carry them, hevc and av1 could",
    ]
    padded = replace(settings, placement=Placement(60, 48, 2, 0))
    assert lost_messages(padded, ["A53_CC", "AFD"]) == [
        "active format descriptions are dropped: the picture is padded or cropped"
    ]
