"""Bars in a terminal: one for the video, one for each worker, through a resize, a killed worker and Ctrl-Z."""

import json
import os
import shlex
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from clips import make_clip
from terminal import Terminal

from upscaling.terminal.bars import worker_text
from upscaling.workers import status

ROOT = Path(__file__).parent.parent
VIDEO = r"^clip\.mp4: +[0-9]+%\|"
WORKER = r"^worker {} cpu \|"


@pytest.fixture
def command(tmp_path):
    """A command that takes long enough to be watched: x264's slowest preset."""
    make_clip(tmp_path / "clip.mp4", 300)
    arguments = [sys.executable, ROOT / "upscale.py", "clip.mp4", "out.mp4", "8", "--model", "lanczos",
                 "--workers", "2", "--preset", "placebo"]  # fmt: skip
    return f"cd {shlex.quote(str(tmp_path))} && clear && {shlex.join(map(str, arguments))}\r"


def bars_once(terminal):
    """Each bar is on the screen exactly once, and nothing of an old one is left."""
    for pattern in (VIDEO, WORKER.format(0), WORKER.format(1)):
        assert len(terminal.matching(pattern)) == 1, "\n".join(terminal.lines)
    assert not terminal.matching(r"^[█▏▎▍▌▋▊▉ ]*[█▏▎▍▌▋▊▉]+ *\|")  # the rest of a wrapped bar


def test_a_person_watches(command, tmp_path):
    with Terminal(100, 24) as terminal:
        terminal.type(command)
        line = terminal.wait_for(VIDEO + r".* [1-9][0-9]*/300 \[.*<[0-9:]+, .*frames/s")
        assert terminal.matching("lanczos, 2 workers on cpu with libswscale") and len(line) < 100
        bars_once(terminal)
        assert any("processing" in text or "completed" in text for text in terminal.matching("^worker 0"))

        terminal.resize(60, 24)
        terminal.listen(0.8)
        bars_once(terminal)
        terminal.resize(120, 30)
        terminal.listen(0.8)
        bars_once(terminal)
        assert len(terminal.matching(VIDEO)[0]) > 100

        state = json.loads((tmp_path / "out.mp4.work" / "status" / "worker_1_status.json").read_text())
        os.kill(state["pid"], signal.SIGKILL)
        terminal.wait_for("worker 1 was killed by SIGKILL; restarting it")
        terminal.wait_for(WORKER.format(1) + ".*1 restart")
        terminal.wait_for(VIDEO + ".*1 restart")
        bars_once(terminal)

        terminal.type("\x1a")  # Ctrl-Z
        terminal.wait_for(r"\[1\]\+ +Stopped")
        terminal.wait_for(r"^\$ *$")
        assert not terminal.matching(VIDEO) and not terminal.matching("^worker [01] cpu")
        terminal.type("fg\r")
        terminal.wait_for(VIDEO)
        terminal.listen(0.6)
        bars_once(terminal)

        terminal.type("\x03")  # Ctrl-C
        terminal.wait_for("upscale: error: stopped by SIGINT; everything done is kept; to resume: ")
        terminal.type("echo status $?\r")
        terminal.wait_for("^status 130")
        assert not terminal.matching(r"^worker [01] cpu \|")  # the workers' bars are gone, the video's stays
        assert len(terminal.matching(VIDEO)) == 1, "\n".join(terminal.lines)


def test_what_it_says_until_the_first_frame_is_done(tmp_path):
    """A large network, so that each step can be seen."""
    make_clip(tmp_path / "clip.mp4", 2, width=32, height=24)
    with Terminal(180, 12) as terminal:
        terminal.type(f"cd {tmp_path}; clear; {sys.executable} {ROOT}/upscale.py clip.mp4 o.mp4 2 --workers 1 "
                      "--model RealESRGAN_x4plus ; echo status $?\r")  # fmt: skip
        terminal.wait_for("^upscale: RealESRGAN_x4plus, 1 worker on cpu with torch .*, 32x24 to 64x48")
        for step in ("starting", "loading the model"):
            terminal.wait_for(WORKER.format(0) + f".*{step}")
            assert terminal.matching(rf"^clip\.mp4: .* 0/2 \[[0-9:]+, {step}\]"), "\n".join(terminal.lines)
            assert not terminal.matching(r"idle|\?")
        terminal.wait_for("^status 0")


def test_the_first_run_says_once_which_model_suits_what(tmp_path):
    make_clip(tmp_path / "clip.mp4", 2, width=32, height=24)
    command = f"{sys.executable} {ROOT}/upscale.py clip.mp4 o.mp4 2 --workers 1; echo {{}} $?\r"
    with Terminal(120, 24) as terminal:
        terminal.type(f"cd {tmp_path}; export XDG_CACHE_HOME={tmp_path}; clear; {command.format('first')}")
        terminal.wait_for("^first 0")
        said = " ".join(terminal.lines)
        assert "first run: realesr-animevideov3 suits animation" in said and "RealESRGAN_x4plus" in said
        terminal.type(f"clear; {command.format('second')}")
        terminal.wait_for("^second 0")
        assert not terminal.matching("first run")


