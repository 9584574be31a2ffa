"""Settings that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from altdiffusion.generation.flags import LabelSettings
from altdiffusion.settings import Settings, device_setting, setting
from altdiffusion.web.limits import Limits

Dtype = Literal["float32", "float16", "bfloat16"]


class DeviceSettings(Settings):
    """Where a model runs, and how it is read."""

    group: ClassVar[str] = "Device and files"

    device: str | None = device_setting()
    dtype: Dtype | None = setting(None, "arithmetic (default: float16 on a GPU, else float32)")
    allow_pickle: bool = setting(False, "read .bin, .pt and .ckpt files, which can carry code")


class ExactSettings(DeviceSettings):
    """The same for what measures."""

    dtype: Dtype | None = setting(None, "arithmetic (default: float32, the exact one)")


class ServedSettings(DeviceSettings, LabelSettings):
    """How the page and the APIs are served."""

    models: list[str] = setting(
        [],
        "what visitors may choose from: ids on the hub, folders, files, with parts such as M+lora=F:0.8 (default: mini)",
        source="model_with_parts",
        metavar="M",
    )
    scorer: str | None = setting(
        None, "AltCLIP that scores (default: the one that belongs to each model)", source="model", metavar="M"
    )
    host: str = setting("127.0.0.1", "address to serve at; 0.0.0.0 lets everyone in, the default this machine alone")
    port: int | None = setting(None, "(default: the first free one from 7860)", minimum=0, maximum=65535)
    root_path: str | None = setting(
        None, "where a proxy shows it: a path such as /draw, or a whole address", metavar="PATH"
    )
    styles: Path | None = setting(None, "TOML of named styles to choose from (default: the package's own)", metavar="F")
    max_queue: int = setting(20, "visitors that may wait", minimum=1)
    max_pixels: int = setting(Limits().pixels, "of a generated image, width x height", minimum=64)

    @property
    def serving(self) -> dict[str, Any]:
        """Arguments of `Serving`."""
        names = ServedSettings.model_fields.keys() - LabelSettings.model_fields.keys() - {"max_pixels"}
        limits = Limits(pixels=self.max_pixels)
        return {"limits": limits, "label": self.label, **{name: getattr(self, name) for name in names}}


class JsonSettings(Settings):
    """For programs that read our output."""

    as_json: bool = setting(False, "print one JSON document on standard output", flag="json")
