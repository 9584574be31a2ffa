"""The API: the page's features as named endpoints, for `gradio_client` and for HTTP. Files are given by `handle_file`."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from altdiffusion.generation.infotext import to_infotext
from altdiffusion.generation.settings import DEFAULT_STEPS, ImageSettings
from altdiffusion.settings import type_of
from altdiffusion.web import uploads
from altdiffusion.web.request import TEXT_TO_IMAGE, WEB_SETTINGS, VisitorRequest, read_lines
from altdiffusion.web.service import DemoService, Finished, SavedImage
from altdiffusion.web.tabs.controls import sorry
from altdiffusion.web.translations import Refused

# Arguments in the order in which programs give them by position; settings that are added later come after them.
_COMMON = ("negative_prompt", "model", "seed", "steps", "guidance_scale")
_DRAW = ("prompt", *_COMMON, "width", "height", "scheduler", "images", "best_of")
_CHANGE = ("image", "prompt", "mask", "strength", *_COMMON, "scheduler", "images", "best_of")
_COMPARE = ("left_prompt", "right_prompt", "left_model", "right_model", "seed", "steps", "guidance_scale")


def add_endpoints(service: DemoService) -> None:
    """Named /models, /draw, /change, /compare, /score, /classify, /rank, /read_settings, /tokens, /styles, /invert; with an
    index, /search."""

    async def models() -> list[str]:
        """Names of the models on offer; the first is taken where none is named."""
        return service.models.labels

    async def styles() -> dict[str, list[str]]:
        """The styles that `styles` may name, each with what it is called in English and in Chinese."""
        return {name: style.name for name, style in service.styles.items()}

    async def tokens(
        prompt: str,
        model: str = "",
        prompt_syntax: str = "webui",
        steps: int = DEFAULT_STEPS,
        styles: list[str] | None = None,
        route: str = "",
    ) -> dict[str, Any]:
        """What a model reads of a prompt, as `altdiffusion tokens --json` has it: pieces, their weights, chunks of 75, and
        the English that a bridge understood; of a prompt with choices {a|b} the first four. Nothing is generated, and no
        model is loaded but one with a bridge. route: auto, all or none, as in /draw."""
        said = {"prompt": prompt, "model": model, "prompt_syntax": prompt_syntax, "steps": steps, "styles": styles}
        said["route"] = route
        return await service.tokens(said)

    async def invert(
        prompt: str,
        name: str = "",
        model: str = "",
        prompt_syntax: str = "webui",
        route: str = "",
        styles: list[str] | None = None,
    ) -> dict[str, Any]:
        """A prompt as a textual inversion, by a model with a bridge at its CLIP's entrance, as `altdiffusion invert --json` has
        it, with "file" in the place of "path", and "is_word": whether the name is a word of CLIP's, which web UIs would replace
        in every prompt. name: as it will stand in prompts, empty for the prompt's first words; one that ends in .pt gives
        A1111's own layout. route: auto, all or none, as in /draw."""
        said = {"prompt": prompt, "name": name, "model": model, "prompt_syntax": prompt_syntax, "styles": styles}
        saved = await service.invert(said | {"route": route})
        return {"file": _file_data(saved.path), **saved.document, "is_word": saved.is_word}

    async def draw(**said: Any) -> list[dict[str, Any]]:
        """Generate images. seed: digits, empty for random; image i has seed + i. width, height: multiples of 8, 0 for the
        model's own. scheduler: ddim, euler, ..., empty for the model's own. best_of: make so many, keep the best `images`.
        Gives a list of {"image": PNG file with its settings inside, "seed", "score", "filtered", "settings"}.
        """
        return await _generated(service, service.read_request(said))

    async def change(image: Any, mask: Any, **said: Any) -> list[dict[str, Any]]:
        """Change an image by a prompt; with a mask (white where it is generated anew, as large as the image) that part
        alone, and the rest stays as it is. strength: how much, above 0, to 1. The rest, and what it gives, as in /draw."""
        start = await _opened(image, service)
        covered = None if mask is None else await _opened(mask, service, "L")
        return await _generated(service, service.read_request(said, start, covered))

    async def compare(
        left_prompt: str, right_prompt: str, left_model: str, right_model: str, **common: Any
    ) -> list[dict[str, Any]]:
        """Two prompts, or one prompt by two models, with the same seed. Gives two images as in /draw, left and right."""
        left = service.read_request(common | {"prompt": left_prompt, "model": left_model})
        right = service.read_request(common | {"prompt": right_prompt, "model": right_model})
        results: dict[int, SavedImage] = {}
        async with aclosing(service.compare(left, right)) as updates:
            async for side, news in updates:
                if isinstance(news, Finished):
                    results[side] = news.images[0]
        return [_as_json(results[0]), _as_json(results[1])]

    async def score(pictures: list[dict[str, Any]], prompts: list[str], model: str = "") -> list[list[float]]:
        """How well each image fits each prompt: cosines in -1 to 1, a list for each image."""
        files, texts = _files(pictures, service), read_lines(prompts, service.limits)
        return await service.run_scoring(lambda: service.score(service.open_images(files), texts, model))

    async def classify(
        pictures: list[dict[str, Any]], labels: list[str], template: str = "{}", model: str = ""
    ) -> list[list[float]]:
        """How probable each label is for each image, if it must be one of them; {} in the template stands for the label."""
        files, names = _files(pictures, service), read_lines(labels, service.limits)
        return await service.run_scoring(lambda: service.classify(service.open_images(files), names, template, model))

    async def rank(pictures: list[dict[str, Any]], prompt: str, model: str = "") -> list[list[float]]:
        """[index of the image, its score] for each image, the one that fits the prompt best first."""
        files = _files(pictures, service)
        ranked = await service.run_scoring(lambda: service.rank(service.open_images(files), prompt, model))
        return [[index, score] for index, score in ranked]

    async def read_settings(picture: dict[str, Any]) -> dict[str, Any]:
        """Prompt and settings inside a PNG, brought within this page's limits; "changed": the names of those that were not."""
        settings, changed = await asyncio.to_thread(service.read_settings, _file(picture))
        return {name: getattr(settings, name) for name in TEXT_TO_IMAGE} | {"changed": changed}

    async def search(prompt: str = "", image: dict[str, Any] | None = None, results: int = 20) -> list[dict[str, Any]]:
        """Images of the owner's index that fit a prompt, look like an image, or both, best first. Gives a list of {"image": a
        thumbnail, or nothing where the image can't be opened any more, "score": cosine in -1 to 1, "caption", "row"}."""
        index = service.index
        assert index is not None  # else there is no such endpoint
        path = None if image is None else _file(image)
        found = await service.run_scoring(lambda: index.search(prompt, path, results, service.limits))
        return [
            {
                "image": None if each.path is None else _file_data(each.path),
                "score": each.score,
                "caption": each.caption,
                "row": each.row,
            }
            for each in found
        ]

    later = [name for name in WEB_SETTINGS if name not in (*_DRAW, *_CHANGE)]
    of_settings: dict[Any, tuple[str, ...]] = {draw: _DRAW, change: _CHANGE, compare: _COMPARE}
    for work, names in of_settings.items():
        others = [name for name in later if work is change or name in TEXT_TO_IMAGE]
        work.__signature__ = _signature([*names, *others, "styles"], service)
        about = [f"{name}: {_field(name).description}" for name in others]
        work.__doc__ = "\n".join([work.__doc__, *about, "styles: names that /styles gives, the first innermost"])
    endpoints: list[Callable[..., Any]] = [
        models,
        draw,
        change,
        compare,
        score,
        classify,
        rank,
        read_settings,
        tokens,
        styles,
        invert,
    ]
    if service.index is not None:
        endpoints.append(search)
    for endpoint in endpoints:
        gr.api(_endpoint(endpoint), api_name=endpoint.__name__, concurrency_limit=None)


