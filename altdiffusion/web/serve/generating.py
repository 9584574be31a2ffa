"""One request generated: in the page's queue, stopped when its client goes away or interrupts it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections import OrderedDict
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from PIL import Image

from altdiffusion.generation.result import GeneratedImage
from altdiffusion.web import uploads
from altdiffusion.web.draw_queue import Generating
from altdiffusion.web.limits import Limits
from altdiffusion.web.request import VisitorRequest
from altdiffusion.web.serve.errors import Interrupted
from altdiffusion.web.service import DemoService, Progress, Unsaved
from altdiffusion.web.translations import Refused

CLIENTS = 1000  # that are remembered, the last seen


@dataclass(eq=False)
class Running:
    """A request that waits or is generated. preview: the image so far."""

    steps: int
    started: float = field(default_factory=time.monotonic)
    latest: Progress | None = None
    preview: Image.Image | None = None
    task: asyncio.Task[list[GeneratedImage]] | None = None

    def tell(self, news: Progress) -> None:
        self.latest = news
        if isinstance(news, Generating) and news.preview is not None:
            self.preview = news.preview

    def interrupt(self) -> None:
        if self.task is not None:
            self.task.cancel()


@dataclass(eq=False)
class Client:
    """What is kept of a client, known by its address. model: that it chose, "" for the first."""

    model: str = ""
    running: list[Running] = field(default_factory=list)


class Clients:
    """One for each address, as AUTOMATIC1111's API has its state: a model that was chosen, progress, an interrupt."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, Client] = OrderedDict()

    def of(self, request: Request) -> Client:
        address = request.client.host if request.client else ""
        client = self._clients.setdefault(address, Client())
        self._clients.move_to_end(address)
        while len(self._clients) > CLIENTS:
            self._clients.popitem(last=False)
        return client


async def generated(
    service: DemoService, wanted: VisitorRequest, http: Request, running: Running | None = None
) -> list[GeneratedImage]:
    """The images of a request. Raises Refused, and Interrupted where its client went away or interrupted it."""
    running = running or Running(wanted.settings.steps_or_default)

    async def follow() -> list[GeneratedImage]:
        async with aclosing(service.generate_unsaved(wanted, scored=False)) as updates:
            async for news in updates:
                if isinstance(news, Unsaved):
                    return news.images
                running.tell(news)
        raise Refused("failed")

    running.task = work = asyncio.create_task(follow())
    gone = asyncio.create_task(_until_gone(http))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not work.done():
            work.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)
    if work.cancelled():
        raise Interrupted
    return work.result()


async def _until_gone(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def as_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def from_base64(text: Any) -> bytes:
    """The file in base64, bare or as a data URL. Raises Refused; an address is not fetched."""
    if not isinstance(text, str):
        raise Refused("bad_image")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Refused("bad_image") from None


async def open_base64(text: Any, limits: Limits, mode: str = "RGB") -> Image.Image:
    """The image in base64, decoded within the limits. Raises Refused."""
    return await asyncio.to_thread(lambda: uploads.open_bytes(from_base64(text), limits, mode))
