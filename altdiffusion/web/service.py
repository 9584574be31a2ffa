"""What the page and the API do, apart from how it looks: generate, compare, score, classify, rank, invert, read settings.

Every expected failure is a Refused, whose sentence is in the visitor's language.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image

from altdiffusion.altclip import best_of, text_languages, zero_shot
from altdiffusion.altclip.calibrated_scores import convert, prompt_languages
from altdiffusion.altclip.score_kinds import ScoreAs
from altdiffusion.altclip.scorer import PromptScorer
from altdiffusion.errors import InputError
from altdiffusion.generation import infotext
from altdiffusion.generation.label import DEFAULT, Label
from altdiffusion.generation.result import GeneratedImage, free_path, save_image
from altdiffusion.generation.schedulers import MOST_NEEDED, build_scheduler, check_steps
from altdiffusion.generation.settings import DEFAULT_STEPS, ImageSettings
from altdiffusion.generation.styles import Style
from altdiffusion.prompt_syntax import PromptSyntax, lora_names, plain_text
from altdiffusion.prompt_syntax.route import Route
from altdiffusion.prompts.explain import explain
from altdiffusion.prompts.loras import check_loaded
from altdiffusion.text_encoder.soft_tokenizer import routed
from altdiffusion.web import request as checks
from altdiffusion.web import uploads
from altdiffusion.web.draw_queue import DrawQueue, Generated, Generating, Job, Loading, Waiting
from altdiffusion.web.inversion import SavedInversion, write_inversion
from altdiffusion.web.limits import Limits
from altdiffusion.web.model_pool import Models
from altdiffusion.web.request import VisitorRequest
from altdiffusion.web.search import IndexSearch
from altdiffusion.web.translations import Refused

T = TypeVar("T")


CHOICES_EXPLAINED = 4  # of a prompt with {a|b}
COUNTERS_WAITING = 200  # each takes some milliseconds


class Judged(NamedTuple):
    """What a calibration says of a prompt and each image. language: of the prompt, maybe not `sure`.

    probabilities: that the two belong together, 0 to 1. percentiles: among right pairs, 0 to 100. None in a language without.
    """

    language: str
    sure: bool
    probabilities: list[float] | None
    percentiles: list[float] | None


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
class Unsaved:
    """The same images before they are saved, with their scores in their settings."""

    images: list[GeneratedImage]


@dataclass(frozen=True)
class Scoring:
    """The images are there and are being scored."""


Progress = Waiting | Loading | Generating | Scoring | Finished


class Turns:
    """Work in a thread, one after the other."""

    def __init__(self, max_waiting: int) -> None:
        self._turn, self._waiting, self._max_waiting = asyncio.Lock(), 0, max_waiting

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` gives. Raises Refused when too many wait."""
        if self._waiting >= self._max_waiting:
            raise Refused("queue_full", most=self._max_waiting)
        self._waiting += 1
        try:
            async with self._turn:
                return await asyncio.to_thread(work)
        finally:
            self._waiting -= 1


