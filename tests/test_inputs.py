"""Several inputs, expanded globs, patterns for folders, files that give no result, and the progress of a folder."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import av
import pytest
from clips import add_sound, make_clip
from runs import ROOT
from terminal import Terminal

from upscaling.cli.positionals import assign
from upscaling.common.errors import InputError
from upscaling.folders.estimate import work_of
from upscaling.folders.sources import result_names
from upscaling.terminal.folder_progress import FolderProgress

UPSCALE = shlex.join([sys.executable, str(ROOT / "upscale.py")])
QUICK = "--model lanczos --workers 1 --preset ultrafast"


def shell(command: str, folder: Path) -> subprocess.CompletedProcess:
    """A command line of a shell; `upscale` stands for the command."""
    text = command.replace("upscale", UPSCALE, 1) + f" {QUICK}"
    return subprocess.run(["sh", "-c", text], cwd=folder, capture_output=True, text=True, check=False, timeout=120)


def files(folder: Path) -> dict[str, int]:
    """{relative path: modification time} of all files but the record."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def events(done) -> list[dict]:
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def place(tmp_path):
    make_clip(tmp_path / "a.mp4", 3)
    shutil.copy(tmp_path / "a.mp4", tmp_path / "b.mp4")
    return tmp_path


# Several inputs


def test_several_inputs(place):
    shutil.copy(place / "a.mp4", place / "c.mov")
    (place / "sub").mkdir()
    shutil.copy(place / "a.mp4", place / "sub" / "a.mp4")
    done = shell("upscale a.mp4 b.mp4 c.mov sub/a.mp4 --into done/ 2", place)
    assert done.returncode == 0, done.stderr
    assert set(files(place / "done")) == {"a.mp4", "b.mp4", "c.mov", "a.mp4.mp4"}
    with av.open(str(place / "done" / "c.mov")) as video:
        assert [(frame.width, frame.height) for frame in video.decode(video=0)] == [(128, 96)] * 3
    before = files(place)
    again = shell("upscale a.mp4 b.mp4 c.mov --into done/ 2", place)
    assert again.returncode == 0 and files(place) == before
    assert again.stderr.count("finished before with the same parameters") == 3


@pytest.mark.parametrize(
    ("command", "results"),
    [("upscale *.mp4 done/ 2", {"a.mp4", "b.mp4"}), ("upscale a.mp4 done 1.5", {"a.mp4"}),
     ("upscale *.mp4 2 --into done --scale 3", None), ("upscale *.mp4", None), ("upscale *.mp4 2", None),
     ("upscale *.mp4 c/../*.mp4 2", None), ("upscale *.avi --into done 2", None), ("upscale a.mp4 2", None),
     ("upscale a.mp4 b.mp4 --into . 2", None), ("upscale a.mp4 --into done 2 --part 1/2", None)],
)  # fmt: skip
def test_an_expanded_glob_is_understood_or_refused_and_replaces_nothing(place, command, results):
    (place / "done").mkdir()
    (place / "c").mkdir()
    before = files(place)
    done = shell(command, place)
    assert {name: time for name, time in files(place).items() if not name.startswith("done/")} == before
    assert set(files(place / "done")) == (results or set())
    if results is None:
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("upscale: error: ")
    else:
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "into", "found"),
    [
        (["a.mp4", "b.mp4"], None, ("a.mp4", "b.mp4", None, 0)),
        (["a.mp4", "b.mp4", "4k"], None, ("a.mp4", "b.mp4", "3840x2160", 0)),
        (["a.mp4", "2"], "done", ("a.mp4", "done", "2", 1)),
        (["a.mp4", "b.mp4", "c.mp4"], "done", ("a.mp4", "done", None, 3)),
        (["a.mp4", "b.mp4", "done/", "2"], None, ("a.mp4", "done", "2", 2)),
        (["a.mp4", "done/"], None, ("a.mp4", "done", None, 1)),
        (["f_%d.png", "done/"], None, ("f_%d.png", "done", None, 0)),
    ],
)
def test_what_words_stand_for(tmp_path, monkeypatch, words, into, found):
    monkeypatch.chdir(tmp_path)
    got = assign(words, Path(into) if into else None, None)
    scale = str(got.scale) if got.scale else None
    assert (str(got.input), str(got.output), scale, len(got.inputs)) == found


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["a.mp4", "b.mp4", "c.mp4"], "invalid value 'c.mp4'"),
        (["a.mp4", "b.mp4", "c.mp4", "2"], "3 inputs .a.mp4, b.mp4, .* --into FOLDER"),
        (["a.mp4", "2"], "missing OUTPUT"),
        ([], "missing INPUT"),
    ],
)
def test_words_that_mean_nothing(tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=says):
        assign(words, None, None)


def test_a_result_of_another_source_is_not_replaced():
    before = {"/x/a.mp4": "a.mp4", "/y/a.mp4": "a.mp4.mp4"}
    assert result_names({"/z/a.mp4": "a.mp4"}, before, "auto") == {"/z/a.mp4": "a.mp4-2.mp4"}
    assert result_names({"/x/a.mp4": "a.mp4"}, before, "auto") == {"/x/a.mp4": "a.mp4"}


