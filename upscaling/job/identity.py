"""A job's identity: the input and everything that changes the result, as resolved on this machine.

A run resumes what an earlier one with the same identity has finished. The identity holds resolved values, not the
words of the command: `--device cpu` on a machine without a GPU is what `--device auto` is. What differs between two
identities is told in the words of the command.
"""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import fields

from upscaling.job.options import Options

ANY = "any"  # a value of an identity that is unknown and matches every other
SIZE = ("conversion.target.", "encoding.width", "encoding.height", "encoding.sample_aspect_ratio", "encoding.placement")
# Options that change the result, and the entries of the identity that each decides.
DECIDES = {
    "scale": SIZE,
    "fit": SIZE,
    "frames": ("part",),
    "time": ("part",),
    "model": ("model",),
    "denoise": ("model.sha256", "model.blend"),
    "strength": ("model.strength",),
    "steady": ("steady",),
    "patch_size": ("model.patch_size",),
    "device": ("model.device", "model.engine", "model.precision"),
    "engine": ("model.engine", "model.device", "model.precision"),
    "precision": ("model.precision", "model.engine"),
    "deinterlace": ("frames",),
    "frame_rate": ("frames", "encoding."),
    "codec": ("encoding.", "conversion.target.", "frames"),
    "crf": ("encoding.options",),
    "preset": ("encoding.options",),
    "pix_fmt": ("encoding.", "conversion.target."),
    "frame_format": ("frame_format",),
}
# Entries of the identity whose value is that of an option.
RESOLVED = {
    "model.device": "--device",
    "model.engine": "--engine",
    "model.precision": "--precision",
    "model.patch_size": "--patch-size",
    "encoding.codec": "--codec",
    "encoding.pixel_format": "--pix-fmt",
    "encoding.options.crf": "--crf",
    "encoding.options.preset": "--preset",
}


def given_options(options: Options) -> dict[str, str]:
    """{field name: its value as text} of the options that change the result, without those at their default."""
    defaults = {one.name: one.default for one in fields(Options)}
    values = {name: getattr(options, name) for name in DECIDES}
    return {
        name: f"{value:g}" if isinstance(value, float) else str(value)
        for name, value in values.items()
        if value != defaults[name] or name == "scale"
    }


def identity_elsewhere(identity: dict, options: Options) -> dict:
    """An identity for comparing with parts that other machines make: what these resolve is unknown here."""
    model = identity["model"]
    if "device" in model:
        kind = options.device.partition(":")[0]
        precision = options.precision
        if precision == "auto":
            precision = "fp16" if kind in ("cuda", "vulkan") else ANY
        engine = ANY if options.engine == "auto" else options.engine
        model = model | {"device": ANY if kind == "auto" else kind, "engine": engine, "precision": precision}
    return identity | {"model": model}


def differences(old: Mapping, new: Mapping, prefix: str = "") -> list[str]:
    """Names of the entries in which two identities differ, dotted; ANY equals every value."""
    names = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            names += differences(a, b, f"{prefix}{key}.")
        elif a != b and ANY not in (a, b):
            names.append(f"{prefix}{key}")
    return names


def what_changed(old: Mapping, new: Mapping, asked_then: Mapping[str, str], asked_now: Mapping[str, str]) -> str:
    """What an earlier run was made with and this one is not: "made with --crf 18"; empty if they are equal.

    `old` and `new` are identities, `asked_then` and `asked_now` the options given ({field name: text}).
    """
    changed = differences(old, new)
    if not changed:
        return ""
    if any(name.partition(".")[0] == "input" for name in changed):
        return "of the input as it was before it changed"
    named = [
        name
        for name, decided in DECIDES.items()
        if asked_then.get(name) != asked_now.get(name) and any(entry.startswith(decided) for entry in changed)
    ]
    explained = tuple(entry for name in named for entry in DECIDES[name])
    rest = [entry for entry in changed if not entry.startswith(explained)] if explained else changed
    given = [_words(name, asked_then[name]) for name in named if name in asked_then]
    given += [f"{RESOLVED[entry]} {_value(old, entry)}" for entry in rest if entry in RESOLVED]
    other = [entry for entry in rest if entry not in RESOLVED]
    parts = [f"with {' '.join(given)}"] if given else []
    parts += [f"without {_flag(name)}" for name in named if name not in asked_then]
    parts += [f"with another {entry}" for entry in other] if not parts else []
    return f"made {_and(parts)}"


def _flag(name: str) -> str:
    return "SCALE" if name == "scale" else "--" + name.replace("_", "-")


def _words(name: str, text: str) -> str:
    return _flag(name) if text == "True" else f"{_flag(name)} {shlex.quote(text)}"


def _value(identity: Mapping, entry: str) -> object:
    """The value of a dotted entry."""
    value: object = identity
    for key in entry.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _and(parts: Iterable[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
