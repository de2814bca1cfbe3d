"""The main picture of a HEIF or AVIF file as samples: tiles composed, alpha, clean aperture, orientation."""

import struct
from typing import cast

import av
import numpy as np
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext

from upscaling.common.errors import InputError
from upscaling.decode.colour_tags import MATRICES, PRIMARIES, TRANSFERS
from upscaling.decode.planes import PlaneViewer, is_full_range, stored_format
from upscaling.frames.conversion import FrameConversion
from upscaling.frames.layout import FrameLayout
from upscaling.frames.pixel_formats import PixelFormat, plane_shapes
from upscaling.frames.swscale import Resizer
from upscaling.pictures.heif import HeifFile, Item

_CODECS = {b"hvc1": ("hevc", b"hvcC"), b"hev1": ("hevc", b"hvcC"), b"av01": ("libdav1d", b"av1C")}
_NAMES = {
    b"jpeg": "JPEG",
    b"avc1": "H.264",
    b"vvc1": "VVC",
    b"unci": "uncompressed",
    b"j2k1": "JPEG 2000",
    b"iovl": "overlay",
}
_BT601, _UNSPECIFIED = 6, 2  # code points of ISO/IEC 23091-2


class _Colours:
    """How the coded samples are read: matrix and range of the `colr` box, else of the bit stream, else MIAF's."""

    def __init__(self, nclx: bytes | None):
        self.primaries, self.transfer, self.matrix, self.full_range = 1, 13, _UNSPECIFIED, None
        if nclx is not None and len(nclx) >= 11:
            self.primaries, self.transfer, self.matrix = struct.unpack_from(">3H", nclx, 4)
            self.full_range = bool(nclx[10] >> 7)

    def layout(self, width: int, height: int, fmt: PixelFormat, frame: av.VideoFrame) -> FrameLayout:
        code = self.matrix if self.matrix != _UNSPECIFIED else int(frame.colorspace)
        full = self.full_range
        if full is None:
            full = frame.color_range != 1  # AVCOL_RANGE_MPEG
        matrix = MATRICES.get(code if code != _UNSPECIFIED else _BT601, "smpte170m")
        return FrameLayout(width, height, fmt.name, matrix, full, "center")


def decode_heif(data: bytes, max_pixels: int) -> tuple[np.ndarray, str, str]:
    """(samples, primaries, transfer): upright (height, width[, 3 or 4]), uint8 or uint16; FFmpeg's names of colours.

    InputError if it cannot be decoded.
    """
    file = HeifFile(data)
    main = file.main
    properties = file.properties(main)
    nclx = next((content for kind, content in properties if kind == b"colr" and content[:4] == b"nclx"), None)
    colours = _Colours(nclx)
    samples = _decode(file, main, colours, max_pixels)
    alpha_item = file.alpha(main)
    if alpha_item is not None:
        samples = _with_alpha(samples, _decode(file, alpha_item, _Colours(None), max_pixels))
    samples = _transformed(samples, properties)
    if file.info().profile is not None:
        return samples, "bt709", "iec61966-2-1"  # the profile says what they are
    return samples, PRIMARIES.get(colours.primaries, "bt709"), TRANSFERS.get(colours.transfer, "iec61966-2-1")


def _decode(file: HeifFile, item: Item, colours: _Colours, max_pixels: int) -> np.ndarray:
    """The samples of an item as coded: (height, width) or (height, width, 3)."""
    if item.kind != b"grid":
        _check_size(_size(item), max_pixels)
        frame, planes, fmt = _decode_item(file, item)
        return _as_samples(planes, colours.layout(frame.width, frame.height, fmt, frame))
    rows, columns, width, height = _grid(file.content(item))
    _check_size((width, height), max_pixels)
    tiles = file.tiles(item)
    if len(tiles) != rows * columns or not tiles:
        raise InputError("its tiles are damaged")
    frame = fmt = None
    canvas: list[np.ndarray] = []
    for number, tile in enumerate(tiles):
        frame, planes, tile_format = _decode_item(file, tile)
        if fmt is None:
            fmt = tile_format
            tile_size = (frame.width, frame.height)
            _check_size((frame.width * columns, frame.height * rows), 4 * max_pixels)
            canvas = [np.empty((p.shape[0] * rows, p.shape[1] * columns, *p.shape[2:]), p.dtype) for p in planes]
        if tile_format != fmt or (frame.width, frame.height) != tile_size:
            raise InputError("its tiles differ in size or format")
        row, column = divmod(number, columns)
        for plane, whole in zip(planes, canvas, strict=True):
            y, x = row * plane.shape[0], column * plane.shape[1]
            whole[y : y + plane.shape[0], x : x + plane.shape[1]] = plane
    assert frame is not None and fmt is not None
    if width > tile_size[0] * columns or height > tile_size[1] * rows:
        raise InputError("its tiles are smaller than the picture")
    shapes = plane_shapes(fmt, width, height)
    cropped = [whole[: shape[0], : shape[1]] for whole, shape in zip(canvas, shapes, strict=True)]
    return _as_samples(cropped, colours.layout(width, height, fmt, frame))


def _size(item: Item) -> tuple[int, int]:
    ispe = item.property(b"ispe")
    if ispe is None or len(ispe) < 12:
        raise InputError("its size is missing")
    return struct.unpack_from(">2I", ispe, 4)


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise InputError(f"a picture of {size[0]}x{size[1]} pixels is too large; the limit is {max_pixels} pixels")


