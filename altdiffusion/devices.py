"""The device and dtype to run on: what the machine has, or what the user asked for."""

from __future__ import annotations

import torch

from altdiffusion.errors import InputError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def available_devices() -> list[str]:
    """Best first; "cpu" is always there."""
    devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return [*devices, "cpu"]


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
