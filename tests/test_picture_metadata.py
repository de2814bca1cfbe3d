"""EXIF, XMP, dpi and text from each format into each: what a reader of the result finds."""

import struct

import numpy as np
import pytest
from PIL import Image

from upscaling.pictures import exif
from upscaling.pictures.exif import Exif, read_block, read_tiff, write_block
from upscaling.pictures.metadata import read_metadata, upright_xmp
from upscaling.pictures.writing import write_picture

NOTE = b"Maker\0" + bytes(range(200))
XMP = b"<x tiff:Orientation=\"6\" exif:PixelXDimension='60'><tiff:ImageLength>40</tiff:ImageLength><b>1</b></x>"


def photograph(path) -> None:
    """A picture of 60x40 that lies on its side, with what cameras write, a thumbnail included."""
    fields = Image.Exif()
    fields[271], fields[305], fields[274], fields[306] = "Maker", "Firmware 1.0", 6, "2020:01:02 03:04:05"
    fields[282] = fields[283] = 300.0
    fields[296] = 2
    fields.get_ifd(0x8769).update({33434: 0.01, 0x9286: b"ASCII\0\0\0hello", 37500: NOTE, 0xA002: 60, 0xA003: 40})
    fields.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 30.5)})
    more = {"xmp": XMP} if path.suffix in (".jpg", ".webp") else {}
    Image.new("RGB", (60, 40), (10, 200, 30)).save(path, exif=fields.tobytes(), **more)


@pytest.mark.parametrize("source", ["in.jpg", "in.png", "in.webp", "in.tif"])
def test_every_format_into_every_format(tmp_path, source):
    photograph(tmp_path / source)
    metadata = read_metadata(tmp_path / source)
    for name in ("out.jpg", "out.png", "out.webp", "out.tif"):
        write_picture(tmp_path / name, np.zeros((120, 80, 3), np.uint8), metadata)
        with Image.open(tmp_path / name) as found:
            fields = found.getexif()
            sub, place = fields.get_ifd(0x8769), fields.get_ifd(0x8825)
            assert (fields[271], fields[306], fields[282], fields[296]) == ("Maker", "2020:01:02 03:04:05", 300, 2)
            assert fields[274] == 1 and fields[305] == "upscale (Real-ESRGAN)" and 513 not in fields.get_ifd(1)
            assert (float(sub[33434]), sub[0x9286], sub[37500]) == (0.01, b"ASCII\0\0\0hello", NOTE)
            assert (sub[0xA002], sub[0xA003]) == (80, 120)
            assert place[1] == "N" and [float(one) for one in place[2]] == [48, 51, 30.5]
            if XMP in (metadata.xmp,):
                assert found.info["xmp"] == upright_xmp(XMP, 80, 120)
            found.load()  # a damaged file shows here
        if name != "out.tif":
            assert read_metadata(tmp_path / name).exif.maker_note_at == metadata.exif.maker_note_at


def test_xmp_of_the_result():
    found = upright_xmp(XMP + b"<xmp:Thumbnails>\n1</xmp:Thumbnails>", 80, 120)
    assert found == XMP.replace(b'"6"', b'"1"').replace(b"'60'", b"'80'").replace(b">40<", b">120<")


def test_text_and_dpi_of_png_and_jpeg(tmp_path):
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text("parameters", "a cat\nSteps: 20")
    text.add_itxt("Title", "Grüße")
    picture = Image.new("RGB", (6, 4))
    picture.save(tmp_path / "in.png", pnginfo=text, dpi=(150, 150))
    write_picture(tmp_path / "out.png", np.zeros((8, 12, 3), np.uint8), read_metadata(tmp_path / "in.png"))
    with Image.open(tmp_path / "out.png") as found:
        assert found.info["parameters"] == "a cat\nSteps: 20" and found.info["Title"] == "Grüße"
    for name in ("out.jpg", "out.png", "out.tif"):
        write_picture(tmp_path / name, np.zeros((8, 12, 3), np.uint8), read_metadata(tmp_path / "in.png"))
        with Image.open(tmp_path / name) as found:
            assert [round(float(one)) for one in found.info["dpi"]] == [150, 150]
            found.load()


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_block_comes_back(order):
    fields = Exif(order, {271: (2, b"A long name of a maker\0"), 282: (5, struct.pack("<2I", 72, 1))})
    fields.exif = {37500: (7, NOTE), 33434: (5, struct.pack("<2I", 1, 100)), 40960: (7, b"0100")}
    fields.interop = {1: (2, b"R98\0")}
    for at in (0, 40, 2000):
        fields.maker_note_at = at
        block = write_block(fields)
        found = read_block(exif.PREFIX + block)
        assert (found.main, found.exif, found.interop) == (fields.main, fields.exif, fields.interop)
        assert not at or (found.maker_note_at == at and block[at : at + len(NOTE)] == NOTE)


def test_exif_too_large_for_jpeg_loses_its_large_fields_only(tmp_path):
    fields = Exif("<", {271: (2, b"Maker\0")}, {37500: (7, bytes(70_000)), 33434: (5, struct.pack("<2I", 1, 100))})
    (tmp_path / "in.tif").write_bytes(write_block(fields))
    metadata = read_metadata(tmp_path / "in.tif")
    assert not metadata.exif  # no picture in it
    photograph(tmp_path / "in.png")
    metadata = read_metadata(tmp_path / "in.png")
    metadata.exif.exif[37500] = (7, bytes(70_000))
    write_picture(tmp_path / "out.jpg", np.zeros((8, 12, 3), np.uint8), metadata)
    with Image.open(tmp_path / "out.jpg") as found:
        assert found.getexif()[271] == "Maker" and float(found.getexif().get_ifd(0x8769)[33434]) == 0.01


def test_damaged_exif_is_read_as_far_as_it_goes():
    fields = Exif("<", {271: (2, b"A long name of a maker\0"), 272: (2, b"A model\0")})
    block = write_block(fields)
    for size in range(len(block)):
        read_tiff(block[:size])
        read_tiff(block[:size] + b"\xff" * (len(block) - size))
    assert not read_block(b"") and not read_block(b"Exif\0\0nothing")
