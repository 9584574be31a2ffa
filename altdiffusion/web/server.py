"""The page, served: `altdiffusion demo` and demo/app.py call `serve`; and what the page and the APIs are both served with."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from altdiffusion.errors import InputError
from altdiffusion.generation.label import DEFAULT, Label
from altdiffusion.generation.styles import read_styles
from altdiffusion.web.limits import Limits

if TYPE_CHECKING:
    from altdiffusion.web.service import DemoService

KEEP_SECONDS = 6 * 3600  # generated and uploaded images; a page that is open longer loses the oldest of its history
SESSIONS = 200  # that Gradio remembers, the last used; each takes a copy of the page's configuration
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Serving:
    """How the owner wants the page or the APIs served.

    auth: "name:password". models: what visitors may choose from; empty: mini. root_path: where a proxy shows the page, below a
    path ("/draw") or at a whole address. styles: a file as `read_styles` reads it; None: the package's own.
    label: of all images. index: a folder of `batch index` that visitors may search.
    """

    host: str = LOOPBACK
    port: int | None = None
    auth: str | None = None
    max_queue: int = 20
    models: Sequence[str] = ()
    scorer: str | None = None
    limits: Limits = field(default_factory=Limits)
    device: str | None = None
    dtype: str | None = None
    allow_pickle: bool = False
    root_path: str | None = None
    styles: Path | None = None
    label: Label = DEFAULT
    index: Path | None = None


def serve(serving: Serving) -> None:
    """Serve until interrupted. Raises InputError."""
    with running(serving) as url:
        print(f"{url}  (Ctrl+C ends)", flush=True)
        while True:
            time.sleep(3600)


@contextmanager
def running(serving: Serving) -> Iterator[str]:
    """The page's address, while it is served; all its files are deleted at the end. Raises InputError."""
    name_and_password = _auth(serving.auth)
    check_serving(serving)
    with temporary_folder("altdiffusion-demo-") as folder, environment(folder):  # before Gradio is imported
        require_gradio()
        with started_service(serving, folder) as service:
            page, options = queued_page(service, serving)
            try:
                _, url, _ = page.launch(
                    server_name=serving.host,
                    server_port=serving.port,
                    auth=name_and_password,
                    share=False,
                    inbrowser=False,
                    prevent_thread_lock=True,
                    quiet=True,
                    state_session_capacity=SESSIONS,
                    **options,
                )
            except OSError as error:
                raise InputError(f"--host {serving.host} --port {serving.port}: can't be served ({error})") from None
            try:
                yield url
            finally:
                page.close(verbose=False)


def queued_page(service: DemoService, serving: Serving) -> tuple[Any, dict[str, Any]]:
    """The page, and how Gradio is to serve it, alone or beside the APIs."""
    from starlette.middleware import Middleware

    from altdiffusion.web.guard import Guard
    from altdiffusion.web.page import build_page, look

    logging.getLogger("httpx").setLevel(logging.WARNING)
    page = build_page(service)
    page.queue(api_open=False, max_size=1000, default_concurrency_limit=None)
    guard: Any = Middleware(Guard, max_upload=serving.limits.upload_bytes * serving.limits.pictures)
    return page, {
        "root_path": None if serving.root_path is None else serving.root_path.rstrip("/"),
        "show_error": False,
        "ssr_mode": False,
        "mcp_server": False,
        "enable_monitoring": False,
        "max_file_size": serving.limits.upload_bytes,
        "run_history": False,
        "footer_links": ["api"],
        "app_kwargs": {"middleware": [guard], "docs_url": None, "redoc_url": None},
        **look(),
    }


def check_serving(serving: Serving) -> None:
    """Raise InputError for what is wrong, before anything is loaded."""
    if serving.max_queue < 1:
        raise InputError(f"--max-queue {serving.max_queue}: expected at least 1")
    if serving.limits.pixels < 64:
        raise InputError(f"--max-pixels {serving.limits.pixels}: expected at least 64, such as 589824 for 768 x 768")
    if serving.root_path is not None and not serving.root_path.startswith(("/", "http://", "https://")):
        raise InputError(f"--root-path {serving.root_path}: expected a path such as /draw, or a whole address")
    read_styles(serving.styles)


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A folder of our own, deleted at the end."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def started_service(serving: Serving, folder: Path) -> Iterator[DemoService]:
    """What the page and the APIs call, with its queue, while it works. What it saves below the folder is swept away later."""
    from altdiffusion.web.model_pool import Models, offered
    from altdiffusion.web.service import DemoService

    options = {"device": serving.device, "dtype": serving.dtype, "allow_pickle": serving.allow_pickle}
    models = Models(list(serving.models) or offered(), scorer=serving.scorer, **options)
    generated = folder / "generated"
    generated.mkdir()
    index = None
    if serving.index is not None:
        from altdiffusion.web.search import IndexSearch

        index = IndexSearch.load(serving.index, generated, serving.device, serving.allow_pickle)
    stop, max_image_pixels = threading.Event(), Image.MAX_IMAGE_PIXELS
    # Gradio decodes what is painted over before our own checks see it; Pillow refuses twice this number.
    Image.MAX_IMAGE_PIXELS = serving.limits.upload_pixels // 2
    service = DemoService(
        models,
        serving.limits,
        max_waiting=serving.max_queue,
        folder=generated,
        styles=read_styles(serving.styles),
        label=serving.label,
        index=index,
    )
    threading.Thread(target=_sweep, args=(folder, stop), name="sweeping", daemon=True).start()
    try:
        yield service
    finally:
        stop.set()
        service.close()
        Image.MAX_IMAGE_PIXELS = max_image_pixels


@contextmanager
def environment(folder: Path) -> Iterator[None]:
    """Gradio's variables, until the end."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ |= _ENVIRONMENT | {"GRADIO_TEMP_DIR": str(folder)}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# No analytics, no look-ups of versions, no share link, whatever the machine's environment says.
_ENVIRONMENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_SHARE": "False",
    "GRADIO_MCP_SERVER": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_TEMP_DIR": "",
}


def require_gradio() -> None:
    """Raises InputError that says what is missing."""
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise InputError(f'the page needs Gradio: pip install "altdiffusion[demo]" ({error})') from None


def _auth(pair: str | None) -> tuple[str, str] | None:
    if pair is None:
        return None
    name, colon, password = pair.partition(":")
    if not (name and colon and password):
        raise InputError("--auth: expected NAME:PASSWORD")
    return name, password


def sweep(folder: Path, now: float, keep: float = KEEP_SECONDS) -> int:
    """Deletes files that nobody has touched for so long; returns how many.

    (Gradio's `delete_cache` deletes its own copies alone, neither our PNGs nor folders.)
    """
    count = 0
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder before the folder
        try:
            if path.is_dir():
                if now - path.stat().st_mtime > keep and path.name != "generated":
                    path.rmdir()
            elif now - path.stat().st_mtime > keep:
                path.unlink()
                count += 1
        except OSError:  # a folder that isn't empty; a file that another thread took away
            continue
    return count


def _sweep(folder: Path, stop: threading.Event) -> None:
    while not stop.wait(600):
        sweep(folder, time.time())
