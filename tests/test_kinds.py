"""Every kind of file in tests/kinds through the command: what a player of the result sees is right, or was named."""

import subprocess
import sys

import pytest
from kinds import Kind, Outcome, changes, clocks, pictures, side_data, sound, times
from runs import ROOT

KINDS: list[Kind] = [*changes.KINDS, *clocks.KINDS, *pictures.KINDS, *side_data.KINDS, *sound.KINDS, *times.KINDS]

COMMAND = (sys.executable, str(ROOT / "upscale.py"))
OPTIONS = ("2", "--model", "lanczos", "--workers", "1", "--progress", "plain")
LOSSLESS = ("--crf", "0", "--preset", "ultrafast")  # for videos


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_kind(kind, tmp_path):
    source, output = kind.make(tmp_path), tmp_path / kind.output
    lossless = LOSSLESS if output.suffix in {".mkv", ".mp4", ".mov"} else ()
    command = [*COMMAND, str(source), str(output), *OPTIONS, *lossless, *kind.options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    kind.check(Outcome(source, output, done.returncode, (done.stdout + done.stderr).splitlines()))
