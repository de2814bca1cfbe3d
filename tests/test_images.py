"""Pictures in and out: what a format keeps, which way is up, numbered ones, and videos from and to them."""

import fcntl
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from clips import make_clip, number_of

from upscaling.common.errors import InputError, UpscaleError
from upscaling.job.options import Options
from upscaling.job.work_dir import open_work_dir
from upscaling.pipeline.frame_store import FrameStore
from upscaling.pipeline.images import files_of_pattern, is_pattern, numbered_name, numbered_pictures
from upscaling.pipeline.plan import make_plan

ROOT = Path(__file__).parent.parent
SIZE = (20, 14)  # width, height


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "upscale.py"), *map(str, arguments), "--model", "lanczos", "--workers", "2"],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def smooth(channels: int, dtype=np.uint8) -> np.ndarray:
    """A picture without sharp edges, (height, width, channels) or (height, width)."""
    coarse = np.random.default_rng(channels).integers(30, 225, (4, 5, channels), np.uint8)
    picture = cv2.resize(coarse, SIZE, interpolation=cv2.INTER_CUBIC).reshape(SIZE[1], SIZE[0], channels)
    picture = picture.astype(np.uint16) * 257 if dtype == np.uint16 else picture
    return picture[..., 0] if channels == 1 else picture


def twice(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, None, fx=2, fy=2, interpolation=cv2.INTER_LANCZOS4)


def assert_close(found, expected, share):
    """Every sample within a share of the whole range, on average within a tenth of that."""
    assert found.shape == expected.shape and found.dtype == expected.dtype
    difference = np.abs(found.astype(float) - expected) / np.iinfo(found.dtype).max
    assert difference.max() < share and difference.mean() < share / 3


@pytest.mark.parametrize(
    ("name", "channels", "dtype", "share"),
    [
        ("gray.png", 1, np.uint8, 0.03),
        ("gray16.png", 1, np.uint16, 0.03),
        ("rgb.png", 3, np.uint8, 0.03),
        ("rgb16.png", 3, np.uint16, 0.03),
        ("alpha.png", 4, np.uint8, 0.03),
        ("alpha16.png", 4, np.uint16, 0.03),
        ("rgb16.tif", 3, np.uint16, 0.03),
        ("rgb.tiff", 3, np.uint8, 0.03),
        ("alpha.webp", 4, np.uint8, 0.12),
        ("rgb.jpg", 3, np.uint8, 0.12),
    ],
)
def test_a_picture_keeps_its_channels_and_its_depth(tmp_path, name, channels, dtype, share):
    picture = smooth(channels, dtype)
    cv2.imwrite(str(tmp_path / name), picture)
    done = run(tmp_path / name, tmp_path / f"out-{name}", "2")
    assert done.returncode == 0, done.stderr
    shown = cv2.imread(str(tmp_path / name), cv2.IMREAD_UNCHANGED)  # lossy formats show another picture
    assert_close(cv2.imread(str(tmp_path / f"out-{name}"), cv2.IMREAD_UNCHANGED), twice(shown), share)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, f"out-{name}"])


def test_what_a_format_can_not_keep_is_said(tmp_path):
    cv2.imwrite(str(tmp_path / "in.png"), smooth(4, np.uint16))
    done = run(tmp_path / "in.png", tmp_path / "out.jpg", "2")
    assert "alpha channel is dropped" in done.stderr and "16 bits a sample become 8" in done.stderr
    assert cv2.imread(str(tmp_path / "out.jpg"), cv2.IMREAD_UNCHANGED).shape == (28, 40, 3)


def metadata(kind, data, picture, path):
    if not hasattr(cv2, "imencodeWithMetadata"):
        pytest.skip("OpenCV before 4.12 writes no metadata")
    done, encoded = cv2.imencodeWithMetadata(path.suffix, picture, [kind], [np.frombuffer(data, np.uint8)])
    assert done
    encoded.tofile(path)


def test_a_photograph_that_lies_on_its_side_stands_up(tmp_path):
    exif = b"II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)  # orientation 6: turn clockwise
    picture = smooth(3)
    metadata(getattr(cv2, "IMAGE_METADATA_EXIF", 0), exif, picture, tmp_path / "in.jpg")
    assert run(tmp_path / "in.jpg", tmp_path / "out.png", "2").returncode == 0
    found = cv2.imread(str(tmp_path / "out.png"), cv2.IMREAD_UNCHANGED)
    assert_close(found, twice(cv2.rotate(picture, cv2.ROTATE_90_CLOCKWISE)), 0.15)


