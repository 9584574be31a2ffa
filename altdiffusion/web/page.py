"""The page: its tabs, its two languages, what its buttons do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from altdiffusion.web import limits as limit
from altdiffusion.web.api import add_endpoints
from altdiffusion.web.limits import Wish
from altdiffusion.web.service import Studio
from altdiffusion.web.tabs import score
from altdiffusion.web.tabs.compare import compare_tab
from altdiffusion.web.tabs.controls import I18N, PRIVATE, Controls, Entry, as_gallery, cancels, controls, follow, stage
from altdiffusion.web.translations import LANGUAGES, say

CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
JS = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")
_FONTS = ["Segoe UI", "Noto Sans", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", "sans-serif"]
EXAMPLES = [
    "一只猫",
    "a dog on a blue background",
    "红苹果",
    "кошка",
    "قطة",
    "una pizza",
    "un château",
    "青い花",
    "빨간 하트",
]


def look() -> dict[str, Any]:
    """What `launch` wants besides the page. No font comes from another site."""
    return {"theme": gr.themes.Default(font=_FONTS, font_mono=["monospace"]), "css": CSS, "i18n": I18N}


def build_page(studio: Studio) -> gr.Blocks:
    """The page, and the API's endpoints."""
    with gr.Blocks(title="AltDiffusion", analytics_enabled=False) as page:
        add_endpoints(studio)  # first: they have the names, and the page's own events take what is left
        with gr.Row(elem_id="top"):
            gr.Markdown(I18N("title"), elem_id="title")
            model = gr.Dropdown(studio.models.labels, value=studio.models.labels[0], label=I18N("model"))
            language = gr.Radio([(name, key) for key, name in LANGUAGES.items()], value="en", label=I18N("language"))
        for start, about in (("mini", "mini_about"), ("BAAI/", "licence")):
            if any(label.startswith(start) for label in studio.models.labels):
                gr.Markdown(I18N(about))
        history = gr.State([], time_to_live=24 * 3600)
        with gr.Tabs(overflow_behavior="wrap") as tabs:
            with gr.Tab(I18N("tab_draw"), id="draw", elem_id="tab_draw"):
                prompt, negative, settings = _draw_tab(studio, model, language, history)
            with gr.Tab(I18N("tab_change"), id="change", elem_id="tab_change"):
                _change_tab(studio, model, language, history)
            with gr.Tab(I18N("tab_compare"), id="compare", elem_id="tab_compare"):
                compare_tab(studio, model, language, history)
            with gr.Tab(I18N("tab_score"), id="score", elem_id="tab_score"):
                score.score_tab(studio, model, language)
            with gr.Tab(I18N("tab_read"), id="read", elem_id="tab_read"):
                _read_tab(studio, language, tabs, prompt, negative, settings)
            with gr.Tab(I18N("tab_history"), id="history", elem_id="tab_history"):
                gr.Markdown(I18N("history_about"))
                seen = gr.Gallery(
                    label=I18N("gallery"), columns=4, object_fit="contain", interactive=False, buttons=["download"]
                )
        history.change(as_gallery, history, seen, **PRIVATE)
        # tabs that were not opened yet don't hear of a change in the browser: their names come from here
        every_tab = [each for each in page.blocks.values() if isinstance(each, gr.Tab) and each.elem_id]
        switch = "async (language) => [await window.altdiffusionLanguage(language)]"
        page.load(None, None, language, js=JS, **PRIVATE).then(
            lambda language: _named(every_tab, language), language, every_tab, **PRIVATE
        )
        language.input(lambda language: _named(every_tab, language), language, every_tab, js=switch, **PRIVATE)
    return page


def _named(tabs: list[gr.Tab], language: str) -> list[gr.Tab]:
    return [gr.Tab(label=say(str(each.elem_id), language)) for each in tabs]


def _go_and_stop() -> tuple[gr.Button, gr.Button]:
    with gr.Row():
        go = gr.Button(I18N("draw"), variant="primary", elem_classes="go")
        stop = gr.Button(I18N("cancel"), variant="stop", elem_classes="stop")
    return go, stop


