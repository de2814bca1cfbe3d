"""bench/gpu.py: its arguments, tables and JSON, and the whole of it on the CPU; it has not run on a card."""

import json
import sys

import pytest
from runs import ROOT

sys.path.insert(0, str(ROOT / "bench"))
import gpu
import gpu_measures

MIB = 1 << 20


def test_the_whole_of_it_on_the_cpu(tmp_path, monkeypatch, capsys):
    """In this process, as each number has a process of its own only to survive the others' failures."""
    monkeypatch.setattr(gpu, "measured", lambda name, *rest: gpu_measures.MEASURES[name](*map(str, rest)))
    assert gpu.main(["--cpu", "--json", str(tmp_path / "gpu.json")]) == 0
    report, printed = json.loads((tmp_path / "gpu.json").read_text()), capsys.readouterr().out
    ways = {row["way"]: row.get("frames_per_second") for row in report["network"]}
    assert list(ways) == ["plain", "channels_last", "CUDA graph", "--compile"]
    assert ways["plain"] > 0 and ways["channels_last"] > 0 and ways["--compile"] is None
    (stages,), (command,), (distance,) = report["stages"], report["commands"], report["distance"]
    assert {"staging", "upload", "to RGB", "to YUV", "download"} < set(stages)
    assert min(stages["decode"], stages["network"], stages["encode"]) > 0
    assert command["frames_per_second"] > 0 and command["host_memory"] > 50 * MIB
    assert distance["decibels"] > 40
    for words in ("| 64x36 | plain |", "published by others: V100, torch | 22.6", "- torch: ", "network, ms/frame"):
        assert words in printed


def test_without_a_card_it_is_one_line(capsys):
    if gpu.cuda_devices().devices:
        pytest.skip("there is a card")
    assert gpu.main([]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_arguments(capsys):
    scope = gpu.scope_for(gpu.parse_arguments(["--device", "cuda:1"]))
    assert (scope.device, scope.workers, scope.codecs) == ("cuda:1", (1, 2, 3, 6), ("libx264", "h264_nvenc"))
    assert scope.sizes == ((1280, 720), (1920, 1080))
    with pytest.raises(SystemExit):
        gpu.parse_arguments(["--device", "vulkan"])
    assert "cuda:N" in capsys.readouterr().err


def test_a_number_that_failed_leaves_the_others():
    found = gpu_measures.measured("nothing")
    assert found == {"error": "KeyError: 'nothing'"}
    report = gpu.Report({"device": "none"}, network=[{"size": "8x8", "way": "plain", **found}])
    report.network.append({"size": "8x8", "way": "CUDA graph", "frames_per_second": 9.5, "memory": 3 * MIB})
    printed = gpu.tables(report)
    assert "| 8x8 | CUDA graph | 9.5 | 3 MiB |" in printed
    line = next(line for line in printed.splitlines() if line.startswith("| 8x8 | plain |"))
    assert line.count("|") == 5 and found["error"] in line