class DemoService:
    """What visitors ask for, within the owner's limits, in the order of a queue.

    folder: for generated images, whose names can't be guessed. index: that visitors may search.
    """

    def __init__(
        self,
        models: Models,
        limits: Limits,
        *,
        max_waiting: int,
        folder: Path,
        styles: Mapping[str, Style] = MappingProxyType({}),
        label: Label = DEFAULT,
        index: IndexSearch | None = None,
    ) -> None:
        self.models, self.limits, self.folder, self.styles = models, limits, folder, styles
        self.label, self.index = label, index
        self.queue = DrawQueue(models, max_waiting, pixels=2 * limits.pixels)
        self._scoring, self._counting = Turns(max_waiting), Turns(COUNTERS_WAITING)

    def read_request(
        self, said: Mapping[str, Any], image: Image.Image | None = None, mask: Image.Image | None = None
    ) -> VisitorRequest:
        """The request in what the page or a program sent, its prompts in the styles that it names. Raises Refused."""
        return checks.read_request(self.with_styles(said), self.limits, image, mask)

    def with_styles(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """The same, with prompt and negative prompt in the styles that it names. Raises Refused."""
        return checks.with_styles(said, self.styles, self.limits)

    async def generate(self, request: VisitorRequest) -> AsyncGenerator[Progress, None]:
        """Generate and save what is asked for; leaving the iterator early cancels. Raises Refused."""
        started = time.monotonic()
        async with aclosing(self.generate_unsaved(request)) as updates:
            async for news in updates:
                if isinstance(news, Unsaved):
                    saved = await asyncio.to_thread(lambda images: [self.save(image) for image in images], news.images)
                    yield Finished(saved, time.monotonic() - started)
                else:
                    yield news

    async def generate_unsaved(
        self, request: VisitorRequest, scored: bool = True
    ) -> AsyncGenerator[Waiting | Loading | Generating | Scoring | Unsaved, None]:
        """The same, but no file is written. scored: whether all get scores, where an AltCLIP is known."""
        label = self.models.label(request.model)
        self._check_route(label, request.settings.route)
        if not self.models.is_loaded(label):
            yield Loading()
        request = await asyncio.to_thread(self.resolved, request, label)
        checks.check_work(request, self.limits)  # again: the size of the model's own is known only now
        wants_scores = scored or request.best_of
        scorer = await asyncio.to_thread(self.models.scorer, label) if wants_scores else None
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
                yield Unsaved(await asyncio.to_thread(_finish, progress.images, request, label, scorer))
        finally:
            self.queue.cancel(job)

    def save(self, image: GeneratedImage) -> SavedImage:
        """In a folder of its own, for some hours."""
        path = free_path(Path(tempfile.mkdtemp(dir=self.folder)), image.settings)
        return SavedImage(save_image(image, path, self.label), image.settings, image.filtered, image.settings.score)

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
        return await self._scoring.run(work)

    async def tokens(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """What a model reads of a prompt, as `prompts.explain` has it, of the first choices {a|b}. No model is loaded for it
        but one with a bridge.

        said: as in `read_request`, of which prompt, model, prompt_syntax, route, steps, strength and styles count; the prompt
        may be empty. Raises Refused.
        """
        return await self._counting.run(lambda: self._tokens(said))

    def _tokens(self, said: Mapping[str, Any]) -> dict[str, Any]:
        said = self.with_styles(said)
        names = ("prompt_syntax", "route", "steps", "strength")
        syntax, route, steps, strength = (checks.check_setting(name, said.get(name), self.limits) for name in names)
        steps_run = max(1, int((steps or DEFAULT_STEPS) * (strength or 1)))
        prompt = checks.clean_text(said.get("prompt") or "", self.limits)
        return self._explained(self.models.label(said.get("model")), prompt, syntax or "webui", route, steps_run)

    async def invert(self, said: Mapping[str, Any]) -> SavedInversion:
        """A prompt, in the styles that it names, as a textual inversion: see `write_inversion`. Raises Refused."""
        return await self._counting.run(
            lambda: write_inversion(self.with_styles(said), self.models, self.limits, self.folder)
        )

    def _explained(
        self, label: str, prompt: str, syntax: PromptSyntax, route: Route | None, steps: int
    ) -> dict[str, Any]:
        self._check_route(label, route)
        tokenizer = self.models.tokenizer(label)
        try:
            return explain(routed(tokenizer, route), prompt, syntax, steps, max_choices=CHOICES_EXPLAINED)
        except InputError as error:
            raise Refused("bad_prompt", problem=error) from None

    def _check_route(self, label: str, route: Route | None) -> None:
        if route is not None and not self.models.takes_route(label):
            raise Refused("no_route")

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str], model: str) -> list[list[float]]:
        """Cosines, a list for each image. Raises Refused."""
        scores: list[list[float]] = self._scorer(model).score(list(images), list(prompts)).tolist()
        return scores

    def judge(self, scores: Sequence[Sequence[float]], prompts: Sequence[str], model: str) -> list[Judged]:
        """What the model's calibration makes of cosines, for each prompt; nothing where it has none, or no language is found."""
        calibration = self._scorer(model).calibration
        if calibration is None or not text_languages.is_there():
            return []
        judged = []
        for index, prompt in enumerate(prompts):
            cosines = np.array([row[index] for row in scores])
            found = text_languages.find_language(prompt, calibration.languages)
            if (language := calibration.find(found.language)) is None:
                judged.append(Judged(found.language, True, None, None))
                continue
            kinds: tuple[ScoreAs, ScoreAs] = ("probability", "match_percentile")
            if calibration.languages[language].right is None:
                judged.append(Judged(language, found.sure, None, None))
                continue
            probabilities, percentiles = (calibration.convert(cosines, language, kind).tolist() for kind in kinds)
            judged.append(Judged(language, found.sure, probabilities, percentiles))
        return judged

    def percentiles(
        self, scores: Sequence[Sequence[float]], prompts: Sequence[str], model: str
    ) -> list[list[float | None]] | None:
        """Cosines as percentiles by the calibration of each prompt's language, 0 to 100, None in a language without; None
        where there is none at all."""
        calibration = self._scorer(model).calibration
        if calibration is None:
            return None
        try:
            languages = prompt_languages(calibration, prompts, "percentile", None)
        except InputError:  # of none of the languages
            return None
        rows = convert(calibration, torch.tensor(scores), languages, "percentile").tolist()
        return [[None if math.isnan(value) else value for value in row] for row in rows]

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

    def resolved(self, request: VisitorRequest, label: str) -> VisitorRequest:
        """With its seed and size; images to start from are brought to that size."""
        if request.shape and request.request.image is None and request.settings.width is None:
            native, ratio = self.models.native_side(label), checks.SHAPES[request.shape]
            width, height = (max(8, round(native * side / 8) * 8) for side in (ratio**0.5, ratio**-0.5))
            request = _with_settings(request, width=width, height=height)
        pipe, settings = self.models.pipeline(label), request.settings
        if self.models.takes_route(label):  # and so finds what is malformed in its own way
            for prompt in (settings.prompt, settings.negative_prompt):
                self._explained(label, prompt, settings.prompt_syntax, settings.route, settings.steps_run)
        try:
            check_loaded(pipe, lora_names([settings.prompt], settings.prompt_syntax))
            self._check_fits(pipe, settings)
        except InputError as error:
            raise Refused("bad_prompt", problem=str(error)) from None
        return replace(request, request=request.request.resolved(pipe))

    def _check_fits(self, pipe: Any, settings: ImageSettings) -> None:
        """Raises InputError for a clip skip or so few steps that this model, or the scheduler, can't do."""
        layers = getattr(
            pipe.text_encoder.config, "num_hidden_layers", 1
        )  # a bridge at the exit has learnt the last one
        if (settings.clip_skip or 1) > layers:
            raise InputError(f"clip skip {settings.clip_skip}: this text encoder has {layers} layers")
        if settings.steps_or_default < MOST_NEEDED:
            scheduler = build_scheduler(settings.scheduler, pipe) if settings.scheduler else pipe.scheduler
            check_steps(scheduler, settings.steps_or_default)


