"""The device: the best that can really be used."""

import logging
import warnings

import pytest
import torch

from altdiffusion import InputError
from altdiffusion.devices import available_devices, choose_device


@pytest.fixture
def old_driver(monkeypatch):
    """A GPU is counted, and PyTorch can't use it: as torch.cuda says it."""

    def unavailable():
        warnings.warn(
            "CUDA initialization: The NVIDIA driver on your system is too old (found 11040).\nUpdate", stacklevel=1
        )
        return False

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", unavailable)


def test_a_driver_that_is_too_old_is_said_and_the_cpu_computes(old_driver, caplog):
    with caplog.at_level(logging.WARNING):
        assert "cuda:0" not in available_devices()
    (record,) = caplog.records
    assert "too old (found 11040)" in record.message
    assert "\n" not in record.message


def test_asked_for_by_name_such_a_gpu_is_not_there(old_driver):
    with pytest.raises(InputError, match="device 'cuda' isn't there"):
        choose_device("cuda")


def test_gpus_come_first(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert available_devices()[:2] == ["cuda:0", "cuda:1"]
    assert choose_device() == torch.device("cuda:0")
