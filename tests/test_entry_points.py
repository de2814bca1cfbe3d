"""The ways to start the program, from any directory: what is in the current directory or beside a script is not run."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from clips import make_clip
from nets import compact, save_pth

ROOT = Path(__file__).parent.parent
QUICK = ("2", "--model", "lanczos", "--workers", "1")
# Modules that the program or an earlier version of it has by these names, and all that they could import.
OWN = {"errors", "model", "status", "options", "worker", "manifest", "common", "job"}
NAMES = OWN | set(sys.stdlib_module_names) | {
    "numpy", "av", "tqdm", "torch", "cv2", "PIL", "spandrel", "ncnn", "realesrgan", "basicsr", "safetensors",
    "sitecustomize", "usercustomize",
}  # fmt: skip
# What `python -m` itself imports from the current directory before any code of the program runs; not with -P.
IMPORTED_BY_RUNPY = {
    "importlib", "runpy", "warnings", "contextlib", "collections", "keyword", "operator", "reprlib", "functools",
    "types",
}  # fmt: skip


@pytest.fixture
def place(tmp_path):
    """A directory with a clip and modules that end any program that imports them."""
    make_clip(tmp_path / "in.mp4", 3)
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text("import os\nos._exit(99)\n")
    return tmp_path


def run(*command, cwd, **environment):
    return subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False, timeout=120,
        env={"PATH": os.environ["PATH"], **environment},
    )  # fmt: skip


@pytest.fixture
def installed(tmp_path_factory):
    """The command that pip writes for [project.scripts]."""
    script = tmp_path_factory.mktemp("bin") / "upscale"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nfrom upscaling.cli.main import console\n"
        "if __name__ == '__main__':\n    sys.exit(console())\n"
    )
    script.chmod(0o755)
    return script


@pytest.mark.parametrize("safe_path", [{}, {"PYTHONSAFEPATH": "1"}])
@pytest.mark.parametrize("way", ["script", "module", "installed"])
def test_modules_in_the_current_directory_are_not_run(place, installed, way, safe_path):
    command = {"script": [sys.executable, ROOT / "upscale.py"], "module": [sys.executable, "-m", "upscaling"],
               "installed": [installed]}[way]  # fmt: skip
    environment = safe_path if way == "script" else {**safe_path, "PYTHONPATH": str(ROOT)}
    if way == "module" and not safe_path:
        for name in IMPORTED_BY_RUNPY:
            (place / f"{name}.py").unlink()
    done = run(*command, "in.mp4", "out.mp4", *QUICK, cwd=place, **environment)
    assert done.returncode == 0, done.stderr
    assert (place / "out.mp4").stat().st_size > 0


def test_nor_by_workers_with_a_network(place):
    save_pth(compact(), place / "tiny.pth")
    (place / "frames").mkdir()
    np.save(place / "frames" / "frame_000001.npy", np.zeros((8, 8, 3), np.uint8))
    for script, *arguments in (
        ("upscale.py", "in.mp4", "out.mp4", "2", "--model", "tiny.pth", "--workers", "1"),
        ("manifest.py", "frames", "--output-dir", "o", "--workers", "1"),
        ("worker.py", "o/manifests/worker_0_manifest.txt", "--model", "tiny.pth"),
    ):
        done = run(sys.executable, ROOT / script, *arguments, cwd=place)
        assert done.returncode == 0, done.stderr
    assert (place / "o" / "output_frames" / "frame_000001.npy").exists()


@pytest.mark.parametrize("safe_path", [{}, {"PYTHONSAFEPATH": "1"}])
def test_the_other_commands_from_the_root_directory(tmp_path, safe_path):
    for script in ("upscale.py", "worker.py", "manifest.py"):
        done = run(sys.executable, ROOT / script, "--help", cwd="/", **safe_path)
        assert done.returncode == 0 and "usage: " in done.stdout, done.stderr


def test_a_script_beside_modules_of_its_own(place):
    for name in NAMES - OWN:
        (place / f"{name}.py").unlink()  # a script's own directory comes first: these would stand in for the libraries
    script = "from upscaling import upscale_video\nif __name__ == '__main__':\n    print(upscale_video('in.mp4', "
    (place / "script.py").write_text(script + "'out.mp4', 2, model='lanczos', workers=1).frames)\n")
    done = run(sys.executable, "script.py", cwd=place, PYTHONPATH=str(ROOT))
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr


def test_usage_says_how_the_command_was_started(installed, tmp_path):
    path = {"PYTHONPATH": str(ROOT)}
    for command, usage in (
        ([sys.executable, ROOT / "upscale.py"], "python upscale.py"),
        ([sys.executable, "-m", "upscaling"], "python -m upscaling"),
        ([installed], "upscale"),
    ):
        assert run(*command, "--help", cwd=tmp_path, **path).stdout.startswith(f"usage: {usage} INPUT OUTPUT [SCALE]")
        wrong = run(*command, "in.mp4", cwd=tmp_path, **path)
        missing = "missing OUTPUT: name a file, or a folder with --into"
        assert wrong.stderr == f"upscale: error: {missing} ({usage} --help shows the usage)\n"


def test_one_version(tmp_path):
    from upscaling import __version__

    done = run(sys.executable, ROOT / "upscale.py", "--version", cwd=tmp_path)
    assert done.stdout.splitlines()[0] == f"upscale {__version__}"
    assert "\npillow " in done.stdout and "basicsr" not in done.stdout


def test_the_package_imports_nothing_until_it_is_used():
    done = run(
        sys.executable, "-c", "import sys, upscaling; print([n for n in sys.modules if 'upscaling.' in n])", cwd=ROOT
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("option", ["--help", "--version", "--list-models"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_enough_is_no_error(option, unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as stdout:
        done = subprocess.run(
            [sys.executable, str(ROOT / "upscale.py"), option], stdout=stdout, stderr=subprocess.PIPE, check=False,
            timeout=60, env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
