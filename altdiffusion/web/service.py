"""What the page and the API do, apart from how it looks: draw, compare, score, name, rank, read settings.

Everything is checked here, and everything that goes wrong is a Refused, whose sentence is in the visitor's language.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from altdiffusion import images
from altdiffusion.altclip import best_of, zero_shot
from altdiffusion.altclip.scorer import PromptScorer
from altdiffusion.errors import InputError
from altdiffusion.generation import infotext
from altdiffusion.generation.draw import Order, Recipe
from altdiffusion.generation.result import GeneratedImage, free_path, save_image
from altdiffusion.generation.settings import Settings
from altdiffusion.web import request, uploads
from altdiffusion.web.draw_queue import Drawing, DrawingQueue, Drawn, Job, Loading, Waiting
from altdiffusion.web.limits import Limits
from altdiffusion.web.model_pool import Models
from altdiffusion.web.request import GenerateRequest
from altdiffusion.web.translations import Refused

Result = TypeVar("Result")


@dataclass(frozen=True)
class Shown:
    """An image as the visitor gets it: a PNG with its settings inside. score: AltCLIP's cosine, None where none is known."""

    path: Path
    settings: Settings
    filtered: bool
    score: float | None


@dataclass(frozen=True)
class Finished:
    """pictures: as many as were asked for, the best first where the best were. seconds: since they were asked for."""

    pictures: list[Shown]
    seconds: float


@dataclass(frozen=True)
class Scoring:
    """The images are drawn and AltCLIP looks at them."""


News = Waiting | Loading | Drawing | Scoring | Finished


