"""`--model lanczos`: planes resized by libswscale through PyAV; no network, and no torch in the process.

One filter graph (buffer, scale, format, buffersink) a video: FFmpeg's `scale` filter rather than PyAV's
VideoReformatter, because only the filter can be told where the chroma samples lie, and resized by 2 they would move
by a quarter of a pixel. Where pixel format and colours stay, every plane is resized by itself and no colour touched.
"""

import av
import numpy as np

from upscaling.common.errors import UpscaleError
from upscaling.frames.conversion import FrameConversion, formats, is_unchanged, store_plane
from upscaling.frames.pixel_formats import PixelFormat, pixel_format, planes

# Names of the scale filter's matrices. The rest (ycgco, ictcp, ...) is kept as it is but can't be converted.
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


class Resizer:
    """Flat frames of a picture's input to flat frames of its output with Lanczos, on the calling thread alone.

    UpscaleError where libswscale has no such conversion.
    """

    def __init__(self, picture: FrameConversion):
        self.picture = picture
        self._source_format, self._target_format = formats(picture)
        self._unchanged = is_unchanged(picture)
        if self._unchanged:
            return
        # swscale changes depth by shifting, which is right for narrow range and 0.3 % too dark for full range
        self._rescaled = self._changes_depth() and picture.out_full_range and not self._target_format.rgb
        self._frame = av.VideoFrame(picture.width, picture.height, picture.pixel_format)
        self._inputs = _plane_arrays(self._frame, self._source_format)
        try:
            self._graph, self._buffer, self._sink = self._open()
        except (av.error.FFmpegError, ValueError) as error:
            raise self._refused(error) from error

    def _changes_depth(self) -> bool:
        return self._source_format.depth != self._target_format.depth

    def _open(self) -> tuple[av.filter.Graph, av.filter.context.FilterContext, av.filter.context.FilterContext]:
        p = self.picture
        target = p.out_pixel_format
        if self._rescaled and self._target_format.depth != 16:
            target = target.removesuffix(f"{self._target_format.depth}le") + "16le"
        graph = av.filter.Graph()
        graph.threads = 1
        size = f"{p.width}x{p.height}"
        source = graph.add("buffer", f"video_size={size}:pix_fmt={p.pixel_format}:time_base=1/1:pixel_aspect=1/1")
        scale = graph.add("scale", self._scale_arguments())
        sink = graph.add("buffersink")
        graph.link_nodes(source, scale, graph.add("format", f"pix_fmts={target}"), sink).configure()
        return graph, source, sink

    def _scale_arguments(self) -> str:
        p = self.picture
        source, target = self._source_format, self._target_format
        arguments = [f"{p.out_width}:{p.out_height}"]
        if p.pixel_format == p.out_pixel_format and not source.rgb:
            arguments.append("flags=lanczos")  # mean error -0.1 of a code; with accurate_rnd half as long again
        else:
            arguments.append("flags=lanczos+accurate_rnd+full_chroma_int+full_chroma_inp")
        for side, fmt, location in (("in", source, p.chroma_location), ("out", target, p.out_chroma_location)):
            if fmt.chroma not in (None, (0, 0)):
                arguments.append(f"{side}_chroma_loc={location if location in _LOCATIONS else 'left'}")
        if not source.rgb or not target.rgb:
            arguments += self._colour_arguments()
        return ":".join(arguments)

    def _colour_arguments(self) -> list[str]:
        """Matrix and range where they change; told the same on both sides, swscale leaves the planes alone."""
        p = self.picture
        source, target = self._source_format, self._target_format
        in_full, out_full = source.rgb or p.full_range, target.rgb or p.out_full_range
        if not source.rgb and not target.rgb and in_full == out_full:
            in_full = out_full = True  # swscale holds gray to be full range always: no change is the same then
        arguments = [f"in_range={'pc' if in_full else 'tv'}", f"out_range={'pc' if out_full else 'tv'}"]
        if source.rgb == target.rgb and p.matrix == p.out_matrix:
            return arguments
        if source.chroma is None and not source.rgb:
            return arguments  # gray has no matrix; its colours are added as none
        for side, fmt, matrix in (("in", source, p.matrix), ("out", target, p.out_matrix)):
            if not fmt.rgb:
                if matrix not in _MATRICES:
                    raise ValueError(f"matrix {matrix} can't be converted")
                arguments.append(f"{side}_color_matrix={_MATRICES[matrix]}")
        return arguments

    def __call__(self, frame: np.ndarray, out: np.ndarray) -> None:
        """`frame`: the samples of an input frame, any shape, may be read-only. `out`: flat, is filled."""
        p = self.picture
        if self._unchanged:
            np.copyto(out, frame.reshape(-1))
            return
        for source, target in zip(planes(frame, self._source_format, p.width, p.height), self._inputs, strict=True):
            np.copyto(target, source)
        try:
            self._buffer.push(self._frame)
            resized = self._sink.pull()
        except av.error.FFmpegError as error:
            raise self._refused(error) from error
        found = _plane_arrays(resized, pixel_format(resized.format.name))
        for plane, target in zip(found, planes(out, self._target_format, *p.stored_size), strict=True):
            store_plane(self._in_full_range(plane) if self._rescaled else plane, target)

    def _in_full_range(self, plane: np.ndarray) -> np.ndarray:
        """A 16-bit plane that holds codes of the source's depth shifted up, in the target's depth."""
        source, target = self._source_format.depth, self._target_format.depth
        factor = ((1 << target) - 1) / (((1 << source) - 1) << (16 - source))
        codes = np.multiply(plane, factor, dtype=np.float32)
        return np.rint(codes, out=codes).clip(0, (1 << target) - 1, out=codes).astype(self._target_format.dtype)

    def _refused(self, error: Exception) -> UpscaleError:
        p = self.picture
        return UpscaleError(
            f"libswscale can't make {p.out_width}x{p.out_height} {p.out_pixel_format} {p.out_matrix} of "
            f"{p.width}x{p.height} {p.pixel_format} {p.matrix} ({error}); "
            "choose another --pix-fmt or another --model"
        )


def _plane_arrays(frame: av.VideoFrame, fmt: PixelFormat) -> list[np.ndarray]:
    """Views of a frame's planes in the shapes of `frame.plane_shapes`; rows may be padded in memory."""
    arrays = []
    for plane in frame.planes:
        shape, size = (plane.height, plane.width), fmt.dtype.itemsize
        strides = (plane.line_size, fmt.channels * size)
        if fmt.rgb:
            shape, strides = (*shape, fmt.channels), (*strides, size)
        arrays.append(np.ndarray(shape, fmt.dtype, buffer=plane, strides=strides))
    return arrays
