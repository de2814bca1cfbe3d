"""The page of --report: what it says of runs that succeed, fail, are interrupted and resumed; and in a real browser."""

import base64
import io
import os
import re
import shutil
import signal
import stat
import time
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from browser import CHROMIUM, browser
from clips import make_clip
from PIL import Image
from runs import LOSSLESS, ROOT, Run, make_input, records, wait_until

from upscaling import upscale_folder, upscale_video
from upscaling.cli.library import dry_run
from upscaling.common.errors import InputError, UpscaleError
from upscaling.common.text import clock
from upscaling.frames.tone import in_srgb
from upscaling.job.options import make_options
from upscaling.pipeline.stages import RunCounts
from upscaling.report.pictures import LARGE, Pictures
from upscaling.report.plot import rate_plot
from upscaling.report.record import FileRecord, Lines
from upscaling.report.recorder import LARGE_FILES, MOST_PICTURE_BYTES, Recorder
from upscaling.report.speed import MOST_SAMPLES, Speed
from upscaling.workers.status import create_rows

FAULTY = ROOT / "tests" / "faulty.py"
QUICK = {"model": "lanczos", "workers": 2, "preset": "ultrafast"}
VOID = {"meta", "link", "img", "input"}  # elements of the page without an end tag
ELEMENTS = VOID | {
    "html", "head", "title", "style", "body", "main", "header", "h1", "h2", "h3", "p", "span", "div", "article", "a",
    "figure", "figcaption", "dl", "dt", "dd", "ul", "li", "details", "summary", "table", "thead", "tbody", "tr", "th",
    "td", "bdi", "small", "svg", "desc", "line", "polygon", "polyline", "rect", "footer", "script",
}  # fmt: skip
HOSTILE = (
    "<script>alert(1)<img src=x onerror=alert(2)>.mp4",
    "' onmouseover=alert(3) \" &amp; \n.mp4",
    "גשם \u202e.mp4",
)


