"""The shape of decoded frames: all that may change from one frame of a video to the next, read from each."""

from dataclasses import dataclass, field, replace
from fractions import Fraction

import av
from av.filter import Graph

from upscaling.decode.colour_tags import Colour, ContextTags, read_colour
from upscaling.decode.messages import Message
from upscaling.decode.side_data import side_data_of
from upscaling.demux.reader import Reader
from upscaling.frames.orientation import Orientation, from_matrix

# Formats without an aspect ratio of their own: that of each frame counts. In all others the file's header has the
# last word, as in FFmpeg's av_guess_sample_aspect_ratio.
_WITHOUT_ASPECT = {"mpegts", "mpeg", "h264", "hevc", "vvc", "mpegvideo", "m4v", "vc1", "dv", "obu"}
_ASPECT_STEPS = 4096  # the aspect ratio is read in steps of 1 / this


@dataclass(frozen=True)
class FrameShape:
    """How a decoded frame's samples lie, and how they are shown."""

    width: int  # pixels as coded, without those that are cropped
    height: int
    format: str  # FFmpeg's pixel format
    colour: Colour
    aspect: Fraction = Fraction(1)  # width : height of a pixel, as coded
    orientation: Orientation = field(default_factory=Orientation)
    crop: tuple[int, int] = (0, 0)  # pixels left out on the left and at the top

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels, upright."""
        return self.orientation.size(self.width, self.height)

    @property
    def upright_aspect(self) -> Fraction:
        """Width : height of a pixel, upright."""
        return 1 / self.aspect if self.orientation.transpose else self.aspect


@dataclass
class Decoding:
    """A frame on its way through the decoder."""

    number: int  # from 1, in presentation order
    pts: int
    frame: av.VideoFrame
    shape: FrameShape
    interlaced: bool  # flagged so
    messages: tuple[Message, ...] = ()  # for the new frame


class ShapeReader:
    """Reads the shapes of the frames of a file; equal shapes are the same object."""

    def __init__(self, reader: Reader, orientation: Orientation | None = None):
        """Made before the first frame is decoded, since a decoder changes its context's tags.

        `orientation`: of all frames; None if it may change. Then it holds until a frame says another one.
        """
        self.tags = ContextTags.of(reader.decoder)
        self._declared = _declared_aspect(reader.stream)
        self._measures_aspect = bool(_WITHOUT_ASPECT & set(reader.container.format.name.split(",")))
        self._aspects = _AspectReader()
        self._crop = reader.crop if reader.crop and reader.crop.fits else None
        self._shapes: dict[tuple, FrameShape] = {}
        self._orientation = orientation
        self._turned: tuple[tuple[int, int], Orientation] = ((0, 0), Orientation())  # the last (size, orientation)

    def read(self, frame: av.VideoFrame) -> FrameShape:
        """The shape of a frame as it comes from the decoder."""
        key = (
            frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, frame.color_primaries,
            frame.color_trc, self._aspect(frame), self._orientation_of(frame),
        )  # fmt: skip
        if key not in self._shapes:
            self._shapes[key] = self._describe(frame, *key[-2:])
        return self._shapes[key]

    def _orientation_of(self, frame: av.VideoFrame) -> Orientation:
        """H.264 and HEVC say it with a keyframe, for all the frames that follow."""
        if self._orientation is not None:
            return self._orientation
        size, said = (frame.width, frame.height), orientation_of(frame)
        if said is not None or size != self._turned[0]:
            self._turned = size, said or Orientation()
        return self._turned[1]

    def _aspect(self, frame: av.VideoFrame) -> Fraction:
        if not self._measures_aspect:
            return self._declared
        aspect = self._aspects.read(frame)
        near = abs(aspect - self._declared) * _ASPECT_STEPS <= 1
        return self._declared if near else plausible_aspect(aspect)

    def _describe(self, frame: av.VideoFrame, aspect: Fraction, orientation: Orientation) -> FrameShape:
        colour, _ = read_colour(frame, self.tags, frame.height)
        crop = self._crop
        shape = FrameShape(frame.width, frame.height, frame.format.name, colour, aspect, orientation)
        if crop is None or (frame.width, frame.height) != (crop.width, crop.height):
            return shape
        width, height = crop.width - crop.left - crop.right, crop.height - crop.top - crop.bottom
        return replace(shape, width=width, height=height, crop=(crop.left, crop.top))


def orientation_of(frame: av.VideoFrame) -> Orientation | None:
    """How a frame is to be turned, as it says itself; None if it does not, or if it is not by right angles."""
    matrix = side_data_of(frame).get("DISPLAYMATRIX")
    return None if matrix is None else from_matrix(matrix)


def _declared_aspect(stream: av.VideoStream) -> Fraction:
    return plausible_aspect(Fraction(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1))


def plausible_aspect(ratio: Fraction) -> Fraction:
    """A sample aspect ratio, or 1 if nothing can have it."""
    return ratio if Fraction(1, 100) < ratio < 100 else Fraction(1)


class _AspectReader:
    """Reads the sample aspect ratio of frames.

    PyAV does not have it, and the decoder's own is ahead of the frames that come out. FFmpeg's scale filter knows it
    for each frame: here it makes pictures that are as wide as the ratio is large, and a pixel high.
    """

    def __init__(self) -> None:
        self._graphs: dict[tuple[int, int, str], Graph] = {}

    def read(self, frame: av.VideoFrame) -> Fraction:
        key = (frame.width, frame.height, frame.format.name)
        graph = self._graphs.get(key) or self._graphs.setdefault(key, self._graph(frame))
        pts, frame.pts = frame.pts, None
        graph.vpush(frame)
        frame.pts = pts
        return Fraction(graph.vpull().width, _ASPECT_STEPS).limit_denominator(256)

    @staticmethod
    def _graph(frame: av.VideoFrame) -> Graph:
        graph = Graph()
        graph.threads = 1
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
        )
        width = f"w='clip(round(sar*{_ASPECT_STEPS}),1,16000)':h=1:eval=frame:flags=neighbor"
        graph.link_nodes(source, graph.add("scale", width), graph.add("buffersink")).configure()
        return graph
