"""`altdiffusion serve`: the APIs that other programs speak."""

from __future__ import annotations

from altdiffusion.cli.flags import command
from altdiffusion.cli.options import ServedSettings
from altdiffusion.cli.terminal import hide_loading, say
from altdiffusion.settings import setting


class ServeSettings(ServedSettings):
    """How the APIs are served."""

    api_key: str | None = setting(
        None, "every request must have it: Authorization: Bearer KEY, or as a password", metavar="KEY"
    )
    any_model: bool = setting(False, "in OpenAI's API, a model's name that isn't offered stands for the first one")
    page: bool = setting(
        False, "the web page, too, at /, with the same models, queue and key; needs altdiffusion[demo]"
    )


@command(ServeSettings)
def serve(settings: ServeSettings) -> None:
    """AUTOMATIC1111's API, OpenAI's images API and scores, for programs. It needs altdiffusion[serve].

    altdiffusion serve --models mini
    altdiffusion serve --models BAAI/AltDiffusion-m9 --allow-pickle --host 0.0.0.0 --api-key "$KEY"
    altdiffusion serve --models mini --page
    """
    say("loading ...")
    from altdiffusion.web.serve.server import require_uvicorn
    from altdiffusion.web.serve.server import serve as serve_apis
    from altdiffusion.web.server import Serving

    require_uvicorn()
    hide_loading()
    serve_apis(Serving(**settings.serving), settings.api_key, settings.any_model, settings.page)
