"""The device and dtype to run on: what the machine has, or what the user asked for."""

from __future__ import annotations

import logging
import warnings

import torch

from altdiffusion.errors import InputError

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def available_devices() -> list[str]:
    """Best first; "cpu" is always there."""
    devices = _gpus()
    if torch.backends.mps.is_available():
        devices.append("mps")
    return [*devices, "cpu"]


def _gpus() -> list[str]:
    """Those that PyTorch can use. Its count is the driver's, which may be too old for it: a warning says so."""
    count = torch.cuda.device_count()
    if not count:
        return []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return [f"cuda:{index}" for index in range(count)]
    reason = str(told[-1].message).splitlines()[0] if told else "this PyTorch can't use CUDA"
    logger.warning("a GPU is here, but the CPU computes: %s", reason)
    return []


def choose_device(name: str | None = None) -> torch.device:
    """The device of that name, or the best there is. Raises InputError for one that isn't there."""
    there = available_devices()
    if name is None:
        return torch.device(there[0])
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"unknown device {name!r}: this machine has {', '.join(there)}") from None
    if not any(known == name or known.split(":")[0] == name for known in there):
        raise InputError(f"device {name!r} isn't there: this machine has {', '.join(there)}")
    return device


def choose_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """The dtype of that name; by default float16 on a GPU, as the checkpoints are used, and float32 on a CPU."""
    if name is None:
        return torch.float32 if device.type == "cpu" else torch.float16
    if name not in DTYPES:
        raise InputError(f"unknown dtype {name!r}: expected one of {', '.join(DTYPES)}")
    return DTYPES[name]


def dtype_name(dtype: torch.dtype) -> str:
    return next(name for name, known in DTYPES.items() if known == dtype)
