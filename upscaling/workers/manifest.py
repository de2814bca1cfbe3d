"""Manifests: text files that list the batches of frames for one worker. Written, read and validated here.

Needs the standard library only, so that manifests can be made on a machine without the other requirements.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from urllib.parse import unquote_to_bytes

from upscaling.common.files import replacing

MAX_MANIFEST_BYTES = 16 << 20  # 250,000 frames take 5 MB
MAX_SIDE = 1 << 17  # pixels
FRAME_NAME = re.compile(r"frame_([0-9]{1,12})\.(npy|png)", re.ASCII)
TITLE = re.compile(r"Worker ([0-9]{1,6}) Manifest", re.ASCII)
REQUIRED = ("Input Dir", "Output Dir", "Scale", "Batch Size", "Patch Size", "Pixel Format", "Colour", "Total Frames",
            "Worker Batches", "Total Batches")  # fmt: skip
OPTIONAL = ("Chroma Location", "Frame Size", "Output Size", "Output Pixel Format", "Output Colour")


class ManifestError(ValueError):
    """An invalid manifest; the message names the file and, if it can, the line."""


@dataclass(frozen=True)
class Manifest:
    """Batches of frames in one directory, to be upscaled into another.

    `batches` maps the number of a batch to the file names of its frames. `colour` is "MATRIX limited" or
    "MATRIX full", `chroma_location` "left", "center" or "topleft". Sizes are (width, height) in pixels.
    Defaults: `frame_size` as in the frames' files, `output_size` the frame size times the scale,
    `output_pixel_format` and `output_colour` as for the input.
    """

    worker: int
    input_dir: Path
    output_dir: Path
    scale: Fraction
    batch_size: int
    patch_size: int
    pixel_format: str
    colour: str
    total_frames: int
    batches: Mapping[int, tuple[str, ...]]
    chroma_location: str = "left"
    frame_size: tuple[int, int] | None = None
    output_size: tuple[int, int] | None = None
    output_pixel_format: str = ""
    output_colour: str = ""

    @property
    def frames(self) -> tuple[str, ...]:
        """The names of all frames, batch after batch."""
        return tuple(name for names in self.batches.values() for name in names)


def deal(names: Sequence[str], batch_size: int, workers: int) -> list[dict[int, tuple[str, ...]]]:
    """Split frames into batches and deal the batches round-robin; return {batch number: names} for each worker.

    With 300 frames, batches of 8 and 6 workers, worker 0 gets batches 0, 6, …, 36.
    """
    batches = [tuple(names[i : i + batch_size]) for i in range(0, len(names), batch_size)]
    return [{b: batches[b] for b in range(worker, len(batches), workers)} for worker in range(workers)]


# Writing


def format_scale(scale: Fraction) -> str:
    """`2x`, `1.5x`, or `4/3x` if a decimal is not exact."""
    decimal = format(float(scale), ".12g")
    return f"{decimal if Fraction(decimal) == scale else scale}x"


def _format_dir(path: Path) -> str:
    # A file URI (RFC 8089) can hold line breaks, spaces at the ends and bytes that are not UTF-8.
    text = str(path)
    plain = text.isprintable() and text == text.strip() and not text.startswith("file:")
    return text if plain else path.as_uri()


def format_manifest(manifest: Manifest) -> str:
    """The text of a manifest; docs/ARCHITECTURE.md describes the format."""
    m = manifest
    lines = [
        f"# Worker {m.worker} Manifest",
        f"# Input Dir: {_format_dir(m.input_dir)}",
        f"# Output Dir: {_format_dir(m.output_dir)}",
        f"# Scale: {format_scale(m.scale)}",
        f"# Batch Size: {m.batch_size}",
        f"# Patch Size: {m.patch_size}",
        f"# Pixel Format: {m.pixel_format}",
        f"# Colour: {m.colour}",
    ]
    if m.chroma_location != "left":
        lines.append(f"# Chroma Location: {m.chroma_location}")
    if m.frame_size:
        lines.append("# Frame Size: {}x{}".format(*m.frame_size))
    if m.output_size:
        lines.append("# Output Size: {}x{}".format(*m.output_size))
    if m.output_pixel_format:
        lines.append(f"# Output Pixel Format: {m.output_pixel_format}")
    if m.output_colour:
        lines.append(f"# Output Colour: {m.output_colour}")
    lines += [
        f"# Total Frames: {m.total_frames}",
        f"# Worker Batches: {list(m.batches)}",
        f"# Total Batches: {len(m.batches)}",
        "",
    ]
    lines += [",".join((f"batch_{number}", *names)) for number, names in m.batches.items()]
    return "\n".join(lines) + "\n"


def write_manifest(manifest: Manifest, path: Path) -> Path:
    """Write the manifest atomically: no reader sees half of it."""
    with replacing(path) as file:
        file.write(format_manifest(manifest).encode())
    return path


# Reading


def read_manifest(path: str | os.PathLike[str], root: Path | None = None) -> Manifest:
    """Read and validate a manifest. Its directories must be within `root`, if given.

    Raises ManifestError with the line number for anything that `format_manifest` would not write.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():  # opening a FIFO would block
            raise ManifestError(f"{path} is not a regular file")
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise ManifestError(f"{path}: too large for a manifest (over {MAX_MANIFEST_BYTES >> 20} MiB)")
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ManifestError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 text") from error
    return parse_manifest(text, path, root)


