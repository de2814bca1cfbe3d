"""Time code arithmetic (SMPTE ST 12-1) and the rates by which time codes count."""

from fractions import Fraction

import pytest

from upscaling.decode.timecode import _with_rate, timecode_at

NTSC = Fraction(30000, 1001)


@pytest.mark.parametrize(
    ("first", "rate", "frames", "expected"),
    [
        ("00:00:00:00", Fraction(25), 0, "00:00:00:00"),
        ("10:00:00:00", Fraction(25), 10, "10:00:00:10"),
        ("23:59:59:24", Fraction(25), 1, "00:00:00:00"),
        ("00:00:59;29", NTSC, 1, "00:01:00;02"),
        ("00:09:59;29", NTSC, 1, "00:10:00;00"),  # each tenth minute has all numbers
        ("00:00:00;00", NTSC, 17982 * 6, "01:00:00;00"),  # an hour, to 3.6 ms
        ("23:59:59;29", NTSC, 1, "00:00:00;00"),
        ("00:00:59:29", NTSC, 1, "00:01:00:00"),
        ("00:00:59;59", NTSC * 2, 1, "00:01:00;04"),
        ("00:59:59:23", Fraction(24000, 1001), 25, "01:00:01:00"),
    ],
)
def test_a_time_code_some_frames_later(first, rate, frames, expected):
    code = {"first": first, "rate": str(rate), "start": "5/2"}
    assert timecode_at(code, Fraction(5, 2) + frames / rate) == expected


def test_every_drop_frame_time_code_of_twenty_minutes_comes_once():
    code = {"first": "00:00:00;00", "rate": str(NTSC), "start": "0"}
    found = [timecode_at(code, number / NTSC) for number in range(17982 * 2)]
    assert len(set(found)) == len(found) and found == sorted(found)
    assert not [text for text in found if text[6:] in ("00;00", "00;01") and text[4] != "0"]


@pytest.mark.parametrize(
    ("text", "measured", "count", "ticks", "rate"),
    [
        ("10:00:00:00", Fraction(20), None, 0, Fraction(20)),
        ("10:00:00:00", Fraction(2937, 100), 1080000, 30000, NTSC),  # uneven times; the track counts by 30
        ("10:00:00:00", Fraction(18), 900000, 12800, Fraction(25)),
        ("10:00:00:00", NTSC, 1080000, 30000, NTSC),
        ("10:00:00:00", Fraction(30), 1080000, 30000, Fraction(30)),
        ("10:00:00;00", Fraction(2212, 100), None, 0, NTSC),
        ("10:00:00:29", Fraction(2212, 100), None, 0, Fraction(30)),
    ],
)
def test_the_rate_by_which_a_time_code_counts(text, measured, count, ticks, rate):
    assert _with_rate(text, [measured], count, ticks) == {"first": text, "rate": str(rate)}


@pytest.mark.parametrize("text", ["", "ten", "10:00:00", "10:00:00:299", "10:61:00:00"])
def test_what_is_no_time_code_has_no_rate(text):
    assert _with_rate(text, [Fraction(25)]) == {"first": text}
