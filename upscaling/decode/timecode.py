"""The time code of a video's first frame, and that of any later moment (SMPTE ST 12-1).

`hh:mm:ss:ff` counts frames of a whole number a second, `hh:mm:ss;ff` leaves out numbers, so that 29.97 and 59.94
frames/s keep pace with the clock: of each minute but every tenth, the first two (four) numbers. It counts by the clock
of the recording, so frames at uneven times have the number of their moment, not of their place.
"""

import contextlib
import re
import struct
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import av.error
from av.container import InputContainer
from av.stream import Stream

from upscaling.common.notation import round_half_up
from upscaling.demux.input_file import VideoError, open_input, read_packets

_TEXT = re.compile(r"([0-9]{1,2}):([0-5]?[0-9]):([0-5]?[0-9])([:;.,])([0-9]{1,3})")
_STANDARD = (24, 25, 30, 48, 50, 60, 100, 120)  # frames/s that count
_NTSC = Fraction(1000, 1001)
_NTSC_TICKS = (24_000, 30_000, 60_000, 120_000)  # ticks/s of time code tracks of NTSC's rates
_USUAL_RATE = Fraction(25)


def read_timecode(
    path: Path,
    container: InputContainer,
    stream: av.VideoStream,
    first: tuple[Fraction, Mapping[str, bytes]],
    rate: Fraction | None,
) -> dict[str, str] | None:
    """{'first': time code, 'rate': frames/s by which it counts, 'start': the first frame's time in seconds}, or None.

    From the container's tags, else from the `first` frame, which is its time in seconds and its side data. `rate` is
    the video's, in frames/s. None if there is no time code; a text that is none is returned without a rate.
    """
    rates = [one for one in (rate, stream.average_rate, stream.guessed_rate, stream.base_rate) if one] or [_USUAL_RATE]
    found = _in_tags(path, container, stream, rates)
    if found is None and (text := _in_frame(first[1], rates[0])):
        found = _with_rate(text, rates)
        found = found if "rate" in found else None  # MPEG-2 always has one, and often nonsense
    return found and found | {"start": str(first[0])}


def _in_tags(
    path: Path, container: InputContainer, stream: av.VideoStream, rates: Sequence[Fraction]
) -> dict[str, str] | None:
    tracks = [other for other in container.streams if other.type == "data" and "timecode" in other.metadata]
    for tags in (stream.metadata, container.metadata, *(track.metadata for track in tracks)):
        text = next((value for key, value in tags.items() if key.lower() == "timecode"), "").strip()
        if text:
            count = _count_of(path, tracks[0]) if tracks else None
            ticks = tracks[0].time_base.denominator if tracks and tracks[0].time_base else 0
            return _with_rate(text, rates, count, ticks)
    return None


def timecode_at(timecode: Mapping[str, str], seconds: Fraction) -> str:
    """The time code of the frame shown at that time of the video; `timecode` is what `read_timecode` returns."""
    fields = _TEXT.fullmatch(timecode["first"])
    assert fields, "read_timecode gives a rate to time codes only"
    rate = Fraction(timecode["rate"])
    drop, nominal = _is_drop(fields), round(rate)
    since = (seconds - Fraction(timecode["start"])) * rate
    number = _number(fields, nominal, drop) + round_half_up(since)
    return _text(number % _number_at(24, nominal, drop), nominal, drop)


# Numbers of frames


def _number(fields: re.Match, nominal: int, drop: bool) -> int:
    """The number of a time code's frame, from 0 at 00:00:00:00."""
    hours, minutes, seconds = (int(fields[group]) for group in (1, 2, 3))
    minutes += 60 * hours
    dropped = nominal // 15 * (minutes - minutes // 10) if drop else 0
    return (60 * minutes + seconds) * nominal + int(fields[5]) - dropped


