"""Which files are pictures, by content and by name: those that are read, and those that are only named."""

from pathlib import Path

# Formats that are read, with the endings of their names. Those of animations come out as they are.
READ = {
    "png": ("png", "apng"),
    "jpeg": ("jpg", "jpeg", "jpe", "jfif", "mpo"),
    "webp": ("webp",),
    "tiff": ("tif", "tiff"),
    "gif": ("gif",),
    "bmp": ("bmp", "dib"),
    "jpeg2000": ("jp2", "j2k", "j2c", "jpc", "jpx", "jpf"),
    "avif": ("avif", "avifs"),
    "heif": ("heic", "heif", "hif", "heics", "heifs"),
    "ppm": ("ppm", "pgm", "pbm", "pnm"),
    "tga": ("tga",),
    "qoi": ("qoi",),
    "pcx": ("pcx",),
}
# Formats that are named, with the endings of their names.
_RAW = "camera raw"
NAMED = {
    "JPEG XL": ("jxl",),
    "JPEG XR": ("jxr", "wdp", "hdp"),
    "Photoshop": ("psd", "psb"),
    "GIMP": ("xcf",),
    "SVG": ("svg", "svgz"),
    "EPS": ("eps",),
    "OpenEXR": ("exr",),
    "Radiance HDR": ("hdr", "rgbe"),
    "DDS": ("dds",),
    "icon": ("ico", "cur", "icns"),
    _RAW: (
        "3fr", "arw", "cr2", "cr3", "crw", "dcr", "dng", "erf", "fff", "gpr", "iiq", "k25", "kdc", "mef", "mos", "mrw",
        "nef", "nrw", "orf", "pef", "raf", "raw", "rw2", "rwl", "sr2", "srf", "srw", "x3f",
    ),
}  # fmt: skip
_BY_ENDING = {ending: name for formats in (READ, NAMED) for name, endings in formats.items() for ending in endings}
_STREAMS = ("mjpeg", "mjpg", "mjp")  # endings of videos that begin like a picture
HEAD = 4096  # bytes that tell what a file holds
PNG_MARK = b"\x89PNG\r\n\x1a\n"
# (offset, bytes, name) of formats that begin with a mark.
_MARKS = (
    (0, PNG_MARK, "png"),
    (0, b"\xff\xd8\xff", "jpeg"),
    (0, b"GIF87a", "gif"),
    (0, b"GIF89a", "gif"),
    (8, b"WEBP", "webp"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "jpeg2000"),
    (0, b"\xff\x4f\xff\x51", "jpeg2000"),
    (0, b"qoif", "qoi"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"II\xbc\x01", "JPEG XR"),
    (0, b"8BPS", "Photoshop"),
    (0, b"gimp xcf", "GIMP"),
    (0, b"%!PS-Adobe", "EPS"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"#?RGBE", "Radiance HDR"),
    (0, b"DDS ", "DDS"),
    (0, b"icns", "icon"),
    (0, b"FUJIFILMCCD-RAW", _RAW),
    (8, b"CR\x02\0", _RAW),
    (0, b"IIU\0", _RAW),
    (0, b"IIRO", _RAW),
    (4, b"ftypcrx ", _RAW),
    (0, b"II*\0", "tiff"),
    (0, b"MM\0*", "tiff"),
    (0, b"II+\0", "tiff"),
    (0, b"MM\0+", "tiff"),
)
# Brands of ISO base media files (ISO/IEC 14496-12) that hold pictures (ISO/IEC 23008-12, AVIF 1.1).
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2", b"hevc", b"hevx", b"msf1", b"avci"}
_AVIF_BRANDS = {b"avif", b"avis"}


def ending(path: Path | str) -> str:
    """The ending of a file's name in lower case, without the dot."""
    return Path(path).suffix.lower().lstrip(".")


def format_of_head(head: bytes) -> str | None:
    """A key of READ or NAMED by the first HEAD bytes of a file; None if they are of no picture that has a mark."""
    for offset, mark, name in _MARKS:
        if head.startswith(mark, offset):
            return name
    if head[4:8] == b"ftyp":
        brands = {head[8:12], *(head[at : at + 4] for at in range(16, min(int.from_bytes(head[:4], "big"), 256), 4))}
        main = head[8:12]
        if main in _AVIF_BRANDS or (main in _HEIF_BRANDS and brands & _AVIF_BRANDS):
            return "avif"
        return "heif" if main in _HEIF_BRANDS else None
    if (
        head[:2] == b"BM"
        and head[6:10] == bytes(4)
        and int.from_bytes(head[14:18], "little") in (12, 40, 52, 56, 64, 108, 124)
    ):
        return "bmp"
    if len(head) > 3 and head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "ppm"
    if head[:4] in (b"\0\0\1\0", b"\0\0\2\0") and 0 < head[4] < 64 and head[5] == 0:
        return "icon"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return "SVG" if text.startswith(b"<") and b"<svg" in text else None


def content_of(path: Path) -> str | None:
    """`format_of_head` of a file; OSError if it cannot be read."""
    with path.open("rb", buffering=0) as file:
        return format_of_head(file.read(HEAD))


def format_of(path: Path) -> str | None:
    """A key of READ or NAMED for a file: by its content, else by its name; None if it is no picture.

    Camera raw files are TIFF files, and hold a small picture that any reader would take for the whole: the name
    decides. A file that cannot be read, or is none, has the format of its name.
    """
    named = _BY_ENDING.get(ending(path))
    if named == _RAW or not path.is_file() or ending(path) in _STREAMS:
        return named
    try:
        return content_of(path) or named
    except OSError:
        return named


def is_named_picture(path: Path | str) -> bool:
    """Whether a name is that of a picture, read or only named."""
    return ending(path) in _BY_ENDING


def is_readable_name(path: Path | str) -> bool:
    """Whether a name is that of a picture that is read."""
    return _BY_ENDING.get(ending(path)) in READ


def refusal(name: str) -> str:
    """What to do about a picture of a format of NAMED."""
    what = "camera raw photographs" if name == _RAW else "SVG drawings" if name == "SVG" else f"{name} pictures"
    return f"{what} are not read; convert it to png or tif"