def _field(name: str) -> Any:
    return ImageSettings.model_fields[name]


def _signature(names: Sequence[str], service: DemoService) -> inspect.Signature:
    """Types and defaults of an endpoint's arguments: the settings' own, but for texts, which are empty where not said."""
    defaults = ImageSettings(prompt="-", init_image="-").resolved(service.models.labels[0])
    others: dict[str, tuple[Any, Any]] = {
        "image": (dict[str, Any], inspect.Parameter.empty),
        "mask": (dict[str, Any] | None, None),
        "images": (int, 1),
        "best_of": (int, 0),
        "width": (int, 0),
        "height": (int, 0),
        "styles": (list[str] | None, None),
        "seed": (str, ""),  # of more digits than JSON's numbers hold
        "model": (str, ""),
        **dict.fromkeys(("prompt", "left_prompt", "right_prompt"), (str, inspect.Parameter.empty)),
        **dict.fromkeys(("left_model", "right_model"), (str, "")),
    }

    def parameter(name: str) -> inspect.Parameter:
        if name in others:
            kind, default = others[name]
        elif (kind := type_of(_field(name))) is str:
            default = ""
        elif (default := getattr(defaults, name)) is None:
            kind = kind | None
        return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=kind)

    return inspect.Signature([parameter(name) for name in names], return_annotation=list[dict[str, Any]])


