"""What a video stream's header says of its pictures beside size and colours: stereo, 360° projection, Dolby Vision.

PyAV gives no access to a stream's side data, but hands it to a muxer. So libavformat writes a Matroska header of the
stream, whatever container it comes from, and the marks are read from that (RFC 9559; for Dolby Vision the mapping
registered in the Matroska specification's "Codec BlockAdditional Mappings").
"""

import contextlib
from io import BytesIO

import av
import av.error

from upscaling.demux.ebml import TRACK_ENTRY, VIDEO, children, tracks_of

_STEREO_MODE, _PROJECTION, _PROJECTION_TYPE = 0x53B8, 0x7670, 0x7671
_MAPPING, _MAPPING_TYPE, _MAPPING_DATA = 0x41E4, 0x41E7, 0x41ED  # BlockAdditionMapping and two of its elements
_DOLBY_VISION = (b"dvcC", b"dvvC", b"dvwC")


def stream_marks(stream: av.VideoStream) -> dict[str, dict]:
    """The marks in JSON's types; an absent one has no key.

    {'stereo': {'mode': Matroska's StereoMode}, 'projection': {'element': content of Matroska's Projection,
    hexadecimal}, 'dolby_vision': {'profile': int, 'compatibility': int, 0 if its base layer is nothing that can be
    shown}}
    """
    marks: dict[str, dict] = {}
    for ident, content in _track_header(stream):
        if ident == VIDEO:
            for name, body in children(content):
                if name == _STEREO_MODE and int.from_bytes(body, "big"):
                    marks["stereo"] = {"mode": int.from_bytes(body, "big")}
                # Of type 0, rectangular, is what libavformat makes of a display matrix.
                elif name == _PROJECTION and any(dict(children(body)).get(_PROJECTION_TYPE, b"")):
                    marks["projection"] = {"element": body.hex()}
        elif ident == _MAPPING:
            mapping = dict(children(content))
            record = mapping.get(_MAPPING_DATA, b"")  # DOVIDecoderConfigurationRecord of Dolby's ISOBMFF specification
            if mapping.get(_MAPPING_TYPE, b"") in _DOLBY_VISION and len(record) >= 5:
                marks["dolby_vision"] = {"profile": record[2] >> 1, "compatibility": record[4] >> 4}
    return marks


def _track_header(stream: av.VideoStream) -> list[tuple[int, bytes]]:
    """(identifier, content) of the elements of a Matroska track for that stream; empty if Matroska has none for it."""
    file = BytesIO()
    with contextlib.suppress(av.error.FFmpegError, ValueError, RuntimeError, EOFError):
        out = av.open(file, "w", format="matroska", container_options={"strict": "unofficial"})
        out.add_stream_from_template(stream, opaque=True)
        out.start_encoding()
        _, tracks = tracks_of(BytesIO(file.getvalue()))
        track = next(content for ident, content in children(tracks) if ident == TRACK_ENTRY)
        return list(children(track))
    return []