# Folders


def test_patterns_choose_the_files_of_a_folder(place):
    folder = place / "incoming"
    for name in ("film.mp4", "Film-SAMPLE.mp4", "x.mkv", "extras/more.mp4", "season/sub/e1.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for options, names in (
        ("--include '*.mp4' --exclude '*sample*'", {"film.mp4", "extras/more.mp4", "season/sub/e1.mp4"}),
        ("--exclude extras/ --exclude 'season/sub'", {"film.mp4", "Film-SAMPLE.mp4", "x.mkv"}),
        ("--include 'season/*'", {"season/sub/e1.mp4"}),
    ):
        done = shell(f"upscale incoming done 2 --recursive --dry-run --progress json {options}", place)
        (plan,) = events(done)
        assert {one["input"].removeprefix("incoming/") for one in plan["files"]} == names
    none = shell("upscale incoming done 2 --include '*.webm'", place)
    assert none.returncode == 0 and "no video or picture is left by --include and --exclude" in none.stderr
    single = shell("upscale a.mp4 o.mp4 2 --include '*.mp4'", place)
    assert single.returncode == 2 and "--include and --exclude are for a folder" in single.stderr


def test_what_gives_no_result_is_told_once_and_not_every_night(place):
    folder = place / "incoming"
    folder.mkdir()
    with av.open(str(folder / "song.mp4"), "w") as out:
        for packet in add_sound(out, 1)[1]:
            out.mux(packet)
    make_clip(folder / "large.mp4", 2, width=128, height=120)
    shutil.copy(place / "a.mp4", folder / "film.mp4")
    night = "upscale incoming done x96 --settle 0 -q"
    first = shell(night, place)
    assert first.returncode == 0 and first.stdout == ""
    told = first.stderr.splitlines()
    assert len(told) == 2 and all(line.startswith("upscale: warning: passed over from now on: ") for line in told)
    assert "large.mp4" in told[0] and "is not 1 to 8 times" in told[0] and "song.mp4 has no video stream" in told[1]
    second = shell(night, place)
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    other = shell("upscale incoming done 2 --settle 0 --progress json", place)
    assert [e["input"] for e in events(other) if e["event"] == "file" and e["status"] == "done"] == [
        "incoming/film.mp4", "incoming/large.mp4",
    ]  # fmt: skip
    shutil.copy(place / "a.mp4", folder / "song.mp4")  # it has changed: it is tried again
    assert "song.mp4: 3 frames" in shell(night.removesuffix(" -q"), place).stderr


def test_json_of_a_folder_says_where_it_is(place):
    (place / "a.mp4").unlink()
    make_clip(place / "long.mp4", 30)
    done = shell("upscale b.mp4 long.mp4 --into done 8 --progress json --preset placebo", place)
    assert done.returncode == 0, done.stderr
    progress = [event for event in events(done) if event["event"] == "progress"]
    starts = [(event["file"], event["files"]) for event in events(done) if event["event"] == "start"]
    assert starts == [(1, 2), (2, 2)] and {event["files"] for event in progress} == {2}
    percent = [event["folder_percent"] for event in progress]
    assert percent == sorted(percent) and percent[0] < 10 and "folder_seconds_left" in progress[-1]


def test_the_work_that_a_file_is(place):
    assert work_of(place / "a.mp4") == 3 * 64 * 48
    assert work_of(place / "none.mp4") is None
    folder = FolderProgress("in", [1.0, 3.0])
    assert folder.done(None) == 0 and folder.seconds_left(None) is None
    folder.begin()
    folder.begin()
    assert folder.done(None) == 0.25 and folder.place == "file 2 of 2"


def test_a_person_watches_a_folder(place):
    folder = place / "incoming"
    folder.mkdir()
    for name in ("1.mp4", "2.mp4"):
        make_clip(folder / name, 24)
    with Terminal(110, 16) as terminal:
        command = f"{UPSCALE} incoming done 8 --settle 0 {QUICK.replace('ultrafast', 'placebo')} --batch-size 2"
        terminal.type(f"cd {shlex.quote(str(place))}; clear; {command} ; echo status $?\r")
        terminal.wait_for("^upscale: incoming: 2 files to do")
        for number in (1, 2):
            terminal.wait_for(rf"^incoming: +[0-9]+%\|.*\| file {number} of 2, [0-9:]+ left")
            lines = [terminal.lines.index(terminal.matching(pattern)[0])
                     for pattern in (rf"^{number}\.mp4: +[0-9]+%\|", "^incoming: ", "^worker 0 ")]  # fmt: skip
            assert lines == list(range(lines[0], lines[0] + 3)), "\n".join(terminal.lines)
            assert len(terminal.matching("^incoming: ")) == 1
        terminal.wait_for("^status 0")
        assert terminal.matching("done: 2 done, 0 skipped") and not terminal.matching("^incoming: |^worker 0")
