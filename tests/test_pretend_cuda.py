"""The CUDA branch of the torch engine on a pretend device: the CPU's picture, no race, no wait of the host.

Nothing here has run on a card; tests marked `requires_cuda` do where there is one.
"""

import inspect
import types
from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest import mock

import nets
import numpy as np
import pretend_cuda
import pytest
import torch
from pretend_cuda import Order, pretend

from upscaling.common.errors import InputError
from upscaling.frames.conversion import FrameConversion
from upscaling.frames.layout import FrameLayout
from upscaling.inference import torch_engine
from upscaling.inference.engine import BatchUpscaler, make_upscaler
from upscaling.inference.settings import ModelSettings
from upscaling.inference.upscaler import choose_precision

pytestmark = pytest.mark.skipif(
    bool(pretend_cuda.missing_hooks()), reason=f"this torch has no {pretend_cuda.missing_hooks()}"
)
DONE = ("event.synchronize", "inference/torch_engine.py: buffers.done.synchronize()")
PLAIN = FrameLayout(56, 40, "yuv420p")
BATCHES, FRAMES = 3, 2  # frames a batch


def twice(layout: FrameLayout, pixel_format: str = "") -> FrameConversion:
    size = {"width": 2 * layout.width, "height": 2 * layout.height}
    return FrameConversion(layout, replace(layout, **size, pixel_format=pixel_format or layout.pixel_format))


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    states = {
        "compact": nets.compact(8, 2, 2),
        "halved": nets.compact(8, 2, 4),
        "rrdb": nets.rrdb(8, 1),
        "gray": nets.compact(8, 2, 2, channels=1),
        "rgba": nets.compact(8, 2, 2, channels=4),
    }
    return {name: nets.save_pth(state, folder / f"{name}.pth") for name, state in states.items()}