class Parsed(HTMLParser):
    """A page, checked: every element ends, none is one that only a name can have made, all it needs is in it."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[tuple[str, str]] = []  # elements that have not ended, with their class
        self.texts: list[tuple[str, str]] = []  # (classes and names of the elements around it, text)
        self.images: list[str] = []
        self.count = dict.fromkeys(ELEMENTS, 0)
        self.feed(text)
        self.close()
        assert not self.open and self.count["script"] == self.count["style"] == self.count["h1"] == 1

    def handle_starttag(self, name, attributes):
        assert name in ELEMENTS, name
        self.count[name] += 1
        given = dict(attributes)
        assert len(given) == len(attributes) and not [key for key in given if key.startswith("on") or key == "style"]
        for key in ("src", "href"):
            assert given.get(key, "#").startswith(("#", "data:")), given
        if name == "img":
            self.images.append(given["src"])
            assert given["alt"] and int(given["width"]) > 0 and int(given["height"]) > 0
        if name not in VOID:
            self.open.append((name, given.get("class") or ""))

    def handle_endtag(self, name):
        assert self.open.pop()[0] == name

    def handle_data(self, data):
        around = " ".join(f"{name} {kind}" for name, kind in self.open)
        if data.strip() and self.open[-1][0] not in ("style", "script"):
            self.texts.append((around, data))

    def within(self, *words: str) -> str:
        """All text inside elements of these names and classes."""
        return " ".join(text for around, text in self.texts if set(words) <= set(around.split()))

    @property
    def text(self) -> str:
        return " ".join(text for _, text in self.texts)


def parsed(page: Path) -> Parsed:
    return Parsed(page.read_text(encoding="utf-8"))


def picture(uri: str) -> np.ndarray:
    kind, _, data = uri.partition(";base64,")
    assert kind in ("data:image/webp", "data:image/jpeg")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), np.int16)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip") / "in.mp4", 24, sound=True)


@pytest.fixture
def start(tmp_path):
    """Starts runs of the command, with a fault; kills what a failed test leaves."""
    runs = []

    def start(*arguments, fault: str) -> Run:
        folder = tmp_path / f"fault-{len(runs)}"
        folder.mkdir()
        runs.append(Run(tmp_path, *arguments, script=FAULTY, env={"FAULT": f"{fault}:{folder}"}))
        return runs[-1]

    yield start
    for run in runs:
        run.kill_all()


# Runs


def test_one_run_with_a_worker_that_dies(tmp_path, start):
    source = make_input(tmp_path / "in.mkv")
    page = tmp_path / "page.html"
    start(source, tmp_path / "out.mp4", *LOSSLESS, "--report", page, fault="die:1").succeed()
    found = parsed(page)
    assert found.within("header").startswith("✓  Done in.mkv 160 frames done in 0:0")
    facts = found.within("dl")
    for words in ("Size 64x48 to 128x96", "Model lanczos", "Device cpu, 2 workers", "Frames 160 frames, 15 equal to",
                  " frames/s", "Time 0:0", "KiB to ", "Input h264 yuv420p", "Output libx264 yuv420p",
                  "Options scale 2, model lanczos"):  # fmt: skip
        assert words in facts, words
    assert "audio stream 1 (aac): copied" in found.within("article", "ul")
    assert re.search(r"\d+ frames \(\d+ %\)", found.within("table", "shares")) and "1 restart" in found.text
    assert "worker" in found.within("warnings") and "restarting it" in found.within("warnings")
    before, after = map(picture, found.images)
    assert (
        before.shape == after.shape == (96, 128, 3) and np.abs(before - after).mean() < 6
    )  # lanczos is a plain resize
    assert sorted(path.name for path in tmp_path.iterdir() if "page" in path.name) == ["page.html"]


def test_a_folder_with_names_that_are_no_html_and_a_failure(clip, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in HOSTILE:
        shutil.copy(clip, folder / name)
    (folder / "zz<b>.mp4").write_bytes(clip.read_bytes()[:900])
    page, log = tmp_path / "page.html", tmp_path / "<i>.log"
    found = upscale_folder(folder, tmp_path / "out", report=page, log_file=log, settle=0, **QUICK)
    assert found.exit_status == 1 and found.files_done == len(HOSTILE)
    shown = parsed(page)
    assert "3 of 4 files done, 1 failed in 0:0" in shown.within("header")
    text = page.read_text(encoding="utf-8")
    assert text.index('class="file failed"') < text.index('class="file done"')  # failures come first
    assert "zz<b>.mp4 is not a video" in shown.within("failed", "error") and str(log) in shown.within("failed", "error")
    for name in HOSTILE:
        assert name.replace("\n", "\\n").replace("\u202e", "\\u202e") in shown.within("article", "h2")
    assert shown.count["article"] == 4 and len(shown.images) == 6 and shown.count["a"] == 4
    upscale_folder(folder, tmp_path / "out", report=page, log_file=log, settle=0, **QUICK)  # its own page is replaced
    again = parsed(page)
    assert "0 of 1 file done, 1 failed" in again.within("header")
    assert "3 files: finished before with the same parameters" in again.text and again.count["article"] == 1


def test_a_folder_run_is_followed_interrupted_and_resumed(tmp_path, start):
    folder, page = tmp_path / "in", tmp_path / "page.html"
    folder.mkdir()
    make_clip(folder / "a.mp4", 8)
    make_input(folder / "b.mkv")
    arguments = (folder, tmp_path / "out", *LOSSLESS, "--settle", "0", "--report", page)
    run = start(*arguments, fault="slow:1")
    wait_until(lambda: records(tmp_path / "out" / "b.mkv.work") >= 2, "some frames are done")
    during = parsed(page)
    assert "Not finished: running since" in during.within("header") and "1 of 2 files done" in during.within("header")
    assert during.within("done", "h2").endswith("a.mp4") and during.within("running", "h2").endswith("b.mkv")
    run.signal(signal.SIGTERM)
    run.fail(143)
    stopped = parsed(page)
    assert "Interrupted" in stopped.within("header") and "1 of 2 files done" in stopped.within("header")
    assert "to resume" in stopped.within("header") and "Interrupted after" in stopped.within("article", "interrupted")
    assert len(stopped.images) == 4  # of the file that was interrupted, too
    done = int(re.search(r"Frames (\d+) of 1[56]\d", stopped.within("article", "interrupted"))[1])
    start(*arguments, fault="slow:1").succeed()
    resumed = parsed(page)
    facts = resumed.within("article", "done", "dl")
    earlier = int(re.search(r"Frames 160 frames, (\d+) of them by an earlier run", facts)[1])
    assert 32 <= earlier <= done and "without those of the earlier run" in facts
    assert "1 file: finished before" in resumed.text and "a.mp4" in resumed.within("details")
    shares = [int(count) for count in re.findall(r"(\d+) frames? \(", resumed.within("shares"))]
    assert sum(shares) <= 160 - earlier


def test_a_run_that_fails_and_one_whose_input_is_bad(clip, tmp_path):
    source = shutil.copy(clip, tmp_path / "in.mp4")
    page = tmp_path / "page.html"

    def change_input(event):
        if event["event"] == "start":
            os.utime(source, (1, 1))

    with pytest.raises(UpscaleError, match="changed while"):
        upscale_video(source, tmp_path / "out.mp4", report=page, progress=change_input, **QUICK)
    found = parsed(page)
    assert "Failed" in found.within("header") and "changed while it was upscaled" in found.within("article", "error")
    assert str(tmp_path / "out.mp4.work" / "logs") in found.within("article", "error") and len(found.images) == 2
    assert "Frames 24 of 24" in found.within("dl")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(InputError):
        upscale_video(tmp_path / "empty.mp4", tmp_path / "out.mp4", report=page, **QUICK)
    found = parsed(page)
    assert "empty.mp4 is empty" in found.within("header", "error") and "No log was kept" in found.within("error")


def test_a_page_that_cannot_be_written_is_one_warning(clip, tmp_path):
    folder, events = tmp_path / "pages", []
    folder.mkdir()

    def watch(event):
        events.append(event)
        if event["event"] == "start":
            shutil.rmtree(folder)

    upscale_video(clip, tmp_path / "out.mp4", report=folder / "page.html", progress=watch, **QUICK)
    lines = [event["text"] for event in events if "--report" in event.get("text", "")]
    assert len(lines) == 1 and "No such file" in lines[0] and "the run goes on without it" in lines[0]
    assert events[-1]["event"] == "done" or events[-2]["event"] == "done"
    assert (tmp_path / "out.mp4").is_file()


def test_two_runs_do_not_write_one_page(clip, tmp_path):
    page, warnings = tmp_path / "page.html", []

    def second_run(event):
        if event["event"] == "start":
            text = page.read_bytes()
            with pytest.raises(UpscaleError):
                upscale_video(clip, tmp_path / "out.mp4", report=page, progress=look, **QUICK)
            assert page.read_bytes() == text

    def look(event):
        warnings.append(event.get("text", ""))

    page.touch()
    upscale_video(clip, tmp_path / "out.mp4", report=page, progress=second_run, **QUICK)
    assert "another run is writing it" in " ".join(warnings) and "Done" in parsed(page).within("header")


def test_what_does_not_go_with_a_page_is_refused(clip, tmp_path):
    page, theirs = tmp_path / "page.html", tmp_path / "theirs.html"
    theirs.write_text("<!DOCTYPE html><title>not ours</title>")
    as_video = shutil.copy(clip, tmp_path / "video.html")
    pipe = tmp_path / "pipe.html"
    os.mkfifo(pipe)
    for path, says, more in (
        (theirs, "was not made by this program; add --overwrite", {}),
        (as_video, "is the input itself", {"overwrite": True}),
        (page, "is --report, too", {"log_file": page}),
        (tmp_path / "page.txt", "choose one such as report.html", {}),
        (tmp_path / "none" / "page.html", "does not exist", {}),
        (pipe, "not a regular file", {"overwrite": True}),
    ):
        with pytest.raises(InputError, match=says):
            upscale_video(tmp_path / "video.html", tmp_path / "out.mp4", report=path, **QUICK, **more)
    with pytest.raises(InputError, match="--report"):
        dry_run(clip, tmp_path / "out.mp4", report=page)
    for option in (("--dry-run",), ("--part", "1/2"), ("--join", "2"), ("--slurm",)):
        line = Run(tmp_path, clip, tmp_path / "out.mp4", "2", "--report", page, *option).fail(2)
        assert "--report" in line and option[0] in line
    assert stat.S_ISFIFO(pipe.stat().st_mode) and "not ours" in theirs.read_text() and not page.exists()
    upscale_video(clip, tmp_path / "out.mp4", report=theirs, overwrite=True, **QUICK)
    assert "Done" in parsed(theirs).within("header")


# Pictures


@pytest.mark.parametrize(
    ("name", "keywords", "options"),
    [
        ("in.mp4", {}, {}),
        ("in.mkv", {"width": 67, "height": 45, "pix_fmt": "yuv444p10le", "codec": "ffv1"}, {"scale": 1.5}),
        ("in.mkv", {"width": 66, "height": 46}, {"scale": "90x90", "fit": "crop"}),
        ("in.mkv", {"width": 66, "height": 46}, {"scale": "90x90", "fit": "pad"}),
        ("in.mp4", {}, {"frame_format": "png"}),
        ("in.mp4", {"width": 1280, "height": 720, "frames": 2}, {"output": "%d.png"}),
        ("in.mkv", {"pix_fmt": "gray", "codec": "ffv1"}, {"output": "out.gif"}),
    ],
)
def test_the_pictures_are_those_of_the_input_and_of_the_result(tmp_path, name, keywords, options):
    source = make_clip(tmp_path / name, **{"frames": 5, "options": None, **keywords})
    options = {"scale": 2, "output": "out.mkv", "crf": 0, **options}
    output = tmp_path / options.pop("output")
    if output.suffix != ".mkv":
        del options["crf"]
    page = tmp_path / "page.html"
    quick = {**QUICK, "preset": None} if output.suffix != ".mkv" else QUICK
    upscale_video(source, output, report=page, **quick, **options)
    found = parsed(page)
    before, after, *overview = map(picture, found.images)
    number = int(re.search(r"Frame (\d+), ", found.within("figcaption"))[1])
    if output.name == "%d.png":
        whole = np.asarray(Image.open(tmp_path / f"{number}.png").convert("RGB"), np.int16)
    else:
        with av.open(str(output)) as video:
            whole = [frame.to_ndarray(format="rgb24").astype(np.int16) for frame in video.decode(video=0)][number - 1]
    rows, columns = after.shape[:2]
    if options.get("fit") == "pad":  # the bars are left out
        whole = whole[whole.mean((1, 2)) > 8]
    assert before.shape == after.shape and bool(overview) == (whole.shape[1] > LARGE[0])
    # It is cut out of the result: somewhere it matches, as well as a compressed picture can.
    match = cv2.matchTemplate(whole.astype(np.uint8), after.astype(np.uint8), cv2.TM_SQDIFF)
    left, top = cv2.minMaxLoc(match)[2]
    assert np.abs(whole[top : top + rows, left : left + columns] - after).mean() < 6
    assert np.abs(before - after).mean() < 6  # lanczos is a plain resize


def test_hdr_is_shown_in_the_brightness_and_colours_of_a_screen():
    codes = np.array([0, 0.2, 0.4, 0.58, 0.75, 1.0])  # of PQ: 0.58 is white paper, 203 cd/m² (ITU-R BT.2408)
    gray = np.repeat((codes * 65535).astype(np.uint16)[None, :, None], 3, axis=2)
    shown = in_srgb(gray, "smpte2084")[0]
    assert np.ptp(shown.astype(int), axis=1).max() <= 2  # gray stays gray
    assert shown[0].max() == 0 and 225 <= shown[3, 0] <= 248 and shown[5, 0] >= 254
    assert (np.diff(shown[:, 0].astype(int)) > 0).all()
    assert in_srgb(np.full((1, 1, 4), 49151, np.uint16), "arib-std-b67")[0, 0, 3] == 191  # alpha is kept
    hlg_white = in_srgb(np.full((1, 1, 3), 49151, np.uint16), "arib-std-b67")  # 75 % (ITU-R BT.2408)
    assert 225 <= hlg_white[0, 0, 0] <= 248


def test_the_pictures_of_many_files_stay_within_bounds(tmp_path):
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (640, 960, 3), np.uint8))
    out = io.BytesIO()
    noise.save(out, "WEBP", quality=84)
    uri = "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode()
    one = Pictures(1, uri, uri, 960, 640, (1920, 1280), (960, 640), overview=uri)
    small = one.smaller
    assert (small.width, small.height, small.part) == (480, 320, (480, 320)) and not small.is_large
    assert picture(small.before).shape == (320, 480, 3)
    recorder = Recorder(make_options(input="a", output="b", report=str(tmp_path / "page.html")), print)
    count = LARGE_FILES + 4 + MOST_PICTURE_BYTES // small.size
    recorder.run.files = [FileRecord(str(at), "", pictures=small) for at in range(count - LARGE_FILES - 1)]
    recorder.run.files += [FileRecord(str(at), "", pictures=one) for at in range(LARGE_FILES + 1)]
    recorder._bound_pictures()
    kept = [file.pictures for file in recorder.run.files]
    assert kept[-LARGE_FILES:] == [one] * LARGE_FILES and kept[-LARGE_FILES - 1] == small
    assert kept[0] is None and "too large" in recorder.run.files[0].no_pictures
    assert sum(found.size for found in kept[:-LARGE_FILES] if found) <= MOST_PICTURE_BYTES


# Plot and messages


def test_the_rate_over_time_is_bounded_and_right():
    speed = Speed()
    for second in range(1, 20001):  # 5 frames/s, then none for a while, then 10
        frames = 5 * second if second <= 8000 else 40000 if second <= 12000 else 40000 + 10 * (second - 12000)
        speed.add(float(second), frames, restarts=(second >= 9000) + (second >= 12500))
    assert len(speed.seconds) <= MOST_SAMPLES + 1 and speed.restarts == [9000.0, 12500.0]
    rates = speed.rates()
    length = speed.seconds[-1] / len(rates)
    assert abs(sum(rates) * length - speed.frames[-1]) < 1
    assert rates[2] == pytest.approx(5) and rates[30] == 0 and rates[-3] == pytest.approx(10)
    drawn = rate_plot(speed, 2, "key")
    assert drawn.count('class="restart"') == 2
    assert f"2 restarts of workers: after {clock(9000)}, {clock(12500)}." in drawn and "From 0 to 10 frames/s" in drawn
    assert Speed().rates() == [] and "too short" in rate_plot(Speed(), 0, "key")


def test_frames_that_are_encoded_after_a_signal_count(tmp_path):
    recorder = Recorder(make_options(input="a", output="b", report=str(tmp_path / "page.html")), print)
    names = ("input", "output", "device", "engine", "engine_reason", "model", "input_size", "output_size", "shape")
    recorder.start({**dict.fromkeys(names, "x"), "frames": 100, "workers": 1})
    counts = RunCounts(100, resumed=10, done=50, started=time.monotonic() - 20)
    descriptor, rows = create_rows(1)
    os.close(descriptor)
    recorder.show(counts, rows)
    counts.done = 74
    recorder.failed("stopped", 143)
    (file,) = recorder.run.files
    recorder.finish()
    assert (file.status, file.frames, file.speed.frames[-1]) == ("interrupted", 74, 64)
    assert file.rate == pytest.approx(64 / 20, rel=0.2) and " as a mean" in parsed(recorder.path).within("figcaption")


def test_messages_are_bounded():
    lines = Lines()
    for number in range(1000):
        lines.add(str(number))
    assert len(lines.lines) + lines.left_out == 1000 and lines.left_out == 800


def test_the_parts_of_the_page_are_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (pattern,) = project["tool"]["setuptools"]["package-data"]["upscaling.report"]
    files = {path.name for path in (ROOT / "upscaling" / "report").iterdir() if path.is_file() and path.suffix != ".py"}
    assert files == {path.name for path in (ROOT / "upscaling" / "report").glob(pattern) if path.suffix != ".py"}


# In a browser


@pytest.mark.chromium
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_in_a_browser(tmp_path):
    folder, page = tmp_path / "in", tmp_path / "page <b>.html"
    folder.mkdir()
    for name in (*HOSTILE, "long" * 50 + ".mp4"):
        make_clip(folder / name, 4)
    make_clip(folder / "large.mp4", 2, width=640, height=360)
    (folder / "broken<img src=x onerror=alert(1)>.mp4").write_bytes(b"nothing" * 99)
    upscale_folder(folder, tmp_path / "out", report=page, settle=0, **QUICK)
    (tmp_path / "profile").mkdir()
    with browser(tmp_path / "profile") as tab:
        tab.size(1000, 800)
        tab.open(page)
        assert tab.run("document.querySelectorAll('.pair').length") == 5
        clip = "getComputedStyle(document.querySelector('.before')).clipPath"
        value = "document.querySelector('.pair input').value"
        half = (tab.run(clip), tab.run(value))
        for _ in range(40):  # to the first slider, without a mouse
            tab.press("Tab")
            if tab.run("document.activeElement.type") == "range":
                break
        assert tab.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"  # the focus is seen
        tab.press("ArrowRight", 7)
        right = (tab.run(clip), tab.run(value))
        assert right[1] == "57" and right[0] != half[0] and "57" in tab.run("document.activeElement.ariaValueText")
        tab.press("Home")
        assert tab.run(value) == "0" and "100%" in tab.run(clip)
        box = tab.run(
            "(() => { const s = document.querySelector('.stage'); s.scrollIntoView();"
            " const b = s.getBoundingClientRect(); return [b.left, b.top, b.width, b.height] })()"
        )
        y = box[1] + box[3] / 2
        tab.drag((box[0] + box[2] * 0.5, y), (box[0] + box[2] * 0.8, y))
        assert 78 <= int(tab.run(value)) <= 82
        light = tab.screenshot(tmp_path / "light.png")
        tab.colours("dark")
        dark = tab.screenshot(tmp_path / "dark.png")
        brightness = [np.asarray(Image.open(io.BytesIO(data)).convert("L"))[:, :20].mean() for data in (light, dark)]
        assert brightness[0] > 200 and brightness[1] < 60
        for width in (360, 320):
            tab.size(width, 740, mobile=True)
            tab.open(page)
            assert tab.run("document.documentElement.scrollWidth <= innerWidth") and tab.run("innerWidth") == width
        tab.scripts(False)
        tab.open(page)
        tab.screenshot(tmp_path / "plain.png")
        assert set(tab.requests) == {page.as_uri()} and tab.complaints == []
        tab.scripts(True)
        changed = page.read_text(encoding="utf-8").replace("<main>", "<main><script>document.title = 'run'</script>", 1)
        page.write_text(changed, encoding="utf-8")
        tab.open(page)
        assert tab.run("document.title") != "run" and tab.complaints  # the policy stops and tells even that
