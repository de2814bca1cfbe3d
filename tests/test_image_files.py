"""Picture files as bytes: what is written is what other programs read, profile and software included."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from upscaling.common.errors import InputError, UpscaleError
from upscaling.frames.av_images import decode_png, encode_png
from upscaling.pictures.metadata import Metadata, read_metadata
from upscaling.pictures.writing import ALPHA, DEEP, write_picture
from upscaling.pictures.writing import EXTENSIONS as ALL


def profile(space: bytes) -> bytes:
    """The header of an ICC profile and noise (ICC.1:2022, 7.2)."""
    header = bytearray(132) + np.random.default_rng(1).bytes(333)
    header[0:4], header[16:20], header[36:40] = len(header).to_bytes(4, "big"), space, b"acsp"
    return bytes(header)


def noise(channels, dtype=np.uint8, size=(13, 9)):
    shape = size[::-1] if channels == 1 else (*size[::-1], channels)
    return np.random.default_rng(channels).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


EXTENSIONS = [extension for extension in ALL if extension not in ("gif", "apng")]
CASES = [
    (extension, channels, dtype)
    for extension in EXTENSIONS
    for channels in (1, 3, 4)
    for dtype in (np.uint8, np.uint16)
    if (channels < 4 or extension in ALPHA) and (dtype == np.uint8 or extension in DEEP)
]


@pytest.mark.parametrize(("extension", "channels", "dtype"), CASES)
def test_opencv_reads_what_is_written(tmp_path, extension, channels, dtype):
    cv2 = pytest.importorskip("cv2", exc_type=ImportError)
    path, picture = tmp_path / f"picture.{extension}", noise(channels, dtype)
    if channels == 4:
        picture[..., 3] = np.iinfo(dtype).max  # what is transparent has no colour in a WebP, nor in OpenCV's TIFF
    if extension not in DEEP:
        picture[:] = picture[0, 0]  # lossy: colours are kept, noise is not
        picture[0, 0] //= 2 if channels == 4 else 1  # or nothing is transparent, and WebP drops the channel
    write_picture(path, picture)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    found = found if found.ndim == 2 else found[..., [2, 1, 0, 3][: found.shape[2]]]
    if extension in DEEP:  # lossless
        assert found.dtype == dtype and np.array_equal(found, picture)
    else:
        difference = np.abs(found.reshape(9, 13, -1).astype(int) - picture.reshape(9, 13, -1))
        assert difference[4:, 4:].max() <= 3


@pytest.mark.parametrize(("extension", "channels", "dtype"), CASES)
def test_a_profile_goes_along_if_it_fits(tmp_path, extension, channels, dtype):
    path, gray = tmp_path / f"picture.{extension}", channels == 1 and extension != "webp"
    for space in (b"GRAY", b"RGB ", b"CMYK"):
        write_picture(path, noise(channels, dtype), Metadata(profile(space)))
        assert read_metadata(path).profile == (profile(space) if space == (b"GRAY" if gray else b"RGB ") else None)
    with Image.open(path) as opened:
        opened.load()
        assert opened.size == (13, 9)
    write_picture(path, noise(channels, dtype))
    assert read_metadata(path).profile is None


def test_a_file_without_a_picture_has_no_profile(tmp_path):
    (tmp_path / "a.png").write_bytes(b"text")
    assert read_metadata(tmp_path / "a.png").profile is None and read_metadata(tmp_path / "none.png").profile is None


@pytest.mark.parametrize(("extension", "width"), [("jpg", 65501), ("webp", 16384)])
def test_a_picture_that_is_too_large_is_one_line(tmp_path, extension, width, capfd):
    with pytest.raises(UpscaleError, match=re.escape(f"cannot write a picture of {width}x1 as {extension}")):
        write_picture(tmp_path / f"picture.{extension}", np.zeros((1, width, 3), np.uint8))
    assert capfd.readouterr().err == "" and not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_keeps_every_sample(channels, dtype):
    picture = noise(channels, dtype, (61, 37))
    assert np.array_equal(decode_png(encode_png(picture)), picture)


@pytest.mark.parametrize("mode", ["1", "P", "LA"])
def test_pngs_of_other_kinds(mode):
    picture = Image.fromarray(noise(3)).convert(mode)
    file = io.BytesIO()
    picture.save(file, "PNG")
    expected = np.asarray(picture.convert({"1": "L", "P": "RGB", "LA": "RGBA"}[mode]))
    assert np.array_equal(decode_png(file.getvalue()), expected)


def test_a_damaged_png_is_an_error():
    whole = encode_png(noise(3, size=(200, 100)))
    half = len(whole) // 2
    for damaged in (b"", b"text", whole[:half], whole[:-6], whole[:half] + bytes(40) + whole[half + 40 :]):
        with pytest.raises(InputError, match=r"not a PNG picture|no picture"):
            decode_png(damaged)