def clip(layout: FrameLayout) -> list[list[np.ndarray]]:
    """Batches of frames; the first rows of a batch's frames change, the rest of it stays the same."""
    chance = np.random.default_rng(0)
    shape, peak = layout.sample_count, layout.peak + 1
    batches = []
    for _ in range(BATCHES):
        still = chance.integers(peak // 4, peak * 3 // 4, shape).astype(layout.format.dtype)
        frames = [still.copy() for _ in range(FRAMES)]
        for frame in frames:
            frame[: shape // 7] = chance.integers(peak // 4, peak * 3 // 4, shape // 7)
        batches.append(frames)
    return batches


class WatchedNumpy:
    """The engine's NumPy, which tells of its writes to pinned memory: torch does not see them."""

    def __getattr__(self, name: str):
        return getattr(np, name)

    def copyto(self, target: np.ndarray, source: np.ndarray) -> None:
        pretend_cuda.order.host_uses(pretend_cuda.order.pinned(target), True, "copyto")
        np.copyto(target, source)


def results(upscaler: BatchUpscaler, conversion: FrameConversion, watched: bool) -> list[np.ndarray]:
    """The frames of `clip` as a worker sends them through an upscaler: one batch is submitted ahead."""
    found = []

    def collect() -> None:
        for output in upscaler.collect():
            if watched:
                pretend_cuda.order.host_uses(pretend_cuda.order.pinned(output), False, "the worker reads the result")
            found.append(output.copy())

    for frames in clip(conversion.source):
        upscaler.submit(frames, conversion)
        if upscaler.pending > upscaler.depth:
            collect()
    while upscaler.pending:
        collect()
    return found


def on_cuda(
    conversion: FrameConversion, settings: ModelSettings, engine_module=torch_engine
) -> tuple[list[np.ndarray], Order]:
    with mock.patch.object(engine_module, "np", WatchedNumpy()), pretend() as order:
        upscaler = BatchUpscaler(engine_module.TorchEngine(replace(settings, device="cuda:0"), lambda: None))
        found = results(upscaler, conversion, watched=True)
        del upscaler  # what it frees is looked at, too
    return found, order


def settings_for(model: Path, **changes) -> ModelSettings:
    return ModelSettings(**{"model": str(model), "precision": "fp32", "patch_size": 32, "batch_size": 4, **changes})


RGB = {"matrix": "gbr", "full_range": True}
CASES = {
    "yuv420p": (twice(PLAIN), "compact", {}),
    "yuv420p10le": (twice(replace(PLAIN, pixel_format="yuv420p10le", chroma_location="topleft")), "compact", {}),
    "10 bit to 8": (twice(replace(PLAIN, pixel_format="yuv422p10le"), "yuv420p"), "compact", {}),
    "yuv444p16le": (twice(replace(PLAIN, pixel_format="yuv444p16le", full_range=True)), "compact", {}),
    "rgb24": (twice(replace(PLAIN, pixel_format="rgb24", **RGB)), "compact", {}),
    "rgba64le": (twice(replace(PLAIN, pixel_format="rgba64le", **RGB)), "compact", {}),
    "gray16le": (twice(replace(PLAIN, pixel_format="gray16le")), "compact", {}),
    "odd size": (FrameConversion(replace(PLAIN, width=55, height=39), FrameLayout(110, 78, "yuv420p")), "compact", {}),
    "one and a half": (FrameConversion(PLAIN, FrameLayout(84, 60, "yuv420p")), "compact", {}),
    "half strength": (FrameConversion(PLAIN, FrameLayout(84, 60, "yuv420p")), "compact", {"strength": 0.5}),
    "x4 halved": (twice(PLAIN), "halved", {}),
    "rrdb halved": (twice(PLAIN), "rrdb", {}),
    "gray network": (twice(PLAIN), "gray", {}),
    "alpha in the network": (twice(replace(PLAIN, pixel_format="yuva420p")), "rgba", {}),
    "bf16": (twice(PLAIN), "compact", {"precision": "bf16"}),
    "fp16": (twice(PLAIN), "compact", {"precision": "fp16"}),
    "whole frames": (twice(PLAIN), "compact", {"patch_size": 0}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_cpus_picture_without_a_race_or_a_wait(models, case):
    conversion, model, changes = case
    settings = settings_for(models[model], **changes)
    expected = results(make_upscaler(replace(settings, precision="fp32"), lambda: None), conversion, watched=False)
    found, order = on_cuda(conversion, settings)
    assert len(found) == len(expected) == BATCHES * FRAMES
    for got, want in zip(found, expected, strict=True):
        assert np.abs(got.astype(int) - want.astype(int)).max() <= codes(settings, conversion)
    assert not order.races, "\n".join(sorted(set(order.races)))
    check_waits(order)
    # Kernels for uint16 are few (aten/src/ATen/native/cuda): copies and conversions are all that is asked for.
    assert {name for name, dtype in order.operators if dtype == torch.uint16} <= {"copy_", "_to_copy"}


def codes(settings: ModelSettings, conversion: FrameConversion) -> int:
    """The largest difference from fp32 on the CPU: one code of 8 bit in half precision, else one code."""
    half = settings.precision != "fp32"
    return 1 << (conversion.target.format.depth - 8 if half else 0)


def check_waits(order: Order) -> None:
    """The host waits for each batch's result, once, and for nothing else but while sizes and weights are new."""
    counts = Counter(order.waits)
    assert counts[DONE] == BATCHES
    first = order.waits.index(DONE)
    assert set(order.waits[first:]) == {DONE}
    for why, place in order.waits[:first]:
        new = "torch.cuda.synchronize" in why or "memory not pinned" in why
        assert new, f"{why} at {place}"


def test_what_is_reused_is_the_same_to_the_bit(models):
    """With reuse and without: on the device, too, a tile that did not change gives what computing it gives."""
    settings = settings_for(models["compact"])
    found, _ = on_cuda(twice(PLAIN), settings)
    with mock.patch.object(torch_engine.FrameChanges, "differs", lambda *_: True):
        computed, _ = on_cuda(twice(PLAIN), settings)
    assert all(np.array_equal(a, b) for a, b in zip(found, computed, strict=True))


def test_a_batch_that_overflows_is_repeated_without_a_race(models, tmp_path):
    state = nets.compact(8, 2, 2)
    state["body.0.weight"] *= 1e6
    state["body.6.weight"] *= 1e-6
    model = nets.save_pth(state, tmp_path / "large.pth")
    found, order = on_cuda(twice(PLAIN), settings_for(model, precision="fp16"))
    expected = results(make_upscaler(settings_for(model), lambda: None), twice(PLAIN), watched=False)
    assert not order.races, "\n".join(sorted(set(order.races)))
    assert max(np.abs(a.astype(int) - b).max() for a, b in zip(found, expected, strict=True)) <= 1
    assert Counter(order.waits)[DONE] == BATCHES


def test_cards_whose_fp16_does_not_work_get_fp32():
    with pretend("NVIDIA GeForce GTX 1660 SUPER", (7, 5)):
        assert choose_precision("auto", torch.device("cuda:0")) == "fp32"
        with pytest.raises(InputError, match="wrong results in fp16; use --precision fp32"):
            choose_precision("fp16", torch.device("cuda:0"))
    with pretend():
        assert choose_precision("auto", torch.device("cuda:0")) == "fp16"


# The test of the test: faults of order, seeded into the engine's source

UPLOAD = """            buffers.device_in[:count].copy_(buffers.staged[:count], non_blocking=True)
"""
RECORD = """            uploaded.record()
"""
CONVERT = """            self._convert(buffers, buffers.device_in[:count], list(buffers.device_out[:count]))
"""
DONE_RECORD = """            done.record()
"""
MUTANTS = {
    "the computation does not wait for the upload": [("            self._compute.wait_event(uploaded)\n", "")],
    "the download does not wait for the computation": [("            self._download.wait_event(computed)\n", "")],
    "the result is not waited for": [("            buffers.done.synchronize()\n", "            pass\n")],
    "two batches in one set of buffers": [("self._slots[slot]", "self._slots[0]")],
    "the event is recorded before the copy": [(UPLOAD + RECORD, RECORD + UPLOAD)],
    "the result is freed while it is downloaded": [
        (CONVERT, f"            buffers.device_out = torch.empty_like(buffers.device_out)\n{CONVERT}"),
        (
            "            done.record()\n",
            "            done.record()\n        buffers.device_out = torch.empty_like(buffers.device_out)\n",
        ),
    ],
}


def mutant(changes: list[tuple[str, str]]) -> types.ModuleType:
    """The engine's module with its source changed, in memory."""
    source = inspect.getsource(torch_engine)
    for old, new in changes:
        assert old in source, f"the engine has changed: {old}"
        source = source.replace(old, new)
    module = types.ModuleType(torch_engine.__name__)
    exec(compile(source, torch_engine.__file__, "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("changes", MUTANTS.values(), ids=MUTANTS)
def test_faults_of_order_are_seen(models, changes):
    _, order = on_cuda(twice(PLAIN), settings_for(models["compact"]), mutant(changes))
    assert order.races
    if len(changes) > 1:
        assert any("is freed while" in race for race in order.races)


def test_a_wait_is_seen(models):
    """As it was while the device compared frames: the host read its answer in every call."""
    reads_back = [(CONVERT, f"{CONVERT}            float(buffers.device_out[0, 0])\n")]
    _, order = on_cuda(twice(PLAIN), settings_for(models["compact"]), mutant(reads_back))
    assert not order.races
    with pytest.raises(AssertionError):
        check_waits(order)