def test_a_colour_profile_goes_along(tmp_path):
    # An ICC header and one tag (ICC.1:2010, 7.2), which libpng checks; random, as it can't be short when deflated.
    header = bytearray(160) + np.random.default_rng(1).bytes(400)
    header[0:4], header[8:12] = struct.pack(">I", 560), b"\x02\x40\0\0"
    header[12:24], header[36:40] = b"mntrRGB XYZ ", b"acsp"
    header[68:80] = bytes.fromhex("0000f6d6000100000000d32d")
    header[128:144] = struct.pack(">I4sII", 1, b"cprt", 144, 416)
    header[144:152] = b"text\0\0\0\0"
    metadata(getattr(cv2, "IMAGE_METADATA_ICCP", 0), bytes(header), smooth(3), tmp_path / "in.jpg")
    for name in ("out.png", "out.jpg"):
        assert run(tmp_path / "in.jpg", tmp_path / name, "2").returncode == 0
        data = np.fromfile(tmp_path / name, np.uint8)
        _, kinds, found = cv2.imdecodeWithMetadata(data, cv2.IMREAD_UNCHANGED)
        profiles = [bytes(one) for kind, one in zip(list(kinds), found, strict=True) if kind == cv2.IMAGE_METADATA_ICCP]
        assert profiles == [bytes(header)], name


def test_a_video_to_numbered_pictures_and_back(tmp_path):
    clip = make_clip(tmp_path / "in.mp4", 7)
    assert run(clip, tmp_path / "frames" / "f_%04d.png", "1").returncode == 0
    names = sorted(path.name for path in (tmp_path / "frames").iterdir())
    assert names == [f"f_{number:04d}.png" for number in range(1, 8)]
    lumas = [cv2.imread(str(tmp_path / "frames" / name), cv2.IMREAD_GRAYSCALE) for name in names]
    assert [number_of(luma) for luma in lumas] == list(range(7))

    (tmp_path / "frames" / "f_0004.png").unlink()  # a gap is no end
    rate = ("--frame-rate", "30000/1001")
    for source in (tmp_path / "frames", tmp_path / "frames" / "f_%04d.png"):
        assert run(source, tmp_path / "back.mp4", "1", *rate).returncode == 0
        with av.open(str(tmp_path / "back.mp4")) as video:
            found = [
                (frame.pts * frame.time_base, number_of(frame.to_ndarray(format="gray"))) for frame in video.decode()
            ]
        assert [number for _, number in found] == [0, 1, 2, 4, 5, 6]
        assert [round(time * Fraction(30000, 1001)) for time, _ in found] == list(range(6))


def test_numbered_pictures_keep_their_numbers(tmp_path):
    for number in (3, 20, 100):
        cv2.imwrite(str(tmp_path / f"in{number}.png"), np.full((6, 8, 3), number, np.uint8))
    assert run(tmp_path / "in%d.png", tmp_path / "big" / "%03d.webp", "2").returncode == 0
    found = {path.name: cv2.imread(str(path)).mean() for path in (tmp_path / "big").iterdir()}
    assert {name: round(mean, -1) for name, mean in found.items()} == {"003.webp": 0, "020.webp": 20, "100.webp": 100}


