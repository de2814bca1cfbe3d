"""Which sources a run over many files has something to do for."""

import hashlib
import json
import time
from dataclasses import fields, replace
from pathlib import Path

from upscaling.common.files import file_identity
from upscaling.common.text import printable
from upscaling.folders.record import Finished
from upscaling.folders.sources import Item, is_special
from upscaling.inference.settings import LANCZOS
from upscaling.job.options import Options
from upscaling.models import weights
from upscaling.mux.stream_selection import StreamChoice
from upscaling.pictures.writing import is_picture
from upscaling.pipeline.checks import VIDEO_OPTIONS, check_input, check_overwritten
from upscaling.pipeline.plan import stream_choice

NOT_REGULAR = "is not a regular file and is passed over"


class SkipFile(Exception):
    """This run leaves a file alone; `status` is "waiting" or "skipped", the message says why."""

    def __init__(self, status: str, message: str):
        super().__init__(message)
        self.status = status


def check_exists(source: Path) -> None:
    """InputError for a link to nowhere, or a file that was removed a moment ago."""
    if not source.exists():
        check_input(source)


def due_key(item: Item, options: Options, finished: Finished) -> str:
    """The key of a file's result (`job_key`); SkipFile if this run has nothing to do for the file."""
    if is_special(item.source):
        raise SkipFile("skipped", f"{printable(item.source)} {NOT_REGULAR}")
    check_exists(item.source)
    age = time.time() - item.source.stat().st_mtime
    if 0 <= age < options.settle and not item.named:
        raise SkipFile("waiting", f"modified {age:.0f} s ago, may be incomplete (--settle); the next run takes it")
    key = job_key(item.source, options)
    if not options.restart and finished.has(item, key):
        raise SkipFile("skipped", "finished before with the same parameters")
    if not options.restart and finished.unsuitable(item, key):
        raise SkipFile("skipped", "passed over, as an earlier run said why; --restart tries it again")
    if options.no_clobber and item.output.exists():
        raise SkipFile("skipped", f"{printable(item.output)} exists, skipped (--no-clobber)")
    check_overwritten([item.output], options.overwrite)
    return key


def options_for(item: Item, options: Options) -> Options:
    """The options of one file's job; options for videos do not apply to pictures."""
    options = replace(options, input=item.source, output=item.output, inputs=())
    if not is_picture(item.output):
        return options
    defaults = {one.name: one.default for one in fields(Options) if one.name in (*VIDEO_OPTIONS, "frames", "time")}
    return replace(options, **defaults)


def job_key(source: Path, options: Options) -> str:
    """SHA-256, in hexadecimal, of everything that the result depends on: the input and every parameter."""
    identity = {"input": file_identity(source), "parameters": requested_parameters(options)}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def requested_parameters(options: Options) -> dict:
    """Every option that changes a result, as it was asked for, as JSON has it; the same for all files of a folder."""
    found = None if options.model == LANCZOS else weights.locate(options.model, options.denoise)
    names = ["scale", "codec", "crf", "preset", "pix_fmt", "deinterlace", "frames", "time", "container", "frame_format"]
    choice = stream_choice(options)
    names += [one.name for one in fields(StreamChoice) if getattr(choice, one.name) != one.default]
    model = {
        "sha256": list(found.sums) if found else LANCZOS,
        "blend": found.blend if found else None,
        "strength": options.strength,
        "precision": options.precision,
        "device": options.device.partition(":")[0],
        "engine": options.engine,
        "patch_size": options.patch_size,
    }
    fit = {"fit": options.fit} if options.scale.width and options.scale.height else {}
    steady = {"steady": True} if options.steady else {}
    return {"model": model} | {name: str(getattr(options, name)) for name in names} | fit | steady
