"""The API: the page's features as named endpoints, for `gradio_client` and for HTTP. Files are given by `handle_file`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import gradio as gr

from altdiffusion.generation.infotext import to_infotext
from altdiffusion.generation.settings import default_guidance_scale
from altdiffusion.web import request, uploads
from altdiffusion.web.request import GenerateRequest
from altdiffusion.web.service import DemoService, Finished, Shown
from altdiffusion.web.tabs.controls import sorry
from altdiffusion.web.translations import Refused

Result = TypeVar("Result")


def add_endpoints(studio: DemoService) -> None:
    """Named /models, /draw, /change, /compare, /score, /classify, /rank, /read_settings."""

    guided = default_guidance_scale(studio.models.labels[0])

    async def models() -> list[str]:
        """Names of the models on offer; the first is the one drawn with where none is named."""
        return studio.models.labels

    async def draw(
        prompt: str,
        negative_prompt: str = "",
        model: str = "",
        seed: str = "",
        steps: int = 25,
        guidance_scale: float = guided,
        width: int = 0,
        height: int = 0,
        scheduler: str = "",
        images: int = 1,
        best_of: int = 0,
    ) -> list[dict[str, Any]]:
        """Draw images. seed: digits, empty for random; image i has seed + i. width, height: multiples of 8, 0 for the
        model's own. scheduler: ddim, euler, ..., empty for the model's own. best_of: draw so many, keep the best `images`.
        Gives a list of {"image": PNG file with its settings inside, "seed", "score", "filtered", "settings"}.
        """
        wish = GenerateRequest(
            prompt, negative_prompt, model, request.seed_of(seed), steps, guidance_scale, width, height,
            scheduler=scheduler, images=images, best_of=best_of,
        )  # fmt: skip
        return await _drawn(studio, wish)

    async def change(
        image: dict[str, Any],
        prompt: str,
        mask: dict[str, Any] | None = None,
        strength: float = 0.8,
        negative_prompt: str = "",
        model: str = "",
        seed: str = "",
        steps: int = 25,
        guidance_scale: float = guided,
        scheduler: str = "",
        images: int = 1,
        best_of: int = 0,
    ) -> list[dict[str, Any]]:
        """Change an image by a prompt; with a mask (white where it is to be drawn anew, as large as the image) that part
        alone. strength: how much, above 0, to 1. The rest, and what it gives, as in /draw."""
        start = await asyncio.to_thread(uploads.picture, _file(image), studio.limits)
        hole = None if mask is None else await asyncio.to_thread(uploads.picture, _file(mask), studio.limits, "L")
        wish = GenerateRequest(
            prompt, negative_prompt, model, request.seed_of(seed), steps, guidance_scale, scheduler=scheduler,
            images=images, best_of=best_of, strength=strength, image=start, mask=hole,
        )  # fmt: skip
        return await _drawn(studio, wish)

    async def compare(
        left_prompt: str,
        right_prompt: str,
        left_model: str = "",
        right_model: str = "",
        seed: str = "",
        steps: int = 25,
        guidance_scale: float = guided,
    ) -> list[dict[str, Any]]:
        """Draw two prompts, or one prompt by two models, with the same seed. Gives two images as in /draw, left and right."""
        common: dict[str, Any] = {"seed": request.seed_of(seed), "steps": steps, "guidance_scale": guidance_scale}
        left = GenerateRequest(left_prompt, model=left_model, **common)
        right = GenerateRequest(right_prompt, model=right_model, **common)
        found: dict[int, Shown] = {}
        async with aclosing(studio.compare(left, right)) as updates:
            async for side, news in updates:
                if isinstance(news, Finished):
                    found[side] = news.pictures[0]
        return [_as_json(found[0]), _as_json(found[1])]

    async def score(pictures: list[dict[str, Any]], prompts: list[str], model: str = "") -> list[list[float]]:
        """How well each image fits each prompt: cosines in -1 to 1, a list for each image."""
        files, texts = _files(pictures, studio), request.lines(prompts, studio.limits)
        return await studio.in_turn(lambda: studio.score(studio.pictures(files), texts, model))

    async def classify(
        pictures: list[dict[str, Any]], labels: list[str], template: str = "{}", model: str = ""
    ) -> list[list[float]]:
        """How probable each label is for each image, if it must be one of them; {} in the template stands for the label."""
        files, names = _files(pictures, studio), request.lines(labels, studio.limits)
        return await studio.in_turn(lambda: studio.classify(studio.pictures(files), names, template, model))

    async def rank(pictures: list[dict[str, Any]], prompt: str, model: str = "") -> list[list[float]]:
        """[number of the image from 0, its score] for each image, the one that fits the prompt best first."""
        files = _files(pictures, studio)
        found = await studio.in_turn(lambda: studio.rank(studio.pictures(files), prompt, model))
        return [[number, score] for number, score in found]

    async def read_settings(picture: dict[str, Any]) -> dict[str, Any]:
        """Prompt and settings inside a PNG, brought within this page's limits; "changed": the names of those that were not."""
        found, changed = await asyncio.to_thread(studio.read_settings, _file(picture))
        names = ("prompt", "negative_prompt", "steps", "guidance_scale", "scheduler", "seed", "width", "height")
        return {name: getattr(found, name) for name in names} | {"changed": changed}

    for endpoint in (models, draw, change, compare, score, classify, rank, read_settings):
        gr.api(_endpoint(endpoint), api_name=endpoint.__name__, concurrency_limit=None)


def _endpoint(work: Callable[..., Any]) -> Callable[..., Any]:
    """With types that Gradio can read, and errors of one line that no path is in."""

    async def endpoint(*arguments: Any, **named: Any) -> Any:
        try:
            return await work(*arguments, **named)
        except Exception as error:
            raise gr.Error(sorry(error, "en"), print_exception=False) from None

    endpoint.__name__, endpoint.__doc__, endpoint.__wrapped__ = work.__name__, work.__doc__, work  # type: ignore[attr-defined]
    work.__annotations__ = endpoint.__annotations__ = get_type_hints(work)
    return endpoint


async def _drawn(studio: DemoService, wish: GenerateRequest) -> list[dict[str, Any]]:
    updates: AsyncGenerator[Any, None] = studio.draw(wish)
    async with aclosing(updates):
        async for news in updates:
            if isinstance(news, Finished):
                return [_as_json(each) for each in news.pictures]
    raise Refused("failed")


def _as_json(shown: Shown) -> dict[str, Any]:
    file = {"path": str(shown.path), "meta": {"_type": "gradio.FileData"}, "orig_name": shown.path.name}
    settings = to_infotext(shown.settings)
    return {
        "image": file,
        "seed": str(shown.settings.seed),
        "score": shown.score,
        "filtered": shown.filtered,
        "settings": settings,
    }


def _files(given: Any, studio: DemoService) -> list[str]:
    if not isinstance(given, list) or not given:
        raise Refused("no_picture")
    if len(given) > studio.limits.pictures:
        raise Refused("many_pictures", got=len(given), most=studio.limits.pictures)
    return [_file(each) for each in given]


def _file(given: Any) -> str:
    """The path of an uploaded file, and of no other."""
    path = given.get("path") if isinstance(given, dict) else None
    if not isinstance(path, str) or not path:
        raise Refused("no_picture")
    uploads = Path(gr.utils.get_upload_folder()).resolve()
    try:
        inside = Path(path).resolve().is_relative_to(uploads)
    except (OSError, ValueError, RuntimeError):
        inside = False
    if not inside:
        raise Refused("no_picture")
    return path
