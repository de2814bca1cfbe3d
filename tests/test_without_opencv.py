"""Everything works where OpenCV's wheel cannot load, as on slim machines without libxcb and libGL."""

import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from clips import make_clip
from PIL import Image

ROOT = Path(__file__).parent.parent
HIDDEN = 'raise ImportError("libxcb.so.1: cannot open shared object file: No such file or directory")\n'


@pytest.fixture
def run(tmp_path):
    """Runs the command in an environment in which `import cv2` fails in every process, and lists who tried."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    log = f"open({str(tmp_path / 'tried')!r}, 'a').write('tried')\n"
    (hidden / "cv2.py").write_text(log + HIDDEN)
    environment = os.environ | {"PYTHONPATH": str(hidden)}
    tried = subprocess.run([sys.executable, "-c", "import cv2"], env=environment, capture_output=True, check=False)
    assert tried.returncode == 1 and (tmp_path / "tried").exists()
    (tmp_path / "tried").unlink()

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, str(ROOT / "upscale.py"), *map(str, arguments), "--workers", "2", "--device", "cpu"],
            env=environment, capture_output=True, text=True, check=False, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert not (tmp_path / "tried").exists()

    return run


def size_of(path):
    with av.open(str(path)) as video:
        return video.streams.video[0].width, video.streams.video[0].height


def test_videos_of_any_size_and_the_comparison(run, tmp_path):
    clip = make_clip(tmp_path / "in.mp4", 4, width=32, height=24)
    run(clip, tmp_path / "half.mp4", "1.5", "--compare", tmp_path / "compare.png")
    assert size_of(tmp_path / "half.mp4") == (48, 36)
    with Image.open(tmp_path / "compare.png") as found:
        picture = np.asarray(found)
    assert picture.shape[1] > 1200 and picture.std() > 20
    run(clip, tmp_path / "size.mp4", "100x76", "--frame-format", "png")
    assert size_of(tmp_path / "size.mp4") == (100, 76)


def test_a_turned_video(run, tmp_path):
    clip = make_clip(tmp_path / "in.mp4", 3, setup=lambda _, stream: stream.set_display_rotation(90))
    run(clip, tmp_path / "out.mp4", "1.5", "--model", "lanczos")
    assert size_of(tmp_path / "out.mp4") == tuple(side * 3 // 2 for side in reversed(size_of(clip)))


@pytest.mark.parametrize(
    ("name", "mode"), [("out.png", "RGBA"), ("out.webp", "RGBA"), ("out.tif", "RGBA"), ("o.jpg", "RGB")]
)
def test_a_picture_with_alpha_and_a_turn(run, tmp_path, name, mode):
    picture = Image.new("RGBA", (20, 12), (200, 80, 60, 255))
    picture.paste((20, 90, 160, 40), (0, 0, 10, 12))
    exif = picture.getexif()
    exif[0x0112] = 6  # turn clockwise
    picture.save(tmp_path / "in.png", exif=exif)
    run(tmp_path / "in.png", tmp_path / name, "1.5", *(() if name == "out.png" else ("--model", "lanczos")))
    with Image.open(tmp_path / name) as found:
        assert found.size == (18, 30) and found.mode == mode


def test_a_folder(run, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    make_clip(folder / "a.mp4", 3, width=32, height=24)
    Image.new("RGB", (20, 12), (200, 80, 60)).save(folder / "b.jpg")
    run(folder, tmp_path / "out", "1.5", "--model", "lanczos", "--settle", "0")
    assert size_of(tmp_path / "out" / "a.mp4") == (48, 36)
    assert size_of(tmp_path / "out" / "b.jpg") == (30, 18)
