"""`altdiffusion demo`: the page in the browser."""

from __future__ import annotations

from pathlib import Path

from altdiffusion.cli.flags import command
from altdiffusion.cli.options import DeviceSettings, LabelSettings
from altdiffusion.cli.terminal import hide_loading, say
from altdiffusion.settings import setting
from altdiffusion.web.limits import Limits


class DemoSettings(DeviceSettings, LabelSettings):
    """How the page is served."""

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
    auth: str | None = setting(None, "ask for it before anything is shown", metavar="NAME:PASSWORD")
    root_path: str | None = setting(
        None, "where a proxy shows the page: a path such as /draw, or a whole address", metavar="PATH"
    )
    styles: Path | None = setting(None, "TOML of named styles to choose from (default: the package's own)", metavar="F")
    max_queue: int = setting(20, "visitors that may wait", minimum=1)
    max_pixels: int = setting(Limits().pixels, "of a generated image, width x height", minimum=64)


@command(DemoSettings)
def demo(settings: DemoSettings) -> None:
    """The web page: generate, change, compare, score. It needs altdiffusion[demo].

    altdiffusion demo --models mini BAAI/AltDiffusion-m9 --allow-pickle
    altdiffusion demo --models mini sd-mini+bridge=mini
    """
    say("loading ...")
    from altdiffusion.web.server import Serving, serve

    hide_loading()
    limits = Limits(pixels=settings.max_pixels)
    other = {"max_pixels", *LabelSettings.model_fields}
    serve(
        Serving(limits=limits, label=settings.label, **{name: value for name, value in settings if name not in other})
    )