def _draw_tab(
    studio: Studio, model: gr.Dropdown, language: gr.Radio, history: gr.State
) -> tuple[gr.Textbox, gr.Textbox, Controls]:
    with gr.Row():
        with gr.Column():
            prompt = gr.Textbox(
                label=I18N("prompt"), placeholder=I18N("prompt_hint"), lines=2, max_length=studio.limits.text,
                autofocus=True, elem_id="prompt",
            )  # fmt: skip
            negative = gr.Textbox(
                label=I18N("negative_prompt"), placeholder=I18N("negative_hint"), max_length=studio.limits.text
            )
            go, stop = _go_and_stop()
            gr.Examples([[each] for each in EXAMPLES], prompt, label=I18N("examples"), api_visibility="private")
            settings = controls(studio, sizes=True)
            again = gr.Button(I18N("again"), size="sm", elem_classes="again")
        with gr.Column():
            shown = stage()

    def wish(model: str, prompt: str, negative: str, *values: Any) -> Wish:
        return settings.wish(values, model=model, prompt=prompt, negative_prompt=negative)

    drawing = go.click(
        follow(studio, wish),
        [language, history, model, prompt, negative, *settings.inputs],
        [*shown.outputs, history],
        **PRIVATE,
    )
    cancels(stop, drawing, language, [shown.status], [shown.preview])
    again.click(_last_seed, shown.entries, settings.seed, **PRIVATE)
    return prompt, negative, settings


def _last_seed(drawn: list[Entry]) -> str:
    return str(min(seed for *_, seed in drawn)) if drawn else ""


def _change_tab(studio: Studio, model: gr.Dropdown, language: gr.Radio, history: gr.State) -> None:
    with gr.Row():
        with gr.Column():
            gr.Markdown(I18N("paint"))
            picture = gr.ImageEditor(
                label=I18N("start_picture"), type="pil", image_mode="RGBA", sources=["upload", "clipboard"], transforms=(),
                brush=gr.Brush(colors=["#f97316"], color_mode="fixed"), layers=False, buttons=[], elem_id="editor",
            )  # fmt: skip
            prompt = gr.Textbox(label=I18N("prompt"), lines=2, max_length=studio.limits.text, elem_id="change-prompt")
            negative = gr.Textbox(label=I18N("negative_prompt"), max_length=studio.limits.text)
            go, stop = _go_and_stop()
            settings = controls(studio, strength=True)
        with gr.Column():
            shown = stage()

    def wish(model: str, prompt: str, negative: str, edited: Any, *values: Any) -> Wish:
        image, mask = limit.edited(edited, studio.limits)
        return settings.wish(values, model=model, prompt=prompt, negative_prompt=negative, image=image, mask=mask)

    drawing = go.click(
        follow(studio, wish),
        [language, history, model, prompt, negative, picture, *settings.inputs],
        [*shown.outputs, history],
        **PRIVATE,
    )
    cancels(stop, drawing, language, [shown.status], [shown.preview])


def _read_tab(
    studio: Studio,
    language: gr.Radio,
    tabs: gr.Tabs,
    prompt: gr.Textbox,
    negative: gr.Textbox,
    settings: Controls,
) -> None:
    file = gr.File(label=I18N("read_picture"), file_types=[".png"], type="filepath", elem_id="settings-file")
    found = gr.HTML(label=I18N("found_settings"))
    kept = gr.State(None, time_to_live=24 * 3600)
    send = gr.Button(I18N("send"), variant="primary", elem_classes="send")

    def read(path: str | None, language: str) -> tuple[str, Any]:
        if not path:
            return "", None
        return score.told(lambda: score.settings_found(studio, path, language), language, None)

    def send_to_draw(sent: Any) -> list[Any]:
        if sent is None:
            return [gr.skip()] * 9
        exact = bool(sent.width and sent.height)
        values = [sent.prompt, sent.negative_prompt, sent.steps, sent.guidance_scale, sent.scheduler or ""]
        values += ["" if sent.seed is None else str(sent.seed), "exact" if exact else "1:1", sent.width, sent.height]
        return [gr.skip() if value is None else value for value in values]

    file.change(read, [file, language], [found, kept], **PRIVATE)
    places = [prompt, negative, settings.steps, settings.guidance_scale, settings.scheduler, settings.seed]
    places += [settings.shape, settings.width, settings.height]
    send.click(send_to_draw, kept, places, **PRIVATE).then(lambda: gr.Tabs(selected="draw"), None, tabs, **PRIVATE)
