"""Marks of a whole video that are kept or named: stereo, 360° projection, Dolby Vision, and messages of its frames."""

import struct

import av
from av.stream import Disposition

from upscaling.common.errors import InputError
from upscaling.decode.messages import MESSAGES
from upscaling.demux.stream_marks import stream_marks

_STEREO_2D, _STEREO_UNKNOWN = 0, 8  # AVStereo3DType: not stereo, no arrangement given (libavutil/stereo3d.h)
_NO_BASE = {5, 10, 20}  # profiles of Dolby Vision that have no picture for other players if their compatibility is 0
# Side data → what is not in the new frames, whatever the output is.
_DROPPED = {
    "DYNAMIC_HDR_VIVID": "HDR Vivid metadata is dropped",
    "LCEVC": "the LCEVC enhancement layer is dropped; the base picture is upscaled",
}


def read_marks(
    stream: av.VideoStream, side_data: dict[str, bytes], seen: set[str], tagged: bool
) -> tuple[dict[str, dict], list[str]]:
    """(marks in JSON's types, one line for each that is dropped whatever the output is).

    The marks are `stream_marks`' and {'messages': {'kinds': keys of MESSAGES}}. `side_data` is the first frame's,
    `seen` has the names of that of more frames, `tagged` tells whether the colour matrix is known. InputError for
    Dolby Vision that is not a picture without its metadata.
    """
    marks = stream_marks(stream)
    notes = [note for name, note in _DROPPED.items() if name in seen]
    notes += _dolby_vision(marks.pop("dolby_vision", None), side_data, tagged)
    if stream.disposition & Disposition.multilayer or "VIEW_ID" in seen:
        notes.append("it has several views (multi-view HEVC); only the first one is upscaled")
    elif "stereo" not in marks and _stereo_type(side_data) != _STEREO_2D:
        notes.append("its stereo mark is dropped: it does not say where the two views are")
    if "SPHERICAL" in side_data and "projection" not in marks:
        notes.append("its 360° mark is dropped: it is of a kind that nothing here writes")
    if kinds := sorted(MESSAGES.keys() & seen):
        marks["messages"] = {"kinds": kinds}
    return marks, notes


def _stereo_type(side_data: dict[str, bytes]) -> int:
    data = side_data.get("STEREO3D", b"")
    return struct.unpack("=i", data[:4])[0] if len(data) >= 4 else _STEREO_2D


def _dolby_vision(record: dict | None, side_data: dict[str, bytes], tagged: bool) -> list[str]:
    """The line about Dolby Vision, from its configuration record or the frame's metadata; InputError."""
    if record is None and "DOVI_METADATA" not in side_data:
        return []
    profile, compatibility = (record["profile"], record["compatibility"]) if record else _guessed(side_data)
    if compatibility == 0 and (profile in _NO_BASE or not tagged):
        raise InputError(
            f"Dolby Vision profile {profile} has no picture for other players, only colours (IPTPQc2) that its "
            "metadata turns into one; convert it to HDR10 first (ffmpeg's filter libplacebo can)"
        )
    name = f"profile {profile}.{compatibility}" if profile >= 8 and compatibility else f"profile {profile}"
    base = {1: "HDR10", 2: "SDR", 4: "HLG", 6: "HDR10"}.get(compatibility, "base")
    return [f"Dolby Vision ({name}) is dropped; its {base} picture is upscaled"]


def _guessed(side_data: dict[str, bytes]) -> tuple[int, int]:
    """(profile, compatibility) of HEVC without a configuration record, as FFmpeg's libavcodec/dovi_rpu.c guesses.

    From AVDOVIRpuDataHeader of libavutil/dovi_meta.h: a profile of 0 with a full-range base layer is profile 5.
    """
    data = side_data["DOVI_METADATA"]
    (header,) = struct.unpack_from("=Q", data)
    rpu_profile, full_range = data[header + 4], data[header + 10]
    return (5, 0) if rpu_profile == 0 and full_range else (8, 1)
