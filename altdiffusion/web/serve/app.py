"""The APIs put together: one FastAPI application over a `DemoService`, with its OpenAPI page at /docs."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer

from altdiffusion import __version__
from altdiffusion.web.guard import Guard
from altdiffusion.web.serve.errors import add_handlers, error_form
from altdiffusion.web.serve.keys import KeyCheck
from altdiffusion.web.serve.openai_images import openai_router
from altdiffusion.web.serve.page import BesidePage
from altdiffusion.web.serve.scores import scores_router
from altdiffusion.web.serve.sdapi import sd_router
from altdiffusion.web.service import DemoService

WITH_IMAGES = (
    "/img2img",
    "/png-info",
    "/images/edits",
    "/v1/scores",
)  # the ends of the paths whose requests hold images
IMAGES_AT_ONCE = 4  # of the largest size in one request


def build_app(
    service: DemoService,
    *,
    api_key: str | None = None,
    any_model: bool = False,
    root_path: str = "",
    page: Any = None,
) -> Any:
    """The ASGI application.

    api_key: that every request must have; None lets everyone in. any_model: see `openai_router`. page: what is served at all
    other paths, see `page_app`.
    """
    app = FastAPI(
        title="altdiffusion",
        version=__version__,
        description="Images from prompts in any of AltCLIP's languages, and how well they fit: AUTOMATIC1111's API, OpenAI's "
        "images API, and scores.",
        docs_url="/docs",
        redoc_url=None,
        root_path=root_path,
        # for the page's button; the key itself is checked before a request is read
        dependencies=[Depends(HTTPBearer(auto_error=False))] if api_key else [],
    )
    add_handlers(app)
    app.include_router(sd_router(service))
    app.include_router(openai_router(service, any_model))
    app.include_router(scores_router(service))
    most = IMAGES_AT_ONCE * service.limits.upload_bytes * 4 // 3  # in base64
    guarded: Any = Guard(app, max_upload=most, uploads=WITH_IMAGES, form=error_form)
    everything = guarded if page is None else BesidePage(guarded, page)
    return KeyCheck(everything, api_key) if api_key else everything
