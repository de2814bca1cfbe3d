"""The clock of transport and program streams: which jumps are breaks, and that a common shift closes them."""

from fractions import Fraction
from itertools import pairwise

import pytest

from upscaling.demux.clock import SECOND, WRAP, Clock, PacketTimes, clock_lines
from upscaling.demux.clock_search import find_clock

PICTURE, SOUND, TEXT = 0, 1, 2
FRAME, BLOCK = 3600, 1920  # ticks of a frame at 25 frames/s, and of 1024 samples at 48 kHz
B_FRAMES = (0, 3, 1, 2)  # frames of a group in decoding order


def s(seconds: float) -> int:
    return round(seconds * SECOND)


def part(first=1.4, seconds=4.0, sound=0.0, late=0.0, lag=0.0, text=(), without=()):
    """Packets of one recording in file order: (place in time, stream, dts, pts).

    `sound` is its offset from the picture, which lasts as long; it begins `late`, and lies `lag` seconds behind in
    the file; `text` are times of subtitles; (from, to) in `without` are times at which a stream has no packet.
    """
    found = []
    for number in range(round(seconds * 25)):
        dts = s(first) + number * FRAME
        pts = s(first) + (number // 4 * 4 + B_FRAMES[number % 4] + 2) * FRAME
        found.append((dts, PICTURE, dts, pts))
    for number in range(round((seconds - late) * SECOND / BLOCK)):
        pts = s(first + sound + late) + 2 * FRAME + number * BLOCK
        found.append((pts + s(lag), SOUND, pts, pts))
    found += [(s(first + at), TEXT, s(first + at) + 2 * FRAME, s(first + at) + 2 * FRAME) for at in text]
    kept = [each for each in found if not any(k == each[1] and s(a) <= each[2] < s(b) for k, a, b in without)]
    return sorted(kept)


def joined(*parts, overlap=0.0):
    """Parts one after another; the first sound of a part lies before the last `overlap` seconds of the one before."""
    packets, end = [], 0
    for each in parts:
        first = min(place for place, *_ in each)
        packets += [(place - first + end, *rest) for place, *rest in each]
        end = max(place for place, *_ in packets) + 1 - s(overlap)
    return sorted(packets, key=lambda packet: packet[0])


def clock_of(packets) -> Clock:
    return find_clock(PacketTimes(written(packet) for packet in packets), {PICTURE, SOUND}, PICTURE)


def written(packet):
    """(stream, dts, pts) as the file has them: in 33 bits."""
    _, stream, dts, pts = packet
    return stream, None if dts is None else dts % WRAP, pts % WRAP


def shifted(packets, clock: Clock) -> dict[int, list[int]]:
    """stream → the pts of its packets in file order, in ticks."""
    found: dict[int, list[int]] = {}
    for stream, dts, pts in map(written, packets):
        times = found.setdefault(stream, [])
        times.append(clock.times(stream, len(times), dts, pts)[1])
    return found


def pictures_of(packets):
    return [packet for packet in packets if packet[1] == PICTURE]


def damaged(packets, numbers):
    """Packets of sound with those numbers are 5,000 s late."""
    sound = [packet for packet in packets if packet[1] == SOUND]
    wrong = {sound[number] for number in numbers}
    return [(*p[:2], p[2] + s(5_000), p[3] + s(5_000)) if p in wrong else p for p in packets]


RESTARTS = {
    "the same twice": joined(part(), part()),
    "three recordings": joined(part(), part(), part(first=0.5)),
    "a jump ahead": joined(part(), part(first=50_000)),
    "a jump back": joined(part(first=50_000), part()),
    "another start of the sound": joined(part(), part(sound=0.3)),
    "sound that overlaps": joined(part(sound=0.3), part(sound=-0.3)),
    "sound that comes late": joined(part(seconds=20), part(seconds=12, late=8)),
    "no sound at first": joined(pictures_of(part()), part()),
    "no sound in the end": joined(part(), pictures_of(part())),
    "picture only": joined(pictures_of(part()), pictures_of(part())),
    "sound behind the picture in the file": joined(part(lag=0.7), part(lag=0.7), overlap=0.7),
    "sound before the picture in the file": joined(part(lag=-0.6), part(lag=-0.6), overlap=0.4),
    "in the middle of a group": joined(part()[:-9], part()[7:]),
    "subtitles on both sides": joined(part(text=(0.5, 3.9)), part(text=(0.1, 2))),
    "the clock wraps at the same time": joined(part(first=WRAP / SECOND - 99), part()),
    "the clock wraps afterwards": joined(part(), part(first=WRAP / SECOND - 2)),
}


STEPS = {  # from one picture to the next
    "sound that overlaps": {FRAME, FRAME + 28 * BLOCK + 1200},
    "in the middle of a group": {FRAME, 2 * FRAME, 3 * FRAME},
}


@pytest.mark.parametrize("name", RESTARTS)
def test_breaks_are_closed_by_a_common_shift(name):
    packets = RESTARTS[name]
    clock = clock_of(packets)
    times = shifted(packets, clock)
    parts = 3 if name == "three recordings" else 2
    assert len(clock.breaks) == parts - 1 and all(each.stream is None for each in clock.breaks)
    last = {stream: clock.shift(stream, len(found) - 1) % WRAP for stream, found in times.items()}
    assert len(set(last.values())) == 1 or "no sound in the end" in name
    pictures, sound = sorted(times[PICTURE]), times.get(SOUND, [])
    assert {b - a for a, b in pairwise(pictures)} <= STEPS.get(name, {FRAME})
    assert all(b - a > BLOCK - s(0.05) for a, b in pairwise(sound))
    assert clock.span == (pictures[0], pictures[-1] + FRAME)
    assert len(clock_lines(clock)) == 1


KEPT = {
    "nothing": part(),
    "a gap in all streams": joined(part(), part(first=1.4 + 4 + 9)),
    "a gap in the sound": part(seconds=40, without=[(SOUND, 10, 30)]),
    "a gap in the picture": part(seconds=40, without=[(PICTURE, 10, 30)]),
    "gaps of other lengths": part(seconds=40, without=[(PICTURE, 10, 21), (SOUND, 10.5, 19)]),
    "subtitles minutes apart": part(seconds=300, text=(1, 290)),
    "sound an hour late": part(seconds=60, without=[(SOUND, 0, 50)]),
    "one wrong time": [(p[0], p[1], p[2] + s(99), p[3] + s(99)) if i == 40 else p for i, p in enumerate(part())],
    "one wrong time that goes back": [
        (p[0], p[1], p[2] - s(3), p[3] - s(3)) if i in (40, 90) else p for i, p in enumerate(part(first=5, seconds=9))
    ],
    "wrong times of a few packets of sound": damaged(part(seconds=9), range(40, 56)),
    "wrong times of the first packets of sound": damaged(part(seconds=9), range(14)),
    "a wrong time within ten seconds": [
        (*p[:2], p[2] + s(7), p[3] + s(7)) if i == 50 else p for i, p in enumerate(pictures_of(part(seconds=9)))
    ],
    "presentation times only": [(p[0], p[1], None, p[3]) for p in part()],
}


@pytest.mark.parametrize("name", KEPT)
def test_gaps_and_single_wrong_times_are_kept(name):
    packets = KEPT[name]
    assert clock_of(packets).shifts == {} and clock_of(packets).breaks == ()


@pytest.mark.parametrize("first", [WRAP / SECOND - 2, 1.4])
def test_a_wrap_of_33_bits_is_no_break(first):
    """FFmpeg undoes one wrap; a recording that is long enough has another."""
    packets = part(first=first)
    clock = clock_of(packets)
    assert clock.breaks == ()
    assert shifted(packets, clock)[SOUND] == [pts for _, stream, _, pts in part(first=first) if stream == SOUND]
    assert shifted(packets, clock)[PICTURE] == [pts for _, stream, _, pts in part(first=first) if stream == PICTURE]


@pytest.mark.parametrize("jump", [50_000, -30])
@pytest.mark.parametrize("alone", [PICTURE, SOUND])
def test_a_stream_whose_times_jump_alone_is_moved_alone(alone, jump):
    packets = [
        (place, stream, dts + s(jump), pts + s(jump))
        if stream == alone and place >= s(41.4)
        else (place, stream, dts, pts)
        for place, stream, dts, pts in part(seconds=60)
    ]
    clock = clock_of(packets)
    assert [each.stream for each in clock.breaks] == [alone] and f"stream {alone} alone" in clock_lines(clock)[0]
    assert shifted(packets, clock) == shifted(part(seconds=60), Clock())


def test_the_line_names_the_places():
    clock = clock_of(joined(part(), part(), part()))
    assert [each.at for each in clock.breaks] == [4, 8]
    assert "at 0:00:04, 0:00:08:" in clock_lines(clock)[0]
    assert Clock().shift(0, 5) == 0 and Fraction(clock.shift(PICTURE, 150), SECOND) == Fraction(4)