def test_the_work_directory_of_numbered_pictures_is_their_patterns_own(tmp_path):
    clip, folder = make_clip(tmp_path / "in.mp4", 9), tmp_path / "frames"
    assert run(clip, folder / "a_%02d.png", "2", "--keep-work").returncode == 0
    assert (folder / "a_%02d.png.work" / "job.json").is_file() and not list(tmp_path.glob("*.work"))
    with (folder / "a_%02d.png.work" / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # another run of that pattern
        assert run(clip, folder / "a_%02d.png", "2").returncode == 75
        assert run(clip, folder / "b_%02d.png", "2").returncode == 0
    assert len(list(folder.glob("b_*.png"))) == 9 and not list(folder.glob("b_*.work"))
    assert run(tmp_path / "in.mp4", tmp_path / "new" / "%d.png", "2", "--part", "1/2").returncode == 2
    assert not (tmp_path / "new").exists()


def test_a_video_of_one_frame_is_a_picture(tmp_path):
    for name in ("one.mp4", "one.mkv"):
        clip = make_clip(tmp_path / name, 1)
        assert run(clip, tmp_path / "one.png", "1", "--overwrite").returncode == 0
        assert number_of(cv2.imread(str(tmp_path / "one.png"), cv2.IMREAD_GRAYSCALE)) == 0


def test_one_frame_of_a_video(tmp_path):
    clip = make_clip(tmp_path / "in.mp4", 9)
    assert run(clip, tmp_path / "out.png", "1", "--frames", "6").returncode == 0
    assert number_of(cv2.imread(str(tmp_path / "out.png"), cv2.IMREAD_GRAYSCALE)) == 5


@pytest.mark.parametrize(
    ("source", "output", "options", "says"),
    [
        ("in.mp4", "out.png", (), "name a pattern such as out_%06d.png"),
        ("a.png", "out.png", ("--crf", "20"), "--crf is for videos"),
        ("none_%d.png", "out.mp4", (), "no file"),
        ("in.mp4", "out.mp4", ("--frame-rate", "25"), "--frame-rate is for numbered pictures"),
        ("empty", "out.mp4", (), "no numbered pictures"),
        ("torn.png", "out.png", (), "torn.png"),
    ],
)
def test_what_can_not_be_is_one_line(tmp_path, source, output, options, says):
    make_clip(tmp_path / "in.mp4", 2)
    cv2.imwrite(str(tmp_path / "a.png"), smooth(3))
    (tmp_path / "torn.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    (tmp_path / "empty").mkdir()
    done = run(tmp_path / source, tmp_path / output, "2", *options)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and says in done.stderr
    assert not (tmp_path / output).exists() and not list(tmp_path.glob("*.work"))


def test_a_picture_too_large_for_its_format_is_refused_at_once(tmp_path):
    cv2.imwrite(str(tmp_path / "in.png"), np.zeros((4, 2100, 3), np.uint8))
    done = run(tmp_path / "in.png", tmp_path / "out.webp", "8")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "webp pictures have at most 16383 pixels a side, not 16800x32; use png" in done.stderr
    assert not list(tmp_path.glob("*.work"))


def test_a_picture_that_breaks_a_sequence_is_named_and_the_run_resumes(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(1, 6):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((6, 8, 3), 40 * number, np.uint8))
    whole = (folder / "4.png").read_bytes()
    (folder / "4.png").write_bytes(whole[:30])
    done = run(folder, tmp_path / "out.mp4", "2")
    assert done.returncode == 1 and "4.png" in done.stderr and not (tmp_path / "out.mp4").exists()
    (folder / "4.png").write_bytes(whole)
    assert run(folder, tmp_path / "out.mp4", "2").returncode == 0


# Names


def test_names_of_numbered_pictures(tmp_path):
    assert numbered_name("a%06d.png", 12) == "a000012.png" and numbered_name("%d.png", 12) == "12.png"
    for name in ("a1.png", "a02.png", "a0100.png", "a10000.png", "b1.png", "a1.jpg"):
        (tmp_path / name).touch()
    assert [number for number, _ in files_of_pattern(tmp_path / "a%d.png")] == [1, 10000]
    assert [number for number, _ in files_of_pattern(tmp_path / "a%04d.png")] == [100, 10000]
    with pytest.raises(InputError, match="3 series"):
        numbered_pictures(tmp_path)
    assert not is_pattern(tmp_path / "100%.png") and not is_pattern(tmp_path / "%d.mp4")
    (tmp_path / "%d.png").touch()
    assert not is_pattern(tmp_path / "%d.png")  # a file of just that name


def test_frames_at_work_that_a_person_can_open(tmp_path):
    clip = make_clip(tmp_path / "in.mp4", 20)
    for kind in ("npy", "png"):
        done = run(clip, tmp_path / f"{kind}.mkv", "1.5", "--frame-format", kind, "--crf", "4")
        assert done.returncode == 0, done.stderr
    lumas = []
    for kind in ("npy", "png"):
        with av.open(str(tmp_path / f"{kind}.mkv")) as video:
            lumas.append([frame.to_ndarray(format="gray").astype(float) for frame in video.decode(video=0)])
    assert len(lumas[0]) == len(lumas[1]) == 20
    # The same but for what 8-bit RGB can't hold: the clip's saturated corners.
    assert all(np.abs(a - b).mean() < 3 for a, b in zip(*lumas, strict=True))


def test_pngs_go_through_the_workers(tmp_path):
    store, work_dir = store_of(tmp_path)
    picture = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8) + 60
    planes = [picture, np.full((3, 4), 120, np.uint8), np.full((3, 4), 140, np.uint8)]
    store.put(3, store.flat(planes))
    opened = cv2.imread(str(work_dir.folder("input_frames") / "frame_000003.png"))
    assert opened.shape == (6, 8, 3) and store._name(3) == "frame_000003.png"
    twice_as_large = cv2.resize(opened, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    cv2.imwrite(str(work_dir.folder("output_frames") / "frame_000003.png"), twice_as_large)
    luma = store.planes(3)[0]
    assert luma.shape == (12, 16) and np.abs(luma[::2, ::2].astype(int) - picture).max() <= 2
    (work_dir.folder("output_frames") / "frame_000003.png").write_bytes(b"torn")
    with pytest.raises(UpscaleError, match="frame 3 is damaged"):
        store.planes(3)
    store.remove(3)
    assert not list(work_dir.folder("input_frames").iterdir()) + list(work_dir.folder("output_frames").iterdir())


def store_of(tmp_path):
    clip = make_clip(tmp_path / "in.mp4", 2, width=8, height=6)
    plan = make_plan(Options(clip, tmp_path / "out.mp4", model="lanczos", frame_format="png"))
    work_dir = open_work_dir(plan.work_dir, plan.identity, plan.output)
    return FrameStore(plan, work_dir), work_dir
