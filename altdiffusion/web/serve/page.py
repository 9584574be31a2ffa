"""The page beside the APIs, on one port and over one service: `altdiffusion serve --page`."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from altdiffusion.web.serve.keys import OPEN
from altdiffusion.web.server import SESSIONS, Serving, queued_page
from altdiffusion.web.service import DemoService

OF_THE_APIS = ("/sdapi/", "/v1/")  # what their paths begin with


class BesidePage:
    """ASGI: what is the APIs' goes to them, anything else to the page. Each has its own guard, and nothing of the other's."""

    def __init__(self, apis: Any, page: Any) -> None:
        self._apis, self._page = apis, page

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        is_theirs = path.startswith(OF_THE_APIS) or path in OPEN
        await (self._apis if is_theirs else self._page)(scope, receive, send)


def page_app(service: DemoService, serving: Serving) -> Any:
    """The page as an ASGI application, which has a lifespan. In `environment`, as Gradio is imported."""
    import gradio

    page, options = queued_page(service, serving)
    page.state_session_capacity = SESSIONS
    # Browsers send the key by themselves once it was typed: pages of other sites may not ask for anything with it.
    same_site: Any = Middleware(CORSMiddleware, allow_origins=[])
    return gradio.mount_gradio_app(FastAPI(openapi_url=None, middleware=[same_site]), page, path="/", **options)
