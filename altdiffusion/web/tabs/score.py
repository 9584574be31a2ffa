"""The tab that scores: heat map and bars, zero-shot labels, a ranking; and what the settings in an image look like."""

from __future__ import annotations

from typing import Any

import gradio as gr

from altdiffusion.web import html_parts, request
from altdiffusion.web.service import DemoService
from altdiffusion.web.tabs.controls import I18N, PRIVATE, told_later
from altdiffusion.web.translations import say


def score_tab(studio: DemoService, model: gr.Dropdown, language: gr.Radio) -> None:
    longest = studio.limits.text * studio.limits.texts
    pictures = gr.Gallery(
        label=I18N("pictures"), type="filepath", file_types=["image"], columns=4, interactive=True, buttons=[],
        sources=["upload"], elem_id="score-pictures",
    )  # fmt: skip
    with gr.Tabs():
        with gr.Tab(I18N("score"), elem_id="score"):
            gr.Markdown(I18N("score_about"))
            prompts = gr.Textbox(
                "一只猫\na dog", label=I18N("prompts"), lines=3, max_length=longest, elem_id="score-prompts"
            )
            score = gr.Button(I18N("score"), variant="primary", elem_classes="go")
            map_, bars = gr.HTML(elem_id="heat"), gr.HTML(elem_id="bars")
        with gr.Tab(I18N("classify"), elem_id="classify"):
            gr.Markdown(I18N("classify_about"))
            labels = gr.Textbox("猫\n狗\ncar", label=I18N("labels"), lines=3, max_length=longest, elem_id="labels")
            template = gr.Textbox("{}", label=I18N("template"), max_length=studio.limits.text)
            classify = gr.Button(I18N("classify"), variant="primary", elem_classes="go")
            named = gr.HTML(elem_id="named")
        with gr.Tab(I18N("rank"), elem_id="rank"):
            prompt = gr.Textbox("一只猫", label=I18N("prompt"), max_length=studio.limits.text, elem_id="rank-prompt")
            rank = gr.Button(I18N("rank"), variant="primary", elem_classes="go")
            problem = gr.HTML()
            ranked = gr.Gallery(label=I18N("ranked"), columns=4, interactive=False, buttons=[], elem_id="ranked")

    def numbered(count: int, language: str) -> list[str]:
        return [say("picture_number", language, number=number + 1) for number in range(count)]

    async def show_scores(gallery: Any, prompts: str, model: str, language: str) -> tuple[str, str]:
        async def work() -> tuple[str, str]:
            texts = request.lines(prompts, studio.limits)
            found = await studio.in_turn(lambda: studio.score(studio.pictures(paths(gallery)), texts, model))
            rows = numbered(len(found), language)
            return (
                html_parts.heat_map(rows, texts, found, say("heat_map", language)),
                html_parts.bars(rows, texts, found, say("bars", language)),
            )

        return await told_later(work, language, "")

    async def show_labels(gallery: Any, labels: str, template: str, model: str, language: str) -> str:
        async def work() -> tuple[str, None]:
            names = request.lines(labels, studio.limits)
            found = await studio.in_turn(
                lambda: studio.classify(studio.pictures(paths(gallery)), names, template, model)
            )
            rows = numbered(len(found), language)
            return html_parts.bars(rows, names, found, say("classify", language), percent=True), None

        return (await told_later(work, language, None))[0]

    async def show_ranking(gallery: Any, prompt: str, model: str, language: str) -> tuple[str, Any]:
        async def work() -> tuple[str, Any]:
            files = paths(gallery)
            found = await studio.in_turn(lambda: studio.rank(studio.pictures(files), prompt, model))
            names = numbered(len(files), language)
            return "", [(files[number], f"{names[number]}: {score:.3f}") for number, score in found]

        return await told_later(work, language, [])

    score.click(show_scores, [pictures, prompts, model, language], [map_, bars], **PRIVATE)
    classify.click(show_labels, [pictures, labels, template, model, language], named, **PRIVATE)
    rank.click(show_ranking, [pictures, prompt, model, language], [problem, ranked], **PRIVATE)


def paths(gallery: Any) -> list[str]:
    """The files of a gallery's value."""
    return [each[0] for each in gallery or []]
