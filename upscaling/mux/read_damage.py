"""The places of the input that can't be read while its streams are copied, for a warning."""

from collections.abc import Iterable
from fractions import Fraction

import av

from upscaling.common.text import many
from upscaling.demux.input_file import MAX_READ_ERRORS
from upscaling.mux.stream_copy import StreamCopier

_MAX_LISTED = 5  # places in the message


class UnreadablePlaces:
    """Counts failures to read packets, each with the time of the last packet before it."""

    def __init__(self) -> None:
        self._places: list[Fraction] = []  # seconds
        self._now = Fraction(0)
        self._ended_early = False

    def read(self, packet: av.Packet) -> None:
        """Takes note of a packet that was read."""
        time = packet.dts if packet.dts is not None else packet.pts
        if time is not None:
            self._now = time * packet.time_base

    def count(self, consecutive: int) -> None:
        """Takes note of a failure, the `consecutive`-th one after another."""
        if consecutive == 1:
            self._places.append(self._now)
        self._ended_early = consecutive >= MAX_READ_ERRORS

    def report(self, copiers: Iterable[StreamCopier]) -> str | None:
        """One line for the user about those copiers' streams; None if everything could be read."""
        kinds = sorted({copier.stream.type for copier in copiers if copier.reads_packets})
        if not self._places or not kinds:
            return None
        listed = ", ".join(f"{float(place):.1f} s" for place in self._places[:_MAX_LISTED])
        more = ", …" if len(self._places) > _MAX_LISTED else ""
        rest = f"; everything after {float(self._places[-1]):.1f} s is missing" if self._ended_early else ""
        return (
            f"damaged input: {' and '.join(kinds)} packets are missing at {many(len(self._places), 'place')} that "
            f"cannot be read (after {listed}{more}){rest}"
        )
