"""Segments: every encoder returns the frames that it is given, with their colour, HDR metadata and times."""

import os
import resource
import signal
from pathlib import Path

import av
import numpy as np
import pytest
from encoding import ENCODERS, settings_of, video

from upscaling.decode.colour_tags import Colour
from upscaling.encode import codecs
from upscaling.encode.segment_writer import SegmentError, SegmentWriter
from upscaling.frames.av_planes import av_planes
from upscaling.frames.pixel_formats import pixel_format, plane_shapes


def smooth(settings, number: int) -> list[np.ndarray]:
    """Planes of a picture that any codec keeps well: slopes that move with `number`, read-only like an mmap."""
    fmt, planes = pixel_format(settings.pixel_format), []
    for index, shape in enumerate(plane_shapes(fmt, settings.width, settings.height)):
        y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
        values = (60 + 20 * index + x * 40 // shape[1] + y * 40 // shape[0] + number * 2) << (fmt.depth - 8)
        values = np.repeat(values[..., None], fmt.channels, -1) if fmt.rgb else values
        plane = values.astype(fmt.dtype)
        plane.flags.writeable = False
        planes.append(plane)
    return planes


def write(path: Path, settings, pts: list[int]) -> Path:
    with SegmentWriter(path, settings) as writer:
        for number, time in enumerate(pts):
            writer.write(smooth(settings, number), time)
    return path


def frames_of(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return sorted(container.decode(video=0), key=lambda frame: frame.pts)


def psnr(frame: av.VideoFrame, planes: list[np.ndarray], fmt) -> float:
    error = []
    for got, wanted in zip(av_planes(frame, fmt), planes, strict=True):
        error.append(np.mean((got.astype(float) - wanted) ** 2))
    peak = (1 << fmt.depth) - 1
    return 10 * np.log10(peak**2 / max(np.mean(error), 1e-9))


@pytest.mark.parametrize("codec", ENCODERS)
def test_frames_are_returned_in_order(tmp_path, codec):
    best = {"crf": codecs.ENCODERS[codec].crf_range[0]} if codecs.ENCODERS[codec].quality else {}
    settings = settings_of(video(), codec=codec, **best)
    pts = [1001 * i for i in range(7)]
    path = write(tmp_path / "s.mkv", settings, pts)
    frames = frames_of(path)
    assert len(frames) == 7
    fmt = pixel_format(settings.pixel_format)
    if codec != "prores_ks":  # its decoder has 12 bit
        for number, frame in enumerate(frames):
            assert psnr(frame, smooth(settings, number), fmt) >= 45


@pytest.mark.parametrize(("size", "result"), [((1, 1), (2, 2)), ((65, 49), (66, 50)), ((64, 48), (64, 48))])
def test_sizes_are_rounded_up_to_what_the_pixel_format_needs(tmp_path, size, result):
    settings = settings_of(video(width=size[0], height=size[1]))
    assert (settings.width, settings.height) == result
    assert len(frames_of(write(tmp_path / "s.mkv", settings, [0, 1]))) == 2


def test_requested_pixel_format(tmp_path):
    settings = settings_of(video(), codec="libx264", pix_fmt="yuv444p10le")
    path = write(tmp_path / "s.mkv", settings, [0, 1])
    assert frames_of(path)[0].format.name == "yuv444p10le"


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1", "libvpx-vp9"])
def test_colour_is_written_into_the_stream(tmp_path, codec):
    colour = Colour("bt2020nc", True, "bt2020", "arib-std-b67", "topleft")
    path = write(tmp_path / "s.mkv", settings_of(video(colour=colour), codec=codec), [0, 1])
    frame = frames_of(path)[0]
    assert (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc) == (9, 2, 9, 18)


@pytest.mark.parametrize("codec", ["libx265", "libsvtav1"])
def test_hdr_metadata_is_in_the_frames(tmp_path, codec):
    hdr = {
        "mastering_display": {
            "primaries": [["17/25", "8/25"], ["53/200", "69/100"], ["3/20", "3/50"]],
            "white_point": ["3127/10000", "329/1000"],
            "min_luminance": "1/10000",
            "max_luminance": "1000",
        },
        "content_light_level": {"max_content": 1000, "max_average": 400},
    }
    path = write(tmp_path / "s.mkv", settings_of(video("yuv420p10le", side_data=hdr), codec=codec), [0, 1, 2])
    data = {d.type.name: np.frombuffer(bytes(d), np.int32) for d in frames_of(path)[0].side_data if len(bytes(d)) < 99}
    numbers = data["MASTERING_DISPLAY_METADATA"]
    assert numbers[0] / numbers[1] == pytest.approx(0.68, abs=1e-4)  # red x
    assert numbers[18] / numbers[19] == pytest.approx(1000)  # max luminance
    assert data["CONTENT_LIGHT_LEVEL"][:2].tolist() == [1000, 400]


def test_times_may_be_far_from_zero_and_uneven(tmp_path):
    pts = [90_000_000_000, 90_000_000_001, 90_000_900_000, 90_030_000_000]
    assert len(frames_of(write(tmp_path / "s.mkv", settings_of(video()), pts))) == 4
    assert len(frames_of(write(tmp_path / "t.mkv", settings_of(video()), [-5000, -3000, 7]))) == 3


def test_times_that_are_not_increasing_are_refused(tmp_path):
    with SegmentWriter(tmp_path / "s.mkv", settings := settings_of(video())) as writer:
        writer.write(smooth(settings, 0), 5)
        with pytest.raises(ValueError, match="must grow"):
            writer.write(smooth(settings, 1), 5)


def test_an_encoder_that_loses_a_frame_is_an_error(tmp_path, monkeypatch):
    settings = settings_of(video(), codec="ffv1")
    writer = SegmentWriter(tmp_path / "s.mkv", settings)
    writer.write(smooth(settings, 0), 0)
    original = writer._mux
    monkeypatch.setattr(writer, "_mux", lambda packets: original(packets[:-1]))
    writer.write(smooth(settings, 1), 1)
    with pytest.raises(SegmentError, match="ffv1 lost 1 of 2 frames"):
        writer.close()


def test_a_full_disk_is_an_error(tmp_path):
    settings = settings_of(video(), codec="ffv1")
    noise = np.random.default_rng(1)
    shapes = plane_shapes(pixel_format(settings.pixel_format), 64, 48)
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, old[1]))
    try:
        with pytest.raises(OSError, match="too large"), SegmentWriter(tmp_path / "s.mkv", settings) as writer:
            for pts in range(12):
                writer.write([noise.integers(0, 255, shape, np.uint8) for shape in shapes], pts)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


def test_encoders_write_nothing_to_the_terminal(tmp_path, capfd):
    for codec in ENCODERS:
        write(tmp_path / f"{codec}.mkv", settings_of(video(), codec=codec), [0, 1])
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a single core is always the limit")
@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1", "libvpx-vp9"])
def test_a_limit_of_cores_bounds_an_encoders_threads(tmp_path, monkeypatch, codec):
    """As a container's quota or Slurm sets one; x265 and SVT-AV1 would count the machine's cores."""
    settings = settings_of(video(width=256, height=192), codec=codec)
    counts = []
    for given in ("", "1"):
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", given)
        before = len(os.listdir("/proc/self/task"))
        with SegmentWriter(tmp_path / f"s{given}.mkv", settings) as writer:
            for number in range(3):
                writer.write(smooth(settings, number), number * 1001)
            counts.append(len(os.listdir("/proc/self/task")) - before)
    assert counts[1] < counts[0]
