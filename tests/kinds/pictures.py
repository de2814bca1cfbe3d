"""Kinds of picture and animation: orientation, metadata, colour spaces, transparency, times, formats."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from clips import make_clip
from heif_files import box, tiled
from PIL import Image, ImageOps

from kinds import Kind, Outcome

SIZE = (24, 16)


def blocks(size: tuple[int, int] = SIZE) -> Image.Image:
    """Four quarters of different colours, so that every orientation looks different."""
    picture = Image.new("RGB", size, (200, 40, 40))
    half = (size[0] // 2, size[1] // 2)
    for corner, colour in (((half[0], 0), (40, 180, 60)), ((0, half[1]), (50, 60, 210)), (half, (220, 210, 60))):
        picture.paste(colour, (*corner, corner[0] + half[0], corner[1] + half[1]))
    return picture


def assert_same(found: Image.Image, expected: Image.Image, limit: float = 6) -> None:
    """The picture shows the expected one at twice its size: centres of 4x4 blocks, away from the edges between them."""
    assert found.size == (2 * expected.width, 2 * expected.height)
    a = np.asarray(found.convert("RGB").reduce(4), int)
    b = np.asarray(expected.convert("RGB").reduce(2), int)
    apart = np.abs(a - b).max(-1)
    assert np.median(apart) < limit and (apart < 5 * limit).mean() > 0.6, apart


def no_errors(outcome: Outcome) -> None:
    assert outcome.status == 0, outcome.lines


# Orientation, and everything else that EXIF and XMP say

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/>'
    b"</rdf:RDF></x:xmpmeta>"
)


def photograph_exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[271], exif[272], exif[306], exif[274] = "Maker", "Model 7", "2024:05:06 07:08:09", orientation
    exif.get_ifd(0x8769).update({0x9003: "2024:05:06 07:08:09", 0xA002: SIZE[0], 0xA003: SIZE[1]})
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 30.0), 3: "E", 4: (2.0, 17.0, 40.0)})
    return exif.tobytes()


def make_photographs(folder: Path) -> Path:
    """Every orientation in JPEG, PNG, WebP and TIFF, by EXIF and by XMP alone."""
    source = folder / "in"
    source.mkdir()
    for number in range(1, 9):
        exif = photograph_exif(number)
        blocks().save(source / f"{number}.jpg", exif=exif, quality=98, subsampling=0, dpi=(300, 300), xmp=XMP % number)
        if number in (2, 4, 5, 7):
            blocks().save(source / f"{number}.png", exif=exif, dpi=(300, 300))
            blocks().save(source / f"{number}.webp", exif=exif, lossless=True)
            blocks().save(source / f"{number}.tif", exif=exif, dpi=(300, 300))
    blocks().save(source / "x7.webp", xmp=XMP % 7, lossless=True)
    return source


def check_photographs(outcome: Outcome) -> None:
    no_errors(outcome)
    for path in sorted(outcome.source.iterdir()):
        with Image.open(path) as source, Image.open(outcome.output / path.name) as found:
            assert_same(found, ImageOps.exif_transpose(source))
            exif = found.getexif()
            assert exif.get(274, 1) == 1 and b'tiff:Orientation="1"' in (found.info.get("xmp") or XMP % 1), path
            if path.stem == "x7":
                continue
            assert (exif[271].rstrip("\0"), exif[272].rstrip("\0")) == ("Maker", "Model 7"), path
            sub, place = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
            assert sub[0x9003].rstrip("\0") == "2024:05:06 07:08:09" and (sub[0xA002], sub[0xA003]) == found.size
            assert place[1].rstrip("\0") == "N" and [float(one) for one in place[4]] == [2, 17, 40]
            if path.suffix != ".webp":
                assert [round(one) for one in found.info["dpi"]] == [300, 300], path


def make_numbered(folder: Path) -> Path:
    for number in (3, 20):
        exif = Image.Exif()
        exif[272] = f"Model {number}"
        blocks().save(folder / f"in{number}.jpg", exif=exif)
    return folder / "in%d.jpg"


def check_numbered(outcome: Outcome) -> None:
    no_errors(outcome)
    for number in (3, 20):
        with Image.open(outcome.output.parent / f"out{number}.webp") as found:
            assert found.getexif()[272].rstrip("\0") == f"Model {number}"


# Formats and modes


def make_heic(folder: Path) -> Path:
    """Four tiles that are cropped to the picture, and a quarter turn."""
    return tiled(folder / "in.jpg", np.asarray(blocks((100, 80))), [box(b"irot", b"\1")])


def check_heic(outcome: Outcome) -> None:
    no_errors(outcome)
    with Image.open(outcome.output) as found:
        assert_same(found, blocks((100, 80)).transpose(Image.Transpose.ROTATE_90))


def make_formats(folder: Path) -> Path:
    """Formats that are read, under their names and under others; formats that are not; and what is no picture."""
    source = folder / "in"
    source.mkdir()
    picture = blocks()
    for name in ("a.bmp", "b.jp2", "c.tga", "d.ppm"):
        picture.save(source / name)
    for name, kind in (("e.jpg", "PNG"), ("f.png", "WEBP")):
        picture.save(source / name, kind, lossless=True)
    picture.quantize(4).save(source / "palette.png")
    picture.convert("L").convert("1").save(source / "bit.png")
    picture.convert("LA").save(source / "la.png")
    picture.convert("CMYK").save(source / "cmyk.tif")
    (source / "jxl.jxl").write_bytes(b"\xff\x0a" + bytes(30))
    (source / "raw.nef").write_bytes(b"MM\0*" + bytes(30))
    (source / "drawing.svg").write_text("<svg/>")
    (source / "inside.jpg").write_bytes(b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(30))
    (source / "notes.txt").write_text("nothing")
    return source


def check_formats(outcome: Outcome) -> None:
    no_errors(outcome)  # formats that are not read are named, and passed over in later runs
    for name in ("a.png", "b.png", "c.png", "d.png", "e.jpg", "f.png", "palette.png"):
        with Image.open(outcome.output / name) as found:
            assert_same(found, blocks(), 12)
    modes = {"bit.png": "L", "la.png": "RGBA", "cmyk.tif": "RGB"}
    for name, mode in modes.items():
        with Image.open(outcome.output / name) as found:
            assert found.mode == mode and found.size == (48, 32), name
    text = "\n".join(outcome.lines)
    for part in (
        "1 picture passed over (jxl.jxl): JPEG XL pictures are not read",
        "1 picture passed over (raw.nef): camera raw photographs are not read",
        "1 picture passed over (drawing.svg): SVG drawings are not read",
        "inside.jpg: JPEG XL pictures are not read; convert it to png or tif",
    ):
        assert part in text, part
    assert "notes.txt" not in text and "alpha" not in text


def cmyk_profile() -> bytes:
    """A CMYK profile of a press that prints black alone (ICC.1:2022, 10.10): Lab from K, whatever C, M and Y are."""
    linear = bytes(range(256))
    table = b"".join(bytes([255 - 255 * (n & 1), 128, 128]) for n in range(16))  # two points an ink, K runs fastest
    identity = b"".join(struct.pack(">i", 65536 if n % 4 == 0 else 0) for n in range(9))
    lut = b"mft1\0\0\0\0\4\3\2\0" + identity + linear * 4 + table + linear * 3
    tags = {
        b"A2B0": lut,
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061),
    }
    tags[b"desc"] = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78)
    body, entries = b"", b""
    at = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        entries += name + struct.pack(">2I", at + len(body), len(content))
        body += content
    header = struct.pack(">I4sI4s4s4s", at + len(body), b"\0\0\0\0", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + entries + body


def make_cmyk(folder: Path) -> Path:
    """Ink of three colours, and a stripe of black: by its profile only the black is seen."""
    picture = Image.new("CMYK", SIZE, (255, 200, 100, 0))
    picture.paste((0, 0, 0, 255), (12, 0, 24, 16))
    picture.save(folder / "in.jpg", icc_profile=cmyk_profile(), quality=98)
    return folder / "in.jpg"


def check_cmyk(outcome: Outcome) -> None:
    no_errors(outcome)
    with Image.open(outcome.output) as found:
        samples = np.asarray(found)
        assert found.mode == "RGB" and "icc_profile" not in found.info
    assert samples[:, 4:18].min() > 240 and samples[:, 30:].max() < 30
    text = "\n".join(outcome.lines)
    assert "CMYK colours are converted to sRGB by their profile" in text and "alpha" not in text


# Transparency


def make_transparent(folder: Path) -> Path:
    """A bright disc on transparent black."""
    y, x = np.mgrid[:32, :32]
    picture = np.zeros((32, 32, 4), np.uint8)
    picture[(x - 16) ** 2 + (y - 16) ** 2 < 100] = (240, 200, 180, 255)
    Image.fromarray(picture).save(folder / "in.png")
    return folder / "in.png"


def check_transparent(outcome: Outcome) -> None:
    no_errors(outcome)
    with Image.open(outcome.output) as found:
        samples = np.asarray(found.convert("RGBA"), int)
    seen = samples[samples[..., 3] > 0]
    assert 0.2 < len(seen) / samples[..., 0].size < 0.5
    assert np.abs(seen[:, :3] - (240, 200, 180)).max() <= 2


# Animations

SHOWN = (50, 120, 230, 40, 330)  # milliseconds


def animation_frames() -> list[Image.Image]:
    """A disc that moves to the right over nothing."""
    y, x = np.mgrid[:24, :36]
    frames = []
    for number in range(len(SHOWN)):
        frame = np.zeros((24, 36, 4), np.uint8)
        frame[(x - 8 - 5 * number) ** 2 + (y - 12) ** 2 < 40] = (40 + 40 * number, 200, 90, 255)
        frames.append(Image.fromarray(frame))
    return frames


def make_animation(name: str, **options):
    def make(folder: Path) -> Path:
        first, *others = animation_frames()
        first.save(folder / name, save_all=True, append_images=others, duration=SHOWN, **options)
        return folder / name

    return make


def shown(path: Path) -> tuple[list[Fraction], list[np.ndarray]]:
    """(seconds, RGBA) of every frame of an animation."""
    seconds, frames = [], []
    with Image.open(path) as picture:
        for number in range(picture.n_frames):
            picture.seek(number)
            frames.append(np.asarray(picture.convert("RGBA"), int))
            seconds.append(Fraction(picture.info["duration"]).limit_denominator(1000) / 1000)
    return seconds, frames


def check_animation(kind: str, loop: int):
    def check(outcome: Outcome) -> None:
        no_errors(outcome)
        seconds, frames = shown(outcome.output)
        assert seconds == [Fraction(one, 1000) for one in SHOWN]
        with Image.open(outcome.output) as picture:
            assert picture.format == kind and picture.info.get("loop") == loop
        for found, source in zip(frames, animation_frames(), strict=True):
            small = np.asarray(source, int)
            alpha = found[..., 3].reshape(24, 2, 36, 2).mean((1, 3))
            assert np.abs(alpha - small[..., 3]).mean() < 12
            inside = np.kron(small[..., 3] > 0, np.ones((2, 2), bool)) & (found[..., 3] > 250)
            assert np.abs(found[inside][:, :3].mean(0) - small[small[..., 3] > 0][0, :3]).max() < 8

    return check


def check_animation_as_video(outcome: Outcome) -> None:
    no_errors(outcome)
    with av.open(str(outcome.output)) as container:
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
        end = container.streams.video[0].duration * container.streams.video[0].time_base
    begins = [Fraction(sum(SHOWN[:number]), 1000) for number in range(len(SHOWN))]
    assert times == begins and end == Fraction(sum(SHOWN), 1000)
    assert any("the alpha channel is dropped" in line for line in outcome.lines)


def check_video_as_animation(outcome: Outcome) -> None:
    no_errors(outcome)
    seconds, frames = shown(outcome.output)
    assert sum(seconds) == Fraction(12, 25) and set(seconds) == {Fraction(4, 100)} and len(frames) == 12
    assert frames[0].shape == (96, 128, 4)
    assert any("256 colours a frame" in line for line in outcome.lines)


KINDS = [
    Kind("photographs on their side", make_photographs, check_photographs, "out", ("--settle", "0")),
    Kind("numbered photographs", make_numbered, check_numbered, "out%d.webp"),
    Kind("HEIC of tiles, under another name", make_heic, check_heic, "out.png"),
    Kind("formats by content", make_formats, check_formats, "out", ("--settle", "0")),
    Kind("CMYK with a profile", make_cmyk, check_cmyk, "out.jpg"),
    Kind("a transparent object", make_transparent, check_transparent, "out.webp"),
    Kind("GIF as GIF", make_animation("in.gif", loop=2, disposal=2), check_animation("GIF", 2), "out.gif"),
    Kind("WebP as WebP", make_animation("in.webp", loop=3, lossless=True), check_animation("WEBP", 3), "out.webp"),
    Kind("APNG as APNG", make_animation("in.png", loop=4), check_animation("PNG", 4), "out.png"),
    Kind("GIF as a video", make_animation("in.gif", loop=0, disposal=2), check_animation_as_video, "out.mp4"),
    Kind("a video as GIF", lambda folder: make_clip(folder / "in.mp4", 12), check_video_as_animation, "out.gif"),
]
