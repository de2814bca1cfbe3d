"""Folder runs: every file once, other files ignored, and nothing to do the second time."""

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from clips import make_clip

from upscaling.folders.record import Finished
from upscaling.folders.sources import Item, result_names

ROOT = Path(__file__).parent.parent
COMMAND = (sys.executable, str(ROOT / "upscale.py"))
QUICK = ("2", "--model", "lanczos", "--workers", "2", "--preset", "ultrafast")


def run(*arguments, **options):
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120,
                          **options)  # fmt: skip


def events(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def outcomes(done):
    """The status of each file of a run with --progress json."""
    return {os.path.basename(e["input"]): e["status"] for e in events(done) if e["event"] == "file"}


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def incoming(tmp_path):
    folder = tmp_path / "incoming"
    (folder / "sub").mkdir(parents=True)
    clip = make_clip(folder / "a.mp4", 6)
    shutil.copy(clip, folder / "sub" / "b.mp4")
    shutil.copy(clip, folder / ".hidden.mp4")
    make_clip(folder / "c.avi", 5, codec="mpeg4")
    (folder / "broken.mp4").write_bytes(clip.read_bytes()[:900])
    (folder / "notes.txt").write_text("not a video")
    cv2.imwrite(str(folder / "picture.png"), np.full((6, 8, 3), 90, np.uint8))
    return folder


def test_a_folder_twice(incoming, tmp_path):
    done = tmp_path / "done"
    arguments = (incoming, done, *QUICK, "--recursive", "--settle", "0", "--progress", "json")
    first = run(*arguments)
    assert first.returncode == 1, first.stderr  # one of them is broken
    assert outcomes(first) == {
        "a.mp4": "done", "b.mp4": "done", "c.avi": "done", "picture.png": "done", "broken.mp4": "failed",
    }  # fmt: skip
    assert events(first)[-1]["files_done"] == 4 and events(first)[-1]["files_failed"] == 1
    assert files(done) == [".upscale-finished.jsonl", "a.mp4", "c.mkv", "picture.png", "sub/b.mp4"]
    with av.open(str(done / "sub" / "b.mp4")) as video:
        assert [(frame.width, frame.height) for frame in video.decode(video=0)] == [(128, 96)] * 6

    (incoming / "broken.mp4").unlink()
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*")}
    second = run(*arguments)
    assert second.returncode == 0 and outcomes(second) == {}
    assert events(second)[-1]["files_skipped"] == 4 and events(second)[-1]["files_done"] == 0
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*")} == before

    # Another parameter, a result that is gone, an input that has changed: each is a reason to do it again.
    (done / "a.mp4").unlink()
    os.utime(incoming / "c.avi", (1, 1))
    assert outcomes(run(*arguments)) == {"a.mp4": "done", "c.avi": "done"}
    assert set(outcomes(run(*arguments, "--strength", "0.5")).values()) == {"done"}


def test_plain_lines_close_with_a_summary_and_one_pool_serves_all(incoming, tmp_path):
    done = run(incoming, tmp_path / "done", *QUICK, "--settle", "0", "--keep-work")
    lines = done.stderr.splitlines()
    assert lines[-1].startswith(f"upscale: {tmp_path}/done: 3 done, 0 skipped, 0 waiting, 0 busy, 1 failed in ")
    assert any(line.startswith("upscale: failed: ") and "broken.mp4" in line for line in lines)
    pids = [
        {line.split("pid ")[1].split(",")[0] for line in log.read_text().splitlines() if "pid " in line}
        for log in sorted((tmp_path / "done").glob("*.work/logs/worker_0.log"))
    ]
    assert len(pids) == 3 and len(set.union(*pids)) == 1  # the same process for every job


def test_files_that_may_still_be_written_wait(incoming, tmp_path):
    for path in incoming.rglob("*"):
        os.utime(path, (time.time() - 3600, time.time() - 3600))
    os.utime(incoming / "a.mp4")
    done = run(incoming, tmp_path / "done", *QUICK, "--settle", "600", "--progress", "json")
    assert outcomes(done) == {"a.mp4": "waiting", "c.avi": "done", "picture.png": "done", "broken.mp4": "failed"}
    assert not (tmp_path / "done" / "a.mp4").exists()


def test_with_q_a_terminal_is_told_that_files_wait_and_cron_is_not(tmp_path):
    (tmp_path / "incoming").mkdir()
    for name in ("a.mp4", "b.mp4"):
        make_clip(tmp_path / "incoming" / name, 2)
    command = [*COMMAND, str(tmp_path / "incoming"), str(tmp_path / "done"), "2", "-q"]
    cron = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (cron.returncode, cron.stdout, cron.stderr) == (0, "", "")
    master, slave = pty.openpty()
    assert subprocess.run(command, stderr=slave, check=False).returncode == 0
    os.close(slave)
    said = os.read(master, 10000).decode()
    os.close(master)
    line = f"{tmp_path}/incoming: 2 files were changed less than 60 s ago and are left for the next run (--settle)"
    assert said == f"upscale: {line}\r\n"


def test_a_video_that_lacks_many_of_its_frames_is_told_even_with_q_and_tried_again(tmp_path):
    """A download that was cut: its header lists all frames."""
    folder = tmp_path / "incoming"
    folder.mkdir()
    clip = make_clip(tmp_path / "whole.mp4", 60, container_options={"movflags": "+faststart"}).read_bytes()
    (folder / "cut.mp4").write_bytes(clip[: len(clip) * 3 // 4])
    alone = run(folder / "cut.mp4", tmp_path / "out.mp4", *QUICK, "-q")
    assert alone.returncode == 0 and re.fullmatch(
        r"upscale: warning: .*out\.mp4 is incomplete: \d+ of the 60 frames that .*cut\.mp4 lists could not be read\n",
        alone.stderr,
    )
    for _ in range(2):
        done = run(folder, tmp_path / "done", *QUICK, "--settle", "0", "--progress", "json")
        assert done.returncode == 1 and outcomes(done) == {"cut.mp4": "failed"}
        assert any("is incomplete" in event.get("message", "") for event in events(done))
    (folder / "cut.mp4").write_bytes(clip)
    assert outcomes(run(folder, tmp_path / "done", *QUICK, "--settle", "0", "--progress", "json")) == {
        "cut.mp4": "done"
    }


def test_a_job_that_another_run_holds_is_left_to_it(incoming, tmp_path):
    work = tmp_path / "done" / "a.mp4.work"
    work.mkdir(parents=True, mode=0o700)
    (incoming / "broken.mp4").unlink()
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run(incoming, tmp_path / "done", *QUICK, "--settle", "0", "--progress", "json")
    assert done.returncode == 0
    assert outcomes(done) == {"a.mp4": "busy", "c.avi": "done", "picture.png": "done"}


def test_a_signal_stops_the_whole_run_and_the_next_goes_on(incoming, tmp_path):
    arguments = (incoming, tmp_path / "done", *QUICK, "--settle", "0", "--progress", "json")
    make_clip(incoming / "d.mp4", 60, width=160, height=120)
    (incoming / "broken.mp4").unlink()
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments), "--preset", "placebo"], stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if json.loads(line)["event"] == "start" and "d.mp4" in line:
            process.send_signal(signal.SIGTERM)
            break
    last = json.loads(process.communicate(timeout=60)[0].splitlines()[-1])
    assert process.returncode == 143 and last["event"] == "error" and last["exit_status"] == 143
    assert not (tmp_path / "done" / "d.mp4").exists() and not list((tmp_path / "done").glob(".upscale-*-*"))
    again = run(*arguments, "--preset", "placebo")
    assert again.returncode == 0 and outcomes(again)["d.mp4"] == "done" and "a.mp4" not in outcomes(again)


def test_results_within_the_folder_are_no_sources(incoming):
    (incoming / "broken.mp4").unlink()
    arguments = (incoming, incoming / "done", *QUICK, "--recursive", "--settle", "0", "--progress", "json")
    assert len(outcomes(run(*arguments))) == 4
    assert outcomes(run(*arguments)) == {}


def test_dry_run_of_a_folder_touches_nothing(incoming, tmp_path):
    done = run(incoming, tmp_path / "done", *QUICK, "--settle", "0", "--dry-run")
    assert done.returncode == 0 and not (tmp_path / "done").exists()
    assert "a.mp4" in done.stdout and "c.mkv" in done.stdout and "notes.txt" not in done.stdout


@pytest.mark.parametrize("output", ["incoming", "none/done"])
def test_wrong_folders_are_one_line(incoming, tmp_path, output):
    done = run(incoming, tmp_path / output, *QUICK)
    assert done.returncode == 2 and done.stderr.count("\n") == 1


# Names


@pytest.mark.parametrize(
    ("sources", "container", "names"),
    [
        (["a.mp4", "b.m4v", "c.avi", "d.ts", "e.jpg"], "auto", ["a.mp4", "b.mp4", "c.mkv", "d.mkv", "e.jpg"]),
        (["a.mov", "a.avi"], "auto", ["a.mov", "a.mkv"]),
        (["a.mov", "a.avi"], "mp4", ["a.mov.mp4", "a.mp4"]),
        (["a.avi", "a.mkv", "a.ts"], "auto", ["a.avi.mkv", "a.mkv", "a.ts.mkv"]),
        (["s/a.avi", "t/a.avi", "a.avi"], "auto", ["s/a.mkv", "t/a.mkv", "a.mkv"]),
        (["A.MP4"], "mp4", ["A.MP4"]),
    ],
)
def test_names_of_results(sources, container, names):
    assert result_names({name: name for name in sources}, {}, container) == dict(zip(sources, names, strict=True))


def test_a_result_keeps_its_name_whatever_comes_later():
    first = result_names({"a.ts": "a.ts"}, {}, "auto")
    assert result_names({name: name for name in ("a.avi", "a.mkv", "a.ts")}, first, "auto") == {
        "a.ts": "a.mkv", "a.mkv": "a.mkv.mkv", "a.avi": "a.avi.mkv",
    }  # fmt: skip
    assert result_names({"a.ts": "a.ts"}, first, "mp4") == {"a.ts": "a.mp4"}  # unless another container is asked for
    assert result_names({"a.avi": "a.avi"}, first, "auto") == {"a.avi": "a.avi.mkv"}  # nor is a.mkv replaced


# The record


def test_torn_lines_of_the_record_cost_only_themselves(tmp_path):
    path = tmp_path / "finished.jsonl"
    items = [Item(Path(f"in/{n}"), f"{n}.mp4", tmp_path / f"{n}.mp4") for n in range(4)]
    for item in items:
        item.output.touch()
    for item in items[:2]:
        Finished(path).add(item, "key")
    path.write_bytes(path.read_bytes()[:-20])  # a power cut
    finished = Finished(path)
    assert finished.has(items[0], "key") and not finished.has(items[1], "key")
    finished.add(items[2], "key")
    finished = Finished(path)
    assert [finished.has(item, "key") for item in items] == [True, False, True, False]
    assert not finished.has(items[2], "another")
    items[2].output.unlink()
    assert not finished.has(items[2], "key")


def test_a_flipped_byte_in_the_record_is_seen(tmp_path):
    path = tmp_path / "finished.jsonl"
    item = Item(Path("in/a"), "a.mp4", tmp_path / "a.mp4")
    item.output.touch()
    Finished(path).add(item, "key")
    path.write_bytes(path.read_bytes().replace(b"key", b"kez", 1))
    assert not Finished(path).has(item, "key")