def test_a_short_run_ends_with_a_full_bar_and_its_line(tmp_path):
    make_clip(tmp_path / "clip.mp4", 12)
    with Terminal(200, 12) as terminal:
        terminal.type(f"cd {tmp_path}; clear; {sys.executable} {ROOT}/upscale.py clip.mp4 o.mp4 2 --model lanczos "
                      "--workers 8 ; echo status $?\r")  # fmt: skip
        terminal.wait_for("^status 0")
        assert terminal.matching(r"^upscale: .*o\.mp4: 12 frames in [0-9.]+ s, [0-9.]+ frames/s")
        assert not terminal.matching("^worker")


def test_an_error_while_bars_are_drawn_leaves_the_videos_bar(tmp_path):
    (tmp_path / "script.py").write_text(
        "import os, numpy as np\n"
        "from upscaling.terminal.bars import Bars\n"
        "from upscaling.pipeline.pipeline import RunCounts\n"
        "from upscaling.workers import status\n"
        "bars, counts = Bars(), RunCounts(300)\n"
        "bars.name, counts.done = 'clip.mp4', 30\n"
        "bars.show(counts, np.zeros(2, status.row_dtype()))\n"
        "bars.error('stopped', 143)\n"
        "os._exit(143)\n"
    )
    with Terminal(100, 12) as terminal:
        terminal.type(f"cd {ROOT}; clear; PYTHONPATH=. {sys.executable} {tmp_path}/script.py; echo status $?\r")
        terminal.wait_for("^status 143")
        assert len(terminal.matching(VIDEO)) == 1 and terminal.matching("^upscale: error: stopped$")
        assert not terminal.matching("^worker")


@pytest.fixture
def drawing(tmp_path):
    """A command that draws the bars of a run for ever, without a run; Ctrl-C ends it as it ends a run."""
    (tmp_path / "script.py").write_text(
        "import numpy as np, sys, time\n"
        "from upscaling.terminal.bars import Bars\n"
        "from upscaling.terminal.signals import Signals\n"
        "from upscaling.pipeline.pipeline import RunCounts\n"
        "from upscaling.workers import status\n"
        "bars, counts, signals = Bars(), RunCounts(300), Signals()\n"
        "rows = np.zeros(2, status.row_dtype())\n"
        "rows['device'], bars.name, signals.progress = b'cpu', 'clip.mp4', bars\n"
        "signals.install()\n"
        "try:\n"
        "    for counts.done in range(300):\n"
        "        bars.show(counts, rows)\n"
        "        time.sleep(0.1)\n"
        "except BaseException as error:\n"
        "    bars.close()\n"
        "    bars.error(str(error), 130)\n"
        "    sys.exit(130)\n"
    )
    return f"cd {ROOT}; clear; PYTHONPATH=. {sys.executable} {tmp_path}/script.py\r"


@pytest.mark.parametrize("rows", (24, 5))
def test_keys_in_the_middle_of_a_drawing_leave_no_stale_line(drawing, rows):
    """Enter moves the cursor; Ctrl-C and Ctrl-Z discard what the terminal has not read, here the rest of a drawing."""
    with Terminal(100, rows) as terminal:
        terminal.type(drawing)
        terminal.wait_for(VIDEO)
        terminal.type("\r")
        terminal.listen(0.3)
        bars_once(terminal)

        terminal.interrupt_a_drawing("\x1a")
        terminal.wait_for(r"\[1\]\+ +Stopped")
        assert not terminal.matching(VIDEO) and not terminal.matching("^worker [01]"), "\n".join(terminal.lines)
        terminal.type("clear; fg\r")
        terminal.wait_for(VIDEO)
        terminal.listen(0.3)
        bars_once(terminal)

        terminal.interrupt_a_drawing("\x03")
        terminal.wait_for("upscale: error: stopped by SIGINT")
        assert len(terminal.matching(VIDEO)) == 1 and not terminal.matching("^worker"), "\n".join(terminal.lines)


def test_a_terminal_made_narrower_in_the_middle_of_a_drawing(drawing):
    with Terminal(100, 24) as terminal:
        terminal.type(drawing)
        terminal.wait_for(VIDEO)
        for columns in (60, 40, 90, 50):
            terminal.stop_in_a_drawing()
            terminal.resize(columns, 24, late=True)
            terminal.listen(0.5)
            bars_once(terminal)


def test_what_a_workers_bar_says():
    row = np.zeros(1, status.row_dtype())[0]
    row["state"], row["batch"], row["restarts"] = status.PROCESSING, 12, 2
    assert worker_text(row, 96).split() == ["processing", "batch", "12", "96", "frames", "2", "restarts"]
    row["batch"], row["restarts"] = -1, 0
    assert worker_text(row, 1).split() == ["processing", "1", "frame"]
