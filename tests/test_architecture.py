"""The structure that docs/ARCHITECTURE.md draws: imports only go down, heavy libraries stay where they belong."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = sorted(ROOT.glob("upscaling/**/*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


LOCAL = {module_name(path) for path in SOURCES}


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Names of the modules that a file imports, whole files or the top level alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules = {f"{node.module}.{alias.name}" for alias in node.names} & LOCAL
            found |= modules or {node.module}
    return found


def test_imports_only_go_down():
    arrows = {module_name(path): imports(path) & LOCAL - {module_name(path)} for path in SOURCES}
    done: set[str] = set()
    while len(done) < len(arrows):
        ready = {name for name, below in arrows.items() if name not in done and below <= done}
        assert ready, f"these import each other in a circle: {sorted(set(arrows) - done)}"
        done |= ready


def test_manifest_needs_the_standard_library_alone():
    manifest = ROOT / "upscaling" / "workers" / "manifest.py"
    assert {name.partition(".")[0] for name in imports(manifest)} <= set(sys.stdlib_module_names)


def test_only_the_bars_and_the_download_import_tqdm():
    assert {path.stem for path in SOURCES if "tqdm" in imports(path)} <= {"bars", "download"}


def test_every_module_states_its_job_first():
    for path in SOURCES:
        if path.name == "__init__.py" and path.parent.name != "upscaling":
            assert path.read_text() == "", "re-exports are what makes cycles"
            continue
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert docstring and len(docstring.splitlines()[0]) <= 120, path.name


def test_the_main_process_is_free_of_torch():
    code = (
        "import sys; from upscaling.job import pipeline, plan; from upscaling.workers import pool, worker\n"
        "sys.exit('torch' in sys.modules or 'cv2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
