"""The command end to end: the real weights, six real processes, the project's own clip."""

import json
import os
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
ELK = ROOT / "elk.mp4"


def upscale(*arguments, **options):
    return subprocess.run(
        [sys.executable, str(ROOT / "upscale.py"), *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=240, **options,
    )  # fmt: skip


def packets(path, kind):
    """(time in seconds, bytes) of each packet of the first stream of a kind, in the order of the file."""
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        return [(p.pts * p.time_base, bytes(p)) for p in container.demux(stream) if p.size]


def frames(path):
    """(presentation time, (height, width, 3) uint8 RGB) of each frame."""
    with av.open(str(path)) as container:
        return [(f.pts * f.time_base, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2))


@pytest.fixture(scope="module")
def elk(tmp_path_factory):
    """One run of the README's command, with the work directory kept."""
    output = tmp_path_factory.mktemp("elk") / "out.mp4"
    return upscale(ELK, output, "2", "--keep-work"), output


def test_every_frame_comes_out_at_its_time_and_twice_the_size(elk):
    done, output = elk
    assert done.returncode == 0, done.stderr
    source, result = frames(ELK), frames(output)
    assert len(result) == len(source) == 48
    assert [time for time, _ in result] == [time for time, _ in source]
    assert all(picture.shape == (180, 320, 3) for _, picture in result)
    # Each result frame, made small again, is its own source frame and not a neighbour's.
    for number in range(0, 48, 6):
        small = result[number][1].reshape(90, 2, 160, 2, 3).mean((1, 3))  # (H, 2, W, 2, 3): mean of each 2x2 block
        scores = [psnr(small, source[n][1]) for n in range(max(0, number - 2), min(48, number + 3))]
        assert max(scores) == psnr(small, source[number][1]) > 26


def test_the_picture_is_the_networks_and_not_a_plain_resize(elk, tmp_path):
    plain = tmp_path / "plain.mp4"
    assert upscale(ELK, plain, "2", "--model", "lanczos").returncode == 0
    network, resized = frames(elk[1])[20][1], frames(plain)[20][1]

    def edges(picture):
        return np.abs(np.diff(picture.astype(float), axis=1)).clip(0, 255)

    # Sharper where there are edges: the steepest one per cent of the steps is steeper.
    assert np.percentile(edges(network), 99) > 1.1 * np.percentile(edges(resized), 99)
    assert psnr(network, resized) > 24


def test_sound_is_copied_to_the_byte(elk):
    assert packets(elk[1], "audio") == packets(ELK, "audio")


def test_six_processes_did_it(elk):
    _, output = elk
    logs = sorted((output.parent / "out.mp4.work" / "logs").iterdir())
    assert [log.name for log in logs] == [f"worker_{n}.log" for n in range(6)]
    pids = {re.search(r"pid (\d+), on cpu|pid (\d+), on cuda", log.read_text())[0] for log in logs}
    assert len(pids) == 6
    statuses = [
        json.loads((output.parent / "out.mp4.work" / "status" / f"worker_{n}_status.json").read_text())
        for n in range(6)
    ]
    assert sum(status["frames_done"] for status in statuses) == 48
    assert set(statuses[0]) >= {
        *("status", "total_batches", "completed_batches", "current_batch", "progress_percent", "start_time"),
        *("end_time", "manifest_path", "worker", "pid", "device", "frames_done", "heartbeat", "error"),
    }


def test_no_frame_is_left_on_disk(elk):
    work = elk[1].parent / "out.mp4.work"
    assert not list((work / "input_frames").iterdir()) and not list((work / "output_frames").iterdir())
    assert [path.name for path in (work / "segments").iterdir()] == ["segment_000000.mkv"]


def test_without_keep_work_only_the_output_is_there(tmp_path):
    done = upscale(ELK, tmp_path / "out.mkv", "1.5", "--model", "lanczos", "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out.mkv"]
    assert frames(tmp_path / "out.mkv")[0][1].shape == (136, 240, 3)  # 90 x 1.5 = 135, made even


def test_plain_lines_where_there_is_no_terminal(elk):
    lines = elk[0].stderr.splitlines()
    assert all(line.startswith("upscale: ") for line in lines) and elk[0].stdout == ""
    assert "48 frames of 160x90 to 320x180" in lines[0] and re.search(r"48 frames in .* s, .* frames/s", lines[-1])


def test_json_lines_end_with_done(tmp_path):
    done = upscale(ELK, tmp_path / "out.mp4", "2", "--model", "lanczos", "--progress", "json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[0]["event"] == "start" and events[-1]["event"] == "done" and events[-1]["frames"] == 48


# Errors


@pytest.fixture
def place(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video\n" * 100)
    with av.open(str(tmp_path / "sound.mka"), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        silence.sample_rate, silence.pts, silence.time_base = 44100, 0, Fraction(1, 44100)
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    os.link(ELK, tmp_path / "elk.mp4")
    (tmp_path / "link.mp4").symlink_to("gone.mp4")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none.mp4", "out.mp4", "2"], "no such file"),
        (["link.mp4", "out.mp4", "2"], "link.mp4 is a link to gone.mp4, which does not exist"),
        (["https://example.org/elk.mp4", "out.mp4", "2"], "https://example.org/elk.mp4 is an address"),
        (["elk.mp4", "s3://bucket/out.mp4", "2"], "s3://bucket/out.mp4 is an address"),
        (["empty.mp4", "out.mp4", "2"], "empty"),
        (["text.mp4", "out.mp4", "2"], "not a video"),
        (["sound.mka", "out.mp4", "2"], "video"),
        (["elk.mp4", "none/out.mp4", "2"], "does not exist"),
        (["elk.mp4", "elk.mp4", "2"], "the input itself"),
        (["elk.mp4", "out.mp4", "9"], "1 to 8"),
        (["elk.mp4", "out.mp4", "two"], "1 to 8"),
        (["elk.mp4", "out.xyz", "2"], "mp4"),
        (["elk.mp4", "out.mp4", "2", "--model", "realesr-animevideo"], "realesr-animevideov3"),
        (["elk.mp4", "out.mp4", "2", "--codec", "libx266"], "libx264"),
        (["elk.mp4", "out.mp4", "2", "--workers", "0"], "--workers"),
        (["elk.mp4", "out.mp4", "2", "--batch-size", "100000"], "--batch-size"),
        (["elk.mp4", "out.mp4", "2", "--patch-size", "3"], "--patch-size"),
        (["elk.mp4", "out.mp4", "2", "--device", "cuda:7"], "this machine has"),
        (["elk.mp4", "out.mp4", "2", "--device", "gpu"], "cuda"),
        (["elk.mp4", "out.mp4", "2", "--work-dir", "none"], "--work-dir"),
        (["elk.mp4", "out.mp4", "2", "--work-space", "10K"], "work space"),
    ],
)
def test_bad_input_is_one_line_with_status_2_and_nothing_touched(place, arguments, says):
    before = {path.name: path.lstat().st_mtime_ns for path in place.iterdir()}
    done = upscale(*arguments, cwd=place)
    assert done.returncode == 2
    assert done.stderr.startswith("upscale: error: ") and done.stderr.count("\n") == 1 and says in done.stderr
    assert {path.name: path.lstat().st_mtime_ns for path in place.iterdir()} == before
