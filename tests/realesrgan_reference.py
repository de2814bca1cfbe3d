"""The realesrgan package's own upscaler, to compare with; loaded without basicsr, which is not installed."""

import importlib.util
import sys
import tempfile
import types
import warnings
from pathlib import Path

import pytest
import torch


def enhancer(state: dict):
    """A RealESRGANer (fp32, CPU, whole frames) with the weights of realesr-animevideov3 in `state`.

    Its method `enhance` takes and returns (height, width, 3) uint8 BGR. Skips the test without realesrgan.
    """
    package = importlib.util.find_spec("realesrgan")
    if package is None or not package.submodule_search_locations:
        pytest.skip("realesrgan is not installed")
    folder = Path(package.submodule_search_locations[0])
    stand_ins = {
        "basicsr": {},
        "basicsr.utils": {},
        "basicsr.utils.download_util": {"load_file_from_url": None},  # weights are always a local file here
        "basicsr.utils.registry": {"ARCH_REGISTRY": types.SimpleNamespace(register=lambda: lambda network: network)},
    }
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated names in the package
        for name, members in stand_ins.items():
            module = types.ModuleType(name)
            vars(module).update(members)
            patch.setitem(sys.modules, name, module)
        upscaler = _run("reference_utils", folder / "utils.py")
        network = _run("reference_srvgg_arch", folder / "archs" / "srvgg_arch.py")
    module = network.SRVGGNetCompact(3, 3, num_feat=64, num_conv=16, upscale=4, act_type="prelu")
    with tempfile.TemporaryDirectory() as place:
        torch.save({"params": state}, f"{place}/weights.pth")
        return upscaler.RealESRGANer(4, f"{place}/weights.pth", model=module, pre_pad=0, half=False, device="cpu")


def _run(name: str, path: Path) -> types.ModuleType:
    """One module of the package by itself; importing the package would import all of it."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
