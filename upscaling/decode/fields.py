"""Fields that are pictures of their own (HEVC), woven into frames: one frame for two fields, at the first one's time.

H.264 and MPEG-2 need none of this: their decoders return whole frames.
"""

from collections.abc import Iterator
from fractions import Fraction

import av
from av.filter import Graph

from upscaling.decode.messages import keep_messages
from upscaling.demux.bitstream import FieldPairing, Parity
from upscaling.demux.reader import Reader

Field = tuple[av.VideoFrame, Parity | None]


def frames_of(reader: Reader, gap: int | None = None) -> Iterator[av.VideoFrame]:
    """The frames of a file, those of two fields woven and flagged as interlaced; a field without another is doubled.

    `gap`: the fields of a frame are no more than so many ticks apart; None if the rate is not known.
    """
    first: Field | None = None
    pairing = FieldPairing(gap)
    for picture in reader:
        if not is_field(picture, reader):
            if first:
                yield _woven(first, first)
            first = None
            pairing = FieldPairing(gap)
            yield picture
            continue
        parity = reader.parity_at(picture.pts)
        second = pairing.is_second(picture.pts, parity) and first is not None and _are_alike(first[0], picture)
        if first:
            yield _woven(first, (picture, parity) if second else first)
        first = None if second else (picture, parity)
    if first:
        yield _woven(first, first)


def _are_alike(a: av.VideoFrame, b: av.VideoFrame) -> bool:
    return (a.width, a.height, a.format.name) == (b.width, b.height, b.format.name)


def is_field(picture: av.VideoFrame, reader: Reader) -> bool:
    """Whether a decoded picture is one field: FFmpeg flags no other pictures of HEVC as interlaced."""
    return reader.decoder.codec.canonical_name == "hevc" and picture.interlaced_frame


def doubled(picture: av.VideoFrame) -> av.VideoFrame:
    """A frame of a single field."""
    return _woven((picture, None), (picture, None))


def _woven(first: Field, second: Field) -> av.VideoFrame:
    """A frame with the rows of two fields of one size and pixel format, at the first one's time."""
    picture = first[0]
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=picture.width, height=picture.height, format=picture.format, time_base=Fraction(1, 1000)
    )
    bottom_first = first[1] is Parity.BOTTOM or (first[1] is None and second[1] is Parity.TOP)
    parity = "bottom" if bottom_first else "top"
    graph.link_nodes(source, graph.add("weave", f"first_field={parity}"), graph.add("buffersink")).configure()
    times = picture.pts, picture.dts, picture.duration
    for number, (field, _) in enumerate((first, second)):
        field.pts = number
        graph.vpush(field)
    frame = graph.vpull()
    frame.pts, frame.dts, frame.duration = times
    keep_messages(frame, first[0], second[0])
    return frame
