"""`--preview`: the samples, the crops, the cells, the sheet, and the command."""

import json
import signal
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import clips
import numpy as np
import pytest
from nets import compact, save_pth
from PIL import Image
from runs import Run, wait_until

from upscaling.cli.main import main
from upscaling.decode.decoder import Decoder
from upscaling.demux.reader import Reader
from upscaling.frames.swscale import as_rgb
from upscaling.inference.engine import make_upscaler
from upscaling.job.options import Options, make_options
from upscaling.models import weights
from upscaling.pictures.metadata import is_own_picture
from upscaling.pipeline.sources import frame_source
from upscaling.preview import columns as columns_module
from upscaling.preview.cells import ColumnResult, _make_column, make_cells
from upscaling.preview.columns import Column, columns_for
from upscaling.preview.crops import DARK, DETAIL, EDGES, KINDS, choose_crops, geometry_for
from upscaling.preview.job import LARGEST, Job, largest_crop
from upscaling.preview.process import fork_server
from upscaling.preview.sampling import samples
from upscaling.preview.sheet import LEAST_HEIGHT, MOST_WIDTH, Heading, Row, Sheet, cell_limit, draw, wrapped

SCENE = (400, 320)  # width, height


def options_for(path, **more) -> Options:
    return make_options(input=path, output=Path("sheet.png"), **more)


def sampled(path, **more):
    """(source, samples) of an input."""
    options = options_for(path, **more)
    source = frame_source(options, None, keep_alpha=False)
    return source, list(samples(source, options.frames or options.time))


