"""av_planes.py: views of PyAV's frames, padded rows and bottom-up ones included."""

import av
import numpy as np
import pytest

from upscaling.frames.av_planes import av_planes
from upscaling.frames.pixel_formats import FORMATS, plane_shapes


def filtered(frame, name):
    graph = av.filter.Graph()
    graph.link_nodes(graph.add_buffer(template=None, width=frame.width, height=frame.height, format=frame.format,
                                      time_base=1), graph.add(name), graph.add("buffersink")).configure()  # fmt: skip
    graph.push(frame)
    return graph.pull()


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_written_to_the_views_is_in_the_frame(name):
    fmt = FORMATS[name]
    frame = av.VideoFrame(13, 7, name)
    views = av_planes(frame, fmt)
    assert [view.shape for view in views] == plane_shapes(fmt, 13, 7)
    for index, view in enumerate(views):
        view[...] = np.arange(view.size).reshape(view.shape) % 200 + index
    for index, (plane, shape) in enumerate(zip(frame.planes, plane_shapes(fmt, 13, 7), strict=True)):
        row_bytes = int(np.prod(shape[1:])) * fmt.dtype.itemsize
        rows = np.frombuffer(plane, np.uint8).reshape(shape[0], plane.line_size)[:, :row_bytes]
        assert np.array_equal(rows.copy().view(fmt.dtype).ravel(), np.arange(np.prod(shape)) % 200 + index)


@pytest.mark.parametrize("name", ["yuv420p", "rgb24", "gray10le"])
def test_rows_that_are_stored_bottom_up_are_turned(name):
    fmt = FORMATS[name]
    frame = av.VideoFrame(12, 8, name)
    before = av_planes(frame, fmt)
    for view in before:
        view[...] = np.arange(view.size).reshape(view.shape) % 200
    flipped = filtered(frame, "vflip")
    assert flipped.planes[0].line_size < 0
    for a, b in zip(before, av_planes(flipped, fmt), strict=True):
        assert np.array_equal(a[::-1], b)


def test_a_dropped_alpha_plane_is_left_out():
    frame = av.VideoFrame(6, 4, "yuva420p")
    assert len(av_planes(frame, FORMATS["yuva420p"])) == 4
    assert len(av_planes(frame, FORMATS["yuv420p"])) == 3
