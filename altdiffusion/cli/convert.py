"""`altdiffusion convert`: any layout to one that plain diffusers loads."""

from __future__ import annotations

from pathlib import Path

from altdiffusion.cli.flags import command
from altdiffusion.cli.options import Dtype, JsonSettings
from altdiffusion.cli.terminal import hide_loading, print_json, print_line, say
from altdiffusion.settings import setting


class ConvertSettings(JsonSettings):
    """What is converted."""

    source: str = setting(..., "id on the hub, folder or single file", positional="SRC", source="model")
    destination: Path = setting(..., "new folder", positional="DST")
    allow_pickle: bool = setting(False, "read .bin and .ckpt files, which can carry code")
    ema: bool = setting(False, "of a single file, take the moving average of the UNet")
    tokenizer: str | None = setting(
        None, "for single files, which carry none: folder or id on the hub", source="model", metavar="T"
    )
    settings_from: str | None = setting(
        None,
        "of a single file of unusual sizes: folder or id that has the settings of its model",
        source="model",
        metavar="M",
    )
    dtype: Dtype | None = setting(None, "arithmetic of the weights (default: as stored)")


@command(ConvertSettings)
def convert(settings: ConvertSettings) -> None:
    """Any AltDiffusion or AltCLIP layout, or a community's single file, to a folder that plain diffusers loads.

    altdiffusion convert BAAI/AltDiffusion-m9 altdiffusion-m9 --allow-pickle
    altdiffusion convert dreamshaper.safetensors dreamshaper
    """
    say("loading ...")
    from altdiffusion.devices import DTYPES
    from altdiffusion.pipelines import convert as converter

    hide_loading()
    folder = converter.convert(
        settings.source,
        settings.destination,
        allow_pickle=settings.allow_pickle,
        ema=settings.ema,
        tokenizer=settings.tokenizer,
        config=settings.settings_from,
        dtype=None if settings.dtype is None else DTYPES[settings.dtype],
    )
    if settings.as_json:
        print_json({"path": str(folder)})
    else:
        print_line(str(folder))
    say("plain diffusers loads it; weights that BAAI published stay under their licence, CreativeML OpenRAIL-M")
