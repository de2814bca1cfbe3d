"""A video as several jobs: together they have every frame once, and joined they are what one job gives."""

import hashlib
import itertools
import json
import subprocess
import sys
from pathlib import Path

import av
import pytest
from clips import make_clip

from upscaling.common.errors import InputError
from upscaling.job.notation import FrameRange, parse_part
from upscaling.job.parts import frame_range

ROOT = Path(__file__).parent.parent
FRAMES = 40
QUICK = ("2", "--model", "lanczos", "--crf", "0", "--preset", "ultrafast", "--workers", "1", "--segment-frames", "7")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Keyframes every 6 frames, B-frames between them, and sound."""
    options = {"crf": "10", "preset": "veryfast", "g": "6", "keyint_min": "6", "bf": "2", "sc_threshold": "0"}
    return make_clip(tmp_path_factory.mktemp("clip") / "in.mp4", FRAMES, options=options, sound=True)


def upscale(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "upscale.py"), *map(str, arguments)], capture_output=True, text=True, check=False
    )


def content(path):
    """[(time, SHA-256 of the planes)] of all frames, and the sound's packets."""
    with av.open(str(path)) as container:
        frames = [
            (f.pts * f.time_base, hashlib.sha256(b"".join(map(bytes, f.planes))).hexdigest())
            for f in container.decode(video=0)
        ]
    with av.open(str(path)) as container:
        sound = [(p.pts * p.time_base, bytes(p)) for p in container.demux(audio=0) if p.size]
    return frames, sound


def keyframes(path):
    with av.open(str(path)) as container:
        return [n for n, f in enumerate(container.decode(video=0), 1) if f.key_frame]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_parts_have_every_frame_once_and_begin_at_keyframes(clip, count):
    parts = [frame_range(clip, number, count) for number in range(1, count + 1)]
    assert parts[0].first == 1 and parts[-1].last is None
    assert all(a.last + 1 == b.first for a, b in itertools.pairwise(parts))
    assert {part.first for part in parts} <= set(keyframes(clip))
    assert all(abs(part.first - 1 - FRAMES * n / count) <= 3 for n, part in enumerate(parts))


def test_not_more_parts_than_keyframes(clip):
    with pytest.raises(InputError, match="it has 7 keyframes"):
        frame_range(clip, 1, 12)
    assert frame_range(clip, 7, 7) == FrameRange(37, None)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/1", "1/999", "1", "a/b", "1/2/3", "-1/2", ""])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(InputError, match="not a part"):
        parse_part(text)


def test_joined_parts_are_what_one_job_gives(clip, tmp_path):
    alone, output = tmp_path / "alone.mp4", tmp_path / "out.mp4"
    assert upscale(clip, alone, *QUICK).returncode == 0
    done = [upscale(clip, output, *QUICK, "--segment-of", f"{number}/3") for number in (3, 1, 2)]
    assert all(one.returncode == 0 for one in done), [one.stderr for one in done]
    assert "--join-segments 3" in done[0].stderr and not output.exists()
    joined = upscale(clip, output, *QUICK, "--join-segments", "3", "--progress", "json")
    assert joined.returncode == 0, joined.stderr
    assert json.loads(joined.stdout.splitlines()[-1])["frames"] == FRAMES
    assert content(output) == content(alone) and len(content(alone)[0]) == FRAMES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone.mp4", "out.mp4"]


def test_a_part_that_is_missing_other_or_damaged_is_told_and_nothing_touched(clip, tmp_path):
    output = tmp_path / "out.mp4"
    assert upscale(clip, output, *QUICK, "--segment-of", "1/2").returncode == 0
    missing = upscale(clip, output, *QUICK, "--join-segments", "2")
    assert missing.returncode == 1 and "part 2 of 2 has not been run" in missing.stderr
    assert upscale(clip, output, *QUICK, "--segment-of", "2/2").returncode == 0
    other = upscale(clip, output, *QUICK[:3], "--join-segments", "2")
    assert other.returncode == 1 and "part 1 of 2 was run with other options" in other.stderr
    segment = tmp_path / "out.2of2.mp4.work" / "segments" / "segment_000000.mkv"
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-9] + b"damaged!!")
    damaged = upscale(clip, output, *QUICK, "--join-segments", "2")
    assert damaged.returncode == 1 and "segment_000000.mkv is damaged" in damaged.stderr
    segment.write_bytes(whole)
    complete = tmp_path / "out.1of2.mp4.work" / "complete.json"
    complete.unlink()
    unfinished = upscale(clip, output, *QUICK, "--join-segments", "2")
    assert unfinished.returncode == 1 and "part 1 of 2 is not done yet" in unfinished.stderr
    assert not output.exists()
    again = upscale(clip, output, *QUICK, "--segment-of", "1/2")
    assert "resuming" in again.stderr and complete.exists(), again.stderr
    assert upscale(clip, output, *QUICK, "--join-segments", "2").returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_a_part_of_a_part_is_refused(clip, tmp_path):
    done = upscale(clip, tmp_path / "out.mp4", *QUICK, "--segment-of", "1/2", "--frames", "1:5")
    assert done.returncode == 2 and "--segment-of splits a whole video" in done.stderr
