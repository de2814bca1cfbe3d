"""reading.py and colours.py: pictures of every mode and depth, damaged ones, and what is told by content."""

import io

import numpy as np
import pytest
from kinds.pictures import blocks, cmyk_profile
from PIL import Image, ImageCms

from upscaling.common.errors import InputError
from upscaling.frames.av_images import encode_png, encode_tiff
from upscaling.pictures.formats import NAMED, READ, format_of
from upscaling.pictures.reading import read_picture


def ramp(channels: int, dtype=np.uint8, size=(24, 18)) -> np.ndarray:
    width, height = size
    y, x = np.mgrid[:height, :width]
    planes = [x * 10 + 3, y * 13 + 2, 250 - x * 5 - y, 40 + y * 8][:channels]
    samples = np.dstack(planes).astype(dtype) * (257 if dtype == np.uint16 else 1)
    return samples[..., 0] if channels == 1 else samples


def saved(picture: Image.Image, path, **options):
    if path.suffix == ".qoi" and ".qoi" not in Image.registered_extensions():
        pytest.skip("this Pillow writes no QOI")
    picture.save(path, **options)
    return read_picture(path)


@pytest.mark.parametrize(
    ("mode", "name", "expected"),
    [
        ("1", "a.png", "L"), ("L", "a.png", "L"), ("P", "a.png", "RGB"), ("LA", "a.png", "RGBA"), ("P", "a.gif", "RGB"),
        ("L", "a.bmp", "L"), ("1", "a.tif", "L"), ("LA", "a.tif", "RGBA"), ("P", "a.tif", "RGB"),
        ("RGBA", "a.tga", "RGBA"), ("L", "a.jpg", "L"), ("L", "a.jp2", "L"),
        ("RGBA", "a.jp2", "RGBA"), ("RGB", "a.qoi", "RGB"), ("RGB", "a.pcx", "RGB"), ("1", "a.pbm", "L"),
    ],
)  # fmt: skip
def test_modes(tmp_path, mode, name, expected):
    path = tmp_path / name
    options = {"lossless": True} if name.endswith("webp") else {"quality": 100} if name.endswith("jpg") else {}
    found = saved(Image.fromarray(ramp(3)).convert(mode), path, **options)
    with Image.open(path) as opened:
        wanted = np.asarray(opened.convert(expected))
    assert np.array_equal(found.samples, wanted) and not found.notes


def test_a_transparent_colour_is_transparent(tmp_path):
    for mode, colour in (("P", 0), ("RGB", (0, 0, 0)), ("L", 0)):
        picture = Image.new(mode, (6, 4), 0)
        picture.paste(1 if mode == "P" else Image.new(mode, (1, 1), "white").getpixel((0, 0)), (0, 0, 3, 4))
        found = saved(picture, tmp_path / "a.png", transparency=colour).samples
        assert found.shape == (4, 6, 4) and (found[:, :3, 3] == 255).all() and not found[:, 3:, 3].any()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits(tmp_path, channels):
    samples = ramp(channels, np.uint16) + 1
    for name, data in (("a.png", encode_png(samples)), ("a.tif", encode_tiff(samples))):
        (tmp_path / name).write_bytes(data)
        found = read_picture(tmp_path / name)
        assert np.array_equal(found.samples, samples) and not found.notes


def test_16_bits_of_other_formats(tmp_path):
    samples = ramp(3, np.uint16) + 1
    (tmp_path / "a.ppm").write_bytes(b"P6 24 18 65535\n" + samples.astype(">u2").tobytes())
    assert np.array_equal(read_picture(tmp_path / "a.ppm").samples, samples)
    gray = Image.fromarray(ramp(1, np.uint16))
    for name in ("b.png", "b.tif", "b.jp2"):
        assert np.array_equal(saved(gray, tmp_path / name).samples, ramp(1, np.uint16)), name


