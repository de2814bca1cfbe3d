"""`python manifest.py FRAMES_DIR`: write the manifests of a directory of frames. Standard library only."""

import argparse
import ast
import os
import re
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from upscaling.common.text import one_line
from upscaling.inference.settings import AUTO_TILE
from upscaling.workers.manifest import FRAME_NAME, MAX_SIDE, TITLE, Manifest, ManifestError, deal, write_manifest

MANIFEST_NAME = re.compile(r"worker_[0-9]+_manifest\.txt")


def npy_header(path: Path) -> tuple[tuple[int, ...], str]:
    """(shape, dtype string) of an `.npy` file, read without numpy. The format is defined in NumPy's NEP 1."""
    if not path.is_file():  # opening a FIFO would block
        raise ManifestError(f"{path} is not a regular file")
    with path.open("rb") as file:
        start = file.read(10)
        if start[:6] != b"\x93NUMPY" or start[6] not in (1, 2, 3):
            raise ManifestError(f"{path}: not an .npy file")
        length = int.from_bytes(start[8:10] + (file.read(2) if start[6] > 1 else b""), "little")
        try:
            header = ast.literal_eval(file.read(min(length, 1 << 16)).decode("latin-1").strip())
            return tuple(header["shape"]), str(header["descr"])
        except (ValueError, SyntaxError, KeyError, TypeError) as error:
            raise ManifestError(f"{path}: damaged .npy header") from error


def png_pixel_format(path: Path) -> str:
    """The pixel format in which frame_files.read_frame returns a PNG file. The format is defined in RFC 2083."""
    with path.open("rb") as file:
        head = file.read(26)
        depth, colour_type = head[24:26] if len(head) == 26 and head[:8] == b"\x89PNG\r\n\x1a\n" else (0, 0)
        if not depth:
            raise ManifestError(f"{path}: not a PNG file")
        file.seek(33)  # behind the header's checksum
        transparent = False  # gray or RGB with one transparent colour (tRNS)
        while len(chunk := file.read(8)) == 8 and chunk[4:] != b"IDAT":
            transparent |= chunk[4:] == b"tRNS" and colour_type in (0, 2)
            file.seek(int.from_bytes(chunk[:4], "big") + 4, os.SEEK_CUR)
    if colour_type in (4, 6) or transparent:
        return "rgba64le" if depth == 16 else "rgba"
    if colour_type == 0:
        return "gray16le" if depth == 16 else "gray"
    return "rgb48le" if depth == 16 else "rgb24"


def guess_pixel_format(path: Path) -> str:
    """The pixel format of a frame file: a PNG's from its header, an array's from its shape and dtype.

    Raises ManifestError if several pixel formats have that shape.
    """
    if path.suffix == ".png":
        return png_pixel_format(path)
    shape, dtype = npy_header(path)
    deep = dtype.endswith("u2")
    if not deep and not dtype.endswith("u1"):
        raise ManifestError(f"{path}: samples are {dtype}, expected uint8 or uint16")
    if len(shape) == 3 and shape[2] in (3, 4):
        return {3: ("rgb24", "rgb48le"), 4: ("rgba", "rgba64le")}[shape[2]][deep]
    if len(shape) == 3 and shape[0] == 3:
        return ("yuv444p", "yuv444p16le")[deep]
    if len(shape) == 2 and shape[0] % 3 == 0 and shape[1] % 2 == 0 and not deep:
        return "yuv420p"
    raise ManifestError(f"{path}: shape {shape} fits several pixel formats; choose one with --pixel-format")


def frame_names(directory: Path) -> list[str]:
    """The names of a directory's frames, by number. Raises ManifestError if it has none, or two kinds of files."""
    try:
        numbers = {name: int(match[1]) for name in os.listdir(directory) if (match := FRAME_NAME.fullmatch(name))}
    except OSError as error:
        raise ManifestError(f"cannot read {directory}: {error.strerror}") from error
    if not numbers:
        raise ManifestError(f"no frames in {directory}; they are named frame_000001.npy (or .png) onwards")
    if len({name.rsplit(".", 1)[1] for name in numbers}) > 1:
        raise ManifestError(f"{directory} has both .npy and .png frames; keep one kind")
    return sorted(numbers, key=numbers.__getitem__)


