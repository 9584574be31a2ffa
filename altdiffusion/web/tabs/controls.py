"""The parts that several tabs share: words in both languages, a request's settings, what happens while it is answered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

import gradio as gr

from altdiffusion.generation.infotext import to_infotext
from altdiffusion.generation.settings import DEFAULT_STRENGTH, ImageSettings, settings_with
from altdiffusion.settings import choices_of, type_of
from altdiffusion.web import html_parts
from altdiffusion.web.draw_queue import Generating
from altdiffusion.web.grid import FinishedGrid, GridRequest, generate_grid
from altdiffusion.web.limits import Limits
from altdiffusion.web.request import OFFERED_SCHEDULERS, SHAPES, WEB_SETTINGS, VisitorRequest, slider_range
from altdiffusion.web.service import DemoService, Finished, SavedImage
from altdiffusion.web.translations import GRADIO_ZH, TEXTS, Refused, say

logger = logging.getLogger(__name__)

I18N = gr.I18n(
    **{
        locale: {key: both[place] for key, both in TEXTS.items()} | (GRADIO_ZH if place else {})
        for locale, place in (("en", 0), ("zh-CN", 1), ("zh-TW", 1))
    }
)
PRIVATE: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": None, "show_progress": "hidden"}
STYLES = "styles"  # the class of their dropdowns, whose words the page changes with the language
KEPT = 60  # images of a session's history

# A generated image in a session's state: its file, its settings as infotext, its caption, its seed.
Entry = tuple[str, str, str, int]


def sorry(error: Exception, language: str) -> str:
    """The sentence for a visitor; what is not a refusal goes to the log, and nowhere else."""
    if isinstance(error, Refused):
        return error.said(language)
    logger.error("a visitor's request failed", exc_info=error)
    return say("failed", language)


@dataclass
class Controls:
    """The settings of a request, as components by their names: `WEB_SETTINGS`, and styles, images, best_of, grid, shape."""

    parts: dict[str, Any]

    @property
    def inputs(self) -> list[Any]:
        return list(self.parts.values())

    def said(self, values: Sequence[Any], **more: Any) -> dict[str, Any]:
        """What the components say, for `read_request`; `values` in the order of `inputs`."""
        said = dict(zip(self.parts, values, strict=True)) | more
        if said.get("shape") == "exact":
            said["shape"] = ""
        elif "shape" in said:
            said["width"] = said["height"] = 0
        return said


def controls(service: DemoService, *, sizes: bool = False, change: bool = False, several: bool = True) -> Controls:
    """The accordion of settings, closed at first. change: of an image. several: more than one, and the best of them."""
    limits, parts = service.limits, {}
    defaults = ImageSettings(prompt="-", init_image="-", mask="-", strength=DEFAULT_STRENGTH)
    defaults = defaults.resolved(service.models.labels[0])
    left_out = {"prompt", "negative_prompt", "width", "height", *(() if change else settings_with("needs"))}
    if not any(map(service.models.takes_route, service.models.labels)):
        left_out.add("route")
    names = [name for name in WEB_SETTINGS if name not in left_out]
    with gr.Accordion(I18N("settings"), open=False):
        parts["styles"] = gr.Dropdown(
            style_choices(service, "en"), value=[], multiselect=True, label=I18N("styles"), visible=bool(service.styles),
            elem_classes=STYLES,
        )  # fmt: skip
        with gr.Row(visible=several):
            parts["images"] = gr.Slider(1, limits.images, 1, step=1, label=I18N("images"))
            parts["best_of"] = gr.Slider(1, limits.images, 1, step=1, label=I18N("best_of"))
        if sizes:
            parts["grid"] = gr.Textbox(
                label=I18N("grid"), placeholder="steps=10,20 guidance_scale=3,7", max_length=limits.text
            )
            shapes = [(I18N("shape_square"), "1:1"), *((shape, shape) for shape in SHAPES if shape != "1:1")]
            with gr.Row():
                parts["shape"] = gr.Dropdown(
                    [*shapes, (I18N("shape_exact"), "exact")], value="1:1", label=I18N("shape")
                )
                parts["width"] = gr.Number(64, precision=0, step=8, label=I18N("width"))
                parts["height"] = gr.Number(64, precision=0, step=8, label=I18N("height"))
        for first in range(0, len(names), 2):
            with gr.Row():
                for name in names[first : first + 2]:
                    parts[name] = _component(name, getattr(defaults, name), limits)
        dice = gr.Button(I18N("dice"), size="sm")
        dice.click(lambda: "", None, parts["seed"], **PRIVATE)
    return Controls(parts)


def style_choices(service: DemoService, language: str) -> list[tuple[str, str]]:
    """What the styles are called in a language, each with its name in the file."""
    return [(style.name[language == "zh"] if style.name else key, key) for key, style in service.styles.items()]


# What the choices of a setting are called, where that isn't what the command line calls them.
_SAID = {"route": {"auto": "route_auto", "all": "route_all", "none": "route_none"}}


def _component(name: str, default: Any, limits: Limits) -> Any:
    """The component of a setting, by its type, choices and range. default: None where nothing is said at first."""
    field = ImageSettings.model_fields[name]
    label = I18N(name) if name in TEXTS else field.description
    if name == "seed":
        return gr.Textbox(label=label, placeholder=I18N("seed_hint"), max_length=25)
    choices = OFFERED_SCHEDULERS if name == "scheduler" else choices_of(field)
    if choices:
        own = [] if field.default else [(I18N("scheduler_own"), "")]
        said = _SAID.get(name, {})
        named = [(I18N(said[choice]) if choice in said else choice, choice) for choice in choices]
        return gr.Dropdown([*own, *named], value=default or "", label=label)
    if type_of(field) is str:
        return gr.Textbox(label=label, max_length=limits.text)
    if type_of(field) is bool:
        return gr.Checkbox(label=label)
    steps = slider_range(name, limits)
    if steps is None or default is None:
        return gr.Number(default, precision=0 if type_of(field) is int else None, label=label)
    least, most, step = steps
    return gr.Slider(least, most, min(default, most), step=step, label=label)


@dataclass
class Stage:
    """Where a request is answered: what happens, the image so far, the images."""

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
        label=I18N("image_settings"), placeholder=I18N("choose_image"), lines=3, interactive=False,
        elem_classes="chosen",
    )  # fmt: skip
    with gr.Row():
        copy = gr.Button(I18N("copy_settings"), size="sm", elem_classes="copy")
        download = gr.DownloadButton(I18N("download"), size="sm", interactive=False, elem_classes="download")
    copy.click(None, chosen, None, js="(text) => { window.altdiffusionCopy(text); }", **PRIVATE)

    def choose(event: gr.SelectData, entries: list[Entry]) -> tuple[str, Any]:
        if not entries:
            return "", gr.skip()
        index = event.index if isinstance(event.index, int) and 0 <= event.index < len(entries) else 0
        path, text, _, _ = entries[index]
        return text, gr.DownloadButton(value=path, interactive=True)

    gallery.select(choose, entries, [chosen, download], **PRIVATE)
    return Stage(status, preview, gallery, entries)


def entry(image: SavedImage, language: str) -> Entry:
    seed = image.settings.seed or 0
    if image.filtered:
        caption = say("filtered", language)
    elif image.score is None:
        caption = say("caption", language, seed=seed)
    else:
        caption = say("caption_scored", language, seed=seed, score=f"{image.score:.3f}")
    return str(image.path), to_infotext(image.settings), caption, seed


def _entry_of_sheet(finished: FinishedGrid, language: str) -> Entry:
    first = finished.images[0].settings
    return str(finished.sheet), first.prompt, say("sheet", language), first.seed or 0


def as_gallery(entries: list[Entry]) -> list[tuple[str, str]]:
    return [(path, caption) for path, _, caption, _ in entries]


def follow(
    service: DemoService, request_of: Callable[..., VisitorRequest | GridRequest]
) -> Callable[..., AsyncGenerator[tuple[Any, Any, Any, Any, Any], None]]:
    """The event that generates: (language, history, *what `request_of` takes) -> what a stage shows, and the history."""

    async def generate(language: str, history: list[Entry], *values: Any) -> AsyncGenerator[Any, None]:
        keep = gr.skip()
        hidden = gr.Image(value=None, visible=False)
        try:
            request = await asyncio.to_thread(request_of, *values)
            async with aclosing(
                generate_grid(service, request) if isinstance(request, GridRequest) else service.generate(request)
            ) as updates:
                async for news in updates:
                    if isinstance(news, Finished):
                        entries = [entry(image, language) for image in news.images]
                        note = say("drawn", language, seconds=f"{news.seconds:.1f}")
                        if news.images[0].score is None:
                            note += ". " + say("no_scores", language)
                        if isinstance(news, FinishedGrid):
                            entries = [_entry_of_sheet(news, language), *entries]
                        history = [*entries, *history][:KEPT]
                        yield html_parts.line(note), hidden, as_gallery(entries), entries, history
                    else:
                        preview = news.preview if isinstance(news, Generating) else None
                        shown = keep if preview is None else gr.Image(value=preview, visible=True)
                        yield html_parts.status(news, language), shown, keep, keep, keep
        except Exception as error:
            yield html_parts.refusal(sorry(error, language)), hidden, keep, keep, keep

    return generate


def cancels(stop: gr.Button, event: Any, language: gr.Radio, statuses: list[Any], previews: list[Any]) -> None:
    """The button ends that event. (One that cancels can't say anything itself: the one after it does.)"""

    def say_so(language: str) -> list[Any]:
        hidden = [gr.Image(value=None, visible=False)] * len(previews)
        return [html_parts.line(say("cancelled", language))] * len(statuses) + hidden

    ended = stop.click(None, None, None, cancels=[event], **PRIVATE)
    ended.then(say_so, language, [*statuses, *previews], **PRIVATE)


def start_and_stop() -> tuple[gr.Button, gr.Button]:
    with gr.Row():
        go = gr.Button(I18N("draw"), variant="primary", elem_classes="go")
        stop = gr.Button(I18N("cancel"), variant="stop", elem_classes="stop")
    return go, stop


T = TypeVar("T")


def or_refusal(work: Callable[[], tuple[str, T]], language: str, nothing: Any) -> tuple[str, Any]:
    """What `work` gives, or the sentence that says why not, and `nothing`."""
    try:
        return work()
    except Exception as error:
        return html_parts.refusal(sorry(error, language)), nothing


async def or_refusal_later(
    work: Callable[[], Awaitable[tuple[str, T]]],
    language: str,
    nothing: Any,
    refusal: Callable[[str], str] = html_parts.refusal,
) -> tuple[str, Any]:
    """The same, for work that takes a while."""
    try:
        return await work()
    except Exception as error:
        return refusal(sorry(error, language)), nothing
