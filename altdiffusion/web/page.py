"""The page: its tabs, its two languages, what its buttons do."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from altdiffusion.web.api import add_endpoints
from altdiffusion.web.service import DemoService
from altdiffusion.web.tabs import score
from altdiffusion.web.tabs.change import change_tab
from altdiffusion.web.tabs.compare import compare_tab
from altdiffusion.web.tabs.controls import I18N, PRIVATE, STYLES, as_gallery, style_choices
from altdiffusion.web.tabs.draw import draw_tab
from altdiffusion.web.tabs.read import read_tab
from altdiffusion.web.tabs.search import search_tab
from altdiffusion.web.translations import LANGUAGES, say

CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
JS = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")
HEAD = f"<script>{(Path(__file__).parent / 'prompt_weights.js').read_text(encoding='utf-8')}</script>"
_FONTS = ["Segoe UI", "Noto Sans", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", "sans-serif"]


def look() -> dict[str, Any]:
    """What `launch` wants besides the page. No font comes from another site."""
    theme = gr.themes.Default(font=_FONTS, font_mono=["monospace"])
    return {"theme": theme, "css": CSS, "head": HEAD, "i18n": I18N}


class Page(gr.Blocks):
    """Gradio's page, whose server fetches what is given by its address, from public hosts alone.

    Programs that know fewer of an endpoint's arguments than it has now, and send no names, get the defaults of the others.
    """

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *others: Any, **options: Any) -> list[Any]:
        """As in Gradio; what can't be fetched is said in one line."""
        if len(inputs) < len(block_fn.inputs):
            inputs = _with_defaults(block_fn.fn, inputs)
        try:
            return await super().preprocess_data(block_fn, inputs, *others, **options)
        except gr.Error:
            raise
        except Exception:
            if not _ADDRESS.search(str(inputs)):
                raise
            raise gr.Error(say("bad_address", "en"), print_exception=False) from None


def _with_defaults(endpoint: Callable[..., Any], inputs: list[Any]) -> list[Any]:
    """The same with the arguments that are missing at the end; as it is where one of these has no default."""
    missing = list(inspect.signature(endpoint).parameters.values())[len(inputs) :]
    has_defaults = all(each.default is not each.empty for each in missing)
    return [*inputs, *(each.default for each in missing)] if has_defaults else inputs


_ADDRESS = re.compile(r"'path': 'https?://")


def build_page(service: DemoService) -> gr.Blocks:
    """The page, and the API's endpoints."""
    with Page(title="AltDiffusion", analytics_enabled=False) as page:
        add_endpoints(service)  # first: they have the names, and the page's own events take what is left
        with gr.Row(elem_id="top"):
            gr.Markdown(I18N("title"), elem_id="title")
            model = gr.Dropdown(service.models.labels, value=service.models.labels[0], label=I18N("model"))
            language = gr.Radio([(name, key) for key, name in LANGUAGES.items()], value="en", label=I18N("language"))
        for start, about in (("mini", "mini_about"), ("BAAI/", "licence")):
            if any(label.startswith(start) for label in service.models.labels):
                gr.Markdown(I18N(about))
        history = gr.State([], time_to_live=24 * 3600)
        with gr.Tabs(overflow_behavior="wrap") as tabs:
            with gr.Tab(I18N("tab_draw"), id="draw", elem_id="tab_draw"):
                prompt, negative, settings = draw_tab(service, model, language, history)
            with gr.Tab(I18N("tab_change"), id="change", elem_id="tab_change"):
                change_tab(service, model, language, history)
            with gr.Tab(I18N("tab_compare"), id="compare", elem_id="tab_compare"):
                compare_tab(service, model, language, history)
            with gr.Tab(I18N("tab_score"), id="score", elem_id="tab_score"):
                score.score_tab(service, model, language)
            if service.index is not None:
                with gr.Tab(I18N("tab_search"), id="search", elem_id="tab_search"):
                    search_tab(service, service.index, language)
            with gr.Tab(I18N("tab_read"), id="read", elem_id="tab_read"):
                read_tab(service, language, tabs, prompt, negative, settings)
            with gr.Tab(I18N("tab_history"), id="history", elem_id="tab_history"):
                gr.Markdown(I18N("history_about"))
                gallery = gr.Gallery(
                    label=I18N("gallery"), columns=4, object_fit="contain", interactive=False, buttons=["download"]
                )
        history.change(as_gallery, history, gallery, **PRIVATE)
        # tabs that were not opened yet don't hear of a change in the browser: their names come from here, as the styles' do
        every_tab = [block for block in page.blocks.values() if isinstance(block, gr.Tab) and block.elem_id]
        styles = [
            each for each in page.blocks.values() if isinstance(each, gr.Dropdown) and STYLES in each.elem_classes
        ]

        def words(language: str) -> list[Any]:
            choices = style_choices(service, language)
            named = [gr.Tab(label=say(str(tab.elem_id), language)) for tab in every_tab]
            return [*named, *(gr.Dropdown(choices=choices) for _ in styles)]

        switch = "async (language) => [await window.altdiffusionLanguage(language)]"
        # one after the other, so that the words of a language chosen early come after those of the page's first
        in_order = PRIVATE | {"concurrency_id": "language", "concurrency_limit": 1}
        page.load(None, None, language, js=JS, **PRIVATE).then(words, language, [*every_tab, *styles], **in_order)
        language.input(words, language, [*every_tab, *styles], js=switch, **in_order)
    return page