class DemoService:
    """folder: where drawn images lie; their names can't be guessed."""

    def __init__(self, models: Models, limits: Limits, *, max_waiting: int, folder: Path) -> None:
        self.models, self.limits, self.folder = models, limits, folder
        self.queue = DrawingQueue(models, max_waiting, pixels=2 * limits.pixels)
        self._turn, self._measuring = asyncio.Lock(), 0

    async def draw(self, wish: GenerateRequest) -> AsyncGenerator[News, None]:
        """Draw what is wished; leaving the iterator early cancels. Raises Refused."""
        started = time.monotonic()
        label = self.models.label(wish.model)
        wish = request.checked(wish, self.limits)
        if not self.models.is_loaded(label):
            yield Loading()
        wish = await asyncio.to_thread(self._sized, wish, label)
        request.check_size(wish, self.limits)
        scorer = await asyncio.to_thread(self.models.scorer, label)
        if wish.best_of and scorer is None:
            raise Refused("no_scorer")
        job = self._job(wish, label)
        self.queue.submit(job)
        try:
            async for news in job.news():
                if not isinstance(news, Drawn):
                    yield news
                    continue
                if scorer is not None:
                    yield Scoring()
                shown = await asyncio.to_thread(self._finish, news.pictures, wish, label, scorer)
                yield Finished(shown, time.monotonic() - started)
        finally:
            self.queue.cancel(job)

    async def compare(self, left: GenerateRequest, right: GenerateRequest) -> AsyncGenerator[tuple[int, News], None]:
        """Draw both, with one seed; yields (0 for left or 1 for right, what happens to it). Raises Refused."""
        seed = secrets.randbelow(2**32) if left.seed is None else left.seed
        found: asyncio.Queue[tuple[int, News | Exception | None]] = asyncio.Queue()

        async def follow(side: int, wish: GenerateRequest) -> None:
            try:
                async for news in self.draw(wish):
                    found.put_nowait((side, news))
                found.put_nowait((side, None))
            except Exception as error:
                found.put_nowait((side, error))

        tasks = [asyncio.create_task(follow(side, replace(each, seed=seed))) for side, each in enumerate((left, right))]
        try:
            going = len(tasks)
            while going:
                side, news = await found.get()
                if isinstance(news, Exception):
                    raise news
                if news is None:
                    going -= 1
                else:
                    yield side, news
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def in_turn(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """`score`, `classify` or `rank` in a thread, one at a time. Raises Refused when too many wait."""
        if self._measuring >= self.queue.max_waiting:
            raise Refused("queue_full", most=self.queue.max_waiting)
        self._measuring += 1
        try:
            async with self._turn:
                return await asyncio.to_thread(work, *arguments)
        finally:
            self._measuring -= 1

    def score(self, pictures: Sequence[Image.Image], prompts: Sequence[str], model: str) -> list[list[float]]:
        """Cosines, a list for each image. Raises Refused."""
        scores: list[list[float]] = self._scorer(model).score(list(pictures), list(prompts)).tolist()
        return scores

    def classify(
        self, pictures: Sequence[Image.Image], labels: Sequence[str], template: str, model: str
    ) -> list[list[float]]:
        """Probabilities of the labels, a list for each image. Raises Refused."""
        template = request.text(template, self.limits) or "{}"
        if "{}" not in template and "{c}" not in template:
            raise Refused("bad_template")
        found = zero_shot.classify(self._scorer(model), list(pictures), list(labels), [template])
        return [list(row) for row in found.probabilities.tolist()]

    def rank(self, pictures: Sequence[Image.Image], prompt: str, model: str) -> list[tuple[int, float]]:
        """(number of the image, its score), best first. Raises Refused."""
        if not request.text(prompt, self.limits).strip():
            raise Refused("no_prompt")
        return self._scorer(model).rank(list(pictures), prompt)

    def pictures(self, paths: Any) -> list[Image.Image]:
        """Uploaded images, decoded. Raises Refused for none, too many, or what is no image."""
        paths = [paths] if isinstance(paths, str) else paths
        if not paths:
            raise Refused("no_picture")
        if len(paths) > self.limits.pictures:
            raise Refused("many_pictures", got=len(paths), most=self.limits.pictures)
        return [uploads.picture(path, self.limits) for path in paths]

    def read_settings(self, path: Any) -> tuple[Settings, list[str]]:
        """Settings inside an uploaded image, within the limits, and the names of those that were not. Raises Refused."""
        uploads.picture(path, self.limits)
        try:
            found = infotext.open_info(path)
        except InputError:
            raise Refused("no_settings") from None
        return request.clamped(found, self.limits)

    def close(self) -> None:
        self.queue.close()

    def _scorer(self, model: str) -> PromptScorer:
        scorer = self.models.scorer(self.models.label(model))
        if scorer is None:
            raise Refused("no_scorer")
        return scorer

    def _sized(self, wish: GenerateRequest, label: str) -> GenerateRequest:
        """With its seed and size; images to start from are brought to that size."""
        native = self.models.native_side(label)
        seed = secrets.randbelow(2**32) if wish.seed is None else wish.seed
        ratio = request.SHAPES.get(wish.shape, 1.0)
        width = wish.width or max(8, round(native * ratio**0.5 / 8) * 8)
        height = wish.height or max(8, round(native / ratio**0.5 / 8) * 8)
        image, mask = wish.image, wish.mask
        if image is not None:
            if mask is not None and mask.size != image.size:
                raise Refused("mask_size")
            own = image.resize((width, height), Image.Resampling.LANCZOS) if wish.width else images.fit(image, native)
            width, height = own.size
            image, mask = own, None if mask is None else mask.resize(own.size)
        return replace(wish, seed=seed, width=width, height=height, image=image, mask=mask)

    def _job(self, wish: GenerateRequest, label: str) -> Job:
        assert wish.seed is not None
        recipe = Recipe(wish.width, wish.height, wish.steps, wish.guidance_scale, wish.scheduler or None, wish.strength)
        orders = [
            Order(wish.prompt, wish.negative_prompt, wish.seed + number, wish.image, wish.mask)
            for number in range(wish.best_of or wish.images)
        ]
        return Job(label, recipe, orders)

    def _finish(
        self, pictures: list[GeneratedImage], wish: GenerateRequest, label: str, scorer: PromptScorer | None
    ) -> list[Shown]:
        """Scored, the best kept, saved."""
        scores: list[float | None] = [None] * len(pictures)
        if scorer is not None:
            ranked = best_of.rank(
                scorer, [each.image for each in pictures], wish.prompt, [each.filtered for each in pictures]
            )
            for number, score in ranked:
                scores[number] = round(score, 4)
            if wish.best_of:
                kept = [number for number, _ in ranked[: wish.images]]
                pictures, scores = [pictures[number] for number in kept], [scores[number] for number in kept]
        return [self._saved(picture, label, score) for picture, score in zip(pictures, scores, strict=True)]

    def _saved(self, picture: GeneratedImage, label: str, score: float | None) -> Shown:
        settings = replace(picture.settings, model=label, score=score)
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        path = save_image(replace(picture, settings=settings), free_path(folder, settings))
        return Shown(path, settings, picture.filtered, score)
