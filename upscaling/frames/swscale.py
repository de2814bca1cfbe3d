"""Planes resized and converted by libswscale through PyAV, without torch.

One filter graph (buffer, scale, format, buffersink) per video: FFmpeg's `scale` filter rather than PyAV's
VideoReformatter, because only the filter takes the chroma location; without it, chroma moves by a quarter of a pixel
at x2. If pixel format and colours stay the same, every plane is resized by itself and no colour is changed.
"""

from dataclasses import replace
from typing import cast

import av
import numpy as np
from av.error import FFmpegError
from av.filter import Graph
from av.filter.context import FilterContext

from upscaling.common.errors import UpscaleError
from upscaling.frames.av_planes import av_planes
from upscaling.frames.conversion import FrameConversion, store_plane
from upscaling.frames.layout import FrameLayout
from upscaling.frames.pixel_formats import pixel_format

# The scale filter's names of matrices. Others (ycgco, ictcp, ...) pass unchanged but cannot be converted.
_MATRICES = {
    "bt709": "bt709",
    "fcc": "fcc",
    "bt601": "smpte170m",
    "bt470bg": "bt470bg",
    "smpte170m": "smpte170m",
    "smpte240m": "smpte240m",
    "bt2020nc": "bt2020nc",
    "bt2020c": "bt2020nc",
}
_LOCATIONS = ("left", "center", "topleft", "top", "bottomleft", "bottom")


def has_matrix(name: str) -> bool:
    """Whether libswscale converts from and to a matrix of that name."""
    return name in _MATRICES


def as_rgb(samples: np.ndarray, layout: FrameLayout, size: tuple[int, int], pixel_format: str = "rgb24") -> np.ndarray:
    """A flat frame as packed RGB of (width, height) `size`, (height, width, 3 or 4); resized by Lanczos.

    `pixel_format` is rgb24, rgba, rgb48le or rgba64le. UpscaleError if libswscale has no such conversion.
    """
    target = replace(layout.as_rgb24, width=size[0], height=size[1], pixel_format=pixel_format)
    out = target.empty()
    Resizer(FrameConversion(source=layout, target=target))(samples, out)
    return out.reshape(target.stored_shape)


class Resizer:
    """Resizes flat input frames of a conversion to flat output frames with Lanczos, on the calling thread alone.

    UpscaleError if libswscale has no such conversion.
    """

    def __init__(self, conversion: FrameConversion):
        self.conversion = conversion
        self._source, self._target = conversion.source, conversion.target
        if conversion.is_identity:
            return
        # swscale changes depth by shifting, which is right for narrow range and 0.3 % too dark for full range
        changes_depth = self._source.format.depth != self._target.format.depth
        self._rescaled = changes_depth and self._target.full_range and not self._target.format.rgb
        self._frame = av.VideoFrame(self._source.width, self._source.height, self._source.pixel_format)
        self._inputs = av_planes(self._frame, self._source.format)
        try:
            self._graph, self._buffer, self._sink = self._open()
        except (FFmpegError, ValueError) as error:
            raise self._refused(error) from error

    def _open(self) -> tuple[Graph, FilterContext, FilterContext]:
        source, target = self._source, self._target.pixel_format
        if self._rescaled and self._target.format.depth != 16:
            target = target.removesuffix(f"{self._target.format.depth}le") + "16le"
        graph = Graph()
        graph.threads = 1
        size = f"{source.width}x{source.height}"
        buffer = graph.add("buffer", f"video_size={size}:pix_fmt={source.pixel_format}:time_base=1/1:pixel_aspect=1/1")
        scale = graph.add("scale", self._scale_arguments())
        sink = graph.add("buffersink")
        graph.link_nodes(buffer, scale, graph.add("format", f"pix_fmts={target}"), sink).configure()
        return graph, buffer, sink

    def _scale_arguments(self) -> str:
        source, target = self._source, self._target
        arguments = [f"{target.width}:{target.height}"]
        same_colours = (source.matrix, source.full_range) == (target.matrix, target.full_range)
        if source.pixel_format == target.pixel_format and not source.format.rgb and same_colours:
            arguments.append("flags=lanczos")  # mean error -0.1 of a code; with accurate_rnd half as long again
        else:
            arguments.append("flags=lanczos+accurate_rnd+full_chroma_int+full_chroma_inp")
        for side, layout in (("in", source), ("out", target)):
            if layout.format.chroma not in (None, (0, 0)):
                location = layout.chroma_location if layout.chroma_location in _LOCATIONS else "left"
                arguments.append(f"{side}_chroma_loc={location}")
        if not source.format.rgb or not target.format.rgb:
            arguments += self._colour_arguments()
        return ":".join(arguments)

    def _colour_arguments(self) -> list[str]:
        """Matrix and range, if they change; if both sides are told the same, swscale leaves the planes alone."""
        source, target = self._source, self._target
        in_rgb, out_rgb = source.format.rgb, target.format.rgb
        in_full, out_full = in_rgb or source.full_range, out_rgb or target.full_range
        if not in_rgb and not out_rgb and in_full == out_full:
            in_full = out_full = True  # swscale takes gray for full range always: no change is the same then
        arguments = [f"in_range={'pc' if in_full else 'tv'}", f"out_range={'pc' if out_full else 'tv'}"]
        if in_rgb == out_rgb and source.matrix == target.matrix:
            return arguments
        if source.format.chroma is None and not in_rgb:
            return arguments  # gray has no matrix; neutral chroma is added
        for side, layout in (("in", source), ("out", target)):
            if not layout.format.rgb:
                if layout.matrix not in _MATRICES:
                    raise ValueError(f"matrix {layout.matrix} cannot be converted")
                arguments.append(f"{side}_color_matrix={_MATRICES[layout.matrix]}")
        return arguments

    def __call__(self, frame: np.ndarray, out: np.ndarray) -> None:
        """Resize `frame`, the samples of an input frame in any shape, maybe read-only, into `out`, flat."""
        if self.conversion.is_identity:
            np.copyto(out, frame.reshape(-1))
            return
        for plane, target in zip(self._source.planes(frame), self._inputs, strict=True):
            np.copyto(target, plane)
        try:
            self._buffer.push(self._frame)
            resized = cast(av.VideoFrame, self._sink.pull())
        except FFmpegError as error:
            raise self._refused(error) from error
        found = av_planes(resized, pixel_format(resized.format.name))
        for plane, target in zip(found, self._target.padded.planes(out), strict=True):
            store_plane(self._in_full_range(plane) if self._rescaled else plane, target)

    def _in_full_range(self, plane: np.ndarray) -> np.ndarray:
        """A 16-bit plane that holds codes of the source's depth shifted up, in the target's depth."""
        source, peak = self._source.format.depth, self._target.peak
        factor = peak / (((1 << source) - 1) << (16 - source))
        codes = np.multiply(plane, factor, dtype=np.float32)
        return np.rint(codes, out=codes).clip(0, peak, out=codes).astype(self._target.format.dtype)

    def _refused(self, error: Exception) -> UpscaleError:
        a, b = self._source, self._target
        return UpscaleError(
            f"libswscale cannot convert {a.width}x{a.height} {a.pixel_format} {a.matrix} to "
            f"{b.width}x{b.height} {b.pixel_format} {b.matrix} ({error}); choose another --pix-fmt or another --model"
        )
