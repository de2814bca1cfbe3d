"""manifest.py: dealing, the text format, and what a reader refuses."""

import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upscaling.cli import manifest_command
from upscaling.workers.manifest import (
    Manifest,
    ManifestError,
    deal,
    format_manifest,
    write_manifest,
)
from upscaling.workers.manifest_reader import parse_manifest, read_manifest

ROOT = Path(__file__).parent.parent
GOOD = Manifest(
    worker=0,
    input_dir=Path("/job/input_frames"),
    output_dir=Path("/job/output_frames"),
    scale=Fraction(2),
    batch_size=2,
    patch_size=256,
    pixel_format="yuv420p",
    colour="bt709 limited",
    total_frames=9,
    batches={0: ("frame_000001.npy", "frame_000002.npy"), 3: ("frame_000007.npy",)},
)


def test_deals_300_frames_as_the_design_shows():
    dealt = deal([f"frame_{n:06d}.npy" for n in range(1, 301)], 8, 6)
    assert list(dealt[0]) == [0, 6, 12, 18, 24, 30, 36]
    assert dealt[0][6][0] == "frame_000049.npy" and dealt[0][6][-1] == "frame_000056.npy"
    assert sorted(name for batches in dealt for names in batches.values() for name in names) == [
        f"frame_{n:06d}.npy" for n in range(1, 301)
    ]


def test_text_is_the_contract():
    assert format_manifest(GOOD) == (
        "# Worker 0 Manifest\n# Input Dir: /job/input_frames\n# Output Dir: /job/output_frames\n# Scale: 2x\n"
        "# Batch Size: 2\n# Patch Size: 256\n# Pixel Format: yuv420p\n# Colour: bt709 limited\n# Total Frames: 9\n"
        "# Worker Batches: [0, 3]\n# Total Batches: 2\n\n"
        "batch_0,frame_000001.npy,frame_000002.npy\nbatch_3,frame_000007.npy\n"
    )


NAMES = ["plain", "new\nline", " spaces ", "quo'te\"", "-dash", "a,b", "\udcff\udcfe", "file:x"]


@pytest.mark.parametrize("name", NAMES)
def test_write_then_read_gives_the_same(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    whole = Manifest(
        3, folder / "input_frames", folder / "output_frames", Fraction(4, 3), 8, 0, "yuv444p10le", "bt2020nc full", 5,
        {7: ("frame_000005.npy",)}, "topleft", (33, 21), (44, 28), "yuv420p10le", "bt709 limited",
        folder / "upscaled_frames", ("frame_000004.npy", "frame_000009.npy"),
    )  # fmt: skip
    path = write_manifest(whole, folder / "m.txt")
    assert read_manifest(path, root=folder) == whole
    assert sorted(p.name for p in folder.iterdir()) == ["m.txt"]


GOOD_TEXT = format_manifest(GOOD)
STEADY_TEXT = format_manifest(replace(GOOD, upscaled_dir=Path("/job/up"), context=("frame_000006.npy",)))


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("# Scale: 2x\n", "", 11),  # missing header
        ("# Scale: 2x", "# Scale: two", 4),
        ("# Scale: 2x", "# Scale: 1/0x", 4),
        ("# Scale: 2x", "# Scale: 2x\n# Scale: 4x", 5),  # contradictory
        ("# Total Batches: 2", "# Total Batches: 3", 11),
        ("[0, 3]", "[0, 4]", 10),
        ("# Total Frames: 9", "# Total Frames: 2", 9),
        ("frame_000007.npy", "../frame_000007.npy", 14),
        ("frame_000007.npy", "/etc/passwd", 14),
        ("frame_000007.npy", "frame_7.npy.sh", 14),
        ("frame_000007.npy", "frame_000001.npy", 14),  # listed twice
        ("frame_000007.npy", "frame_1.npy", 14),  # the same frame by another name
        ("frame_000007.npy", "frame_000007.npy,frame_000008.npy,frame_000009.npy", 14),  # over the batch size
        ("/job/input_frames", "/job/../etc", 2),
        ("/job/input_frames", "/elsewhere", 2),
        ("/job/input_frames", "file:///job/%2e%2e/etc", 2),
        ("batch_3", "batch_0", 14),
        ("batch_3", "3", 14),
        ("# Batch Size: 2", "# Batch Size: 0", 5),
        ("# Batch Size: 2", "# Batch Size: " + "9" * 5000, 5),
        ("# Colour: bt709 limited", "# Colour: bt709", 8),
        ("# Patch Size: 256", "# Patch: 256", 6),
        ("# Worker 0 Manifest\n", "", 11),
        ("# Total Frames", "# Context Frames: frame_000008.npy\n# Total Frames", 9),  # of what directory?
        ("# Total Frames", "# Upscaled Dir: /elsewhere\n# Total Frames", 9),
        ("# Total Frames", "# Upscaled Dir: /job/up\n# Context Frames: frame_000008.npy,../x.npy\n# Total Frames", 10),
        ("# Total Frames", "# Upscaled Dir: /job/up\n# Context Frames: frame_000007.npy\n# Total Frames", 10),
        ("# Total Frames", "# Upscaled Dir: /job/up\n# Context Frames: frame_8.npy,frame_08.npy\n# Total Frames", 10),
    ],
)
def test_refuses_with_the_line_number(old, new, line):
    assert old in GOOD_TEXT
    with pytest.raises(ManifestError, match=f", line {line}:"):
        parse_manifest(GOOD_TEXT.replace(old, new, 1), root=Path("/job"))


