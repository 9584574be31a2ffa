"""The device and dtype to run on: what the machine has, or what the user asked for."""

from __future__ import annotations

import logging
import warnings

import torch

from altdiffusion.errors import InputError

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def available_devices() -> list[str]:
    """What PyTorch can use here, best first, e.g. "cuda:0"; "cpu" is always there."""
    accelerator = torch.accelerator.current_accelerator()
    count = torch.accelerator.device_count()  # the driver's, which may be too old for PyTorch: then a warning says so
    if accelerator is None or not count:
        return ["cpu"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if torch.accelerator.is_available():
            kind = accelerator.type
            return [*(kind if kind == "mps" else f"{kind}:{index}" for index in range(count)), "cpu"]
    reason = str(caught[-1].message).splitlines()[0] if caught else f"this PyTorch can't use {accelerator.type}"
    logger.warning("a GPU is here, but the CPU computes: %s", reason)
    return ["cpu"]


def choose_device(name: str | None = None) -> torch.device:
    """The device of that name; by default the best there is. Raises InputError for one that isn't there."""
    available = available_devices()
    if name is None:
        return torch.device(available[0])
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"unknown device {name!r}: this machine has {', '.join(available)}") from None
    if name not in {*available, *(known.split(":")[0] for known in available)}:
        raise InputError(f"device {name!r} isn't there: this machine has {', '.join(available)}")
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
