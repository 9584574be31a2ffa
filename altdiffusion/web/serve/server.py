"""The APIs, served: `altdiffusion serve` calls `serve`."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from altdiffusion.errors import InputError
from altdiffusion.web.server import (
    Serving,
    check_serving,
    environment,
    require_gradio,
    started_service,
    temporary_folder,
)

PORTS = range(7860, 7960)  # tried one after the other; 7860 is AUTOMATIC1111's own
BACKLOG = 2048


def serve(serving: Serving, api_key: str | None = None, any_model: bool = False, page: bool = False) -> None:
    """Serve until interrupted. Raises InputError."""
    with running(serving, api_key, any_model, page) as url:
        print(f"{url}/docs  (Ctrl+C ends)", flush=True)
        if page:
            print(f"{url}/  is the page{', the key its password' if api_key else ''}", flush=True)
        while True:
            time.sleep(3600)


@contextmanager
def running(serving: Serving, api_key: str | None = None, any_model: bool = False, page: bool = False) -> Iterator[str]:
    """The APIs' address, while they are served; all files are deleted at the end. Raises InputError.

    api_key: that every request must have. any_model: in OpenAI's API, a name that isn't offered stands for the first model.
    page: it is served, too, at /, with the same queue, limits and key.
    """
    check_serving(serving)
    if api_key is not None and (
        len(api_key) < 8 or not api_key.isascii() or not api_key.isprintable() or " " in api_key
    ):
        raise InputError("--api-key: expected at least 8 letters, digits or signs of ASCII, without blanks")
    uvicorn = require_uvicorn()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from altdiffusion.web.serve.app import build_app
    from altdiffusion.web.serve.page import page_app

    with (
        _listening(serving) as listener,
        temporary_folder("altdiffusion-serve-") as folder,
        environment(folder) if page else contextlib.nullcontext(),  # before Gradio is imported
        started_service(serving, folder) as service,
    ):
        if page:
            require_gradio()
        root_path = urlsplit(serving.root_path or "").path.rstrip("/")
        shown = page_app(service, serving) if page else None
        app = build_app(service, api_key=api_key, any_model=any_model, root_path=root_path, page=shown)
        config = uvicorn.Config(
            app,
            log_level="warning",
            lifespan="on" if page else "off",  # in which Gradio starts its queue
            server_header=False,
            root_path="",
            timeout_graceful_shutdown=5,
            # far beyond Retry-After: who comes back then would find the connection just closing
            timeout_keep_alive=75,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), name="serving", daemon=True)
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            host, port = serving.host, listener.getsockname()[1]
            yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
        finally:
            server.should_exit = True
            thread.join(timeout=30)


def require_uvicorn() -> Any:
    """The module; raises InputError that says what is missing."""
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise InputError(f'the APIs need FastAPI: pip install "altdiffusion[serve]" ({error})') from None
    return uvicorn


@contextmanager
def _listening(serving: Serving) -> Iterator[socket.socket]:
    """A socket that is bound, at the port that is asked for or the first free one. Raises InputError."""
    family = socket.AF_INET6 if ":" in serving.host else socket.AF_INET
    problem: OSError | None = None
    for port in PORTS if serving.port is None else [serving.port]:
        # by its name asyncio sees that it may send at once (TCP_NODELAY)
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((serving.host, port))
            listener.listen(BACKLOG)
        except OSError as error:
            problem = error
            listener.close()
            if error.errno == errno.EADDRINUSE:
                continue
            break
        with contextlib.closing(listener):
            yield listener
        return
    raise InputError(f"--host {serving.host} --port {serving.port}: can't be served ({problem})")