def _number_at(hours: int, nominal: int, drop: bool) -> int:
    return hours * 6 * (600 * nominal - (9 * (nominal // 15) if drop else 0))


def _text(number: int, nominal: int, drop: bool) -> str:
    if drop:
        left_out = nominal // 15  # in a minute
        tens, rest = divmod(number, 600 * nominal - 9 * left_out)
        number += left_out * 9 * tens
        if rest >= 60 * nominal:  # the first minute of ten has all numbers
            number += left_out * (1 + (rest - 60 * nominal) // (60 * nominal - left_out))
    seconds, frames = divmod(number, nominal)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{';' if drop else ':'}{frames:02}"


# The rate by which it counts


def _with_rate(text: str, rates: Sequence[Fraction], count: int | None = None, ticks: int = 0) -> dict[str, str]:
    """`rates` are the video's, measured and declared, in frames/s.

    `count` and `ticks` are the number of the first frame and the ticks/s of the file's time code track, if it has one.
    """
    fields = _TEXT.fullmatch(text)
    nominal = _nominal(fields, rates, count) if fields else None
    if fields is None or nominal is None:
        return {"first": text}
    nearest = min(rates, key=lambda rate: abs(rate - nominal))
    if abs(nearest - nominal) * 100 < nominal:  # the video has the rate, or nearly
        ntsc = abs(nearest - nominal * _NTSC) < abs(nearest - nominal)
    else:
        ntsc = _is_drop(fields) or ticks in _NTSC_TICKS
    return {"first": text, "rate": str(nominal * (_NTSC if ntsc else 1))}


def _is_drop(fields: re.Match) -> bool:
    return fields[4] != ":"


def _nominal(fields: re.Match, rates: Sequence[Fraction], count: int | None) -> int | None:
    """Frames/s as the time code counts them; None if it can't be one."""
    whole = [round(rate) for rate in rates if abs(rate - round(rate)) * 900 <= rate]  # NTSC's are 1/1000 less
    likely = [*whole, *(rate for rate in _STANDARD if rate * 1.01 >= rates[0])]  # frames may be missing on average
    possible = [rate for rate in likely if rate > int(fields[5]) and not (_is_drop(fields) and rate % 30)]
    if count is not None and any(int(fields[group]) for group in (1, 2, 3)):
        fitting = [rate for rate in (*possible, *_STANDARD) if _number(fields, rate, _is_drop(fields)) == count]
        possible = fitting or possible
    return possible[0] if possible else None


def _count_of(path: Path, track: Stream) -> int | None:
    """The number of the first frame in a time code track of QuickTime (a sample of 32 bits)."""
    with contextlib.suppress(av.error.FFmpegError, VideoError, IndexError), open_input(path) as container:
        for packet in read_packets(container, container.streams[track.index], lambda _: None):
            return int.from_bytes(bytes(packet), "big") if packet.size == 4 else None
    return None


# In the coded picture


def _in_frame(side_data: Mapping[str, bytes], rate: Fraction) -> str:
    """The time code in a frame's side data, of H.264, HEVC or MPEG-2; MPEG-2's zero means none."""
    smpte, group = side_data.get("S12M_TIMECODE", b""), side_data.get("GOP_TIMECODE", b"")
    if len(smpte) >= 8 and struct.unpack("=I", smpte[:4])[0]:  # a count, then binary-coded decimals (ST 12-1)
        (code,) = struct.unpack("=I", smpte[4:8])
        hours, minutes, seconds, frames = (
            (code >> shift & mask) // 16 * 10 + (code >> shift & mask) % 16
            for shift, mask in ((0, 0x3F), (8, 0x7F), (16, 0x7F), (24, 0x3F))
        )
        if rate > 30:  # pairs of frames are counted, and a bit tells the second one
            frames = 2 * frames + (code >> (7 if rate == 50 else 23) & 1)
        drop = code >> 30 & 1 and round(rate) % 30 == 0
        return f"{hours:02}:{minutes:02}:{seconds:02}{';' if drop else ':'}{frames:02}"
    code = struct.unpack("=q", group[:8])[0] if len(group) >= 8 else 0  # ISO/IEC 13818-2 6.3.8
    if not code & 0xFFFFFF & ~(1 << 12):
        return ""
    hours, minutes, seconds, frames = (code >> 19 & 31, code >> 13 & 63, code >> 6 & 63, code & 63)
    return f"{hours:02}:{minutes:02}:{seconds:02}{';' if code >> 24 & 1 else ':'}{frames:02}"
