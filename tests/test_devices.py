"""Which devices are found, and which worker gets which; tested without a GPU."""

import pytest

from upscaling.common.devices import choose_devices, cuda_device_count, torch_cuda_version
from upscaling.common.errors import InputError


@pytest.mark.parametrize(
    ("requested", "gpus", "expected"),
    [
        ("auto", 0, ["cpu"] * 6),
        ("cpu", 2, ["cpu"] * 6),
        ("auto", 1, ["cuda:0"] * 6),
        ("auto", 4, ["cuda:0", "cuda:1", "cuda:2", "cuda:3", "cuda:0", "cuda:1"]),
        ("cuda", 2, ["cuda:0", "cuda:1"] * 3),
        ("cuda:1", 2, ["cuda:1"] * 6),
        ("cuda:2,cuda:0", 3, ["cuda:2", "cuda:0"] * 3),
    ],
)
def test_worker_i_on_device_i_mod_n(requested, gpus, expected):
    assert choose_devices(requested, 6, gpus) == expected


@pytest.mark.parametrize(("requested", "gpus"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2), ("gpu", 1), ("cuda:", 1)])
def test_what_is_not_there_is_said(requested, gpus):
    with pytest.raises(InputError, match=r"this machine has|choose auto"):
        choose_devices(requested, 6, gpus)


def test_device_count_is_torchs():
    import torch

    assert cuda_device_count() == torch.cuda.device_count()


def test_cuda_version_is_torchs():
    import torch

    assert torch_cuda_version() == torch.version.cuda
