"""The columns of the sheet: the plain resize, each model that is on this machine, --strength, --steady."""

from dataclasses import dataclass, replace
from pathlib import Path

from upscaling.common.errors import InputError
from upscaling.inference.device_choice import choose
from upscaling.inference.settings import LANCZOS, NCNN, ModelSettings
from upscaling.job.options import Options
from upscaling.models import weights
from upscaling.pipeline.plan import model_settings
from upscaling.pipeline.sources import Source
from upscaling.pipeline.worker_count import DEFAULT_WEIGHTS, parallel_workers, worker_count

# `Official.cost` is measured in torch with bf16. In ncnn on a CPU the default model is relatively faster: networks of
# LARGE_COST or more take NCNN_COST times as long beside it (measured: 55 instead of 18, and 14 instead of 6).
LARGE_COST, NCNN_COST = 4, 3
STRENGTH = 0.5  # of the column --strength, if none is given


@dataclass(frozen=True)
class Column:
    """One column: how its cells are made. `cost` is the time of a frame beside the default model's."""

    name: str
    note: str  # what it is for, in a few words
    cost: float
    settings: ModelSettings | None = None  # of each worker of a run
    workers: int = 1  # of a run, that really work at the same time
    reason: str = ""  # why there are no settings
    is_base: bool = False  # the model that a run with these options would use
    steady: bool = False  # made of the frames of the base


def columns_for(options: Options, source: Source) -> list[Column]:
    """The columns from left to right. InputError if --model, --device, --engine or --precision cannot be used."""
    base = _base_column(options, source)
    names = [name for name in weights.MODELS if name == base.name or weights.at_hand(name)]
    models = [base if name == base.name else _model_column(options, source, name) for name in names]
    if base not in models:
        models.insert(0, base)
    plain = replace(options, model=LANCZOS, denoise=None)
    share = options.strength if options.strength < 1 else STRENGTH
    assert base.settings is not None  # else an InputError was raised
    blended = replace(base.settings, strength=share)
    return [
        _column(plain, source, None, "plain resize", "Lanczos, without a network"),
        *models,
        replace(base, name=f"--strength {share:g}", note=f"{base.name} and the plain resize", settings=blended,
                is_base=False),
        replace(base, name="--steady", note=f"{base.name} with less flicker", is_base=False, steady=True),
    ]  # fmt: skip


def _base_column(options: Options, source: Source) -> Column:
    found = weights.locate(options.model, options.denoise)
    return replace(_column(options, source, found.files[0], *_label(options.model)), is_base=True)


def _label(model: str) -> tuple[str, str]:
    """(name, note) of a column."""
    official = weights.MODELS.get(model)
    return (model, official.suits) if official else (Path(model).name, "")


def _model_column(options: Options, source: Source, name: str) -> Column:
    """A model that nobody asked for: if it cannot be used, its cells say why."""
    try:
        return _column(replace(options, model=name, denoise=None), source, weights.at_hand(name), *_label(name))
    except InputError as error:
        return Column(name, weights.MODELS[name].suits, weights.MODELS[name].cost, reason=str(error))


def _column(options: Options, source: Source, file: Path | None, name: str, note: str) -> Column:
    workers = worker_count(options, source, file)
    choice = choose(options.device, options.engine, options.precision, options.model, file, workers)
    settings = model_settings(replace(options, strength=1.0), choice)
    cost = _cost(options.model, file, settings[0])
    return Column(name, note, cost, settings[0], parallel_workers(settings))


def _cost(model: str, file: Path | None, settings: ModelSettings) -> float:
    if file is None:
        return 0.0
    official = weights.MODELS.get(model)
    cost = official.cost if official else max(1.0, file.stat().st_size / DEFAULT_WEIGHTS)
    return cost * NCNN_COST if settings.engine == NCNN and cost >= LARGE_COST else float(cost)
