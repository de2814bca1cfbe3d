"""Reads and validates manifests. Needs the standard library only."""

import os
import re
from collections.abc import Iterable, Set
from fractions import Fraction
from pathlib import Path
from urllib.parse import unquote_to_bytes

from upscaling.workers.manifest import MAX_SIDE, TITLE, Manifest, ManifestError, frame_number

MAX_MANIFEST_BYTES = 16 << 20  # 250,000 frames take 5 MB
REQUIRED = ("Input Dir", "Output Dir", "Scale", "Batch Size", "Patch Size", "Pixel Format", "Colour", "Total Frames",
            "Worker Batches", "Total Batches")  # fmt: skip
OPTIONAL = ("Chroma Location", "Frame Size", "Output Size", "Output Pixel Format", "Output Colour", "Upscaled Dir",
            "Context Frames")  # fmt: skip


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
        upscaled_dir=get.directory("Upscaled Dir", root) if "Upscaled Dir" in headers else None,
        context=get.context_frames("Context Frames", {name for names in batches.values() for name in names}),
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
            try:
                frame = frame_number(name)
            except ManifestError as error:
                raise ManifestError(f"{path}, line {number}: {error}") from None
            if frame in seen:
                raise ManifestError(f"{path}, line {number}: {name} repeats line {seen[frame]}")
            seen[frame] = number
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

    def context_frames(self, name: str, others: Set[str]) -> tuple[str, ...]:
        """Names of frames, none of which is among `others`; only with a directory of upscaled frames."""
        if name not in self.headers:
            return ()
        names = tuple(self.headers[name][1].split(","))
        try:
            numbers = set(map(frame_number, names))
        except ManifestError as error:
            raise self.error(name, str(error)) from None
        if len(numbers) < len(names) or numbers & set(map(frame_number, others)):
            raise self.error(name, "a frame is listed twice")
        if "Upscaled Dir" not in self.headers:
            raise self.error(name, "needs '# Upscaled Dir:'")
        return names

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