def parse_manifest(text: str, path: Path = Path("manifest"), root: Path | None = None) -> Manifest:
    """A manifest from its text. Errors name `path`; relative directories are relative to its parent."""
    headers, rows = _split(text, path)
    get = _HeaderReader(headers, path)
    batch_size = get.integer("Batch Size", 1, 1 << 16)
    batches = _batches(rows, batch_size, path)
    declared = get.batch_list("Worker Batches")
    if declared != list(batches):
        raise get.error("Worker Batches", f"lists {declared[:9]}, but the lines below hold {list(batches)[:9]}")
    if get.integer("Total Batches", 0, 1 << 40) != len(batches):
        raise get.error("Total Batches", f"the manifest holds {len(batches)} batches")
    total = get.integer("Total Frames", 0, 1 << 40)
    if total < sum(map(len, batches.values())):
        raise get.error("Total Frames", "the batches hold more frames")
    return Manifest(
        worker=get.integer("Worker", 0, 10**6),
        input_dir=get.directory("Input Dir", root),
        output_dir=get.directory("Output Dir", root),
        scale=get.scale("Scale"),
        batch_size=batch_size,
        patch_size=get.integer("Patch Size", 0, MAX_SIDE),
        pixel_format=get.word("Pixel Format"),
        colour=get.colour("Colour"),
        total_frames=total,
        batches=batches,
        chroma_location=get.word("Chroma Location", "left"),
        frame_size=get.size("Frame Size"),
        output_size=get.size("Output Size"),
        output_pixel_format=get.word("Output Pixel Format", ""),
        output_colour=get.colour("Output Colour", ""),
    )