def test_what_no_format_here_holds_is_named(tmp_path):
    Image.fromarray(ramp(1).astype(np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(ramp(1).astype(np.int32) * 100_000).save(tmp_path / "long.tif")
    for name, text in (("float.tif", "floating point"), ("long.tif", "32 bits")):
        with pytest.raises(InputError, match=rf"{name}: .*{text}"):
            read_picture(tmp_path / name)


def test_cmyk_and_lab(tmp_path):
    ink = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    for name in ("a.tif", "a.jpg"):
        by_profile = saved(ink, tmp_path / name, icc_profile=cmyk_profile())
        assert by_profile.samples.min() > 240 and by_profile.notes == (
            "CMYK colours are converted to sRGB by their profile",
        )
        plain = saved(ink, tmp_path / name)
        assert np.abs(plain.samples.astype(int) - (0, 255, 255)).max() < 6 and "without a profile" in plain.notes[0]
        damaged = saved(ink, tmp_path / name, icc_profile=cmyk_profile()[:200])
        assert np.array_equal(damaged.samples, plain.samples) and "profile is damaged" in damaged.notes[0]
    # Without Adobe's mark the samples are not inverted.
    data = (tmp_path / "a.jpg").read_bytes()
    at = data.index(b"\xff\xee\x00\x0eAdobe")
    (tmp_path / "b.jpg").write_bytes(data[:at] + data[at + 16 :])
    assert np.abs(read_picture(tmp_path / "b.jpg").samples.astype(int)).max() < 6  # all inks but the first at full
    lab = Image.new("LAB", (8, 8), (136, 128, 128))  # L* 53, neutral
    assert np.abs(saved(lab, tmp_path / "lab.tif").samples.astype(int) - 127).max() < 4


def test_gray_with_alpha_and_a_profile(tmp_path):
    """Gray of another tone curve becomes the same tone in sRGB: RGBA holds no gray profile."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    fake = bytearray(profile)
    fake[16:20] = b"GRAY"  # says gray, but is none: the samples stay
    found = saved(Image.new("LA", (4, 4), (90, 120)), tmp_path / "a.png", icc_profile=bytes(fake)).samples
    assert (found == (90, 90, 90, 120)).all()


def test_further_pages_are_counted(tmp_path):
    picture = blocks()
    found = saved(picture, tmp_path / "a.tif", save_all=True, append_images=[picture, picture])
    assert found.notes == ("its first page is read, 2 more are left out",)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "a.gif", "a.bmp", "a.jp2"])
def test_truncated_pictures_are_one_line(tmp_path, name):
    noise = np.random.default_rng(1).integers(0, 255, (60, 80, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    for size in (12, len(data) // 3, len(data) - 40):
        (tmp_path / name).write_bytes(data[:size])
        with pytest.raises(InputError, match=rf"^{tmp_path / name}.*(replace|convert)") as caught:
            read_picture(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_huge_pictures_are_one_line(tmp_path):
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "PNG")
    png = bytearray(file.getvalue())
    import zlib

    png[16:24] = (60000).to_bytes(4, "big") * 2
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    webp = b"RIFF\xff\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\xff\xff" * 2 + bytes(40)
    for name, data in (("a.png", bytes(png)), ("a.webp", webp)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=r"pixels is too large; the limit is 67108864 pixels"):
            read_picture(tmp_path / name)


def test_the_content_counts_and_raw_files_are_named(tmp_path):
    blocks().save(tmp_path / "a.jpg", "PNG")
    assert read_picture(tmp_path / "a.jpg").format == "png"
    dng = Image.new("RGB", (4, 4))
    dng.save(tmp_path / "b.tif", tiffinfo={50706: b"\1\4\0\0"})
    for name in ("b.tif", "b.dng"):
        (tmp_path / name).write_bytes((tmp_path / "b.tif").read_bytes())
        with pytest.raises(InputError, match=r"camera raw photographs are not read; convert it to png or tif"):
            read_picture(tmp_path / name)
    (tmp_path / "c.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(40))
    (tmp_path / "d.txt").write_text("text")
    assert format_of(tmp_path / "c.mp4") is None and format_of(tmp_path / "d.txt") is None
    assert {"jpg", "heic", "avif"} <= {one for endings in READ.values() for one in endings}
    assert {"jxl", "psd", "svg", "cr2", "exr"} <= {one for endings in NAMED.values() for one in endings}
