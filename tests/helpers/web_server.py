"""The demo's server on small models, and what its tests ask it with."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers import layouts, small_altclip, small_diffusion

STEPS = 3


def save_models(root: Path) -> dict[str, Any]:
    """Two that draw, an AltDiffusion and one that reads English alone, and an AltCLIP that scores."""
    names = {"models": [root / "alt-small", root / "english-small"], "scorer": str(root / "altclip-small")}
    if (root / "alt-small").exists():
        return names
    layouts.save_published(root / "alt-small", "m9", "safetensors")
    small_diffusion.save_diffusion(root / "english-small", None)
    small_altclip.save_small(root / "altclip-small")
    return names


@contextmanager
def served(root: Path, **serving: Any) -> Iterator[str]:
    """The address of a server in this process."""
    from altdiffusion.web.server import Serving, running

    options = save_models(root) | serving
    with running(Serving(**(options | {"models": [str(each) for each in options["models"]]}))) as url:
        yield url


@contextmanager
def service_of(root: Path, **serving: Any) -> Iterator[Any]:
    """A `DemoService` on the same models."""
    from altdiffusion.web.server import Serving, started_service

    options = save_models(root) | serving
    folder = Path(tempfile.mkdtemp(dir=root))
    with started_service(
        Serving(**(options | {"models": [str(each) for each in options["models"]]})), folder
    ) as service:
        yield service


@contextmanager
def apis_served(
    root: Path, api_key: str | None = None, any_model: bool = False, page: bool = False, **serving: Any
) -> Iterator[str]:
    """The address of the APIs in this process, with the page at /."""
    from altdiffusion.web.serve.server import running
    from altdiffusion.web.server import Serving

    options = save_models(root) | serving
    with running(
        Serving(**(options | {"models": [str(each) for each in options["models"]]})), api_key, any_model, page
    ) as url:
        yield url
