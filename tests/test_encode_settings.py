"""Encode settings: the result's colour, and an identity that JSON holds."""

import json

from encoding import settings_of, video

from upscaling.decode.colour_tags import Colour


def test_prores_is_always_limited_range():
    colour = Colour("smpte170m", True, "bt709", "bt709", "center")
    assert settings_of(video("yuv420p", colour=colour), "o.mov", codec="prores").colour.full_range is False
    assert settings_of(video("yuv420p", colour=colour)).colour == colour


def test_rgb_becomes_bt709_limited():
    colour = Colour("gbr", True, "bt709", "iec61966-2-1", "left")
    result = settings_of(video("rgb24", colour=colour)).colour
    assert (result.matrix, result.full_range, result.transfer) == ("bt709", False, "iec61966-2-1")


def test_identity_is_json():
    info = video("yuv420p10le")
    one, two = settings_of(info).identity(), settings_of(info).identity()
    assert one == two == json.loads(json.dumps(one))
    assert one != settings_of(info, crf=30).identity()
