"""A grid on the page: one prompt with every combination of some settings' values, and a contact sheet of them."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from altdiffusion.errors import InputError
from altdiffusion.generation.contact_sheet import contact_sheet
from altdiffusion.generation.grid import combinations, parse_grid
from altdiffusion.generation.label import Label
from altdiffusion.generation.result import save_png
from altdiffusion.web import request as checks
from altdiffusion.web.draw_queue import Generating, Loading
from altdiffusion.web.request import TEXT_TO_IMAGE, VisitorRequest
from altdiffusion.web.service import DemoService, Finished, Progress, SavedImage
from altdiffusion.web.translations import Refused

NAMES = tuple(name for name in TEXT_TO_IMAGE if name not in ("prompt", "negative_prompt"))


@dataclass(frozen=True)
class GridRequest:
    """axes: the labels of each. cells: a request for each combination, the last axis changing fastest."""

    axes: tuple[tuple[str, ...], ...]
    cells: tuple[VisitorRequest, ...]


@dataclass(frozen=True)
class FinishedGrid(Finished):
    """sheet: the cells as one PNG, with labels."""

    sheet: Path


def read_grid(service: DemoService, said: Mapping[str, Any]) -> GridRequest:
    """What was said with a grid, such as "steps=10,20 guidance_scale=3,7": the text of the command line's --grid.

    Each cell is read and checked as a request of its own, of one image. Raises Refused.
    """
    try:
        axes = parse_grid(checks.clean_text(said["grid"], service.limits))
    except Refused:
        raise
    except InputError as error:
        raise Refused("bad_grid", problem=error) from None
    if unknown := [name for axis in axes for name in axis.sets if name not in NAMES]:
        raise Refused("bad_grid", problem=f"{unknown[0]}: expected {', '.join(NAMES)}")
    if said.get("images", 1) != 1 or said.get("best_of", 1) not in (0, 1):
        raise Refused("several_in_grid")
    changes = combinations(axes)
    if len(changes) > service.limits.images:
        raise Refused("many_images", got=len(changes), most=service.limits.images)
    said = dict(said) | {"images": 1, "best_of": 0, "seed": said.get("seed") or str(secrets.randbelow(2**32))}
    cells = tuple(service.read_request(said | change) for change in changes)
    return GridRequest(tuple(axis.labels for axis in axes), cells)


async def generate_grid(service: DemoService, grid: GridRequest) -> AsyncGenerator[Progress, None]:
    """The cells one after the other, each in its turn among the visitors' requests, then the sheet. Raises Refused."""
    started, done, images = time.monotonic(), 0, list[SavedImage]()
    label = service.models.label(grid.cells[0].model)
    if not service.models.is_loaded(label):
        yield Loading()
    cells = [await asyncio.to_thread(service.resolved, cell, label) for cell in grid.cells]
    if sum(map(checks.work_of, cells)) > service.limits.work:
        raise Refused("much_work")
    total = sum(cell.settings.steps_run for cell in cells)
    for cell in cells:
        async with aclosing(service.generate(cell)) as updates:
            async for news in updates:
                if isinstance(news, Finished):
                    images += news.images
                elif isinstance(news, Generating):
                    now = min(total, done + news.done)
                    seconds = news.seconds / max(1, news.total - news.done) * (total - now)
                    yield replace(news, done=now, total=total, seconds=seconds)
                else:
                    yield news
        done += cell.settings.steps_run
    sheet = await asyncio.to_thread(_sheet, service.folder, grid, images, service.label)
    yield FinishedGrid(images, time.monotonic() - started, sheet)


def _sheet(folder: Path, grid: GridRequest, images: list[SavedImage], label: Label) -> Path:
    cells = [Image.open(image.path) for image in images]
    sheet = contact_sheet(images[0].settings.prompt, grid.axes, cells)
    return save_png(sheet, Path(tempfile.mkdtemp(dir=folder)) / "grid.png", label.xmp(images[0].settings))
