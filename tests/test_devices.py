"""The device: the best that can really be used."""

import logging
import warnings

import pytest
import torch

from altdiffusion import InputError
from altdiffusion.devices import available_devices, choose_device


def accelerators(monkeypatch, kind, count, is_available=lambda: True):
    """This machine has `count` devices of a kind that PyTorch was built for."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: kind and torch.device(kind))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
    monkeypatch.setattr(torch.accelerator, "is_available", is_available)


@pytest.fixture
def old_driver(monkeypatch):
    """A GPU is counted, and PyTorch can't use it: as torch.cuda says it."""

    def unavailable():
        warnings.warn(
            "CUDA initialization: The NVIDIA driver on your system is too old (found 11040).\nUpdate", stacklevel=1
        )
        return False

    accelerators(monkeypatch, "cuda", 1, unavailable)


def test_a_driver_that_is_too_old_is_said_and_the_cpu_computes(old_driver, caplog):
    with caplog.at_level(logging.WARNING):
        assert "cuda:0" not in available_devices()
    (record,) = caplog.records
    assert "too old (found 11040)" in record.message
    assert "\n" not in record.message


def test_asked_for_by_name_such_a_gpu_is_not_there(old_driver):
    with pytest.raises(InputError, match="device 'cuda' isn't there"):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("kind", "count", "expected"),
    [
        ("cuda", 2, ["cuda:0", "cuda:1", "cpu"]),
        ("xpu", 1, ["xpu:0", "cpu"]),
        ("mps", 1, ["mps", "cpu"]),
        ("cuda", 0, ["cpu"]),
        (None, 0, ["cpu"]),
    ],
)
def test_gpus_come_first(monkeypatch, kind, count, expected):
    accelerators(monkeypatch, kind, count)
    assert available_devices() == expected
    assert choose_device() == torch.device(expected[0])
    for name in {*expected, expected[0].split(":")[0]}:
        assert choose_device(name) == torch.device(name)
    with pytest.raises(InputError, match=f"this machine has {', '.join(expected)}"):
        choose_device("cuda:7")
