"""Clips with side data: HDR, Dolby Vision, closed captions, 360° and stereo marks, time code; and what a file has."""

import re
import struct
import zlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
from changing_clips import hevc_fields
from clips import make_clip, rotated


def rewritten(source: Path, target: Path, change) -> Path:
    """The video of `source` with every packet's bytes as `change(bytes, number)` returns them."""
    with av.open(str(source)) as original, av.open(str(target), "w") as out:
        stream = original.streams.video[0]
        copy = out.add_stream_from_template(stream, opaque=True)
        for number, packet in enumerate(p for p in original.demux(stream) if p.size):
            new = av.Packet(change(bytes(packet), number))
            new.pts, new.dts, new.duration = packet.pts, packet.dts, packet.duration
            new.time_base, new.is_keyframe, new.stream = packet.time_base, packet.is_keyframe, copy
            out.mux_one(new)
    return target


def side_data(path: Path) -> list[dict[str, bytes]]:
    """The side data of each decoded frame, by name."""
    with av.open(str(path)) as container:
        return [{data.type.name: bytes(data) for data in frame.side_data} for frame in container.decode(video=0)]


# Side data that PyAV has no name for

MASTERING = (34000, 16000, 13250, 34500, 7500, 3000, 15635, 16450, 10000000, 50)  # ST 2086's units


def unknown_kind(folder: Path) -> Path:
    """PNG frames with eXIf, which PyAV has no name for, before their mastering display and light level."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x01\0\0\0\0\0\0"  # an orientation: unchanged
    chunks = chunk(b"eXIf", exif) + chunk(b"mDCV", struct.pack(">8H2I", *MASTERING))
    chunks += chunk(b"cLLI", struct.pack(">2I", 10_000_000, 4_000_000))
    plain = make_clip(folder / "plain.mov", 2, codec="png", pix_fmt="rgb24")
    return rewritten(plain, folder / "in.mov", lambda data, _: data[:33] + chunks + data[33:])


# Messages of frames


def escaped(data: bytes) -> bytes:
    """A NAL unit's content without anything that looks like a start code."""
    result = b""
    for byte in data:
        result += b"\3" if result.endswith(b"\0\0") and byte <= 3 else b""
        result += bytes([byte])
    return result


def with_sei(data: bytes, codec: str, messages: Sequence[tuple[int, bytes]]) -> bytes:
    """A picture of H.264 or HEVC with start codes, and an SEI unit with (type, payload) before its first slice."""
    slices = {1, 5} if codec == "h264" else set(range(32))
    units = re.split(b"(?=\0\0\1)", data)
    kinds = [unit[3] & 31 if codec == "h264" else unit[3] >> 1 for unit in units[1:] if len(unit) > 3]
    first = next(number for number, kind in enumerate(kinds, 1) if kind in slices)
    content = b"".join(bytes([kind, len(payload)]) + payload for kind, payload in messages) + b"\x80"
    unit = b"\0\0\1" + (b"\x06" if codec == "h264" else b"\x4e\1") + escaped(content)
    return b"".join([*units[:first], unit, *units[first:]])


def caption(number: int) -> bytes:
    """A pair of CEA-608 that differs from frame to frame, and two that are empty."""
    return bytes([0xFC, 0x94, 0x20 + number % 64, 0xFD, 0x80, 0x80, 0xFA, 0, 0])


