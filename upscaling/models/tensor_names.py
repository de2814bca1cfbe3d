"""Which architecture a weights file holds, from the names of its tensors alone: without torch, nothing is executed.

The main process decides by it which engine runs the model. A `.pth` is a zip file with a pickle in it, or a row of
pickles (torch.save before 1.6); the strings in them are read opcode by opcode. The head of a `.safetensors` is JSON.
"""

import json
import pickletools
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

from upscaling.models.weights import MODELS, NCNN_SUFFIXES, PREFIXES

MAX_HEAD = 100 << 20  # bytes of a .safetensors head (its own limit)
LEGACY_PICKLES = 4  # magic number, protocol, system, and the checkpoint itself
# Tensors that SRVGGNetCompact and RRDBNet have under realesrgan's, ESRGAN's and BSRGAN's names.
KNOWN = (
    ("body.0.weight", "body.1.weight", "body.2.weight"),
    ("conv_first.weight", "body.0.rdb1.conv1.weight", "conv_body.weight", "conv_last.weight"),
    ("conv_first.weight", "RRDB_trunk.0.RDB1.conv1.weight", "trunk_conv.weight", "conv_last.weight"),
    ("model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight"),
)
UNKNOWN = "model.1.sub.0.RDB1.conv1x1.weight"  # of ESRGAN+


def runs_in_ncnn(model: str, file: Path) -> bool:
    """Whether the model, whose first file is `file`, is an SRVGGNetCompact or an RRDBNet; False if that is unclear."""
    if model in MODELS or file.suffix.lower() in NCNN_SUFFIXES:
        return True
    try:
        names = set(_tensor_names(file))
    except Exception:  # a damaged file: loading it will say so
        return False
    return any(
        all(prefix + name in names for name in known) and prefix + UNKNOWN not in names
        for known in KNOWN
        for prefix in ("", *PREFIXES)
    )


def _tensor_names(file: Path) -> Iterator[str]:
    """The names of a file's tensors, among other strings."""
    with open(file, "rb") as stream:
        if file.suffix.lower() == ".safetensors":
            (size,) = struct.unpack("<Q", stream.read(8))
            yield from json.loads(stream.read(min(size, MAX_HEAD)))
        elif zipfile.is_zipfile(stream):
            with zipfile.ZipFile(stream) as archive:
                entry = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                yield from _strings(archive.read(entry))
        else:
            stream.seek(0)
            for _ in range(LEGACY_PICKLES):
                yield from _strings(stream)


def _strings(pickled) -> Iterator[str]:
    """The strings of one pickle; its stream is then behind it."""
    for _, argument, _ in pickletools.genops(pickled):
        if isinstance(argument, str):
            yield argument
