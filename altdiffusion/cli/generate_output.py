"""What `altdiffusion generate` prints of its images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from altdiffusion.checkpoints.hub import MINI
from altdiffusion.cli.terminal import print_line, say
from altdiffusion.generation.settings import ImageSettings

MINI_NOTE = (
    "mini: the model inside this package generates small images of 316 things, from nine languages; "
    "for a large one: --model BAAI/AltDiffusion-m9"
)


def report(path: Path, settings: ImageSettings, filtered: bool, as_json: bool) -> dict[str, Any]:
    """Print an image's path, and return its entry of the JSON document, which is printed at the end."""
    if filtered:
        say(f"{path} is black: the safety checker found something in the image")
    if not as_json:
        score = "" if settings.score is None else f"  {settings.score:.4f}"
        print_line(f"{path}{score}")
    return entry_of(path, settings, filtered)


def say_about(model: str | None) -> None:
    """A note on the model, once a run."""
    if model in (None, MINI):
        say(MINI_NOTE)
    elif model.startswith("BAAI/"):
        say("BAAI's weights are under CreativeML OpenRAIL-M, whose use restrictions bind you")


def entry_of(path: Path, settings: ImageSettings, filtered: bool) -> dict[str, Any]:
    """Of an image in the JSON document."""
    return {"path": str(path), "filtered": filtered, **dict(settings)}
