"""The channels of sound in an order of their own, which MOV and MP4 can describe (7.1 with the sides first).

PyAV frees such a layout once for each time that it was looked at, and the process crashes. So every input's decoders
get a layout without an order as soon as it is open, and the order is read from a copy of the stream's parameters.
"""

import contextlib
import re
from collections.abc import Sequence
from io import BytesIO
from itertools import chain
from typing import cast

import av
import av.error
from av.audio.codeccontext import AudioCodecContext
from av.container import InputContainer
from av.stream import Stream

_STANDARD = (
    "2.1", "3.0", "3.0(back)", "4.0", "quad", "quad(side)", "3.1", "5.0", "5.0(side)", "4.1", "5.1", "5.1(side)", "6.0",
    "6.1", "6.1(back)", "hexagonal", "7.0", "7.1", "7.1(wide)", "7.1(wide-side)", "octagonal",
)  # fmt: skip


def settle_layouts(container: InputContainer) -> None:
    """Gives the decoders of sound layouts that PyAV can handle."""
    for stream in container.streams.audio:
        if stream.codec_context is not None:
            _take_names(stream.codec_context)


def is_unusual(layout: str) -> bool:
    """Whether FFmpeg's name of a layout lists its channels, because they have no common name or order."""
    return re.match(r"\d+ channels \(", layout) is not None


def channel_order(stream: Stream) -> list[int] | None:
    """Where the channels of the decoder's layout are among the stream's; None if they are in order."""
    if stream.type != "audio" or "mov" not in stream.container.format.name:
        return None
    with av.open(BytesIO(), "w", format="mov") as out, contextlib.suppress(av.error.FFmpegError, ValueError):
        copy = out.add_stream_from_template(stream, opaque=True)
        names = _take_names(cast(AudioCodecContext, copy.codec_context))
        if layout := _standard(names):
            return [names.index(channel.name) for channel in av.AudioLayout(layout).channels]
    return None


def _take_names(context: AudioCodecContext) -> Sequence[str]:
    """The names of channels that are in an order of their own, which the context loses; empty for others."""
    layout = context.layout
    if not is_unusual(layout.name):
        return ()
    names = [channel.name for channel in layout.channels]
    context.layout = _standard(names) or f"{layout.nb_channels} channels"  # now `layout` alone has the order
    return names


def _standard(names: Sequence[str]) -> str:
    """The usual layout of the same channels; empty if there is none."""
    found = (name for name in _STANDARD if sorted(c.name for c in av.AudioLayout(name).channels) == sorted(names))
    return next(chain(found, ("",)))