def scene(number: int):
    """A frame of calm gray with a busy place, one of clear lines, and a dark one, which all move a little."""
    width, height = SCENE
    luma = np.full((height, width), 120, np.uint8)
    rng = np.random.default_rng(number)
    luma[8:112, 8:160] = rng.integers(60, 180, (104, 152))
    luma[16:96:24, 240:392] = 235
    luma[16:96, 248 + number % 4 : 384 : 40] = 20
    luma[200:312, 200:392] = 22 + 6 * (np.arange(192) // 6 % 2)
    luma[200 + number % 8, 200:392] = 40
    frame = clips.video_frame(0, width, height)
    clips.fill_plane(frame.planes[0], luma)
    return frame


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A clip of six frames of `scene`."""
    path = tmp_path_factory.mktemp("preview") / "scenes.mkv"
    pictures = [scene(number) for number in range(6)]
    return clips.make_clip(path, 6, width=SCENE[0], height=SCENE[1], codec="ffv1", pictures=pictures)


# Samples


def test_samples_are_spread_over_the_video_and_little_is_decoded(tmp_path, monkeypatch):
    path = clips.make_clip(tmp_path / "in.mkv", 600, options={"g": "10", "preset": "ultrafast", "bf": "2"})
    decoded = []
    inner = Reader._decode
    monkeypatch.setattr(Reader, "_decode", lambda self, packet: decoded.append(packet) or inner(self, packet))
    _, found = sampled(path)
    times = [sample.seconds for sample in found]
    assert [int(time // 2) for time in times] == list(range(12))  # one in each twelfth of 24 s
    assert len(decoded) < 350, "most frames are passed over"
    for sample in found:
        assert len(sample.frames) == 3 and sample.wanted == 1
        numbers = [clips.number_of(planes[0]) for planes in sample.frames]
        assert numbers == [int(sample.seconds * 25) % 64 + step for step in (-1, 0, 1)] or 0 in numbers


@pytest.mark.parametrize(
    ("more", "first", "last"), [({"time": "4-5"}, 4, Fraction("4.96")), ({"frames": "101:126"}, 4, 5), ({}, 0, 8)]
)
def test_samples_are_of_the_selected_frames(tmp_path, more, first, last):
    path = clips.make_clip(tmp_path / "in.mp4", 200, options={"g": "250", "preset": "ultrafast"})
    _, found = sampled(path, **more)
    assert len(found) >= 10
    assert all(first <= sample.seconds <= last for sample in found)
    for sample in found:
        number = int(sample.seconds * 25) % 64
        assert clips.number_of(sample.frames[sample.wanted][0]) == number


def animation(path):
    pictures = [Image.fromarray(np.asarray(np.full((48, 64, 3), 40 * number, np.uint8))) for number in range(5)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100)
    return path


def numbered(path):
    path.mkdir()
    for number in range(4):
        Image.fromarray(np.full((48, 64, 3), 40 * number, np.uint8)).save(path / f"f_{number}.png")
    (path / "f_2.png").write_bytes((path / "f_2.png").read_bytes()[:60])  # damaged
    return path


@pytest.mark.parametrize(
    ("name", "make", "most", "size"),
    [
        ("one.mp4", lambda path: clips.make_clip(path, 1), 1, (64, 48)),
        ("odd.mkv", lambda path: clips.make_clip(path, 4, width=63, height=47, codec="ffv1"), 3, (63, 47)),
        ("turned.mov", lambda path: clips.rotated(path, 90), 3, (48, 64)),
        ("deep.mkv", lambda path: clips.make_clip(path, 4, codec="ffv1", pix_fmt="yuv420p10le"), 3, (64, 48)),
        ("damaged.mp4", clips.damaged, 3, (64, 48)),
        ("truncated.mkv", clips.truncated, 3, (64, 48)),
        ("uneven.mkv", lambda path: clips.vfr(path)[0], 3, (64, 48)),
        ("clock.ts", lambda path: clips.negative(path)[0], 3, (64, 48)),
        ("changes.ts", clips.resized_on_the_way, 3, (64, 48)),
        ("frames.gif", animation, 3, (64, 48)),
        ("numbered", numbered, 2, (64, 48)),
    ],
)
def test_three_crops_of_every_kind_of_input(tmp_path, name, make, most, size):
    source, found = sampled(make(tmp_path / name))
    layout = source.info.layout
    assert (layout.width, layout.height) == size
    assert max(len(sample.frames) for sample in found) == most
    for sample in found:
        for planes in sample.frames:
            assert sum(plane.size for plane in planes) == layout.sample_count
    crops = choose_crops(found, geometry_for(layout, LARGEST, 24))
    assert [crop.kind for crop in crops] == list(KINDS)
    assert len({crop.seconds for crop in crops}) == min(3, len(found))


# Crops


def test_crops_fall_on_detail_edges_and_the_dark(scenes):
    source, found = sampled(scenes)
    crops = {crop.kind: crop for crop in choose_crops(found, geometry_for(source.info.layout, LARGEST, 24))}
    middles = {kind: (crop.left + LARGEST[0] // 2, crop.top + LARGEST[1] // 2) for kind, crop in crops.items()}
    places = {DETAIL: (84, 60), EDGES: (316, 56), DARK: (296, 256)}
    for kind, (x, y) in places.items():
        assert abs(middles[kind][0] - x) < 60 and abs(middles[kind][1] - y) < 50, (kind, middles[kind])
    assert len({crop.seconds for crop in crops.values()}) == 3


def test_a_dark_crop_shows_more_than_the_bars(tmp_path):
    pictures = []
    for number in range(3):
        frame = scene(number)
        luma = np.array(np.frombuffer(frame.planes[0], np.uint8).reshape(SCENE[1], -1)[:, : SCENE[0]])
        luma[:40], luma[-40:] = 16, 16
        clips.fill_plane(frame.planes[0], luma)
        pictures.append(frame)
    path = clips.make_clip(tmp_path / "in.mkv", 3, width=400, height=320, codec="ffv1", pictures=pictures)
    source, found = sampled(path)
    for crop in choose_crops(found, geometry_for(source.info.layout, (96, 72), 24)):
        assert crop.top >= 40 and crop.top + 72 <= 280, crop.kind


# Cells


def test_cells_are_what_a_run_makes_of_the_whole_frame(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(columns_module.weights, "at_hand", lambda name: None)  # no models beside the given one
    model = save_pth(compact(), tmp_path / "own.pth")
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"no model")
    options = options_for(scenes, model=str(model), precision="fp32", engine="torch", device="cpu", workers=1)
    source, found = sampled(scenes)
    columns = columns_for(options, source)
    assert [column.name for column in columns] == ["plain resize", "own.pth", "--strength 0.5", "--steady"]
    own = columns[1].settings
    columns += [
        Column("broken", "", 2, settings=replace(own, model=str(broken))),
        Column("unusable", "", 3, reason="ncnn cannot run it"),
    ]
    layout, ratio = source.info.layout, (Fraction(2), Fraction(2))
    geometry = geometry_for(layout, largest_crop(ratio, cell_limit(6)), 24)
    crops = choose_crops(found, geometry)
    steps = []
    job = Job(crops, geometry, ratio, source.info.colour, time.monotonic() + 60)
    results, job = make_cells(columns, job, steps.append)
    assert steps == ["own.pth", "plain resize", "--strength 0.5", "broken", "unusable"]
    cells = {result.column.name: result for result in results}

    conversion = replace(job.conversion, source=layout, target=replace(layout, width=800, height=640))
    for name, settings in (("own.pth", own), ("plain resize", columns[0].settings)):
        upscaler = make_upscaler(settings, lambda: None)
        for crop, cell in zip(job.crops, cells[name].cells, strict=True):
            with Decoder(source.info) as decoder:
                planes = next(one.planes for one in decoder if one.pts * source.info.time_base == crop.seconds)
                frame = np.concatenate([plane.reshape(-1) for plane in planes])
            upscaler.submit([frame], conversion)
            whole = as_rgb(upscaler.collect()[0], conversion.target, (800, 640))
            left, top, (width, height) = 2 * crop.left, 2 * crop.top, job.geometry.crop
            wanted = whole[top : top + 2 * height, left : left + 2 * width].astype(int)
            assert np.abs(wanted - cell).max() <= 3, name
    halves = np.array(cells["own.pth"].cells, float) / 2 + np.array(cells["plain resize"].cells, float) / 2
    assert np.abs(halves - np.array(cells["--strength 0.5"].cells)).mean() < 2
    assert not np.array_equal(cells["--steady"].cells, cells["own.pth"].cells)
    assert all(cells[name].seconds > 0 for name in ("own.pth", "plain resize", "--strength 0.5", "--steady"))
    assert cells["--steady"].seconds > cells["own.pth"].seconds
    assert all("broken.pth is not a model file" in cell for cell in cells["broken"].cells)
    assert cells["unusable"].cells == ["left out: ncnn cannot run it"] * 3
    assert cells["broken"].seconds is None


def test_without_time_columns_are_left_out_with_the_reason(scenes, tmp_path, monkeypatch):
    source, found = sampled(scenes)
    geometry = geometry_for(source.info.layout, LARGEST, 24)
    ratio = (Fraction(2), Fraction(2))
    job = Job(choose_crops(found, geometry), geometry, ratio, source.info.colour, time.monotonic() - 1)
    columns = columns_for(options_for(scenes), source)
    base = ColumnResult(next(column for column in columns if column.is_base), seconds=2.0)
    slow = replace(columns[0], cost=9)
    result = ColumnResult(slow)
    server = fork_server([slow.settings])
    try:
        _make_column(server, result, job, base)
    finally:
        server.stop()
    assert result.cells == ["left out: it takes too long here"] * 3
    assert result.seconds == 18.0 and not result.is_measured


def test_crops_shrink_to_their_middle(scenes):
    source, found = sampled(scenes)
    geometry = geometry_for(source.info.layout, LARGEST, 24)
    ratio = (Fraction(2), Fraction(2))
    job = Job(choose_crops(found, geometry), geometry, ratio, source.info.colour, 0.0)
    small = job.shrunk((96, 72), 24)
    assert small.geometry.crop == (96, 72) and small.geometry.window == (144, 120)
    for crop, old in zip(small.crops, job.crops, strict=True):
        assert (crop.left, crop.top) == (old.left + 24, old.top + 16)
        with Decoder(source.info) as decoder:
            luma = next(one.planes[0].copy() for one in decoder if one.pts * source.info.time_base == crop.seconds)
        x, y = crop.inside
        window = small.geometry.window_layout.planes(crop.frames[crop.wanted])[0]
        assert np.array_equal(
            window[y : y + 72, x : x + 96], luma[crop.top : crop.top + 72, crop.left : crop.left + 96]
        )


# Colours and the sheet


def test_hdr_is_shown_in_the_range_of_a_screen(tmp_path):
    tags = {"colorspace": 9, "color_primaries": 9, "color_trc": 16, "color_range": 1}
    grays = []
    for code in (0.0, 0.38, 0.58, 1.0):  # PQ of 0, 26 (18 % gray), 203 (white) and 10000 cd/m²: ITU-R BT.2408, table 1
        frame = clips.video_frame(0, pix_fmt="yuv420p10le")
        for plane, value in zip(frame.planes, (round(64 + code * 876), 512, 512), strict=True):
            clips.fill_plane(plane, np.full((plane.height, plane.width), value, "<u2"))
        path = tmp_path / f"{code}.mkv"
        clips.make_clip(path, 1, codec="ffv1", pix_fmt="yuv420p10le", pictures=[frame], tags=tags)
        source, found = sampled(path)
        geometry = geometry_for(source.info.layout, LARGEST, 24)
        job = Job(choose_crops(found, geometry), geometry, (Fraction(1), Fraction(1)), source.info.colour, 0.0)
        picture = job.picture(job.crops[0].frames[0], job.crops[0])
        assert picture.dtype == np.uint8 and np.ptp(picture) <= 3, "gray stays gray"
        grays.append(int(picture.mean()))
    assert grays == sorted(grays) and grays[0] == 0 and grays[-1] >= 250
    assert 90 <= grays[1] <= 115 and 220 <= grays[2] <= 250


def test_a_sheet_of_many_columns_is_readable():
    names = [*weights.MODELS, "plain resize", "--strength 0.5", "--steady"]
    columns = [
        Heading(name, ("2.7 s a frame", "about 31:02:00 for all frames"), "film and photographs") for name in names
    ]
    limit = cell_limit(len(names))
    cells = [np.zeros((104, 144, 3), np.uint8)] * (len(names) - 1) + ["left out: it takes too long here " * 30]
    sheet = Sheet("é " * 400, columns, [Row(kind, ("0:00:12", "x 1, y 2"), cells) for kind in KINDS], ["a note " * 200])
    picture = draw(sheet)
    assert picture.shape[0] >= LEAST_HEIGHT and picture.shape[1] <= MOST_WIDTH
    assert limit[0] >= 288
    tiny = draw(Sheet("a", columns[:2], [Row("dark", (), [np.zeros((2, 4, 3), np.uint8)] * 2)], []))
    assert tiny.shape[0] >= LEAST_HEIGHT


def test_text_is_wrapped_and_names_stay_whole():
    assert wrapped("RealESRGAN_x4plus_anime_6B", 18, len) == ["RealESRGAN_x4plus_", "anime_6B"]
    assert wrapped("film and photographs, the most detail", 20, len) == ["film and", "photographs, the", "most detail"]
    assert wrapped("0123456789" * 3, 12, len) == ["012345678901", "234567890123", "456789"]
    assert wrapped("café 90° фильм", 99, len) == ["cafe 90° ?????"]
    assert wrapped("", 10, len) == []


# The command


def test_the_command_makes_a_sheet_of_all_models_on_this_machine(tmp_path):
    clip = clips.make_clip(tmp_path / "in.mp4", 6)
    sheet = tmp_path / "sheet.png"
    cache = tmp_path / "cache" / "torchinductor"  # torch puts one of its own into this process's environment
    environment = {"TORCHINDUCTOR_CACHE_DIR": str(cache)}
    run = Run(tmp_path, clip, "--preview", sheet, "--progress", "json", env=environment).succeed()
    events = [json.loads(line) for line in run.errors.splitlines()]
    models = [name for name in weights.MODELS if weights._packaged(weights.MODELS[name])]
    assert len(models) >= 3
    done = events[-1]
    assert done["event"] == "done" and done["output_size"] == "128x96" and done["frames"] == 6
    assert [column["name"] for column in done["columns"]] == ["plain resize", *models, "--strength 0.5", "--steady"]
    for column in done["columns"]:
        assert column["left_out"] == [] and column["seconds_per_frame"] > 0, column
        assert column["seconds"] >= 6 * column["seconds_per_frame"] - 0.1
    assert [crop["shows"] for crop in done["crops"]] == list(KINDS)
    steps = [event for event in events if event["event"] == "step"]
    assert [step["done"] for step in steps] == list(range(len(models) + 4))
    with Image.open(sheet) as picture:
        assert picture.mode == "RGB" and picture.height >= 600 and 2000 < picture.width <= 4000
    assert is_own_picture(sheet)
    assert sorted(path.name for path in tmp_path.iterdir() if "-" not in path.name) == ["cache", "in.mp4", "sheet.png"]


def test_a_signal_ends_it_at_once_and_leaves_nothing(tmp_path):
    clip = clips.make_clip(tmp_path / "in.mp4", 6)
    run = Run(tmp_path, clip, "--preview", tmp_path / "sheet.png", "--progress", "plain")
    wait_until(lambda: "step 2 of" in run.errors, "the first model is at work")
    run.signal(signal.SIGINT)
    started = time.monotonic()
    assert run.fail(130) == "upscale: error: stopped by SIGINT; nothing was written"
    assert time.monotonic() - started < 10
    assert not list(tmp_path.glob("*sheet*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--preview", "s.png"), "missing INPUT ("),
        (("in.mp4", "out.mp4", "--preview", "s.png"), "--preview takes one INPUT and no OUTPUT; leave out out.mp4"),
        (("in.mp4", "2", "3", "--preview", "s.png"), "--preview takes one INPUT and no OUTPUT; leave out 2"),
        (("folder", "--preview", "s.png"), "--preview takes one video or picture; folder is a folder and not one"),
        (("in.mp4", "--preview", "s.mp4"), "--preview s.mp4: not the name of a picture; it must end in png, "),
        (("in.mp4", "--preview", "s_%d.png"), "--preview s_%d.png: not the name of a picture"),
        (("in.mp4", "--preview", "no/s.png"), "output directory "),
        (
            ("in.mp4", "--preview", "s.png", "--codec", "hevc"),
            "a sheet and no video: leave out --codec",
        ),
        (("in.mp4", "--preview", "s.png", "--dry-run"), "--preview writes a sheet and no video: leave out --dry-run"),
        (("in.mp4", "--preview", "s.png", "--part", "1/2"), "--preview writes a sheet and no video: leave out --part"),
        (
            ("in.mp4", "--preview", "s.png", "--into", "folder"),
            "--preview writes a sheet and no video: leave out --into",
        ),
        (("in.mp4", "--preview", "s.png", "--model", "lanczos"), "--preview shows the plain resize anyway; leave out"),
        (("in.mp4", "--preview", "s.png", "--strength", "0"), "--preview shows the plain resize anyway; choose"),
        (("in.mp4", "9", "--preview", "s.png"), "SCALE: invalid value '9'"),
        (("photo.png", "--preview", "photo.png"), "output photo.png is the input itself"),
        (("in.mp4", "--preview", "photo.png"), "photo.png exists and was not made by this program; add --overwrite"),
        (("sound.wav", "--preview", "s.png"), "sound.wav"),
        (("in.mp4", "--preview", "s.png", "--time", "5-6"), "in.mp4: no frame is selected"),
        (("in.mp4", "--preview", "s.png", "--device", "cuda:7"), "--device cuda:7"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, monkeypatch, capfd, words, message):
    monkeypatch.chdir(tmp_path)
    clips.make_clip("in.mp4", 3)
    Path("folder").mkdir()
    clips.make_clip("folder/a.mp4", 1)
    Image.new("RGB", (8, 8)).save("photo.png")
    Path("sound.wav").write_bytes(b"RIFF" + bytes(100))
    before = sorted(tmp_path.rglob("*"))
    try:
        status = main(list(words))
    except SystemExit as end:
        status = end.code
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
    assert status == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("upscale: error: ") and message in lines[0], lines
    assert sorted(tmp_path.rglob("*")) == before
