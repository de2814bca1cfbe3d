"""A transport or program stream read once before it is used: its clock, its programs, and streams that begin late.

    open_timed(path) ─► TimedInput ─► packets with continuous times, for the decoder and for streams that are copied

What there is to know of these files is spread all over them. The survey of a file is kept until the process ends or
the file changes, since every file is opened several times.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Discard, Stream

from upscaling.demux.clock import Clock, PacketTimes
from upscaling.demux.clock_search import find_clock
from upscaling.demux.input_file import Input, InputFile, open_input, read_packets
from upscaling.demux.main_stream import main_stream
from upscaling.demux.stream_ids import StreamIds, find_stream_ids

FORMATS = ("mpegts", "mpeg")  # FFmpeg's names of transport and program streams
_MARGIN = 1 << 20  # bytes after a stream's beginning that tell its parameters
_LONGER = 4  # times as many bytes, if those are not enough


@dataclass(frozen=True)
class Survey:
    """What is known of a file; nothing for other formats, whose headers tell everything.

    `probe_bytes`: how much FFmpeg has to read to know all streams; None if its default is enough.
    """

    clock: Clock = field(default_factory=Clock)
    ids: StreamIds = field(default_factory=StreamIds)
    probe_bytes: int | None = None


class TimedInput:
    """An open input whose packets have continuous times; a context manager."""

    def __init__(self, opened: Input, clock: Clock) -> None:
        self._opened, self.container, self.clock = opened, opened.container, clock
        self._numbers = defaultdict[int, count](count)  # of each stream's packets

    def __enter__(self) -> "TimedInput":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._opened.close()

    def packets(self, streams: Sequence[Stream], failed: Callable[[int], None]) -> Iterator[av.Packet]:
        """The packets of streams, as `read_packets` gives them, with the clock's times.

        They have to be read from the file's start, all of a stream: the clock counts them."""
        for packet in read_packets(self.container, streams, failed):
            if not self.clock.is_continuous:
                number = next(self._numbers[packet.stream_index])
                packet.dts, packet.pts = self.clock.times(packet.stream_index, number, packet.dts, packet.pts)
            yield packet


def open_timed(path: Path | str) -> TimedInput:
    """Opens an input with all streams that its survey found; errors as for `open_input`, and as for `main_stream`."""
    opened = open_input(path)
    found = survey(path, opened.container)
    if found.probe_bytes:
        opened.close()
        opened = open_input(path, found.probe_bytes)
    return TimedInput(opened, found.clock)


def survey(path: Path | str, container: InputContainer) -> Survey:
    """The survey of a file that is open as `container`; errors as for `open_timed`."""
    if container.format.name not in FORMATS:
        return Survey()
    path = Path(path).absolute()
    status = path.stat()
    return _survey(path, container.format.name, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=64)
def _survey(path: Path, name: str, version: tuple[int, ...]) -> Survey:
    """`version` tells a file from what it was before."""
    file = InputFile(path)
    try:
        ids = find_stream_ids(file, name)
    finally:
        file.close()
    probe_bytes = _probe_bytes(path, ids, version[2])
    with open_input(path, probe_bytes) as container:
        return Survey(_clock(container, path, ids), ids, probe_bytes)


def _probe_bytes(path: Path, ids: StreamIds, size: int) -> int | None:
    """How much FFmpeg has to read to know the streams that its default leaves unknown; None if that helps nothing.

    What remains unknown is encrypted, or of a kind that FFmpeg has no name for.
    """
    with open_input(path) as container:
        before = _known(container)
    missing = [at for stream, at in ids.begins.items() if stream not in before]
    best, most, probe_bytes = None, len(before), max(missing, default=0) + _MARGIN
    while missing and probe_bytes < _LONGER * (size + _MARGIN):
        with open_input(path, probe_bytes) as container:
            known = _known(container)
        if len(known) > most:
            best, most = probe_bytes, len(known)
        if not any(stream not in known for stream in ids.begins):
            break
        probe_bytes *= _LONGER
    return best


def _known(container: InputContainer) -> set[int]:
    """The ids of the streams whose parameters are known."""
    return {stream.id for stream in container.streams if has_parameters(stream)}


def has_parameters(stream: Stream) -> bool:
    """Whether FFmpeg knows what is needed to decode the stream, as far as it has a decoder."""
    context = stream.codec_context
    if isinstance(context, av.AudioCodecContext):
        return context.sample_rate > 0 and context.channels > 0
    if isinstance(context, av.VideoCodecContext):
        return context.width > 0
    return True


def _clock(container: InputContainer, path: Path, ids: StreamIds) -> Clock:
    main = main_stream(container, path)
    streams = [stream for stream in container.streams if ids.belongs(stream.id, main.id)]
    for stream in container.streams:
        if stream not in streams:
            stream.discard = Discard.all
    times = PacketTimes()
    for packet in read_packets(container, streams, lambda _: None):
        times.add(packet.stream_index, packet.dts, packet.pts)
    dense = {stream.index for stream in streams if stream.type in ("video", "audio")}
    return find_clock(times, dense, main.index)
