"""Marks of a whole video that are kept or named: stereo, 360° projection, Dolby Vision, and messages of its frames."""

import struct

import av
from av.stream import Disposition

from upscaling.common.errors import InputError
from upscaling.decode.messages import MESSAGES
from upscaling.demux.stream_marks import stream_marks

# AVStereo3DType and whether the right view is first (libavutil/stereo3d.h) → Matroska's StereoMode
_STEREO_MODES = {(1, 0): 1, (1, 1): 11, (2, 0): 3, (2, 1): 2, (4, 0): 5, (4, 1): 4} | {
    (6, 0): 7, (6, 1): 6, (7, 0): 9, (7, 1): 8
}  # fmt: skip
_FLAT = struct.pack("=i", 4)  # AVSphericalProjection of an ordinary picture (libavutil/spherical.h)
_NO_BASE = {5, 10, 20}  # profiles of Dolby Vision that have no picture for other players if their compatibility is 0
_UNKNOWN = -1  # compatibility
# Side data → what is not in the new frames, whatever the output is.
_DROPPED = {
    "DYNAMIC_HDR_VIVID": "HDR Vivid metadata is dropped",
    "LCEVC": "the LCEVC enhancement layer is dropped; the base picture is upscaled",
}


def read_marks(
    stream: av.VideoStream,
    side_data: dict[str, bytes],
    seen: set[str],
    *,
    tagged: bool,
    as_coded: bool,
) -> tuple[dict[str, dict], list[str]]:
    """(marks in JSON's types, one line for each that is dropped whatever the output is).

    The marks are `stream_marks`' but Dolby Vision, {'messages': {'kinds': keys of MESSAGES}} and {'icc_profile':
    {'bytes': its size}}. `side_data` is the first frame's, `seen` has the names of that of more frames, `tagged`
    tells whether the colour matrix is known, `as_coded` whether frames are neither rotated nor cropped.
    InputError for Dolby Vision that is no picture without its metadata.
    """
    marks = stream_marks(stream)
    notes = [note for name, note in _DROPPED.items() if name in seen]
    codec = stream.codec_context.codec.canonical_name
    notes += _dolby_vision(marks.pop("dolby_vision", None), codec, side_data, tagged)
    if stream.disposition & Disposition.multilayer or "VIEW_ID" in seen:
        notes.append("it has several views (multi-view HEVC); only the first one is upscaled")
    elif "stereo" not in marks and (kind := _stereo(side_data)):
        if kind in _STEREO_MODES:  # in the coded pictures: frame packing of H.264 and HEVC
            marks["stereo"] = {"mode": _STEREO_MODES[kind]}
        else:
            notes.append("its stereo mark is dropped: it does not say where in a frame the two views are")
    if "projection" not in marks and side_data.get("SPHERICAL", _FLAT)[:4] != _FLAT:
        notes.append("its 360° mark is dropped: it is of a kind that nothing here writes")
    for name, words in (("stereo", "stereo"), ("projection", "360°")) if not as_coded else ():
        notes += (
            [f"its {words} mark is dropped: it is not true of the rotated or cropped picture"] if name in marks else []
        )
        marks.pop(name, None)
    if profile := side_data.get("ICC_PROFILE"):
        marks["icc_profile"] = {"bytes": len(profile)}
    if kinds := sorted(MESSAGES.keys() & seen):
        marks["messages"] = {"kinds": kinds}
    return marks, notes


def _stereo(side_data: dict[str, bytes]) -> tuple[int, int] | None:
    """(AVStereo3DType, 1 if the right view is first) of a frame; None if it is not stereo."""
    kind, flags = struct.unpack("=2i", side_data.get("STEREO3D", bytes(8))[:8])
    return (kind, flags & 1) if kind else None


def _dolby_vision(record: dict | None, codec: str, side_data: dict[str, bytes], tagged: bool) -> list[str]:
    """The line about Dolby Vision, from its configuration record or the frame's metadata; InputError."""
    if record is None and "DOVI_METADATA" not in side_data:
        return []
    guessed = record or _guessed(codec, side_data, tagged)
    profile, compatibility = guessed["profile"], guessed["compatibility"]
    if compatibility == 0 and (profile in _NO_BASE or not tagged):
        raise InputError(
            f"Dolby Vision profile {profile} has no picture for other players, only colours (IPTPQc2) that its "
            "metadata turns into one; convert it to HDR10 first (ffmpeg's filter libplacebo can)"
        )
    name = f"profile {profile}.{compatibility}" if profile >= 8 and compatibility > 0 else f"profile {profile}"
    base = {1: "HDR10", 2: "SDR", 4: "HLG", 6: "HDR10"}.get(compatibility, "base")
    return [f"Dolby Vision ({name}) is dropped; its {base} picture is upscaled"]


def _guessed(codec: str, side_data: dict[str, bytes], tagged: bool) -> dict[str, int]:
    """What a stream without a configuration record is: for HEVC as FFmpeg's libavcodec/dovi_rpu.c guesses.

    From AVDOVIRpuDataHeader of libavutil/dovi_meta.h: a profile of 0 with a full-range base layer is profile 5. In
    AV1 a base layer without colour tags is nothing that can be shown.
    """
    data = side_data["DOVI_METADATA"]
    (header,) = struct.unpack_from("=Q", data)
    rpu_profile, full_range = data[header + 4], data[header + 10]
    if codec == "hevc" and rpu_profile == 0 and full_range:
        return {"profile": 5, "compatibility": 0}
    if codec == "av1":
        return {"profile": 10, "compatibility": _UNKNOWN if tagged else 0}
    return {"profile": 8, "compatibility": _UNKNOWN}
