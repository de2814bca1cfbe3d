"""heif.py and heif_decode.py: tiles composed, cropped, turned and mirrored by their properties; alpha, EXIF, AVIF."""

import struct

import numpy as np
import pytest
from heif_files import NCLX, box, full, hevc, ispe, tiled, write_heic
from PIL import Image, ImageOps, features

from upscaling.common.errors import InputError
from upscaling.pictures.metadata import read_metadata
from upscaling.pictures.reading import read_picture


def picture(width: int = 100, height: int = 90) -> np.ndarray:
    """Smooth colours that are different everywhere, (height, width, 3) uint8."""
    y, x = np.mgrid[:height, :width]
    return np.dstack([40 + x * 2, 220 - y * 2, 60 + x + y // 2]).astype(np.uint8)


CLAP = box(b"clap", struct.pack(">4IiIiI", 60, 1, 40, 1, -10, 1, 5, 1))  # 60x40, centred 10 to the left, 5 down
TRANSFORMS = [
    ([], lambda p: p),
    ([box(b"irot", b"\1")], np.rot90),
    ([box(b"irot", b"\3")], lambda p: np.rot90(p, -1)),
    ([box(b"imir", b"\0")], lambda p: p[::-1]),
    ([box(b"imir", b"\1")], lambda p: p[:, ::-1]),
    ([CLAP, box(b"irot", b"\2")], lambda p: np.rot90(p[30:70, 10:70], 2)),
    ([box(b"irot", b"\1"), box(b"imir", b"\1")], lambda p: np.rot90(p)[:, ::-1]),
]


@pytest.mark.parametrize(("transforms", "expected"), TRANSFORMS)
def test_tiles_are_composed_and_turned(tmp_path, transforms, expected):
    path = tiled(tmp_path / "in.heic", picture(), transforms)
    found = read_picture(path).samples
    wanted = expected(picture())
    assert found.shape == wanted.shape and found.dtype == np.uint8
    assert np.abs(found.astype(int) - wanted).max() <= 3


@pytest.mark.parametrize(("pix_fmt", "dtype"), [("yuv420p", np.uint8), ("yuv420p10le", np.uint16), ("gray", np.uint8)])
def test_one_coded_picture_of_other_formats(tmp_path, pix_fmt, dtype):
    samples = picture(64, 64) if pix_fmt != "gray" else picture(64, 64)[..., 0]
    configuration, coded = hevc(samples, pix_fmt)
    item = (b"hvc1", coded, [box(b"hvcC", configuration), ispe(64, 64), NCLX])
    found = read_picture(write_heic(tmp_path / "in.heic", [item], [])).samples
    assert found.dtype == dtype and found.shape == samples.shape
    assert np.abs(found / np.iinfo(dtype).max - samples / 255).max() < 0.02


def test_alpha_exif_and_xmp(tmp_path):
    exif = Image.Exif()
    exif[271], exif[274] = "Maker", 6  # the orientation is irot's alone
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    colours, alpha = hevc(picture(64, 64)), hevc(np.full((64, 64), 100, np.uint8), "gray")
    auxiliary = full(b"auxC", b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0")
    items = [
        (b"hvc1", colours[1], [box(b"hvcC", colours[0]), ispe(64, 64), NCLX]),
        (b"hvc1", alpha[1], [box(b"hvcC", alpha[0]), ispe(64, 64), auxiliary]),
        (b"Exif", struct.pack(">I", 6) + b"Exif\0\0" + block, []),
        (b"mime", b"<x:xmpmeta/>", []),
    ]
    path = write_heic(tmp_path / "in.heic", items, [(b"auxl", 2, [1]), (b"cdsc", 3, [1]), (b"cdsc", 4, [1])])
    found = read_picture(path).samples
    assert found.shape == (64, 64, 4) and np.abs(found[..., 3].astype(int) - 100).max() <= 1
    assert np.abs(found[..., :3].astype(int) - picture(64, 64)).max() <= 3
    metadata = read_metadata(path)
    assert metadata.exif.main[271][1] == b"Maker\0" and metadata.xmp == b"<x:xmpmeta/>"


@pytest.mark.skipif("avif" not in features.modules or not features.check("avif"), reason="this Pillow writes no AVIF")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_avif_as_pillow_has_it(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / "in.avif"
    Image.fromarray(picture()).save(path, quality=90, subsampling="4:4:4", exif=exif)
    with Image.open(path) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened), int)
    found = read_picture(path).samples
    assert found.shape == expected.shape and np.abs(found - expected).max() <= 3


def test_what_is_damaged_is_one_line(tmp_path):
    whole = tiled(tmp_path / "in.heic", picture(), []).read_bytes()
    damaged = tmp_path / "damaged.heic"
    for data in (
        whole[:40],
        whole[:200],
        whole[:-3000],
        whole.replace(b"hvcC", b"free"),
        whole.replace(b"dimg", b"free"),
    ):
        damaged.write_bytes(data)
        with pytest.raises(InputError, match=r"damaged\.heic: ") as caught:
            read_picture(damaged)
        assert "\n" not in str(caught.value)
    other = write_heic(tmp_path / "other.heic", [(b"jpeg", b"", [ispe(8, 8)])], [])
    with pytest.raises(InputError, match=r"JPEG pictures in HEIF files are not read; convert it"):
        read_picture(other)
    huge = write_heic(tmp_path / "huge.heic", [(b"hvc1", b"", [ispe(60000, 60000)])], [])
    with pytest.raises(InputError, match="60000x60000 pixels is too large"):
        read_picture(huge)
