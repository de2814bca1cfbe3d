"""The command that resumes a stopped run, as the message of a signal shows it."""

import json
import subprocess
import sys

import pytest

from upscaling.terminal.signals import resume_command, stopped_line


def test_the_command_to_resume_is_the_same_to_a_shell(tmp_path, monkeypatch):
    script = tmp_path / "it's $HOME.py"
    script.write_text("import json, os, sys\nprint(json.dumps([os.getcwd(), *sys.argv[1:]]))\n")
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.chdir(tmp_path)
    words = ["é it's.mp4", "a  b", "$x`y`", '"', "\\", "*", "--restart", "-q", "--", "--restart"]
    done = subprocess.run(["sh", "-c", resume_command(words)], cwd="/", capture_output=True, check=True)
    words.remove("--restart")  # it would discard what is done; behind -- it is a file's name
    assert json.loads(done.stdout) == [str(tmp_path), *words]


@pytest.mark.parametrize("name", ["a\nb.mp4", "\udcff.mp4"])
def test_a_command_that_cannot_be_printed_is_not_printed(name):
    assert stopped_line(15, [name, "out.mp4"]) == "stopped by SIGTERM; everything done is kept; run it again to resume"