@given(st.binary(max_size=400) | st.integers(0, len(GOOD_TEXT)).map(lambda cut: GOOD_TEXT[:cut].encode()))
def test_random_bytes_raise_only_the_own_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("m") / "m.txt"
    path.write_bytes(data)
    try:
        read_manifest(path)
    except ManifestError:
        pass


@given(st.integers(0, len(STEADY_TEXT) - 1), st.text(max_size=6), st.integers(0, 9))
def test_a_damaged_manifest_raises_only_the_own_error(at, put, cut):
    try:
        parse_manifest(STEADY_TEXT[:at] + put + STEADY_TEXT[at + cut :])
    except ManifestError:
        pass


def test_missing_file_is_one_line(tmp_path):
    with pytest.raises(ManifestError, match="No such file"):
        read_manifest(tmp_path / "none.txt")


def run(*args):
    return subprocess.run(
        [sys.executable, str(ROOT / "manifest.py"), *map(str, args)], capture_output=True, text=True, check=False
    )


def test_command_writes_a_directory(tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(1, 21):
        np.save(frames / f"frame_{number:06d}.npy", np.zeros((24, 16), np.uint8))
    done = run(frames, "--output-dir", tmp_path / "out", "--workers", 2, "--batch-size", 4, "--scale", 2)
    assert done.returncode == 0, done.stderr
    paths = [Path(line) for line in done.stdout.splitlines()]
    first = read_manifest(paths[0])
    assert [p.name for p in paths] == ["worker_0_manifest.txt", "worker_1_manifest.txt"]
    assert list(first.batches) == [0, 2, 4] and first.total_frames == 20
    assert first.pixel_format == "yuv420p" and first.input_dir == frames


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((6, 4, 3), "u1", "rgb24"),
        ((6, 4, 4), "<u2", "rgba64le"),
        ((3, 6, 8), "u1", "yuv444p"),
        ((6, 4), "u1", "yuv420p"),
        ((5, 4), "u1", None),
        ((6, 4), "f4", None),
    ],
)
def test_pixel_format_from_an_array(tmp_path, shape, dtype, expected):
    path = tmp_path / "frame_000001.npy"
    np.save(path, np.zeros(shape, dtype))
    if expected:
        assert manifest_command.guess_pixel_format(path) == expected
    else:
        with pytest.raises(ManifestError):
            manifest_command.guess_pixel_format(path)


@pytest.mark.parametrize(
    "wrong", [["--scale", "9"], ["--scale", "x"], ["--workers", "0"], ["--batch-size", "0"], ["--patch-size", "-1"]]
)
def test_command_refuses_in_one_line(tmp_path, wrong):
    done = run(tmp_path, "--output-dir", tmp_path / "out", *wrong)
    assert done.returncode == 2 and done.stderr.startswith("manifest: error:") and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