def write_directory(frames_dir: Path, output_dir: Path, workers: int, batch_size: int, scale: Fraction,
                    patch_size: int = AUTO_TILE, pixel_format: str = "", colour: str = "") -> list[Path]:  # fmt: skip
    """Write the manifests of a directory of frames, one for each worker; return their paths.

    Manifests of an earlier call that had more workers are removed. ManifestError if another file has a manifest's name.
    They are in `output_dir`/manifests, and the upscaled frames go to `output_dir`/output_frames. `colour` is
    "MATRIX limited" or "MATRIX full" (default: "bt709 limited" for YUV, "gbr full" for RGB).
    """
    names = frame_names(frames_dir)
    pixel_format = pixel_format or guess_pixel_format(frames_dir / names[0])
    colour = colour or ("gbr full" if pixel_format.startswith("rgb") else "bt709 limited")
    folders = output_dir / "manifests", output_dir / "output_frames"
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    earlier = {path for path in folders[0].iterdir() if MANIFEST_NAME.fullmatch(path.name)}
    if foreign := [path for path in earlier if not is_manifest(path)]:
        raise ManifestError(f"{foreign[0]} exists and is not a manifest; move it away")
    paths = []
    for worker, batches in enumerate(deal(names, batch_size, workers)):
        manifest = Manifest(
            worker=worker,
            input_dir=frames_dir,
            output_dir=folders[1],
            scale=scale,
            batch_size=batch_size,
            patch_size=patch_size,
            pixel_format=pixel_format,
            colour=colour,
            total_frames=len(names),
            batches=batches,
        )
        paths.append(write_manifest(manifest, folders[0] / f"worker_{worker}_manifest.txt"))
    for path in earlier.difference(paths):
        path.unlink(missing_ok=True)
    return paths


def is_manifest(path: Path) -> bool:
    """Whether a file begins as a manifest does. ManifestError if it cannot be read."""
    try:
        if not path.is_file():  # a FIFO would block
            return False
        with path.open("rb") as file:
            line = file.readline(80)
    except OSError as error:
        raise ManifestError(f"cannot read {path}: {error.strerror}") from error
    return TITLE.fullmatch(line.decode("utf-8", "replace").removeprefix("#").strip()) is not None


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="manifest.py", description="Write the manifests of a directory of frames, one for each worker."
    )
    parser.add_argument("frames_dir", metavar="FRAMES_DIR", type=Path, help="has frame_000001.npy (or .png) onwards")
    parser.add_argument("--output-dir", type=Path, required=True, help="gets manifests/ and output_frames/")
    parser.add_argument("--workers", type=int, default=6, help="number of manifests (default: 6)")
    parser.add_argument("--batch-size", type=int, default=8, help="frames per batch (default: 8)")
    parser.add_argument("--patch-size", type=int, default=AUTO_TILE,
                        help=f"tile size in pixels (default: {AUTO_TILE}; 0 = no tiling)")  # fmt: skip
    parser.add_argument("--scale", default="2", help="a number from 1 to 8 (default: 2)")
    parser.add_argument("--pixel-format", default="", help="such as yuv420p10le, if the frames' shape is ambiguous")
    parser.add_argument("--colour", default="", help="such as 'bt709 limited' (the default for YUV)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status: 0, or 2 for bad usage or input."""
    args = parse_arguments(argv)
    try:
        for name, value, low, high in (
            ("--workers", args.workers, 1, 1024),
            ("--batch-size", args.batch_size, 1, 1024),
            ("--patch-size", args.patch_size, 0, MAX_SIDE),
        ):
            if not low <= value <= high:
                raise ManifestError(f"invalid value {value} for {name} (choose from {low} to {high})")
        if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,9})?", args.scale, re.ASCII) or not 1 <= Fraction(args.scale) <= 8:
            raise ManifestError(f"invalid value {args.scale!r} for --scale (choose a number from 1 to 8)")
        paths = write_directory(
            Path(os.path.realpath(args.frames_dir)), Path(os.path.realpath(args.output_dir)),
            args.workers, args.batch_size, Fraction(args.scale), args.patch_size, args.pixel_format, args.colour,
        )  # fmt: skip
    except (ManifestError, OSError) as error:
        print(one_line(f"manifest: error: {error}"), file=sys.stderr)
        return 2
    for path in paths:
        print(one_line(str(path)))
    return 0
