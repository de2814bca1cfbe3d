"""The documentation is true: its commands parse, its module names and links exist."""

import re
import shlex
from pathlib import Path

import pytest

from upscaling.cli.arguments import parse_arguments

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOMS = [path.name for path in (ROOT / "upscaling").iterdir() if path.is_dir() and path.name != "__pycache__"]


def commands(page: Path) -> list[str]:
    """The lines of a page that run upscale.py, without comments, variables replaced."""
    lines = re.findall(r"^ {4,}(?:.*?)(python3? (?:/opt/upscale/)?upscale\.py .*)$", page.read_text(), re.MULTILINE)
    return [re.sub(r"\$\{?\w+\}?", "1", line) for line in lines if "INPUT" not in line]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page):
    for line in commands(page):
        words = shlex.split(line.partition(" #")[0].partition("||")[0].partition("2>")[0].partition(";")[0])[2:]
        if words != ["--help"]:
            parse_arguments([word for word in words if word != "\\"])  # SystemExit if it is wrong


def test_the_readme_has_commands():
    assert len(commands(ROOT / "README.md")) >= 6


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_exist(page):
    text = page.read_text()
    for name in re.findall(rf"`((?:{'|'.join(ROOMS)})/\w+)(?:\.py)?`", text):
        assert (ROOT / "upscaling" / f"{name}.py").is_file(), name
    for name in re.findall(r"`((?:bench|tests)/[\w/]+\.(?:py|sh))", text):
        assert (ROOT / name).is_file(), name


def test_every_module_is_in_the_architecture():
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    modules = [p.relative_to(ROOT / "upscaling").with_suffix("") for p in (ROOT / "upscaling").glob("*/*.py")]
    missing = [str(name) for name in modules if name.name != "__init__" and f"`{name.name}`" not in text]
    assert not missing, f"docs/ARCHITECTURE.md does not name {missing}"
