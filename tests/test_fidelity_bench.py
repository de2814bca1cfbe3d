"""bench/fidelity.py agrees where it should and says what differs where it should not."""

import importlib.util
from fractions import Fraction
from pathlib import Path

import av
import pytest
from clips import make_clip, video_frame
from passthrough import passthrough

_SPEC = importlib.util.spec_from_file_location("fidelity", Path(__file__).parent.parent / "bench" / "fidelity.py")
fidelity = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fidelity)
BEST = {"crf": "1", "preset": "ultrafast"}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    pts = [512 * i for i in range(8)]
    folder = tmp_path_factory.mktemp("source")
    return make_clip(folder / "in.mp4", 8, time_base=Fraction(1, 12800), pts=pts, sound=True, options=BEST)


def differing(source: Path, result: Path) -> set[str]:
    return {row.name for row in fidelity.compare(source, result) if not row.good}


@pytest.mark.parametrize("name", ["o.mp4", "o.mkv", "o.mov"])
def test_a_faithful_result_agrees(tmp_path, source, name, capsys):
    result = passthrough(source, tmp_path / name, crf=5)
    assert fidelity.main([str(source), str(result.path)]) == 0
    assert "DIFFERS" not in capsys.readouterr().out


def test_size_and_rotation_do_not_count(tmp_path, source):
    """Twice the size, and turned pixels where the source is tagged to be turned."""
    pictures = [video_frame(i).reformat(128, 96) for i in range(8)]
    large = make_clip(tmp_path / "large.mp4", 8, width=128, height=96, pictures=pictures, sound=True, options=BEST)
    assert differing(source, large) == set()
    turned = make_clip(tmp_path / "turned.mp4", 4, setup=lambda _, stream: stream.set_display_rotation(90))
    assert differing(turned, passthrough(turned, tmp_path / "upright.mp4", crf=5).path) == set()


def test_differences_are_named(tmp_path, source):
    def clip(name, frames=8, **changes):
        base = {"time_base": Fraction(1, 12800), "pts": [512 * i for i in range(frames)], "sound": True}
        return make_clip(tmp_path / f"{name}.mp4", frames, options=BEST, **(base | changes))

    assert differing(source, clip("short", 7)) >= {"frames", "last frame"}
    late = [512 * i + (64 if i == 5 else 0) for i in range(8)]
    assert differing(source, clip("late", pts=late)) == {"largest error of a time"}
    assert differing(source, clip("offset", sound_start=Fraction(1, 2))) == {"sound after picture"}
    assert differing(source, clip("mute", sound=False)) == {"sound after picture", "sound packets"}
    tags = {"colorspace": 1, "color_range": 2, "color_primaries": 1, "color_trc": 1}
    assert differing(source, clip("tags", tags=tags)) >= {"matrix", "range", "primaries", "transfer"}


def test_a_shift_of_colour_is_seen(tmp_path, source):
    pictures = []
    for number in range(8):
        picture = video_frame(number).to_ndarray()
        picture[:48] += 2
        pictures.append(av.VideoFrame.from_ndarray(picture, format="yuv420p"))
    brighter = make_clip(tmp_path / "brighter.mp4", 8, pictures=pictures, sound=True, options=BEST)
    assert differing(source, brighter) == {"mean shift of luma"}


def test_exit_status(tmp_path, source, capsys):
    assert fidelity.main([str(source), str(source)]) == 0
    assert fidelity.main([str(source), str(make_clip(tmp_path / "other.mp4", 3))]) == 1
    assert "DIFFERS" in capsys.readouterr().out
    (tmp_path / "text.mp4").write_text("no video")
    assert fidelity.main([str(source), str(tmp_path / "text.mp4")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit) as caught:
        fidelity.main([str(source)])
    assert caught.value.code == 2
