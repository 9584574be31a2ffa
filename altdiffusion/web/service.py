"""What the page and the API do, apart from how it looks: generate, compare, score, classify, rank, read settings.

Every expected failure is a Refused, whose sentence is in the visitor's language.
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

from altdiffusion.altclip import best_of, zero_shot
from altdiffusion.altclip.scorer import PromptScorer
from altdiffusion.errors import InputError
from altdiffusion.generation import infotext
from altdiffusion.generation.result import GeneratedImage, free_path, save_image
from altdiffusion.generation.settings import ImageSettings
from altdiffusion.prompt_syntax import lora_names
from altdiffusion.prompts.loras import check_loaded
from altdiffusion.web import request as checks
from altdiffusion.web import uploads
from altdiffusion.web.draw_queue import DrawQueue, Generated, Generating, Job, Loading, Waiting
from altdiffusion.web.limits import Limits
from altdiffusion.web.model_pool import Models
from altdiffusion.web.request import VisitorRequest
from altdiffusion.web.translations import Refused

T = TypeVar("T")


@dataclass(frozen=True)
class SavedImage:
    """An image as the visitor gets it: a PNG with its settings inside. score: AltCLIP's cosine, None where none is known."""

    path: Path
    settings: ImageSettings
    filtered: bool
    score: float | None


@dataclass(frozen=True)
class Finished:
    """images: as many as were asked for, sorted by score if `best_of` was set. seconds: since the request came."""

    images: list[SavedImage]
    seconds: float


@dataclass(frozen=True)
class Scoring:
    """The images are there and are being scored."""


Progress = Waiting | Loading | Generating | Scoring | Finished


