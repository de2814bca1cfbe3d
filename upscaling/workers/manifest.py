"""Units of work: deal frames into batches and batches into manifests; write, read and check manifests.

    python manifest.py FRAMES_DIR --output-dir DIR --workers 6 --batch-size 8 --scale 2

writes DIR/manifests/worker_N_manifest.txt for a whole directory of frames, whose upscaled frames will go to
DIR/output_frames, and prints the path of each manifest. `python worker.py MANIFEST` then runs one.

Standard library only: a manifest can be written and read on a machine that has nothing else.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from urllib.parse import unquote_to_bytes

from upscaling.common.files import replacing

MAX_MANIFEST_BYTES = 16 << 20  # a manifest of 250,000 frames has 5 MB; more is not a manifest
MAX_SIDE = 1 << 17  # pixels
FRAME_NAME = re.compile(r"frame_([0-9]{1,12})\.(npy|png)", re.ASCII)
SIZE = re.compile(r"([0-9]{1,6})x([0-9]{1,6})", re.ASCII)
TITLE = re.compile(r"Worker ([0-9]{1,6}) Manifest", re.ASCII)
REQUIRED = (
    "Input Dir",
    "Output Dir",
    "Scale",
    "Batch Size",
    "Patch Size",
    "Pixel Format",
    "Colour",
    "Total Frames",
    "Worker Batches",
    "Total Batches",
)
OPTIONAL = ("Chroma Location", "Frame Size", "Output Size", "Output Pixel Format", "Output Colour")


class ManifestError(ValueError):
    """A manifest that cannot be used; the message names the file and, where there is one, the line."""


@dataclass(frozen=True)
class Manifest:
    """What one worker is to do: batches of frames of one directory, upscaled into another.

    `batches` maps a batch's number to its frames' file names. Sizes are (width, height) in pixels; `None`
    for `frame_size` means that the frames' files tell it, for `output_size` frame size times scale, for
    `output_pixel_format` the same as `pixel_format`. `colour` is "MATRIX limited" or "MATRIX full",
    `chroma_location` "left", "center" or "topleft"; an empty `output_colour` means the same as `colour`.
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
        """Names of all its frames, batch after batch."""
        return tuple(name for names in self.batches.values() for name in names)


def deal(names: Sequence[str], batch_size: int, workers: int) -> list[dict[int, tuple[str, ...]]]:
    """Frames cut into batches, batches dealt round-robin: one dict {batch number: names} a worker.

    300 frames, batches of 8, 6 workers: worker 0 gets batches 0, 6, …, 36.
    """
    batches = [tuple(names[i : i + batch_size]) for i in range(0, len(names), batch_size)]
    return [{b: batches[b] for b in range(worker, len(batches), workers)} for worker in range(workers)]


# Writing


def format_scale(scale: Fraction) -> str:
    """`2x`, `1.5x`, or `4/3x` where a decimal would not be exact."""
    decimal = format(float(scale), ".12g")
    return f"{decimal if Fraction(decimal) == scale else scale}x"


def _format_dir(path: Path) -> str:
    # A name may hold line breaks, edge spaces or bytes that are no UTF-8; a file URI (RFC 8089) holds them all.
    text = str(path)
    plain = text.isprintable() and text == text.strip() and not text.startswith("file:")
    return text if plain else path.as_uri()


