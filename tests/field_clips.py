"""Test clips that are interlaced, telecined, or progressive and easily taken for interlaced."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from clips import fill_plane, make_clip


def filtered(graph_text: str, frames: int) -> list[av.VideoFrame]:
    """The first frames of a filter graph that begins with a source: 'testsrc2=size=64x48:rate=50,setfield=tff'."""
    graph = av.filter.Graph()
    nodes = [graph.add(*part.split("=", 1)) for part in graph_text.split(",")] + [graph.add("buffersink")]
    graph.link_nodes(*nodes).configure()
    return [graph.vpull() for _ in range(frames)]


def woven(top: av.VideoFrame, bottom: av.VideoFrame) -> av.VideoFrame:
    """A 4:2:0 frame with the even rows of one picture and the odd rows of another."""
    frame = av.VideoFrame(top.width, top.height, "yuv420p")
    for plane, upper, lower in zip(frame.planes, top.planes, bottom.planes, strict=True):
        rows = np.frombuffer(lower, np.uint8).reshape(-1, lower.line_size)[:, : lower.width].copy()
        rows[0::2] = np.frombuffer(upper, np.uint8).reshape(-1, upper.line_size)[0::2, : upper.width]
        fill_plane(plane, rows)
    return frame


def moving(time: int, size: str) -> av.VideoFrame:
    """A pattern that moves 3 pixels to the right each unit of time; `size` as '160x120'."""
    width, height = map(int, size.split("x"))
    y, x = np.mgrid[0:height, 0:width]
    luma = 125 + 60 * np.sin((x - 3 * time) / 5) + 30 * np.sin(y / 9)
    frame = av.VideoFrame(width, height, "yuv420p")
    for plane, values in zip(frame.planes, (luma, np.full_like(luma, 110), np.full_like(luma, 140)), strict=True):
        fill_plane(plane, values[: plane.height, : plane.width].astype(np.uint8))
    return frame


def flagged_as(pictures: Sequence[av.VideoFrame], order: str) -> list[av.VideoFrame]:
    """The same pictures, flagged 'tff', 'bff' or 'prog'."""
    graph = av.filter.Graph()
    first = pictures[0]
    source = graph.add_buffer(width=first.width, height=first.height, format=first.format, time_base=Fraction(1, 25))
    graph.link_nodes(source, graph.add("setfield", order), graph.add("buffersink")).configure()
    result = []
    for picture in pictures:
        graph.vpush(picture)
        result.append(graph.vpull())
    return result


def interlaced(path, order: str = "tff", flagged: bool = True, frames: int = 20, size: str = "160x120") -> Path:
    """Real interlaced content: the fields are 1/50 s apart. H.264 in its interlaced mode if `flagged`."""
    fields = [moving(time, size) for time in range(frames * 2)]
    pairs = zip(fields[0::2], fields[1::2], strict=True)
    pictures = [woven(a, b) if order == "tff" else woven(b, a) for a, b in pairs]
    if flagged:
        pictures = flagged_as(pictures, order)
    width, height = map(int, size.split("x"))
    options = {"preset": "ultrafast", "crf": "8"} | ({"flags": "+ildct+ilme"} if flagged else {})
    return make_clip(path, frames, width=width, height=height, pictures=pictures, options=options)


def telecined(path, frames: int = 30) -> Path:
    """24 pictures/s as 30 frames/s, 2 of 5 combed (2:3 pulldown), not flagged."""
    shown = [time for time in range(frames) for _ in range(2 + time % 2)]  # fields: A A B B B C C D D D …
    fields = [moving(2 * time, "160x120") for time in shown[: frames * 2]]
    pictures = [woven(a, b) for a, b in zip(fields[0::2], fields[1::2], strict=True)]
    return make_clip(path, frames, width=160, height=120, pictures=pictures, rate=Fraction(30000, 1001))


def progressive(path, frames: int = 30, vertical: bool = False) -> Path:
    """Moving progressive content; `vertical` scrolls by a row a frame."""
    move = ",scroll=vertical=0.00833333" if vertical else ""
    pictures = filtered(f"testsrc2=size=160x120:rate=25,format=yuv420p{move}", frames)
    return make_clip(path, frames, width=160, height=120, pictures=pictures)
