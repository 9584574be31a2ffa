"""Settings that several commands share."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from altdiffusion.settings import Settings, setting

Dtype = Literal["float32", "float16", "bfloat16"]


def device_setting() -> Any:
    """Of every command. Whether this machine has the device is seen when torch is there."""
    return setting(
        None, "cuda, cuda:1, mps, cpu (default: the best there is)",
        pattern=r"^(cuda(:\d+)?|mps|cpu)$", form="cuda, cuda:1, mps or cpu", metavar="D",
    )  # fmt: skip


class DeviceSettings(Settings):
    """Where a model runs, and how it is read."""

    group: ClassVar[str] = "Device and files"

    device: str | None = device_setting()
    dtype: Dtype | None = setting(None, "arithmetic (default: float16 on a GPU, else float32)")
    allow_pickle: bool = setting(False, "read .bin, .pt and .ckpt files, which can carry code")


class ExactSettings(DeviceSettings):
    """The same for what measures."""

    dtype: Dtype | None = setting(None, "arithmetic (default: float32, the exact one)")


class JsonSettings(Settings):
    """For programs that read our output."""

    as_json: bool = setting(False, "print one JSON document on standard output", flag="json")