def format_manifest(manifest: Manifest) -> str:
    """The manifest's text; the format is in docs/ARCHITECTURE.md."""
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
    """Read and check a manifest; its directories must lie within `root` where that is given.

    Raises ManifestError with the line number for anything that is not as `format_manifest` writes it.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise ManifestError(f"{path}: too large for a manifest")
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 text") from error
    return parse_manifest(text, path, root)


def parse_manifest(text: str, path: Path = Path("manifest"), root: Path | None = None) -> Manifest:
    """A manifest from its text; `path` is what errors name, and what relative directories are relative to."""
    headers, rows = _split(text, path)
    get = _Headers(headers, path)
    batch_size = get.whole("Batch Size", 1, 1 << 16)
    batches = _batches(rows, batch_size, path)
    declared = get.batch_list("Worker Batches")
    if declared != list(batches):
        raise get.error("Worker Batches", f"lists {declared[:9]}, the lines below are {list(batches)[:9]}")
    if get.whole("Total Batches", 0, 1 << 40) != len(batches):
        raise get.error("Total Batches", f"there are {len(batches)} batches")
    total = get.whole("Total Frames", 0, 1 << 40)
    if total < sum(map(len, batches.values())):
        raise get.error("Total Frames", "the batches hold more frames than that")
    return Manifest(
        worker=get.whole("Worker", 0, 10**6),
        input_dir=get.directory("Input Dir", root),
        output_dir=get.directory("Output Dir", root),
        scale=get.scale("Scale"),
        batch_size=batch_size,
        patch_size=get.whole("Patch Size", 0, MAX_SIDE),
        pixel_format=get.word("Pixel Format"),
        colour=get.colour("Colour"),
        total_frames=total,
        batches=batches,
        chroma_location=get.word("Chroma Location") if "Chroma Location" in headers else "left",
        frame_size=get.size("Frame Size"),
        output_size=get.size("Output Size"),
        output_pixel_format=get.word("Output Pixel Format") if "Output Pixel Format" in headers else "",
        output_colour=get.colour("Output Colour") if "Output Colour" in headers else "",
    )


def _split(text: str, path: Path) -> tuple[dict[str, tuple[int, str]], list[tuple[int, str]]]:
    """Headers {name: (line number, value)} and the batch lines [(line number, line)]."""
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
            raise ManifestError(f"{path}, line {number}: not a header of a manifest: {line[:60]!r}")
        if name in headers:
            raise ManifestError(f"{path}, line {number}: {name} was given in line {headers[name][0]} already")
        if rows:
            raise ManifestError(f"{path}, line {number}: {name} stands below the batches")
        headers[name] = (number, value.strip())
    for name in ("Worker", *REQUIRED):
        if name not in headers:
            what = "'# Worker N Manifest'" if name == "Worker" else f"'# {name}:'"
            raise ManifestError(f"{path}, line {len(headers) + 1}: the header {what} is missing")
    return headers, rows


def _batches(rows: Iterable[tuple[int, str]], batch_size: int, path: Path) -> dict[int, tuple[str, ...]]:
    batches: dict[int, tuple[str, ...]] = {}
    seen: dict[int, int] = {}
    for number, line in rows:
        label, *names = line.split(",")
        match = re.fullmatch(r"batch_([0-9]{1,12})", label, re.ASCII)
        if not match or not names:
            raise ManifestError(f"{path}, line {number}: not 'batch_N,frame_000001.npy,…': {line[:60]!r}")
        if int(match[1]) in batches:
            raise ManifestError(f"{path}, line {number}: batch {int(match[1])} is listed twice")
        if len(names) > batch_size:
            raise ManifestError(f"{path}, line {number}: {len(names)} frames in a batch of {batch_size}")
        for name in names:
            frame = FRAME_NAME.fullmatch(name)
            if not frame:
                raise ManifestError(f"{path}, line {number}: {name[:60]!r} is not a plain frame_N.npy or frame_N.png")
            if int(frame[1]) in seen:
                raise ManifestError(f"{path}, line {number}: {name} was listed in line {seen[int(frame[1])]} already")
            seen[int(frame[1])] = number
        batches[int(match[1])] = tuple(names)
    return batches


class _Headers:
    """Typed look-ups in a manifest's headers; every refusal names the line."""

    def __init__(self, headers: dict[str, tuple[int, str]], path: Path):
        self.headers, self.path = headers, path

    def error(self, name: str, why: str) -> ManifestError:
        line, value = self.headers[name]
        return ManifestError(f"{self.path}, line {line}: {name} {value[:60]!r}: {why}")

    def whole(self, name: str, low: int, high: int) -> int:
        value = self.headers[name][1]
        if not re.fullmatch(r"[0-9]{1,15}", value, re.ASCII) or not low <= int(value) <= high:
            raise self.error(name, f"not a whole number from {low} to {high}")
        return int(value)

    def word(self, name: str) -> str:
        value = self.headers[name][1]
        if not re.fullmatch(r"[a-z0-9_-]{1,32}", value, re.ASCII):
            raise self.error(name, "not a name in lower case")
        return value

    def colour(self, name: str) -> str:
        value = self.headers[name][1]
        if not re.fullmatch(r"[a-z0-9-]{1,32} (limited|full)", value, re.ASCII):
            raise self.error(name, "not 'MATRIX limited' or 'MATRIX full'")
        return value

    def scale(self, name: str) -> Fraction:
        value = self.headers[name][1]
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,15}|/[0-9]{1,9})?x", value, re.ASCII) or "/0" in value:
            raise self.error(name, "not a number followed by x")
        scale = Fraction(value[:-1])
        if not 0 < scale <= MAX_SIDE:
            raise self.error(name, "out of range")
        return scale

    def size(self, name: str) -> tuple[int, int] | None:
        if name not in self.headers:
            return None
        match = SIZE.fullmatch(self.headers[name][1])
        if not match or not all(1 <= int(side) <= MAX_SIDE for side in match.groups()):
            raise self.error(name, f"not WIDTHxHEIGHT, each from 1 to {MAX_SIDE}")
        return int(match[1]), int(match[2])

    def batch_list(self, name: str) -> list[int]:
        value = self.headers[name][1]
        if not re.fullmatch(r"\[([0-9]{1,12}(, ?[0-9]{1,12})*)?\]", value, re.ASCII):
            raise self.error(name, "not a list of batch numbers")
        return [int(number) for number in value[1:-1].split(",")] if value != "[]" else []

    def directory(self, name: str, root: Path | None) -> Path:
        value = self.headers[name][1]
        if value.startswith("file://"):
            value = os.fsdecode(unquote_to_bytes(value[len("file://") :]))
        if not value or "\0" in value or ".." in Path(value).parts:
            raise self.error(name, "not the path of a directory")
        directory = self.path.parent / value
        if root is not None and not directory.is_relative_to(root):
            raise self.error(name, f"outside {root}")
        return directory
