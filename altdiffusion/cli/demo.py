"""`altdiffusion demo`: the page in the browser."""

from __future__ import annotations

from pathlib import Path

from altdiffusion.cli.flags import command
from altdiffusion.cli.options import ServedSettings
from altdiffusion.cli.terminal import hide_loading, say
from altdiffusion.settings import setting


class DemoSettings(ServedSettings):
    """How the page is served."""

    auth: str | None = setting(None, "ask for it before anything is shown", metavar="NAME:PASSWORD")
    index: Path | None = setting(
        None, "folder of `altdiffusion batch index` that visitors may search", source="path", metavar="DIR"
    )


@command(DemoSettings)
def demo(settings: DemoSettings) -> None:
    """The web page: generate, change, compare, score. It needs altdiffusion[demo].

    altdiffusion demo --models mini BAAI/AltDiffusion-m9 --allow-pickle
    altdiffusion demo --models mini sd-mini+bridge=mini
    """
    say("loading ...")
    from altdiffusion.web.server import Serving, serve

    hide_loading()
    serve(Serving(auth=settings.auth, index=settings.index, **settings.serving))
