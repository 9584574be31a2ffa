"""The parts that several tabs share: words in both languages, the settings of a drawing, what happens while it is drawn."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import gradio as gr

from altdiffusion.generation.infotext import to_infotext
from altdiffusion.generation.settings import DEFAULT_STEPS, DEFAULT_STRENGTH, default_guidance_scale
from altdiffusion.web import html_parts, request
from altdiffusion.web.draw_queue import Drawing
from altdiffusion.web.request import GenerateRequest
from altdiffusion.web.service import DemoService, Finished, Shown
from altdiffusion.web.translations import GRADIO_ZH, TEXTS, Refused, say

logger = logging.getLogger(__name__)

I18N = gr.I18n(
    **{
        locale: {key: both[place] for key, both in TEXTS.items()} | (GRADIO_ZH if place else {})
        for locale, place in (("en", 0), ("zh-CN", 1), ("zh-TW", 1))
    }
)
PRIVATE: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": None, "show_progress": "hidden"}
KEPT = 60  # images of a session's history

# A drawn image in a session's state: its file, its settings as infotext, its caption, its seed.
Entry = tuple[str, str, str, int]


def sorry(error: Exception, language: str) -> str:
    """The sentence for a visitor; what is not a refusal goes to the log, and nowhere else."""
    if isinstance(error, Refused):
        return error.said(language)
    logger.error("a visitor's wish failed", exc_info=error)
    return say("failed", language)


@dataclass
class Controls:
    """The settings of a drawing, as components."""

    steps: gr.Slider
    guidance_scale: gr.Slider
    scheduler: gr.Dropdown
    seed: gr.Textbox
    images: gr.Slider
    best_of: gr.Slider
    shape: gr.Dropdown | None = None
    width: gr.Number | None = None
    height: gr.Number | None = None
    strength: gr.Slider | None = None

    @property
    def names(self) -> list[str]:
        return [name for name in vars(self) if getattr(self, name) is not None]

    @property
    def inputs(self) -> list[Any]:
        return [getattr(self, name) for name in self.names]

    def wish(self, values: tuple[Any, ...], **more: Any) -> GenerateRequest:
        """What the components say, as a wish; `values` in the order of `inputs`."""
        said = dict(zip(self.names, values, strict=True))
        said["seed"] = request.seed_of(said["seed"])
        if self.shape is not None:
            if said["shape"] == "exact":
                said["shape"] = ""
            else:
                said["width"] = said["height"] = 0
        return replace(GenerateRequest(prompt=""), **(said | more))


def controls(studio: DemoService, *, sizes: bool = False, strength: bool = False, several: bool = True) -> Controls:
    """The accordion of settings, closed at first. several: more than one image, and the best of them."""
    limits = studio.limits
    shape = width = height = None
    with gr.Accordion(I18N("settings"), open=False):
        with gr.Row(visible=several):
            images = gr.Slider(1, limits.images, 1, step=1, label=I18N("images"))
            best_of = gr.Slider(1, limits.images, 1, step=1, label=I18N("best_of"))
        if sizes:
            shapes = [(I18N("shape_square"), "1:1"), *((each, each) for each in request.SHAPES if each != "1:1")]
            with gr.Row():
                shape = gr.Dropdown([*shapes, (I18N("shape_exact"), "exact")], value="1:1", label=I18N("shape"))
                width = gr.Number(64, precision=0, step=8, label=I18N("width"))
                height = gr.Number(64, precision=0, step=8, label=I18N("height"))
        change = gr.Slider(0.05, 1, DEFAULT_STRENGTH, step=0.05, label=I18N("strength")) if strength else None
        with gr.Row():
            steps = gr.Slider(1, limits.steps, min(DEFAULT_STEPS, limits.steps), step=1, label=I18N("steps"))
            guided = default_guidance_scale(studio.models.labels[0])
            guidance = gr.Slider(0, limits.guidance_scale, guided, step=0.5, label=I18N("guidance_scale"))
        with gr.Row():
            own = (I18N("scheduler_own"), "")
            scheduler = gr.Dropdown(
                [own, *((name, name) for name in request.OFFERED_SCHEDULERS)], value="", label=I18N("scheduler")
            )
            seed = gr.Textbox(label=I18N("seed"), placeholder=I18N("seed_hint"), max_length=25)
        dice = gr.Button(I18N("dice"), size="sm")
        dice.click(lambda: "", None, seed, **PRIVATE)
    return Controls(steps, guidance, scheduler, seed, images, best_of, shape, width, height, change)


@dataclass
class Stage:
    """Where drawing shows: what happens, the image so far, the images."""

    status: gr.HTML
    preview: gr.Image
    gallery: gr.Gallery
    entries: gr.State

    @property
    def outputs(self) -> list[Any]:
        return [self.status, self.preview, self.gallery, self.entries]


def stage() -> Stage:
    """With the buttons that copy and download what is chosen."""
    status = gr.HTML(html_parts.line(""))
    preview = gr.Image(
        label=I18N("preview"), visible=False, interactive=False, buttons=[], height=320, elem_classes="preview"
    )
    gallery = gr.Gallery(
        label=I18N("gallery"), columns=2, object_fit="contain", height=460, interactive=False,
        buttons=["download", "fullscreen"], elem_classes="drawn",
    )  # fmt: skip
    entries = gr.State([], time_to_live=24 * 3600)
    chosen = gr.Textbox(
        label=I18N("picture_settings"), placeholder=I18N("choose_picture"), lines=3, interactive=False,
        elem_classes="chosen",
    )  # fmt: skip
    with gr.Row():
        copy = gr.Button(I18N("copy_settings"), size="sm", elem_classes="copy")
        download = gr.DownloadButton(I18N("download"), size="sm", interactive=False, elem_classes="download")
    copy.click(None, chosen, None, js="(text) => { window.altdiffusionCopy(text); }", **PRIVATE)

    def choose(event: gr.SelectData, drawn: list[Entry]) -> tuple[str, Any]:
        number = event.index if isinstance(event.index, int) and 0 <= event.index < len(drawn) else 0
        if not drawn:
            return "", gr.skip()
        return drawn[number][1], gr.DownloadButton(value=drawn[number][0], interactive=True)

    gallery.select(choose, entries, [chosen, download], **PRIVATE)
    return Stage(status, preview, gallery, entries)


def entry(shown: Shown, language: str) -> Entry:
    seed = shown.settings.seed or 0
    if shown.filtered:
        caption = say("filtered", language)
    elif shown.score is None:
        caption = say("caption", language, seed=seed)
    else:
        caption = say("caption_scored", language, seed=seed, score=f"{shown.score:.3f}")
    return str(shown.path), to_infotext(shown.settings), caption, seed


def as_gallery(entries: list[Entry]) -> list[tuple[str, str]]:
    return [(path, caption) for path, _, caption, _ in entries]


def follow(
    studio: DemoService, wish_of: Callable[..., GenerateRequest]
) -> Callable[..., AsyncGenerator[tuple[Any, Any, Any, Any, Any], None]]:
    """The event that draws: (language, history, *what `wish_of` takes) -> what a stage shows, and the history."""

    async def draw(language: str, history: list[Entry], *values: Any) -> AsyncGenerator[Any, None]:
        keep = gr.skip()
        hidden = gr.Image(value=None, visible=False)
        try:
            async with aclosing(studio.draw(await asyncio.to_thread(wish_of, *values))) as updates:
                async for news in updates:
                    if isinstance(news, Finished):
                        entries = [entry(each, language) for each in news.pictures]
                        note = say("drawn", language, seconds=f"{news.seconds:.1f}")
                        if news.pictures[0].score is None:
                            note += ". " + say("no_scores", language)
                        history = [*entries, *history][:KEPT]
                        yield html_parts.line(note), hidden, as_gallery(entries), entries, history
                    else:
                        sketch = news.sketch if isinstance(news, Drawing) else None
                        shown = keep if sketch is None else gr.Image(value=sketch, visible=True)
                        yield html_parts.status(news, language), shown, keep, keep, keep
        except Exception as error:
            yield html_parts.refusal(sorry(error, language)), hidden, keep, keep, keep

    return draw


def cancels(stop: gr.Button, drawing: Any, language: gr.Radio, statuses: list[Any], previews: list[Any]) -> None:
    """The button ends that drawing. (An event that cancels can't say anything itself: the one after it does.)"""

    def told(language: str) -> list[Any]:
        hidden = [gr.Image(value=None, visible=False)] * len(previews)
        return [html_parts.line(say("cancelled", language))] * len(statuses) + hidden

    ended = stop.click(None, None, None, cancels=[drawing], **PRIVATE)
    ended.then(told, language, [*statuses, *previews], **PRIVATE)


def start_and_stop() -> tuple[gr.Button, gr.Button]:
    with gr.Row():
        go = gr.Button(I18N("draw"), variant="primary", elem_classes="go")
        stop = gr.Button(I18N("cancel"), variant="stop", elem_classes="stop")
    return go, stop


Result = TypeVar("Result")


def told(work: Callable[[], tuple[str, Result]], language: str, nothing: Any) -> tuple[str, Any]:
    """What `work` gives, or the sentence that says why not, and `nothing`."""
    try:
        return work()
    except Exception as error:
        return html_parts.refusal(sorry(error, language)), nothing


async def told_later(work: Callable[[], Awaitable[tuple[str, Result]]], language: str, nothing: Any) -> tuple[str, Any]:
    """The same, for work that takes a while."""
    try:
        return await work()
    except Exception as error:
        return html_parts.refusal(sorry(error, language)), nothing
