"""What a run plans: batch sizes and the window for the space there is."""

from types import SimpleNamespace

import pytest

from upscaling.frames.conversion import FrameConversion
from upscaling.frames.layout import FrameLayout
from upscaling.inference.settings import ModelSettings
from upscaling.job.options import Options
from upscaling.pipeline.frame_store import FrameStore
from upscaling.pipeline.plan import window_frames
from upscaling.pipeline.sources import PictureSource, VideoSource
from upscaling.pipeline.stages import next_batch_size
from upscaling.pipeline.worker_count import worker_count
from upscaling.workers.manifest import write_manifest
from upscaling.workers.manifest_reader import read_manifest
from upscaling.workers.worker import frame_conversion


@pytest.mark.parametrize(
    ("model", "size", "expected"),
    [
        ("lanczos", (1280, 720), (2, 36)),  # 6.6 MiB a frame, in and out
        ("lanczos", (64, 48), (8, 144)),
        ("lanczos", (7680, 4320), (1, 18)),
        ("realesr-animevideov3", (1280, 720), (8, 144)),
    ],
)
def test_a_resize_gets_small_batches(tmp_path, monkeypatch, model, size, expected):
    monkeypatch.setattr("upscaling.pipeline.plan.available_memory", lambda: 1 << 40)
    monkeypatch.setattr("os.statvfs", lambda _: SimpleNamespace(f_bavail=1 << 30, f_frsize=4096))
    source = FrameLayout(*size, "yuv420p")
    conversion = FrameConversion(source=source, target=FrameLayout(2 * size[0], 2 * size[1], "yuv420p"))
    assert window_frames(Options("a.mp4", "b.mp4", 2, model=model), conversion, tmp_path) == expected


@pytest.mark.parametrize(
    ("frames", "changes", "sizes"),
    [
        (60, {}, [8, 8, 8, 6, 5, 5, 4, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1]),
        (16, {}, [3, 3, 2, 2, 1, 1, 1, 1, 1, 1]),
        (None, {}, [8, 8, 8, 8, 8, 8, 8, 4]),
        (56, {}, [8, 8, 7, 6, 5, 4, 3, 3, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),  # the container counts too few
        (6, {}, [1] * 55 + [5]),
        (3, {}, [1] * 52 + [8]),  # nothing that it says can be true
        (60, {"model": "lanczos"}, [8, 8, 8, 8, 8, 8, 8, 4]),
        (60, {"device": "cuda:0"}, [8, 8, 8, 8, 8, 8, 8, 4]),
    ],
)
def test_the_last_batches_of_a_network_on_a_cpu_are_smaller(frames, changes, sizes):
    model = ModelSettings(model=changes.get("model", "net"), device=changes.get("device", "cpu"))
    plan = SimpleNamespace(
        info=SimpleNamespace(frame_count=frames), batch_size=8, models=(model,) * 6,
    )  # fmt: skip
    found, there = [], 16 if frames == 16 else 60
    while sum(found) < there:
        size = next_batch_size(plan, sum(found))
        found.append(min(size, there - sum(found)))
    assert found == sizes


@pytest.mark.parametrize(("source", "siting"), [("rgb24", "topleft"), ("yuv420p", "center"), ("gray", "topleft")])
def test_a_manifest_keeps_the_chroma_siting(tmp_path, source, siting):
    """Of the output if the source is RGB, which has none."""
    layout = FrameLayout(64, 48, source, chroma_location="center")
    target = FrameLayout(128, 96, "yuv420p", chroma_location=siting)
    conversion = FrameConversion(source=layout, target=target)
    plan = SimpleNamespace(
        options=Options("a.mp4", "b.mp4", 2), conversion=conversion, stored=conversion, batch_size=8,
        models=[ModelSettings()], steady=False,
    )  # fmt: skip
    work_dir = SimpleNamespace(folder=lambda name: tmp_path / name)
    path, manifest = FrameStore(plan, work_dir).manifest(0, [1])
    (tmp_path / "manifests").mkdir()
    found = frame_conversion(read_manifest(write_manifest(manifest, path)), layout.empty())
    assert found.target == target


@pytest.mark.parametrize(
    ("pictures", "size", "workers", "weights", "expected"),
    [
        (6, (96, 64), "auto", 1, 1),  # six would load the model for longer than one works
        (6, (1920, 1080), "auto", 1, 6),
        (100, (320, 180), "auto", 1, 5),
        (2, (3840, 2160), "auto", 1, 2),
        (6, (96, 64), 6, 1, 6),  # as asked
        (6, (320, 180), "auto", 27, 6),  # a network that takes longer
        (6, (1920, 1080), "auto", None, 1),  # a plain resize takes milliseconds
        (1000, (1920, 1080), "auto", None, 6),
    ],
)
def test_few_or_small_pictures_get_fewer_workers(tmp_path, pictures, size, workers, weights, expected):
    info = SimpleNamespace(width=size[0], height=size[1])
    source = PictureSource(info, (tmp_path / "1.png",) * pictures, tuple(range(pictures)))
    file = tmp_path / "weights.bin" if weights else None
    if file:
        file.write_bytes(bytes(1_250_000 * weights))
    options = Options(tmp_path / "%d.png", tmp_path / "o_%d.png", workers=workers)
    assert worker_count(options, source, file) == expected


def test_a_video_gets_six_workers():
    assert worker_count(Options("a.mp4", "b.mp4"), VideoSource(SimpleNamespace(width=96, height=64)), None) == 6
