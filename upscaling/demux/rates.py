"""A video's frame rate, duration and number of frames, by its header and the times of its first packets."""

import itertools
from fractions import Fraction

import av
from av.container import InputContainer

from upscaling.demux.reader import MAX_REORDER, Reader, seconds_per_tick

_RATE_PACKETS = 120  # packets whose times the frame rate is measured on
_RATE_BYTES = 32 << 20  # but no more than this is read for it
_COMMON_RATES = [Fraction(n) for n in (8, 10, 12, 15, 16, 18, 20, 24, 25, 30, 48, 50, 60, 90, 100, 120, 144, 240)]
_COMMON_RATES += [Fraction(n * 1000, 1001) for n in (24, 30, 48, 60, 120, 240)] + [Fraction(15000, 1001)]
_GAP_STEPS, _MAX_GAPS = 10, 0.05  # a gap is longer than so many usual steps; more of all steps are no gaps
_MAX_RATE = Fraction(1000)  # frames/s; a higher rate in a header is not believed
_MAX_DURATION = 10 * 365 * 86400  # seconds


def duration_of(reader: Reader) -> Fraction | None:
    """Seconds; None if the file does not say."""
    seconds, stream = None, reader.stream
    tick = seconds_per_tick(stream)
    if reader.clock.span:
        first, end = reader.clock.span
        seconds = (end - first) * tick
    elif stream.duration and stream.duration > 0:
        seconds = stream.duration * tick
    elif reader.container.duration and reader.container.duration > 0:
        seconds = Fraction(reader.container.duration, 1_000_000)  # AV_TIME_BASE
        if "matroska" in reader.container.format.name:  # it counts from zero, not from the first frame
            seconds -= max(stream.start_time or 0, 0) * tick
    return seconds if seconds is not None and 0 < seconds < _MAX_DURATION else None


def frame_rate(reader: Reader) -> Fraction | None:
    """Frames/s: the container's rate if the first packets' times agree, else the rate of those times."""
    stream, tick = reader.stream, seconds_per_tick(reader.stream)
    for _ in itertools.takewhile(lambda _: _needs_more_times(reader), reader.packets()):
        pass
    times = sorted(set(reader.packet_times))
    if len(times) > 3 * MAX_REORDER:
        del times[-MAX_REORDER:]  # between the last ones, frames may be missing whose packets come later in the file
    declared = [Fraction(rate) for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate) if rate]
    declared = [rate for rate in declared if 0 < rate <= _MAX_RATE]
    if len(times) < 3:
        return next((rate for rate in declared if rate <= max(_COMMON_RATES)), None)
    measured = _rate_between_gaps(times) / tick
    error = max(measured * 2 / (times[-1] - times[0]), measured / 500)  # times are rounded to ticks
    if reader.untimed_packets:  # frames so small that several share a packet of a program stream
        measured *= 1 + Fraction(reader.untimed_packets, len(reader.packet_times))
        error = measured / 20
    near = [rate for rate in declared if abs(rate - measured) <= error]
    plausible = [rate for rate in declared[:1] if measured / 8 < rate < measured * 8 and not reader.second_fields]
    if not near and stream.frames > len(times) and plausible:
        return plausible[0]  # uneven times; this average is over all the frames that the container lists
    near = near or [rate for rate in _COMMON_RATES if abs(rate - measured) <= error]
    if near:
        return _snap(min(near, key=lambda rate: abs(rate - measured)), tick)
    if measured > _MAX_RATE:
        return None
    return measured.limit_denominator(1001) or measured


def _rate_between_gaps(times: list[int]) -> Fraction:
    """Frames a tick at these times: their average, without a few long gaps."""
    steps = sorted(after - before for before, after in itertools.pairwise(times))
    longest = _GAP_STEPS * steps[len(steps) // 2]
    gaps = sum(step > longest for step in steps)
    if gaps <= len(steps) * _MAX_GAPS:
        steps = steps[: len(steps) - gaps]
    return Fraction(len(steps), sum(steps))


def _needs_more_times(reader: Reader) -> bool:
    count = len(reader.packet_times)
    return count < 3 or (count < _RATE_PACKETS and reader.bytes_read < _RATE_BYTES)


def _snap(rate: Fraction, tick: Fraction) -> Fraction:
    """`rate`, or the common rate that it misses only because a frame is not a whole number of ticks."""
    if (1 / (rate * tick)).denominator == 1:
        return rate
    nearest = min(_COMMON_RATES, key=lambda common: abs(common - rate))
    return nearest if abs(nearest - rate) * 5000 <= rate else rate


def frame_count(reader: Reader, rate: Fraction | None, duration: Fraction | None, share: Fraction) -> int | None:
    """An estimate; `share` of the packets begin a frame."""
    by_rate = round(rate * duration) if rate and duration else 0
    if packets := round(reader.clock.packets * share):  # fewer than that in gaps
        by_rate = min(by_rate or packets, packets)
    count = round(_container_count(reader.stream) * share) or by_rate
    return count if 0 < count <= reader.path.stat().st_size else None  # no frame is smaller than a byte


def _container_count(stream: av.VideoStream) -> int:
    """The number of frames in the stream's header, or in Matroska's statistics tags; 0 if there is none."""
    tags = {key.upper(): value for key, value in stream.metadata.items()}
    statistics = next((value for key, value in tags.items() if key.startswith("NUMBER_OF_FRAMES")), "")
    return stream.frames or (int(statistics) if statistics.isdecimal() else 0)


def listed_frames(
    container: InputContainer,
    stream: av.VideoStream,
    rate: Fraction | None,
    duration: Fraction | None,
    share: Fraction,
) -> int | None:
    """The container's count; less if its duration is shorter, or if an edit list of MP4 hides frames.

    `share` of its packets begin a frame.
    """
    count = _container_count(stream)
    if "mp4" in container.format.name:
        count = min(count, sum(not entry.is_discard for entry in stream.index_entries))
    return min(round(count * share), round(rate * duration)) if count and rate and duration else None
