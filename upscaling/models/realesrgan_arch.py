"""realesrgan's own SRVGGNetCompact, loaded from its file without the package around it.

`import realesrgan` needs basicsr, whose build fails on current Python, and imports gfpgan, scipy and OpenCV. The class
needs one name of basicsr, the decorator that registers it, and gets a stand-in for that.
"""

import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

_BASICSR = ("basicsr", "basicsr.utils", "basicsr.utils.registry")


@cache
def srvgg_class() -> type | None:
    """The class of the installed realesrgan package; None if it is not installed or is a version that needs more.

    Call it before other threads import modules: names in `sys.modules` are replaced for a moment.
    """
    package = importlib.util.find_spec("realesrgan")
    if package is None or not package.submodule_search_locations:
        return None
    file = Path(package.submodule_search_locations[0]) / "archs" / "srvgg_arch.py"
    spec = importlib.util.spec_from_file_location("realesrgan.archs.srvgg_arch", file)
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    try:
        with _basicsr_stand_in():
            spec.loader.exec_module(module)
        return module.SRVGGNetCompact
    except (ImportError, AttributeError, OSError):
        return None


@contextmanager
def _basicsr_stand_in() -> Iterator[None]:
    """Modules in place of basicsr's whose registry registers nothing; `sys.modules` is restored afterwards."""
    before = {name: sys.modules[name] for name in _BASICSR if name in sys.modules}
    try:
        for name in _BASICSR:
            sys.modules[name] = types.ModuleType(name)
        registry = types.SimpleNamespace(register=lambda: lambda network: network)
        vars(sys.modules[_BASICSR[-1]])["ARCH_REGISTRY"] = registry
        yield
    finally:
        for name in _BASICSR:
            del sys.modules[name]
        sys.modules.update(before)