def _endpoint(work: Callable[..., Any]) -> Callable[..., Any]:
    """With types that Gradio can read, and errors of one line that no path is in."""
    signature = inspect.signature(work, eval_str=True)

    async def endpoint(*arguments: Any, **named: Any) -> Any:
        try:
            bound = signature.bind(*arguments, **named)
            bound.apply_defaults()
            return await work(**bound.arguments)
        except Exception as error:
            raise gr.Error(sorry(error, "en"), print_exception=False) from None

    types = {parameter.name: parameter.annotation for parameter in signature.parameters.values()}
    endpoint.__name__, endpoint.__doc__, endpoint.__wrapped__ = work.__name__, work.__doc__, work  # type: ignore[attr-defined]
    endpoint.__annotations__ = types | {"return": signature.return_annotation}
    return endpoint


async def _generated(service: DemoService, request: VisitorRequest) -> list[dict[str, Any]]:
    async with aclosing(service.generate(request)) as updates:
        async for news in updates:
            if isinstance(news, Finished):
                return [_as_json(image) for image in news.images]
    raise Refused("failed")


def _as_json(image: SavedImage) -> dict[str, Any]:
    return {
        "image": _file_data(image.path),
        "seed": str(image.settings.seed),
        "score": image.score,
        "filtered": image.filtered,
        "settings": to_infotext(image.settings),
    }


def _file_data(path: Path) -> dict[str, Any]:
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}, "orig_name": path.name}


async def _opened(given: Any, service: DemoService, mode: str = "RGB") -> Image.Image:
    return await asyncio.to_thread(uploads.open_upload, _file(given), service.limits, mode)


def _files(given: Any, service: DemoService) -> list[str]:
    if not isinstance(given, list) or not given:
        raise Refused("no_image")
    if len(given) > service.limits.pictures:
        raise Refused("many_images", got=len(given), most=service.limits.pictures)
    return [_file(file) for file in given]


def _file(given: Any) -> str:
    """The path of an uploaded file, and of no other."""
    path = given.get("path") if isinstance(given, dict) else None
    if not isinstance(path, str) or not path:
        raise Refused("no_image")
    folder = Path(gr.utils.get_upload_folder()).resolve()
    try:
        inside = Path(path).resolve().is_relative_to(folder)
    except (OSError, ValueError, RuntimeError):
        inside = False
    if not inside:
        raise Refused("no_image")
    return path
