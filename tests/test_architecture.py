"""The structure that docs/ARCHITECTURE.md draws: arrows between rooms point one way, heavy libraries stay put."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(ROOT.glob("upscaling/**/*.py"))
BELOW_PIPELINE = {
    "common", "frames", "pictures", "demux", "decode", "encode", "mux", "models", "inference", "workers", "job",
}  # fmt: skip
# Which rooms each room may import from.
ROOMS = {
    "common": set(),
    "frames": {"common"},
    "demux": {"common"},
    "decode": {"common", "frames", "demux"},
    "encode": {"common", "frames", "decode"},
    "mux": {"common", "demux", "decode", "encode"},
    "pictures": {"common", "frames", "demux", "decode"},
    "models": {"common"},
    "inference": {"common", "frames", "models"},
    "workers": {"common", "frames", "models", "inference"},
    "job": {"common"},
    "pipeline": BELOW_PIPELINE,
    "folders": {"common", "pictures", "demux", "mux", "models", "inference", "job", "pipeline"},
    "cluster": {"common", "demux", "mux", "job", "pipeline"},
    "preview": BELOW_PIPELINE | {"pipeline"},
    "terminal": {"common", "workers", "pipeline"},
    "report": {"common", "frames", "job", "mux", "pipeline", "terminal", "workers"},
    "cli": BELOW_PIPELINE | {"pipeline", "preview", "folders", "cluster", "terminal", "report"},
}
MOST_MODULES = 15  # in a room


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


LOCAL = {module_name(path) for path in SOURCES}


def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules = {f"{node.module}.{alias.name}" for alias in node.names} & LOCAL
            found |= modules or {node.module}
    return found


def room(module: str) -> str:
    """`frames` of `upscaling.frames.yuv`; empty for the package itself."""
    return module.split(".")[1] if module.count(".") > 1 else ""


def test_no_modules_import_each_other_in_a_circle():
    arrows = {module_name(path): imports(path) & LOCAL - {module_name(path)} for path in SOURCES}
    done: set[str] = set()
    while len(done) < len(arrows):
        ready = {name for name, below in arrows.items() if name not in done and below <= done}
        assert ready, f"these import each other in a circle: {sorted(set(arrows) - done)}"
        done |= ready


def test_arrows_between_rooms_point_one_way():
    wrong = [
        f"{module_name(path)} imports {name}"
        for path in SOURCES
        for name in imports(path)
        if room(module_name(path)) and name.startswith("upscaling.")
        if room(name) != room(module_name(path)) and room(name) not in ROOMS[room(module_name(path))]
    ]
    assert not wrong, "\n".join(wrong)


def test_rooms_have_few_modules_and_no_code_of_their_own():
    for name in ROOMS:
        folder = ROOT / "upscaling" / name
        assert (folder / "__init__.py").read_text() == "", "re-exports are what makes cycles"
        assert len(list(folder.glob("*.py"))) - 1 <= MOST_MODULES, name
    assert {path.parent.name for path in SOURCES} == {*ROOMS, "upscaling"}


def test_the_top_level_shows_the_three_commands_and_no_other_module():
    assert {path.name for path in ROOT.glob("*.py")} == {"upscale.py", "worker.py", "manifest.py"}


@pytest.mark.parametrize("name", ["workers/manifest.py", "cli/manifest_command.py"])
def test_manifests_need_the_standard_library_alone(name):
    names = {module.partition(".")[0] for module in imports(ROOT / "upscaling" / name)}
    assert names <= {*sys.stdlib_module_names, "upscaling"}
    code = f"import sys, upscaling.{name[:-3].replace('/', '.')}; sys.exit(str({{'numpy', 'av'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == "set()\n"


def test_only_the_bars_and_the_download_import_tqdm():
    assert {path.stem for path in SOURCES if "tqdm" in imports(path)} <= {"bars", "download"}


def test_every_module_states_its_job_first():
    for path in SOURCES:
        if path.name != "__init__.py" or path.parent.name == "upscaling":
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            assert docstring and len(docstring.splitlines()[0]) <= 120, path.name


def test_the_main_process_is_free_of_torch():
    code = (
        "import sys; from upscaling.pipeline import pipeline, plan; from upscaling.workers import pool, worker\n"
        "sys.exit('torch' in sys.modules or 'cv2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
