"""Side data of decoded frames, by name; kinds that PyAV has no name for do not hide the others.

Names are those of libavutil/frame.h without AV_FRAME_DATA_.
"""

from collections.abc import Iterable, Iterator
from typing import cast

import av
from av.sidedata.sidedata import SideData, Type

# Kinds of FFmpeg that PyAV 18 has no name for.
_NEWER = {28: "LCEVC", 29: "VIEW_ID", 30: "3D_REFERENCE_DISPLAYS", 31: "EXIF"}


def _name_it(kind: type[Type], number: object) -> Type:
    """A member of PyAV's enumeration for a number that it does not know."""
    member = object.__new__(kind)
    member._name_, member._value_ = _NEWER.get(cast(int, number), f"UNKNOWN_{number}"), number
    return member


# PyAV asks its enumeration for each kind, and without this the first unknown one raises ValueError for all.
Type._missing_ = classmethod(_name_it)  # type: ignore[assignment]


def side_data_of(frame: av.VideoFrame) -> dict[str, bytes]:
    """A frame's side data by name, of each kind the last."""
    return {data.type.name: bytes(data) for data in cast(Iterable[SideData], frame.side_data)}


def watched(frames: Iterable[av.VideoFrame], seen: set[str]) -> Iterator[av.VideoFrame]:
    """The same frames; the names of their side data are added to `seen`."""
    for frame in frames:
        seen.update(side_data_of(frame))
        yield frame