def _grid(content: bytes) -> tuple[int, int, int, int]:
    """(rows, columns, width, height) of a grid item (ISO/IEC 23008-12, 6.6.2.3)."""
    if len(content) < 8:
        raise InputError("its tiles are damaged")
    width, height = struct.unpack_from(">2I" if content[1] & 1 and len(content) >= 12 else ">2H", content, 4)
    return content[2] + 1, content[3] + 1, width, height


def _decode_item(file: HeifFile, item: Item) -> tuple[av.VideoFrame, list[np.ndarray], PixelFormat]:
    """A coded item: its frame, and the planes of the format that holds it without loss."""
    if item.kind not in _CODECS:
        name = _NAMES.get(item.kind, item.kind.decode("ascii", "replace"))
        raise InputError(f"{name} pictures in HEIF files are not read; convert it to png or jpg")
    codec, configuration = _CODECS[item.kind]
    try:
        context = cast(VideoCodecContext, av.CodecContext.create(codec, "r"))
        if codec == "hevc":
            context.extradata = item.property(configuration)
        context.thread_count = 1
        frames = [*context.decode(av.Packet(file.content(item))), *context.decode(None)]
        if not frames:
            raise InputError("no picture in it can be decoded")
        frame = frames[0]
        stored = stored_format(frame.format.name)
        viewer = PlaneViewer(stored, is_full_range(frame) is not False)
        return frame, [plane.copy() for plane in viewer.planes(frame)], stored
    except (FFmpegError, ValueError) as error:
        raise InputError(f"it is damaged ({error})") from error


def _as_samples(planes: list[np.ndarray], layout: FrameLayout) -> np.ndarray:
    """Planes as full-range gray (height, width) or RGB (height, width, 3), 8 bits, or 16 if they have more."""
    deep, fmt = layout.format.depth > 8, layout.format
    if not fmt.rgb and (fmt.chroma is None or layout.matrix == "gbr"):
        return _scaled(planes[0] if fmt.chroma is None else np.dstack([planes[2], planes[0], planes[1]]), layout)
    target = FrameLayout(layout.width, layout.height, "rgb48le" if deep else "rgb24", "gbr", True)
    flat = np.concatenate([np.ascontiguousarray(plane).reshape(-1) for plane in planes])
    out = target.empty()
    Resizer(FrameConversion(source=layout, target=target))(flat, out)
    return out.reshape(target.stored_shape)


def _scaled(codes: np.ndarray, layout: FrameLayout) -> np.ndarray:
    """Codes of luma, or of R, G and B in planes of their own, in the full range of 8 or 16 bits."""
    zero, span = layout.luma_codes
    peak, dtype = (65535, np.uint16) if layout.format.depth > 8 else (255, np.uint8)
    return np.rint((codes.astype(np.float32) - zero) * (peak / span)).clip(0, peak).astype(dtype)


def _with_alpha(samples: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """RGBA (height, width, 4) of gray or RGB and an alpha channel, resized to it if need be."""
    alpha = alpha[..., 0] if alpha.ndim == 3 else alpha
    height, width = samples.shape[:2]
    if alpha.shape != (height, width):
        name = "gray16le" if alpha.dtype == np.uint16 else "gray"
        source = FrameLayout(alpha.shape[1], alpha.shape[0], name, full_range=True)
        target = FrameLayout(width, height, name, full_range=True)
        out = target.empty()
        Resizer(FrameConversion(source=source, target=target))(np.ascontiguousarray(alpha), out)
        alpha = out.reshape(height, width)
    if alpha.dtype != samples.dtype:
        alpha = alpha.astype(np.uint16) * 257 if samples.dtype == np.uint16 else (alpha >> 8).astype(np.uint8)
    colours = samples if samples.ndim == 3 else np.dstack([samples] * 3)
    return np.dstack([colours, alpha])


def _transformed(samples: np.ndarray, properties: list[tuple[bytes, bytes]]) -> np.ndarray:
    """Cropped, rotated and mirrored in the order of the properties (ISO/IEC 23008-12, 6.5.9, 6.5.10, 6.5.12)."""
    for kind, content in properties:
        if kind == b"clap" and len(content) >= 32:
            samples = _clean_aperture(samples, struct.unpack_from(">IIIIiIiI", content))
        elif kind == b"irot" and content:
            samples = np.rot90(samples, content[0] & 3)  # counterclockwise
        elif kind == b"imir" and content:
            samples = samples[:, ::-1] if content[0] & 1 else samples[::-1]
    return np.ascontiguousarray(samples)


def _clean_aperture(samples: np.ndarray, numbers: tuple[int, ...]) -> np.ndarray:
    """The pixels within a clean aperture: width, height, offsets of its centre, as numerators and denominators."""
    height, width = samples.shape[:2]
    if not all(numbers[1::2]):
        return samples
    wide, high, right, down = (top / bottom for top, bottom in zip(numbers[::2], numbers[1::2], strict=True))
    left, top = round((width - wide) / 2 + right), round((height - high) / 2 + down)
    left, top = max(0, left), max(0, top)
    cropped = samples[top : top + round(high), left : left + round(wide)]
    return cropped if cropped.size else samples
