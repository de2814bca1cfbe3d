"""realesrgan's own network classes, imported without what their packages pull in.

`import realesrgan` runs basicsr's and torchvision's package files: scipy, scikit-image, OpenCV, lmdb, gfpgan …,
two to four seconds in each worker, and it fails with current torchvision, whose
`transforms.functional_tensor` is gone. The two classes need none of it, so only their own modules are run,
between bare stand-ins for the packages around them that are taken away again: a later `import realesrgan`
is a normal one (and needs `alias_functional_tensor` first).
"""

import importlib
import importlib.util
import logging
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

# Packages of which only the directory is wanted, not the package file that imports everything.
BARE_PACKAGES = ("basicsr", "basicsr.archs", "basicsr.ops", "basicsr.utils", "realesrgan", "realesrgan.archs")
# What basicsr.archs.arch_util imports for layers that RRDBNet does not have, and one logger.
STAND_INS = {
    "torchvision": {},
    "distutils": {},
    "distutils.version": {"LooseVersion": str},
    "basicsr.ops.dcn": {"ModulatedDeformConvPack": object, "modulated_deform_conv": None},
    "basicsr.utils": {"get_root_logger": logging.getLogger},
}


@cache
def realesrgan_classes() -> tuple[type, type] | None:
    """(SRVGGNetCompact, RRDBNet) of the installed realesrgan and basicsr, or None where they are not installed.

    Call it before other threads import modules: names in `sys.modules` are replaced for a moment.
    """
    if any(_directory(name) is None for name in ("realesrgan", "basicsr")):
        return None
    try:
        with _stand_ins():
            srvgg = importlib.import_module("realesrgan.archs.srvgg_arch")
            rrdb = importlib.import_module("basicsr.archs.rrdbnet_arch")
    except ImportError:  # another version with other needs: spandrel has the same classes
        return None
    return srvgg.SRVGGNetCompact, rrdb.RRDBNet


def alias_functional_tensor() -> None:
    """Gives torchvision its former module `transforms.functional_tensor`, so that `import realesrgan` works.

    The functions basicsr wants from it live on in `transforms.functional`. Harmless where the module exists.
    """
    name = "torchvision.transforms.functional_tensor"
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        sys.modules[name] = importlib.import_module("torchvision.transforms.functional")


def _directory(package: str) -> Path | None:
    """Where an installed top-level package lies, without running it."""
    spec = importlib.util.find_spec(package)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


@contextmanager
def _stand_ins() -> Iterator[None]:
    """The names of BARE_PACKAGES and STAND_INS in `sys.modules`, and nothing of it left afterwards."""
    ours = ("basicsr", "realesrgan", *STAND_INS)
    places = {name: _directory(name.split(".")[0]) for name in BARE_PACKAGES}

    def taken() -> dict[str, types.ModuleType]:
        return {n: m for n, m in sys.modules.items() if n in ours or n.startswith(("basicsr.", "realesrgan."))}

    before = taken()
    for name in before:
        del sys.modules[name]
    try:
        for name, place in places.items():
            module = sys.modules[name] = types.ModuleType(name)
            module.__path__ = [str(place.joinpath(*name.split(".")[1:]))]
        for name, attributes in STAND_INS.items():
            module = sys.modules.setdefault(name, types.ModuleType(name))
            vars(module).update(attributes)
        yield
    finally:
        for name in taken():
            del sys.modules[name]
        sys.modules.update(before)