def _split(text: str, path: Path) -> tuple[dict[str, tuple[int, str]], list[tuple[int, str]]]:
    """Split a manifest into headers {name: (line number, value)} and batch lines [(line number, line)]."""
    headers: dict[str, tuple[int, str]] = {}
    rows: list[tuple[int, str]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.rstrip("\r")
        if not line.strip():
            continue
        if not line.startswith("#"):
            rows.append((number, line))
            continue
        title = TITLE.fullmatch(line[1:].strip())
        name, colon, value = ("Worker", ":", title[1]) if title else line[1:].partition(":")
        name = name.strip()
        if not colon or name not in (*REQUIRED, *OPTIONAL, "Worker"):
            raise ManifestError(f"{path}, line {number}: unknown header: {line[:60]!r}")
        if name in headers:
            raise ManifestError(f"{path}, line {number}: {name} repeats line {headers[name][0]}")
        if rows:
            raise ManifestError(f"{path}, line {number}: {name} is below the batches")
        headers[name] = (number, value.strip())
    for name in ("Worker", *REQUIRED):
        if name not in headers:
            what = "'# Worker N Manifest'" if name == "Worker" else f"'# {name}:'"
            raise ManifestError(f"{path}, line {len(headers) + 1}: missing header {what}")
    return headers, rows


def _batches(rows: Iterable[tuple[int, str]], batch_size: int, path: Path) -> dict[int, tuple[str, ...]]:
    batches: dict[int, tuple[str, ...]] = {}
    seen: dict[int, int] = {}
    for number, line in rows:
        label, *names = line.split(",")
        match = re.fullmatch(r"batch_([0-9]{1,12})", label, re.ASCII)
        if not match or not names:
            raise ManifestError(f"{path}, line {number}: expected 'batch_N,frame_000001.npy,…', found {line[:60]!r}")
        if int(match[1]) in batches:
            raise ManifestError(f"{path}, line {number}: batch {int(match[1])} is listed twice")
        if len(names) > batch_size:
            raise ManifestError(f"{path}, line {number}: {len(names)} frames in a batch of {batch_size}")
        for name in names:
            frame = FRAME_NAME.fullmatch(name)
            if not frame:
                raise ManifestError(f"{path}, line {number}: {name[:60]!r} is not named frame_N.npy or frame_N.png")
            if int(frame[1]) in seen:
                raise ManifestError(f"{path}, line {number}: {name} repeats line {seen[int(frame[1])]}")
            seen[int(frame[1])] = number
        batches[int(match[1])] = tuple(names)
    return batches


class _HeaderReader:
    """Parses the values of headers; every error names the line."""

    def __init__(self, headers: dict[str, tuple[int, str]], path: Path):
        self.headers, self.path = headers, path

    def error(self, name: str, reason: str) -> ManifestError:
        line, value = self.headers[name]
        return ManifestError(f"{self.path}, line {line}: {name} {value[:60]!r}: {reason}")

    def text(self, name: str, pattern: str, expected: str, default: str | None = None) -> str:
        """The value, which must match `pattern`; `default`, if given, for a missing header."""
        if default is not None and name not in self.headers:
            return default
        value = self.headers[name][1]
        if not re.fullmatch(pattern, value, re.ASCII):
            raise self.error(name, f"expected {expected}")
        return value

    def word(self, name: str, default: str | None = None) -> str:
        return self.text(name, r"[a-z0-9_-]{1,32}", "a lower-case name", default)

    def colour(self, name: str, default: str | None = None) -> str:
        return self.text(name, r"[a-z0-9-]{1,32} (limited|full)", "'MATRIX limited' or 'MATRIX full'", default)

    def integer(self, name: str, low: int, high: int) -> int:
        expected = f"an integer from {low} to {high}"
        value = int(self.text(name, r"[0-9]{1,15}", expected))
        if not low <= value <= high:
            raise self.error(name, f"expected {expected}")
        return value

    def scale(self, name: str) -> Fraction:
        value = self.text(name, r"[0-9]{1,9}(\.[0-9]{1,15}|/[1-9][0-9]{0,8})?x", "a number followed by x")
        scale = Fraction(value[:-1])
        if not 0 < scale <= MAX_SIDE:
            raise self.error(name, "out of range")
        return scale

    def size(self, name: str) -> tuple[int, int] | None:
        if name not in self.headers:
            return None
        expected = f"WIDTHxHEIGHT, each from 1 to {MAX_SIDE}"
        width, height = map(int, self.text(name, r"[0-9]{1,6}x[0-9]{1,6}", expected).split("x"))
        if not 1 <= min(width, height) <= max(width, height) <= MAX_SIDE:
            raise self.error(name, f"expected {expected}")
        return width, height

    def batch_list(self, name: str) -> list[int]:
        value = self.text(name, r"\[([0-9]{1,12}(, ?[0-9]{1,12})*)?\]", "a list of batch numbers")
        return [int(number) for number in value[1:-1].split(",")] if value != "[]" else []

    def directory(self, name: str, root: Path | None) -> Path:
        value = self.headers[name][1]
        if value.startswith("file://"):
            value = os.fsdecode(unquote_to_bytes(value[len("file://") :]))
        if not value or "\0" in value or ".." in Path(value).parts:
            raise self.error(name, "expected the path of a directory, without '..'")
        directory = self.path.parent / value
        if root is not None and not directory.is_relative_to(root):
            raise self.error(name, f"outside of {root}")
        return directory