class DemoService:
    """What visitors ask for, within the owner's limits, in the order of a queue.

    folder: for generated images, whose names can't be guessed.
    """

    def __init__(self, models: Models, limits: Limits, *, max_waiting: int, folder: Path) -> None:
        self.models, self.limits, self.folder = models, limits, folder
        self.queue = DrawQueue(models, max_waiting, pixels=2 * limits.pixels)
        self._scoring, self._scoring_jobs = asyncio.Lock(), 0

    async def generate(self, request: VisitorRequest) -> AsyncGenerator[Progress, None]:
        """Generate what is asked for; leaving the iterator early cancels. Raises Refused."""
        started = time.monotonic()
        label = self.models.label(request.model)
        if not self.models.is_loaded(label):
            yield Loading()
        request = await asyncio.to_thread(self._resolved, request, label)
        checks.check_work(request, self.limits)  # again: the size of the model's own is known only now
        scorer = await asyncio.to_thread(self.models.scorer, label)
        if request.best_of and scorer is None:
            raise Refused("no_scorer")
        job = _job(request, label)
        self.queue.submit(job)
        try:
            async for progress in job.progress():
                if not isinstance(progress, Generated):
                    yield progress
                    continue
                if scorer is not None:
                    yield Scoring()
                saved = await asyncio.to_thread(self._finish, progress.images, request, label, scorer)
                yield Finished(saved, time.monotonic() - started)
        finally:
            self.queue.cancel(job)

    async def compare(self, left: VisitorRequest, right: VisitorRequest) -> AsyncGenerator[tuple[int, Progress], None]:
        """Generate both, with one seed; yields (0 for left or 1 for right, what happens to it). Raises Refused."""
        seed = secrets.randbelow(2**32) if left.settings.seed is None else left.settings.seed
        arrived: asyncio.Queue[tuple[int, Progress | Exception | None]] = asyncio.Queue()

        async def follow(side: int, request: VisitorRequest) -> None:
            try:
                async for progress in self.generate(_with_settings(request, seed=seed)):
                    arrived.put_nowait((side, progress))
                arrived.put_nowait((side, None))
            except Exception as error:
                arrived.put_nowait((side, error))

        tasks = [asyncio.create_task(follow(side, request)) for side, request in enumerate((left, right))]
        try:
            going = len(tasks)
            while going:
                side, progress = await arrived.get()
                if isinstance(progress, Exception):
                    raise progress
                if progress is None:
                    going -= 1
                else:
                    yield side, progress
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def run_scoring(self, work: Callable[[], T]) -> T:
        """`score`, `classify` or `rank` in a thread, one at a time. Raises Refused when too many wait."""
        if self._scoring_jobs >= self.queue.max_waiting:
            raise Refused("queue_full", most=self.queue.max_waiting)
        self._scoring_jobs += 1
        try:
            async with self._scoring:
                return await asyncio.to_thread(work)
        finally:
            self._scoring_jobs -= 1

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str], model: str) -> list[list[float]]:
        """Cosines, a list for each image. Raises Refused."""
        scores: list[list[float]] = self._scorer(model).score(list(images), list(prompts)).tolist()
        return scores

    def classify(
        self, images: Sequence[Image.Image], labels: Sequence[str], template: str, model: str
    ) -> list[list[float]]:
        """Probabilities of the labels, a list for each image. Raises Refused."""
        template = checks.clean_text(template, self.limits) or "{}"
        if "{}" not in template and "{c}" not in template:
            raise Refused("bad_template")
        result = zero_shot.classify(self._scorer(model), list(images), list(labels), [template])
        return [list(row) for row in result.probabilities.tolist()]

    def rank(self, images: Sequence[Image.Image], prompt: str, model: str) -> list[tuple[int, float]]:
        """(index of the image, its score), best first. Raises Refused."""
        prompt = checks.clean_text(prompt, self.limits)
        if not prompt.strip():
            raise Refused("no_prompt")
        return self._scorer(model).rank(list(images), prompt)

    def open_images(self, paths: Any) -> list[Image.Image]:
        """Uploaded images, decoded. Raises Refused for none, too many, or what is no image."""
        paths = [paths] if isinstance(paths, str) else paths
        if not paths:
            raise Refused("no_image")
        if len(paths) > self.limits.pictures:
            raise Refused("many_images", got=len(paths), most=self.limits.pictures)
        return [uploads.open_upload(path, self.limits) for path in paths]

    def read_settings(self, path: Any) -> tuple[ImageSettings, list[str]]:
        """Settings inside an uploaded image, within the limits, and the names of those that were not. Raises Refused."""
        uploads.open_upload(path, self.limits)
        try:
            settings = infotext.open_info(path)
        except InputError:
            raise Refused("no_settings") from None
        return checks.within_limits(settings, self.limits)

    def close(self) -> None:
        self.queue.close()

    def _scorer(self, model: str) -> PromptScorer:
        scorer = self.models.scorer(self.models.label(model))
        if scorer is None:
            raise Refused("no_scorer")
        return scorer

    def _resolved(self, request: VisitorRequest, label: str) -> VisitorRequest:
        """With its seed and size; images to start from are brought to that size."""
        if request.shape and request.request.image is None and request.settings.width is None:
            native, ratio = self.models.native_side(label), checks.SHAPES[request.shape]
            width, height = (max(8, round(native * side / 8) * 8) for side in (ratio**0.5, ratio**-0.5))
            request = _with_settings(request, width=width, height=height)
        pipe = self.models.pipeline(label)
        try:
            check_loaded(pipe, lora_names([request.settings.prompt], request.settings.prompt_syntax))
        except InputError as error:
            raise Refused("bad_prompt", problem=str(error)) from None
        return replace(request, request=request.request.resolved(pipe))

    def _finish(
        self, images: list[GeneratedImage], request: VisitorRequest, label: str, scorer: PromptScorer | None
    ) -> list[SavedImage]:
        """Score, keep the best, save."""
        scores: list[float | None] = [None] * len(images)
        if scorer is not None:
            prompt, filtered = request.settings.prompt, [image.filtered for image in images]
            ranked = best_of.rank(scorer, [image.image for image in images], prompt, filtered)
            for index, score in ranked:
                scores[index] = round(score, 4)
            if request.best_of:
                kept = [index for index, _ in ranked[: request.num_images]]
                images, scores = [images[index] for index in kept], [scores[index] for index in kept]
        return [self._saved(image, label, score) for image, score in zip(images, scores, strict=True)]

    def _saved(self, image: GeneratedImage, label: str, score: float | None) -> SavedImage:
        settings = image.settings.replace(model=label, score=score)
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        path = save_image(replace(image, settings=settings), free_path(folder, settings))
        return SavedImage(path, settings, image.filtered, score)


def _job(request: VisitorRequest, label: str) -> Job:
    """An image for each seed from the request's on."""
    first, seed = request.request, request.settings.seed or 0
    every = [first.settings.replace(seed=seed + index) for index in range(request.num_generated)]
    return Job(label, [replace(first, settings=settings) for settings in every])


def _with_settings(request: VisitorRequest, **changes: Any) -> VisitorRequest:
    return replace(request, request=replace(request.request, settings=request.settings.replace(**changes)))