def _finish(
    images: list[GeneratedImage], request: VisitorRequest, label: str, scorer: PromptScorer | None
) -> list[GeneratedImage]:
    """Score, keep the best."""
    scores: list[float | None] = [None] * len(images)
    if scorer is not None:
        words = plain_text(request.settings.prompt, request.settings.prompt_syntax)
        filtered = [image.filtered for image in images]
        ranked = best_of.rank(scorer, [image.image for image in images], words, filtered)
        for index, score in ranked:
            scores[index] = round(score, 4)
        if request.best_of:
            kept = [index for index, _ in ranked[: request.num_images]]
            images, scores = [images[index] for index in kept], [scores[index] for index in kept]
    return [
        replace(image, settings=image.settings.replace(model=label, score=score))
        for image, score in zip(images, scores, strict=True)
    ]


def _job(request: VisitorRequest, label: str) -> Job:
    """An image for each seed from the request's on."""
    first, seed = request.request, request.settings.seed or 0
    every = [first.settings.replace(seed=seed + index) for index in range(request.num_generated)]
    return Job(label, [replace(first, settings=settings) for settings in every])


def _with_settings(request: VisitorRequest, **changes: Any) -> VisitorRequest:
    return replace(request, request=replace(request.request, settings=request.settings.replace(**changes)))
