"""Kinds of video with side data: HDR, Dolby Vision, closed captions, 360° and stereo marks, time code."""

import struct
from collections.abc import Callable, Sequence

import av
from clips import make_clip
from side_data_clips import (
    AMBIENT_DATA,
    MASTERING,
    MPEG2_CODE,
    ST3D,
    SV3D,
    captioned_fields,
    captioned_h264,
    captioned_mpeg2,
    coded,
    coded_hevc,
    coded_uneven,
    dolby_vision,
    dolby_vision_rpu,
    frame_packed,
    hdr_hevc,
    hdr_vivid,
    icc_profile,
    marked,
    marked_matroska,
    old_google_box,
    side_data,
    turned,
    unknown_kind,
)

from kinds import Kind, Outcome


def check_mastering(outcome: Outcome) -> None:
    first = side_data(outcome.output)[0]
    *numbers, _, _ = struct.unpack("=22i", first["MASTERING_DISPLAY_METADATA"])
    values = [a / b for a, b in zip(numbers[::2], numbers[1::2], strict=True)]
    assert values[:8] == [value / 50_000 for value in MASTERING[:8]]
    assert values[8:] == [0.005, 1000]
    assert struct.unpack("=2I", first["CONTENT_LIGHT_LEVEL"]) == (1000, 400)


def check_captions_of_fields(outcome: Outcome) -> None:
    assert outcome.status == 0, outcome.lines
    found, kept = ([frame.get("A53_CC", b"") for frame in side_data(path)] for path in (outcome.source, outcome.output))
    assert len(found) == 12 and len(kept) == 6  # fields and frames
    assert b"".join(kept) == b"".join(found) and all(kept)


def keeps(*kinds: str, named: Sequence[str] = ()) -> Callable[[Outcome], None]:
    """Each new frame has those kinds of side data as the input's frame has them; a line has each text of `named`."""

    def check(outcome: Outcome) -> None:
        assert outcome.status == 0, outcome.lines
        before, after = side_data(outcome.source), side_data(outcome.output)
        assert len(before) == len(after) > 0
        for kind in kinds:
            assert all(kind in frame for frame in before)
            assert [frame.get(kind) for frame in after] == [frame[kind] for frame in before], kind
        for text in named:
            at = [number for number, line in enumerate(outcome.lines) if text in line]
            assert len(at) == 1 and at[0] < len(outcome.lines) - 1, outcome.lines  # before the work is done

    return check


def is_refused(text: str) -> Callable[[Outcome], None]:
    def check(outcome: Outcome) -> None:
        assert outcome.status == 2
        assert not outcome.output.exists()
        assert [line for line in outcome.lines if line.startswith("upscale: error:")] == outcome.lines[-1:]
        assert text in outcome.lines[-1]

    return check


def starts_at(text: str, number: int | None = None) -> Callable[[Outcome], None]:
    """The result's time code; `number` is that of its first frame in the time code track."""

    def check(outcome: Outcome) -> None:
        assert outcome.status == 0, outcome.lines
        with av.open(str(outcome.output)) as container:
            tags = {key.lower(): value for key, value in container.streams.video[0].metadata.items()}
            assert tags["timecode"] == text
            if number is not None:
                packet = next(container.demux(container.streams.data[0]))
                assert int.from_bytes(bytes(packet), "big") == number

    return check


KINDS = [
    Kind("mastering display beside an unknown kind of side data", unknown_kind, check_mastering),
    Kind("captions in H.264 at uneven times", captioned_h264, keeps("A53_CC", "AFD"), "out.mp4"),
    Kind("captions in MPEG-2", captioned_mpeg2, keeps("A53_CC")),
    Kind("captions in HEVC fields", captioned_fields, check_captions_of_fields),
    Kind("captions that VP9 can't carry", captioned_mpeg2, keeps(named=["closed captions are dropped"]), "out.webm"),
    Kind("HDR10+, captions and ambient light in HEVC", hdr_hevc, keeps("DYNAMIC_HDR_PLUS", "A53_CC", AMBIENT_DATA)),
    Kind(
        "HDR10+ and captions to AV1",
        hdr_hevc,
        keeps("DYNAMIC_HDR_PLUS", "A53_CC", named=["ambient viewing conditions are dropped"]),
        "out.mp4",
        ("--codec", "av1", "--preset", "10", "--crf", "20"),
    ),
    Kind("360° and stereo in MP4", marked(SV3D + ST3D), keeps("SPHERICAL", "STEREO3D"), "out.mp4"),
    Kind("stereo alone to MOV", marked(ST3D), keeps("STEREO3D"), "out.mov"),
    Kind("360° in the old box to WebM", old_google_box, keeps("SPHERICAL", "STEREO3D"), "out.webm"),
    Kind("frame packing of H.264", frame_packed, keeps("STEREO3D"), "out.mkv"),
    Kind("an ICC profile in a video", icc_profile, keeps(named=["its ICC colour profile is dropped"])),
    Kind("HDR Vivid", hdr_vivid, keeps(named=["HDR Vivid metadata is dropped"])),
    Kind("stereo and a rotation", turned, keeps(named=["its stereo mark is dropped"])),
    Kind("a turned sphere to MOV", marked(SV3D), keeps(named=["its 360° mark is dropped"]), "out.mov"),
    Kind("stereo in Matroska to MP4", marked_matroska(1), keeps("STEREO3D"), "out.mp4"),
    Kind("a checkerboard to MP4", marked_matroska(4), keeps(named=["its stereo mark is dropped"]), "out.mp4"),
    Kind("Dolby Vision 8.1", dolby_vision(8, "libx265"), keeps(named=["Dolby Vision (profile 8.1) is dropped"])),
    Kind("Dolby Vision 5", dolby_vision(5, "libx265"), is_refused("Dolby Vision profile 5 ")),
    Kind("Dolby Vision 5 without a record", dolby_vision_rpu(0, 1), is_refused("Dolby Vision profile 5 ")),
    Kind("Dolby Vision 8 without a record", dolby_vision_rpu(1, 0), keeps(named=["(profile 8) is dropped"])),
    Kind("Dolby Vision 10.0", dolby_vision(10, "libsvtav1"), is_refused("Dolby Vision profile 10 ")),
    Kind(
        "time code, last day",
        coded("in.mov", "23:59:59:20", "25", sound=True),
        starts_at("23:59:59:20", 2159995),
        "out.mov",
    ),
    Kind(
        "time code, a part", coded("in.mov", "10:00:00:23", "25"), starts_at("10:00:01:02"), options=("--frames", "5:")
    ),
    Kind(
        "drop-frame time code, a part",
        coded("in.mov", "00:00:59;28", "30000/1001"),
        starts_at("00:01:00;04", 1802),
        "out.mp4",
        ("--frames", "5:"),
    ),
    Kind("time code at uneven times", coded_uneven, starts_at("09:59:59:20", 899995), "out.mov"),
    Kind("time code at uneven times, a part", coded_uneven, starts_at("10:00:00:10"), options=("--frames", "6:")),
    Kind("time code in MPEG-2", lambda folder: make_clip(folder / "in.mpg", 4, **MPEG2_CODE), starts_at("01:02:03:04")),
    Kind("time code in HEVC", coded_hevc, starts_at("01:02:03:05"), "out.mp4", ("--frames", "2:")),
]
