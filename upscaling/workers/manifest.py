"""Manifests: text files that list the batches of frames for one worker. manifest_reader reads them.

Needs the standard library only, so that manifests can be made on a machine without the other requirements.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from upscaling.common.files import replacing

MAX_SIDE = 1 << 17  # pixels
FRAME_NAME = re.compile(r"frame_([0-9]{1,12})\.(npy|png)", re.ASCII)
TITLE = re.compile(r"Worker ([0-9]{1,6}) Manifest", re.ASCII)


class ManifestError(ValueError):
    """An invalid manifest; the message names the file and, if it can, the line."""


@dataclass(frozen=True)
class Manifest:
    """Batches of frames in one directory, to be upscaled into another.

    `batches` maps the number of a batch to the file names of its frames. `colour` is "MATRIX limited" or
    "MATRIX full", `chroma_location` "left", "center" or "topleft". Sizes are (width, height) in pixels.
    Defaults: `frame_size` as in the frames' files, `output_size` the frame size times the scale,
    `output_pixel_format` and `output_colour` as for the input.

    With `upscaled_dir` the frames are not upscaled, but steadied (inference/steady): that directory has the upscaled
    frames. `context` names the frames around the batches that are needed for it: a frame's neighbours are the frames
    before and after it, by number, among all that the manifest names.
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
    upscaled_dir: Path | None = None
    context: tuple[str, ...] = ()

    @property
    def frames(self) -> tuple[str, ...]:
        """The names of all frames, batch after batch."""
        return tuple(name for names in self.batches.values() for name in names)


def frame_number(name: str) -> int:
    """The number of a frame's file; ManifestError if it is not the name of one."""
    found = FRAME_NAME.fullmatch(name)
    if not found:
        raise ManifestError(f"{name[:60]!r} is not named frame_N.npy or frame_N.png")
    return int(found[1])


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
    if m.upscaled_dir:
        lines.append(f"# Upscaled Dir: {_format_dir(m.upscaled_dir)}")
    if m.context:
        lines.append(f"# Context Frames: {','.join(m.context)}")
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
