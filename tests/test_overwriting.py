"""Files that are not the program's to write: inputs, files of others, links in the way, names of every kind."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from clips import make_clip

from upscaling.cli.main import main
from upscaling.common.files import create_file, fitting_name
from upscaling.pipeline.checks import identity

ROOT = Path(__file__).parent.parent
QUICK = ("--model", "lanczos", "--workers", "1")


def run(*arguments, cwd=None, script="upscale.py"):
    quick = QUICK if script == "upscale.py" else ()
    return subprocess.run(
        [sys.executable, str(ROOT / script), *quick, *map(str, arguments)], cwd=cwd, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, errors="surrogateescape", check=False, timeout=120,
    )  # fmt: skip


def quickly(*arguments, cwd):
    """As `run`, in a fork of this process, which has imported everything: for commands that are refused."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        if (pid := os.fork()) == 0:
            status = 99
            try:
                signal.alarm(60)
                os.chdir(cwd)
                for number, file in enumerate((out, err), 1):
                    os.dup2(file.fileno(), number)
                sys.argv = [str(ROOT / "upscale.py"), *QUICK, *map(str, arguments)]
                sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8") for number in (1, 2))  # noqa: SIM115
                status = main()
            except SystemExit as end:
                status = end.code
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "surrogateescape"))
    return subprocess.CompletedProcess(arguments, status, *texts)


