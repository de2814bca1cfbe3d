"""`--preview SHEET.png`: one labelled sheet that shows what each model makes of three crops of the input."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction

from upscaling.cli.arguments import flag
from upscaling.cli.run import skipped_output
from upscaling.common.errors import InputError
from upscaling.common.text import clock, many, printable
from upscaling.decode.changes import clock_tenths
from upscaling.frames.tone import HDR
from upscaling.inference.settings import LANCZOS
from upscaling.job.options import Options
from upscaling.models import weights
from upscaling.pictures.writing import EXTENSIONS, is_picture, write_picture
from upscaling.pipeline.checks import check_overwritten, check_paths, check_writes, picture_target, written_files
from upscaling.pipeline.shape import Shape, output_shape
from upscaling.pipeline.sources import Source, VideoSource, frame_source
from upscaling.preview.cells import ColumnResult, make_cells, margin_for
from upscaling.preview.columns import Column, columns_for
from upscaling.preview.crops import choose_crops, geometry_for
from upscaling.preview.encoding import encode_seconds
from upscaling.preview.job import Job, largest_crop
from upscaling.preview.sampling import Sample, samples
from upscaling.preview.sheet import Heading, Row, Sheet, cell_limit, draw, enlargement
from upscaling.terminal.progress import Progress

MAX_SECONDS = 78.0  # until all cells are done; then the sheet is drawn
TAKEN = {
    "input", "output", "scale", "fit", "preview", "frames", "time", "model", "denoise", "strength", "steady", "workers",
    "batch_size", "patch_size", "device", "engine", "precision", "compile", "deinterlace", "frame_rate", "overwrite",
    "no_clobber", "progress", "log_file", "verbosity",
}  # fmt: skip


@dataclass(frozen=True)
class Preview:
    """What the sheet shows."""

    source: Source
    shape: Shape
    job: Job
    results: Sequence[ColumnResult]
    encode_seconds: float | None  # for a frame; None for pictures


def run_preview(options: Options, progress: Progress) -> None:
    """Make the sheet. InputError for options and inputs that it cannot be made of; UpscaleError if that fails."""
    started = time.monotonic()
    check_options(options)
    if skipped_output(options, progress) is not None:
        return
    output = check_paths(options, picture_target(options))
    source = _open_source(options)
    found = weights.locate(options.model, options.denoise)
    read = [("the input", path) for path in source.paths] + [("the model", path) for path in found.files]
    check_writes(written_files(options, None, None), read)
    check_overwritten([output], options.overwrite)
    columns = columns_for(options, source)
    try:
        found = make_preview(options, source, columns, progress, started + MAX_SECONDS)
        sheet = describe(found, options)
        write_picture(output, draw(sheet))
    finally:
        progress.close()
    progress.done(**facts(found, options, time.monotonic() - started))


def check_options(options: Options) -> None:
    """InputError for a sheet that is no picture, and for options that a sheet has no use for."""
    for one in fields(Options):
        if one.name not in TAKEN and getattr(options, one.name) != one.default:
            raise InputError(f"--preview writes a sheet and no video: leave out {flag(one.name)}")
    name = options.output
    if not is_picture(name) or "%" in name.name:
        raise InputError(f"--preview {name}: not the name of a picture; it must end in {', '.join(EXTENSIONS)}")
    if options.model == LANCZOS:
        raise InputError("--preview shows the plain resize anyway; leave out --model lanczos, or choose a network")
    if options.strength <= 0:
        raise InputError("--preview shows the plain resize anyway; choose a --strength above 0")


def _open_source(options: Options) -> Source:
    try:
        return frame_source(options, None, keep_alpha=False)
    except InputError as error:
        if options.input.is_dir():
            raise InputError(
                f"--preview takes one video or picture; {options.input} is a folder and not one series of pictures: "
                "name a file in it"
            ) from error
        raise


def make_preview(
    options: Options, source: Source, columns: Sequence[Column], progress: Progress, stop_at: float
) -> Preview:
    """Choose the crops and upscale them until `stop_at` (time.monotonic)."""
    info, names = source.info, [column.name for column in columns if not column.steady]
    total = len(names) + 2
    done = iter(range(total))

    def step(what: str) -> None:
        progress.step(next(done), total, what)

    step("choosing crops")
    shape = output_shape(options.scale, options.fit, (info.width, info.height), info.sample_aspect_ratio, (1, 1))
    ratio = Fraction(shape.picture[0], info.width), Fraction(shape.picture[1], info.height)
    base = next(column for column in columns if column.is_base)
    geometry = geometry_for(info.layout, largest_crop(ratio, cell_limit(len(columns))), margin_for(base))
    first: list[Sample] = []
    crops = choose_crops(_kept(samples(source, options.frames or options.time), first), geometry)
    if not crops:
        raise InputError(f"{printable(options.input)}: no selected frame decodes; choose others")
    encoding = encode_seconds(info, shape, first[0]) if isinstance(source, VideoSource) else None
    results, job = make_cells(columns, Job(crops, geometry, ratio, info.colour, stop_at), step)
    step("drawing the sheet")
    return Preview(source, shape, job, results, encoding)


def _kept(found: Iterable[Sample], first: list[Sample]) -> Iterator[Sample]:
    """The samples; the first one is also put into the list."""
    for sample in found:
        if not first:
            first.append(sample)
        yield sample


# What is said


def describe(preview: Preview, options: Options) -> Sheet:
    """The sheet's text and cells."""
    info, job = preview.source.info, preview.job
    length = [clock(float(info.duration))] if info.duration and not _is_one(preview) else []
    count = [many(info.frame_count, "frame")] if info.frame_count and not _is_one(preview) else []
    sizes = f"{info.width}x{info.height} to {preview.shape.picture[0]}x{preview.shape.picture[1]}"
    is_short = info.duration is not None and info.duration < 60
    rows = []
    for number, crop in enumerate(job.crops):
        at = clock_tenths(crop.seconds) if is_short else clock(float(crop.seconds))
        when = [] if _is_one(preview) else [at]
        place = f"x {crop.left}, y {crop.top}"
        rows.append(Row(crop.kind, (*when, place), [result.cells[number] for result in preview.results]))
    columns = [Heading(one.column.name, times(one, preview), one.column.note) for one in preview.results]
    title = ", ".join([f"{options.input.name}: {sizes}", *length, *count])
    sheet = Sheet(title, columns, rows, ())
    return Sheet(title, columns, rows, notes(preview, enlargement(sheet)))