def captions_t35(number: int) -> bytes:
    pairs = caption(number)
    return b"\xb5\0\x31GA94\3" + bytes([0xC0 | len(pairs) // 3, 0xFF]) + pairs + b"\xff"


def hdr10plus_t35(number: int) -> bytes:
    """HDR10+ with every optional part (ST 2094-40): its luminances grow from frame to frame."""
    fields = [(1, 8), (1, 2), (400, 27), (1, 1), (2, 5), (3, 5)]  # version, windows, target, its peaks in 2 x 3
    fields += [(peak, 4) for peak in (15, 3, 7, 1, 0, 9)]
    fields += [(16000 + number, 17), (15310, 17), (21890, 17), (3380 + number, 17)]
    fields += [(2, 4), (1, 7), (17, 17), (99, 7), (50000, 17), (333, 10)]  # percentiles, bright pixels
    fields += [(1, 1), (2, 5), (2, 5), (1, 4), (2, 4), (3, 4), (4, 4)]  # peaks of the mastering display
    fields += [(1, 1), (1000, 12), (2000, 12), (2, 4), (300, 10), (900 + number, 10), (1, 1), (5, 6)]
    bits = "".join(f"{value:0{width}b}" for value, width in fields)
    bits += "0" * (-len(bits) % 8)
    return b"\xb5\0\x3c\0\1\4" + int(bits, 2).to_bytes(len(bits) // 8, "big")


AMBIENT = struct.pack(">IHH", 3_140_000, 15635, 16450)  # 314 lux, D65


AMBIENT_DATA = "AMBIENT_VIEWING_ENVIRONMENT"


AFD = b"\xb5\0\x31DTG1\x41\xfa"  # 10: 16:9


def captioned_h264(folder: Path) -> Path:
    """H.264 with B-frames at uneven times; captions and an active format description in SEI messages."""
    times = [0, 3003, 6006, 9009, 15000, 16000, 30000, 33003]
    options = {"preset": "medium", "bf": "2"}
    clip = make_clip(folder / "plain.ts", 8, time_base=Fraction(1, 90000), pts=times, options=options)

    def message(data: bytes, number: int) -> bytes:
        return with_sei(data, "h264", [(4, captions_t35(number)), (4, AFD)])

    return rewritten(clip, folder / "in.ts", message)


def captioned_mpeg2(folder: Path) -> Path:
    """MPEG-2 with ATSC captions in the user data before the first slice."""
    clip = make_clip(folder / "plain.ts", 6, codec="mpeg2video", options={"bf": "2", "q": "2"})

    def message(data: bytes, number: int) -> bytes:
        at = data.index(b"\0\0\1\1")  # the first slice
        return data[:at] + b"\0\0\1\xb2" + captions_t35(number)[3:] + data[at:]

    return rewritten(clip, folder / "in.ts", message)


def captioned_fields(folder: Path) -> Path:
    """HEVC coded as fields, each with a caption of its own."""
    clip = hevc_fields(folder / "plain.ts", 6)
    return rewritten(clip, folder / "in.ts", lambda data, at: with_sei(data, "hevc", [(4, captions_t35(at))]))


def hdr_hevc(folder: Path) -> Path:
    """HEVC Main 10 with HDR10+, captions and the ambient viewing environment."""
    options = {"x265-params": "log-level=none", "preset": "ultrafast", "bf": "2"}
    tags = {"colorspace": 9, "color_primaries": 9, "color_trc": 16, "color_range": 1}
    clip = make_clip(
        folder / "plain.ts", 8, codec="libx265", pix_fmt="yuv420p10le", options=options, tags=tags, rate=Fraction(24)
    )

    def message(data: bytes, number: int) -> bytes:
        messages = [(4, hdr10plus_t35(number)), (4, captions_t35(number)), (148, AMBIENT)]
        return with_sei(data, "hevc", messages)

    return rewritten(clip, folder / "in.ts", message)


# Marks of the whole video: 360°, stereo, Dolby Vision


def box(name: bytes, *content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + sum(map(len, content)), name) + b"".join(content)


VIDEO_ENTRY = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", None)


def with_boxes(path: Path, boxes: bytes, parents: Sequence[bytes | None] = VIDEO_ENTRY) -> Path:
    """An MP4 file, written without faststart, with boxes at the end of its video's sample entry, or of another box."""
    data = bytearray(path.read_bytes())
    places, start, end = [], 0, len(data)
    for parent in parents:
        while parent not in (None, bytes(data[start + 4 : start + 8])):
            start += int.from_bytes(data[start : start + 4], "big")
        places.append(start)
        end = start + int.from_bytes(data[start : start + 4], "big")
        start += 16 if parent == b"stsd" else 8
    data[end:end] = boxes
    for place in places:
        data[place : place + 4] = (int.from_bytes(data[place : place + 4], "big") + len(boxes)).to_bytes(4, "big")
    path.write_bytes(data)
    return path


# Google's Spherical Video V2 RFC: version and flags, then the box's own fields
ST3D = box(b"st3d", b"\0\0\0\0\1")  # top and bottom


SPHERE = box(b"proj", box(b"prhd", struct.pack(">Iiii", 0, 90 << 16, 0, 0)), box(b"equi", bytes(20)))


SV3D = box(b"sv3d", box(b"svhd", b"\0\0\0\0test\0"), SPHERE)


def marked(boxes: bytes) -> Callable[[Path], Path]:
    return lambda folder: with_boxes(make_clip(folder / "in.mp4", 3), boxes)


def old_google_box(folder: Path) -> Path:
    """The first version of Google's marks: XML in a uuid box of the track."""
    names = 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
    names += ' xmlns:GSpherical="http://ns.google.com/videos/1.0/spherical/"'
    facts = {"Spherical": "true", "Stitched": "true", "StitchingSoftware": "a test"}
    facts |= {"ProjectionType": "equirectangular", "StereoMode": "left-right"}
    fields = "".join(f"<GSpherical:{name}>{fact}</GSpherical:{name}>" for name, fact in facts.items())
    xml = f'<?xml version="1.0"?><rdf:SphericalVideo {names}>{fields}</rdf:SphericalVideo>'
    uuid = bytes.fromhex("ffcc8263f8554a938814587a02521fdd")
    return with_boxes(make_clip(folder / "in.mp4", 3), box(b"uuid", uuid, xml.encode()), (b"moov", b"trak"))


def frame_packed(folder: Path) -> Path:
    """H.264 with frame packing SEI messages (D.2.26): top and bottom, the right view first."""
    fields = [(1, 1), (0, 1), (4, 7), (0, 1), (2, 6), (0, 6), (0, 16), (0, 8), (1, 1), (0, 1)]
    bits = "".join(f"{value:0{width}b}" for value, width in fields).ljust(48, "0")
    payload = int(bits, 2).to_bytes(6, "big")
    clip = make_clip(folder / "plain.ts", 3)
    return rewritten(clip, folder / "in.ts", lambda data, _: with_sei(data, "h264", [(45, payload)]))


def icc_profile(folder: Path) -> Path:
    clip = make_clip(folder / "in.mov", 2, container_options={"movflags": "-write_colr"})
    return with_boxes(clip, box(b"colr", b"prof" + bytes(36) + b"acsp" + bytes(92)))


def hdr_vivid(folder: Path) -> Path:
    """HEVC with a message of CUVA's dynamic metadata, of which nothing but its presence counts here."""
    clip = make_clip(folder / "plain.ts", 2, codec="libx265", options={"x265-params": "log-level=none", "bf": "0"})
    message = b"\x26\0\4\0\5\1" + bytes(range(1, 81))
    return rewritten(clip, folder / "in.ts", lambda data, _: with_sei(data, "hevc", [(4, message)]))


def turned(folder: Path) -> Path:
    """Views side by side, which the display matrix puts one above the other."""
    return with_boxes(rotated(folder / "in.mp4", 90, frames=2), box(b"st3d", b"\0\0\0\0\2"))


def marked_matroska(mode: int) -> Callable[[Path], Path]:
    """A Matroska file with a StereoMode."""

    def make(folder: Path) -> Path:
        def setup(_, stream) -> None:
            stream.metadata["stereo_mode"] = str(mode)

        return make_clip(folder / "in.mkv", 3, setup=setup)

    return make


DOLBY_VISION = {5: (0, b"dvcC"), 8: (1, b"dvvC"), 7: (6, b"dvcC"), 10: (0, b"dvvC")}  # profile → compatibility, box


def dolby_vision(profile: int, codec: str) -> Callable[[Path], Path]:
    """A clip whose header has a Dolby Vision configuration record (Dolby's ISOBMFF specification, 3.2)."""
    compatibility, name = DOLBY_VISION[profile]
    record = bytes([1, 0, profile << 1, 1 << 3 | 5, compatibility << 4]) + bytes(19)
    options = {"x265-params": "log-level=none", "bf": "0"} if codec == "libx265" else {"preset": "10"}

    def make(folder: Path) -> Path:
        tags = {"colorspace": 9, "color_primaries": 9, "color_trc": 16, "color_range": 1} if compatibility else {}
        clip = make_clip(folder / "in.mp4", 2, codec=codec, pix_fmt="yuv420p10le", options=options, tags=tags)
        return with_boxes(clip, box(name, record))

    return make


def dolby_vision_rpu(profile: int, full_range: int) -> Callable[[Path], Path]:
    """HEVC whose pictures have Dolby Vision metadata (ETSI GS CCM 001), with nothing about it in the header."""

    def ue(number: int) -> str:  # Exp-Golomb
        code = f"{number + 1:b}"
        return "0" * (len(code) - 1) + code

    fields = [(2, 6), (18, 11), (profile, 4), (0, 4), (1, 1), (0, 1), (0, 2)]
    bits = "".join(f"{value:0{width}b}" for value, width in fields)
    bits += ue(23) + f"{1:02b}{full_range}" + ue(2) + ue(2) + ue(4) + "000001" + "00"  # 10 bits; no second layer
    bits += ue(0) * 3 + (ue(0) + f"{0:010b}{1023:010b}") * 3 + ue(0) * 2  # two pivots a component
    bits += (ue(0) * 2 + "0" + ue(0) + "0" * 23 + ue(1) + "0" * 23) * 3  # a line from 0 to 1
    bits = bits.ljust(-(-len(bits) // 8) * 8, "0")
    rpu = b"\x19" + int(bits, 2).to_bytes(len(bits) // 8, "big") + b"\1\2\3\4\x80"  # its CRC is not looked at
    options = {"x265-params": "log-level=none", "bf": "0"}

    def make(folder: Path) -> Path:
        clip = make_clip(folder / "plain.ts", 4, codec="libx265", pix_fmt="yuv420p10le", options=options)
        return rewritten(clip, folder / "in.ts", lambda data, _: data + b"\0\0\1\x7c\1" + escaped(rpu))

    return make


# Time code


def coded(name: str, text: str, rate: str = "25", **more) -> Callable[[Path], Path]:
    """A clip whose video has a time code: as a track (MOV), or as a tag (Matroska)."""

    def make(folder: Path) -> Path:
        def setup(_, stream) -> None:
            stream.metadata["timecode"] = text

        return make_clip(folder / name, 10, rate=Fraction(rate), setup=setup, **more)

    return make


def coded_uneven(folder: Path) -> Path:
    """Ten frames within a second, counted by 25 frames/s: the sixth is shown at 0.6 s."""
    times = [0, 40, 100, 300, 340, 600, 640, 700, 900, 960]
    more = {"codec": "ffv1", "time_base": Fraction(1, 1000), "pts": times, "options": {}}
    return coded("in.mkv", "09:59:59:20", **more)(folder)


def coded_hevc(folder: Path) -> Path:
    """HEVC with time code SEI messages (ITU-T H.265 D.2.27): 01:02:03:04 and so on."""
    options = {"x265-params": "log-level=none", "preset": "ultrafast", "bf": "0"}
    clip = make_clip(folder / "plain.ts", 4, codec="libx265", options=options)

    def message(data: bytes, number: int) -> bytes:
        fields = [
            (1, 2),
            (1, 1),
            (0, 1),
            (0, 5),
            (1, 1),
            (0, 1),
            (0, 1),
            (4 + number, 9),
            (3, 6),
            (2, 6),
            (1, 5),
            (0, 5),
        ]
        bits = "".join(f"{value:0{width}b}" for value, width in fields)
        return with_sei(data, "hevc", [(136, int(bits.ljust(48, "0"), 2).to_bytes(6, "big"))])

    return rewritten(clip, folder / "in.ts", message)


MPEG2_CODE = {"codec": "mpeg2video", "options": {"gop_timecode": "01:02:03:04"}}