def content(folder: Path) -> dict[str, str]:
    """{relative name: SHA-256, or where a link leads} of everything below a folder."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "-"
        for path in folder.rglob("*")
    }  # fmt: skip


@pytest.fixture
def place(tmp_path):
    """A clip, a picture and numbered pictures; `link` is a link to the folder of these."""
    make_clip(tmp_path / "in.mp4", 3)
    for number in range(1, 4):
        path = tmp_path / "numbered" / f"{number:06d}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.full((6, 8, 3), 60 * number, np.uint8))
    shutil.copy(tmp_path / "numbered" / "000001.png", tmp_path / "a.png")
    (tmp_path / "link").symlink_to("numbered")
    os.link(tmp_path / "in.mp4", tmp_path / "second-name.mp4")
    (tmp_path / "1.png").symlink_to("a.png")
    (tmp_path / "weights.pth").write_bytes(b"weights")
    return tmp_path


def assert_refused(done, place, before):
    """One line, exit status 2, and nothing is different."""
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert content(place) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["numbered", "numbered/%06d.png"], "the input itself"),
        (["numbered", "link/%06d.png"], "the input itself"),
        (["numbered/%06d.png", "numbered/../numbered/%06d.png"], "the input itself"),
        (["numbered/%06d.png", "numbered/%01d.png", "--overwrite"], None),  # other names: 1.png is none of them
        (["link/%06d.png", "numbered/%06d.png", "--overwrite"], "the input itself"),
        (["numbered/%06d.png", "%d.png", "--frames", "2:3"], None),  # 1.png is not written
        (["numbered/000001.png", "numbered/%06d.png"], "the input itself"),
        (["a.png", "%d.png", "--overwrite"], "the input itself"),
        (["in.mp4", "second-name.mp4", "--overwrite"], "the input itself"),
        (["in.mp4", ".//link/../in.mp4", "--overwrite"], "the input itself"),
        (["a.png", "out.png", "--compare", "a.png", "--overwrite"], "the input itself"),
        (["a.png", "out.png", "--compare", "./out.png"], "is output, too"),
        (["in.mp4", "out.mp4", "--log-file", "second-name.mp4"], "the input itself"),
        (["in.mp4", "out.mp4", "--log-file", "out.mp4"], "is output, too"),
        (["numbered", "out.mp4", "--log-file", "link/000002.png"], "the input itself"),
        (["in.mp4", "out.mp4", "--log-file", "weights.pth", "--model", "weights.pth"], "the model itself"),
        (["in.mp4", "out.mp4", "--compare", "out.mp4.work/c.png"], "directory"),
    ],
)
def test_the_input_is_never_written(place, arguments, says):
    before = content(place)
    command = (arguments[0], arguments[1], "1", *arguments[2:])
    if says is not None:
        done = quickly(*command, cwd=place)
        assert says in done.stderr
        assert_refused(done, place, before)
    else:
        done = run(*command, cwd=place)
        assert done.returncode == 0, done.stderr
        assert before.items() <= content(place).items()


def test_a_file_that_is_in_the_work_directory_is_not_read(place):
    (place / "out.mp4.work").mkdir(mode=0o700)
    shutil.move(place / "in.mp4", place / "out.mp4.work" / "joined.mp4")
    before = content(place)
    done = quickly("out.mp4.work/joined.mp4", "out.mp4", cwd=place)
    assert "work directory" in done.stderr
    assert_refused(done, place, before)


def test_identity_is_the_file_and_not_its_name(tmp_path):
    (tmp_path / "a").touch()
    (tmp_path / "b").symlink_to("a")
    os.link(tmp_path / "a", tmp_path / "c")
    assert len({identity(tmp_path / name) for name in ("a", "b", "c", "./a", "../" + tmp_path.name + "/a")}) == 1
    assert identity(tmp_path / "none") == identity(tmp_path / "x" / ".." / "none") != identity(tmp_path / "a")


# What this program did not make


@pytest.mark.parametrize(
    "name", ["out.mp4", "out.mkv", "out.mov", "out.webm", "out.png", "out.jpg", "out.webp", "out.tif"]
)
def test_only_results_are_replaced(place, name):
    source = "in.mp4" if name[4:] in ("mp4", "mkv", "mov", "webm") else "a.png"
    (place / name).write_bytes((place / source).read_bytes())
    before = content(place)
    done = quickly(source, name, "2", cwd=place)
    assert "was not made by this program" in done.stderr and "--overwrite" in done.stderr
    assert_refused(done, place, before)
    assert run(source, name, "2", "--overwrite", cwd=place).returncode == 0
    assert not list(place.glob("*.work"))
    again = quickly(source, name, "1.5", "--dry-run", cwd=place)  # its own result, with other parameters
    assert again.returncode == 0, again.stderr


def test_sixteen_bits_and_an_empty_file(place):
    cv2.imwrite(str(place / "deep.png"), np.full((6, 8, 3), 30000, np.uint16))
    (place / "out.tif").touch()  # as mktemp does
    done = run("deep.png", "out.tif", cwd=place)
    assert done.returncode == 0, done.stderr
    assert cv2.imread(str(place / "out.tif"), cv2.IMREAD_UNCHANGED).dtype == np.uint16
    assert quickly("deep.png", "out.tif", "--dry-run", cwd=place).returncode == 0


def test_a_second_input_is_no_output(place):
    two = place / "two"
    two.mkdir()
    for name in ("a.jpg", "b.jpg"):
        cv2.imwrite(str(two / name), np.full((6, 8, 3), 99, np.uint8))
    before = content(place)
    assert_refused(quickly(two / "a.jpg", two / "b.jpg", cwd=place), place, before)


def test_numbered_pictures_and_comparisons_of_others(place):
    shutil.copy(place / "a.png", place / "f2.png")
    before = content(place)
    done = quickly("in.mp4", "f%d.png", cwd=place)
    assert "f2.png exists" in done.stderr
    assert_refused(done, place, before)
    assert_refused(quickly("in.mp4", "out.mp4", "--compare", "f2.png", cwd=place), place, before)
    assert run("in.mp4", "f%d.png", "--overwrite", cwd=place).returncode == 0
    assert quickly("in.mp4", "f%d.png", "--dry-run", cwd=place).returncode == 0


def test_a_folder_run_replaces_results_only(place):
    (place / "incoming").mkdir()
    (place / "done").mkdir()
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(place / "in.mp4", place / "incoming" / name)
    (place / "done" / "a.mp4").write_bytes(b"precious")
    arguments = ("incoming", "done", "2", "--settle", "0")
    looked = quickly(*arguments, "--dry-run", cwd=place)
    assert looked.returncode == 0 and "failed" in looked.stdout and "was not made by this program" in looked.stdout
    done = run(*arguments, cwd=place)
    assert done.returncode == 1 and "1 done" in done.stderr and "1 failed" in done.stderr
    assert (place / "done" / "a.mp4").read_bytes() == b"precious"
    assert run(*arguments, "--overwrite", cwd=place).returncode == 0
    assert run(*arguments, "--crf", "30", cwd=place).returncode == 0  # results of its own
    assert (place / "done" / "a.mp4").stat().st_size > 100


def test_a_result_that_is_a_link_to_a_source_is_refused(place):
    (place / "incoming").mkdir()
    (place / "done").mkdir()
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(place / "in.mp4", place / "incoming" / name)
    (place / "done" / "a.mp4").symlink_to("../incoming/b.mp4")
    before = content(place)
    assert_refused(quickly("incoming", "done", "2", "--settle", "0", "--overwrite", cwd=place), place, before)


def test_a_rerun_after_the_output_is_in_place(place):
    assert run("in.mp4", "out.mp4", "2", "--keep-work", cwd=place).returncode == 0  # as if killed before the clean-up
    done = run("in.mp4", "out.mp4", "2", cwd=place)
    assert done.returncode == 0 and "resuming: all 3 frames are done" in done.stderr, done.stderr


def test_manifests_of_an_earlier_call(tmp_path):
    (tmp_path / "frames").mkdir()
    for number in range(1, 9):
        np.save(tmp_path / "frames" / f"frame_{number:06d}.npy", np.zeros((4, 4, 3), np.uint8))
    arguments = (tmp_path / "frames", "--output-dir", tmp_path / "out" / ".." / "out", "--batch-size", "1")
    (tmp_path / "out").mkdir()
    assert run(*arguments, "--workers", "4", script="manifest.py").returncode == 0
    (tmp_path / "out" / "manifests" / "notes.txt").touch()
    done = run(*arguments, "--workers", "2", script="manifest.py")
    names = {path.name for path in (tmp_path / "out" / "manifests").iterdir()}
    assert names == {"worker_0_manifest.txt", "worker_1_manifest.txt", "notes.txt"}
    worker = run(done.stdout.splitlines()[0], "--model", "lanczos", script="worker.py")
    assert worker.returncode == 0, worker.stderr  # no `..` in what it has written
    (tmp_path / "out" / "manifests" / "worker_7_manifest.txt").write_text("mine")
    before = content(tmp_path)
    assert_refused(run(*arguments, "--workers", "2", script="manifest.py"), tmp_path, before)


# Links at temporary names


def test_links_at_temporary_names_are_not_followed(place):
    (place / "precious").write_text("precious")
    for name in (".z.png.tmp", ".z.png.upscale-tmp", ".out.mp4.joined", "out.mp4.tmp"):
        (place / name).symlink_to("precious")
    assert run("in.mp4", "out.mp4", "--compare", "z.png", cwd=place).returncode == 0
    assert (place / "precious").read_text() == "precious" and (place / "z.png").stat().st_size > 50


def test_a_new_file_is_exclusive(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "new").symlink_to("precious")
    os.close(create_file(tmp_path / "new"))
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (tmp_path / "new").is_symlink() and (tmp_path / "new").stat().st_size == 0
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        create_file(tmp_path / "folder")


# Ways to write a path


@pytest.mark.parametrize(
    ("cwd", "arguments", "result"),
    [
        ("numbered", ["../in.mp4", "../out.mp4"], "out.mp4"),
        (".", ["./in.mp4", "./numbered/../out.mkv"], "out.mkv"),
        (".", ["/{place}/in.mp4", "/{place}/out.mp4"], "out.mp4"),
        (".", ["in.mp4", "deep/link/../out.mp4"], "other/out.mp4"),
        ("numbered", ["../in.mp4", "../out.mp4", "--work-dir", ".."], "out.mp4"),
        ("numbered", ["../in.mp4", "out_%d.png"], "numbered/out_3.png"),
        ("numbered", ["../in.mp4", "../new/out_%d.png"], "new/out_3.png"),
        ("other/sub", ["../../incoming", "..", "--settle", "0"], "other/in.mp4"),
        ("incoming/sub", ["..", "../../done", "--settle", "0"], "done/in.mp4"),
    ],
)
def test_ways_to_write_a_path(place, cwd, arguments, result):
    for folder in ("other/sub", "numbered/sub", "incoming/sub", "deep"):
        (place / folder).mkdir(parents=True, exist_ok=True)
    (place / "deep" / "link").symlink_to("../other/sub")
    shutil.copy(place / "in.mp4", place / "incoming")
    before = content(place)
    done = run(*(word.format(place=place) for word in arguments), cwd=place / cwd)
    assert done.returncode == 0, done.stderr
    assert (place / result).stat().st_size > 50
    assert not list(place.rglob("*.work")) and not list(place.parent.glob("*.work"))
    assert before.items() <= content(place).items()


def test_one_output_however_it_is_written_resumes(place):
    assert run("in.mp4", "out.mp4", "2", "--keep-work", cwd=place).returncode == 0
    done = run(place / "in.mp4", place / "numbered" / ".." / "out.mp4", "2")
    assert done.returncode == 0 and "resuming" in done.stderr, done.stderr


@pytest.mark.parametrize(("length", "extension"), [(255, ".png"), (251, ".mp4"), (255, ".mp4")])
def test_long_names(place, length, extension):
    name = "é" * ((length - 4) // 2) + "e" * (length % 2) + extension
    assert len(os.fsencode(name)) == length
    done = run("a.png" if extension == ".png" else "in.mp4", name, cwd=place)
    assert done.returncode == 0, done.stderr
    assert (place / name).stat().st_size > 50 and not list(place.glob("*.work"))


def test_fitting_names_are_short_and_different():
    one, other = "é" * 126 + ".mp4", "é" * 125 + "e.mp4"
    names = {fitting_name(name, ".work") for name in (one, other)}
    assert len(names) == 2 and all(len(os.fsencode(name)) <= 255 and name.endswith(".work") for name in names)
    assert fitting_name("out.mp4", ".work") == "out.mp4.work"


# Special files


def test_a_fifo_in_a_folder_is_passed_over_and_a_dangling_link_named(place):
    (place / "incoming").mkdir()
    shutil.copy(place / "in.mp4", place / "incoming" / "b.mp4")
    for name in ("a.mp4", "p.png"):
        os.mkfifo(place / "incoming" / name)
    (place / "incoming" / "link.mp4").symlink_to("gone.mp4")
    arguments = ("incoming", "done", "2", "--settle", "0")
    looked = quickly(*arguments, "--dry-run", cwd=place)
    assert looked.returncode == 0 and looked.stdout.count("is not a regular file") == 2
    done = run(*arguments, cwd=place)
    assert done.returncode == 1 and "1 done, 2 skipped, 0 waiting, 0 busy, 1 failed" in done.stderr
    assert "failed: incoming/link.mp4 is a link to gone.mp4, which does not exist" in done.stderr
    assert "a.mp4 is not a regular file" in done.stderr and "p.png is not a regular file" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("pipe.mp4", "out.mp4"),
        ("/dev/zero", "out.mp4"),
        ("in.mp4", "pipe.mp4"),
        ("in.mp4", "pipe.mp4", "--overwrite"),
        ("pipe.png", "out.png"),
        ("in.mp4", "out.mp4", "--compare", "pipe.png"),
        ("in.mp4", "out.mp4", "--log-file", "pipe.mp4"),
        ("in.mp4", "out.mp4", "--model", "pipe.pth"),
        ("in.mp4", "/dev/null"),
    ],
)
def test_a_fifo_or_device_is_one_line(place, arguments):
    for name in ("pipe.mp4", "pipe.png", "pipe.pth"):
        os.mkfifo(place / name)
    before = content(place)
    assert_refused(quickly(*arguments, cwd=place), place, before)


# Logs


def test_a_name_makes_no_line_of_its_own(place):
    name = "a\nupscale: error: false\x1b[2J\u2028b"
    shutil.copy(place / "in.mp4", place / f"{name}.mp4")
    log = place / "log"
    for output, more in ((f"{name}.mkv", ("-v",)), (f"{name}.mkv", ("--dry-run",)), (f"{name}/out.mp4", ())):
        for progress in ("plain", "json"):
            done = (run if more == ("-v",) else quickly)(
                f"{name}.mp4", output, "1", "--progress", progress, "--log-file", log, *more, cwd=place
            )
            for text in (done.stdout, done.stderr):
                assert "\x1b" not in text and "\u2028" not in text
                assert not [line for line in text.splitlines() if line.startswith("upscale: error: false")]
            if progress == "json":
                assert all(isinstance(json.loads(line), dict) for line in done.stdout.splitlines())
    text = log.read_text()
    assert "\x1b" not in text and all(line[:2] == "20" for line in text.splitlines())
    wrong = quickly("in.mp4", "out.mp4", "1", f"--crf{name}", cwd=place)
    assert wrong.stderr.count("\n") == 1 and "\x1b" not in wrong.stderr


def test_a_failure_with_a_traceback_makes_no_line_of_its_own(place):
    folder = place / "x\n2026-01-01 00:00:00,000 INFO false\x1b[2J"
    folder.mkdir()
    for number in (1, 2):
        shutil.copy(place / "a.png", folder / f"{number}.png")
    (folder / "2.png").write_bytes(b"torn")
    done = run(folder, "out.mp4", "1", "--log-file", "log", "-v", cwd=place)
    assert done.returncode == 1
    for text in (done.stderr, (place / "log").read_text()):
        assert "\x1b" not in text and not [line for line in text.splitlines() if line.startswith("2026-01-01")]


# Suggestions


@pytest.mark.parametrize("typed", ["--crf", "--model", "--keep-work", "--status"])
def test_the_option_that_was_typed_is_not_suggested(place, typed):
    done = quickly("in.mp4", "out.mp4", "2", "--", typed, "18", cwd=place)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "did you mean" not in done.stderr and f"{typed} is after --" in done.stderr
