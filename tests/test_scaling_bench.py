"""bench/scaling.py: what limits a job in the simulation is what must limit it by the numbers put in."""

import importlib.util
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("scaling", Path(__file__).parent.parent / "bench" / "scaling.py")
scaling = importlib.util.module_from_spec(_SPEC)
sys.modules["scaling"] = scaling  # where its dataclasses look for their own module
_SPEC.loader.exec_module(scaling)
PLENTY = scaling.Costs(
    decode=1e-5, store=0.0, encode=1e-5, upscale=0.1, publish=0.0, claim=0.0, hear=0.0, status=0.0,
    in_bytes=100, out_bytes=400, bandwidth=1e9,
)  # fmt: skip


@pytest.mark.parametrize("workers", [1, 7, 100])
def test_with_plenty_of_everything_the_workers_are_the_limit(workers):
    rate, limit, _ = scaling.simulate(PLENTY, workers)
    assert limit == "workers" and 0.95 * workers * 10 < rate <= workers * 10


@pytest.mark.parametrize(
    ("costs", "limit", "most"),
    [
        ({"encode": 0.02}, "encoder", 50),
        ({"decode": 0.015, "store": 0.005}, "decoder", 50),
        ({"bandwidth": 50_000}, "storage", 50),  # each frame and its result are written once and read once
        ({"publish": 0.08, "hear": 0.08}, "main loop", 50),
    ],
)
def test_the_slowest_part_is_found(costs, limit, most):
    rate, found, busy = scaling.simulate(replace(PLENTY, **costs), 50)
    assert found == limit and 0.8 * most < rate <= most * 1.001
    assert busy[limit] > 0.8 and busy["workers"] < 0.2


def test_parts_share_workers_and_storage(capsys):
    scaling.split(replace(PLENTY, encode=0.02), "x", 10**6)
    rates = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()[3:]]
    assert rates[0] < 51 and rates[1] > 1.9 * rates[0] and rates[3] > 6 * rates[0]


def test_the_curve_is_a_picture():
    picture = ET.fromstring(scaling.svg({"a": [(1, 2.5), (1000, 80.0)], "b": [(1, 10.0), (1000, 11.0)]}))
    lines = [line.attrib["points"] for line in picture.iter("{http://www.w3.org/2000/svg}polyline")]
    assert len(lines) == 2 and all(len(points.split()) == 2 for points in lines)