def times(result: ColumnResult, preview: Preview) -> tuple[str, ...]:
    """The lines of a column about its time."""
    if result.seconds is None:
        return ("time unknown",)
    one = "for the picture" if _is_one(preview) else "a frame"
    lines = (f"{seconds_text(result.seconds)} {one}{'' if result.is_measured else ' (not measured)'}",)
    total = total_seconds(result, preview)
    if _is_one(preview):
        return lines
    return (*lines, "length unknown" if total is None else f"about {clock(rounded(total))} for all frames")


def total_seconds(result: ColumnResult, preview: Preview) -> float | None:
    """For all frames: upscaling and encoding overlap, the slower one counts. None if the number is unknown."""
    count = preview.source.info.frame_count
    if count is None or result.seconds is None:
        return None
    return count * max(result.seconds, preview.encode_seconds or 0.0)


def seconds_text(seconds: float) -> str:
    """Seconds with two digits that count: 0.12 s, 3.4 s, 76 s, 120 s."""
    return f"{float(f'{seconds:.2g}'):g} s" if seconds >= 0.01 else "under 0.01 s"


def rounded(seconds: float) -> float:
    """Seconds as exact as an estimate can be: to 10 seconds from a minute on, to minutes from an hour on."""
    step = 60 if seconds >= 3600 else 10 if seconds >= 60 else 1
    return max(1.0, round(seconds / step) * step)


def notes(preview: Preview, factor: int) -> list[str]:
    """What the reader of the sheet has to know."""
    info, job = preview.source.info, preview.job
    settings = next(one.column.settings for one in preview.results if one.column.is_base)
    assert settings is not None
    width, height = job.geometry.crop
    enlarged = f", pixels repeated {factor} times" if factor > 1 else ""
    found = [
        f"Crops of {width}x{height} pixels, upscaled{enlarged}. Times: all workers of a run on this machine "
        f"({settings.device}, {settings.engine}), measured on the crops."
    ]
    if preview.encode_seconds is not None:
        encoder = seconds_text(preview.encode_seconds)
        found[0] += f" For all frames: upscaling or encoding ({encoder} a frame as .mp4), whichever is slower."
    if (kind := HDR.get(info.colour.transfer)) is not None:
        found.append(f"{kind} is brought into the range of an ordinary screen here; a run keeps it.")
    if any(len(crop.frames) < 2 for crop in job.crops):
        found.append("--steady changes nothing in a frame without another one beside it.")
    return [*found, *info.notes]


def _is_one(preview: Preview) -> bool:
    """Whether the input is one picture."""
    return not isinstance(preview.source, VideoSource) and preview.source.max_frames == 1


def facts(preview: Preview, options: Options, seconds: float) -> dict:
    """The facts for Progress.done, JSON-able."""
    info, job = preview.source.info, preview.job
    columns = [
        {
            "name": one.column.name,
            "seconds_per_frame": None if one.seconds is None else round(one.seconds, 4),
            "seconds": None if (total := total_seconds(one, preview)) is None else round(total, 1),
            "measured": one.is_measured and one.seconds is not None,
            "left_out": sorted({cell for cell in one.cells if isinstance(cell, str)}),
        }
        for one in preview.results
    ]
    crops = [
        {"shows": crop.kind, "seconds": round(float(crop.seconds), 3), "x": crop.left, "y": crop.top}
        for crop in job.crops
    ]
    return {
        "input": printable(options.input),
        "output": printable(options.output),
        "input_size": f"{info.width}x{info.height}",
        "output_size": f"{preview.shape.picture[0]}x{preview.shape.picture[1]}",
        "frames": info.frame_count,
        "crop_size": "x".join(map(str, job.geometry.crop)),
        "crops": crops,
        "columns": columns,
        "seconds": round(seconds, 3),
        "warnings": list(info.notes),
    }
