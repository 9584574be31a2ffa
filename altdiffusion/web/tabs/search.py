"""The tab that searches the index that the owner named."""

from __future__ import annotations

from typing import Any

import gradio as gr
from PIL import Image

from altdiffusion.web import html_parts
from altdiffusion.web.search import SIDE, FoundImage, IndexSearch
from altdiffusion.web.service import DemoService
from altdiffusion.web.tabs.controls import I18N, PRIVATE, or_refusal_later
from altdiffusion.web.translations import say


def search_tab(service: DemoService, index: IndexSearch, language: gr.Radio) -> None:
    limits = service.limits
    gr.Markdown(I18N("search_about"))
    with gr.Row():
        prompt = gr.Textbox("一只猫", label=I18N("prompt"), max_length=limits.text, scale=3, elem_id="search-prompt")
        image = gr.Image(
            label=I18N("search_image"), type="filepath", sources=["upload"], height=200, scale=1,
            elem_id="search-image",
        )  # fmt: skip
    results = gr.Slider(1, limits.results, min(20, limits.results), step=1, label=I18N("results"))
    search = gr.Button(I18N("search"), variant="primary", elem_classes="go")
    status = gr.HTML()
    found = gr.Gallery(
        label=I18N("ranked"), columns=5, object_fit="contain", interactive=False, buttons=[], elem_id="found"
    )

    async def show(prompt: str, image: str | None, results: float, language: str) -> tuple[str, Any]:
        async def work() -> tuple[str, Any]:
            images = await service.run_scoring(lambda: index.search(prompt, image, results, service.limits))
            missing = sum(each.path is None for each in images)
            note = say("found_images", language, count=len(images), all=f"{len(index):,}")
            note += say("missing_images", language, count=missing) if missing else ""
            return html_parts.line(note), [_shown(each, language) for each in images]

        return await or_refusal_later(work, language, [])

    search.click(show, [prompt, image, results, language], [status, found], **PRIVATE)
    prompt.submit(show, [prompt, image, results, language], [status, found], **PRIVATE)


def _shown(found: FoundImage, language: str) -> tuple[Any, str]:
    """The image and what stands below it; a grey one where it can't be opened."""
    if found.path is None:
        return Image.new("RGB", (SIDE, SIDE), "lightgray"), say("missing_image", language, score=f"{found.score:.3f}")
    return str(found.path), f"{found.score:.3f} {found.caption}".strip()
