"""The tab that scores: heat map and bars, zero-shot labels, a ranking."""

from __future__ import annotations

from typing import Any

import gradio as gr

from altdiffusion.web import html_parts
from altdiffusion.web.request import read_lines
from altdiffusion.web.service import DemoService, Judged
from altdiffusion.web.tabs.controls import I18N, PRIVATE, or_refusal_later
from altdiffusion.web.translations import say


def score_tab(service: DemoService, model: gr.Dropdown, language: gr.Radio) -> None:
    longest = service.limits.text * service.limits.texts
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
            heat_map, bars = gr.HTML(elem_id="heat"), gr.HTML(elem_id="bars")
        with gr.Tab(I18N("classify"), elem_id="classify"):
            gr.Markdown(I18N("classify_about"))
            labels = gr.Textbox("猫\n狗\ncar", label=I18N("labels"), lines=3, max_length=longest, elem_id="labels")
            template = gr.Textbox("{}", label=I18N("template"), max_length=service.limits.text)
            classify = gr.Button(I18N("classify"), variant="primary", elem_classes="go")
            named = gr.HTML(elem_id="named")
        with gr.Tab(I18N("rank"), elem_id="rank"):
            prompt = gr.Textbox("一只猫", label=I18N("prompt"), max_length=service.limits.text, elem_id="rank-prompt")
            rank = gr.Button(I18N("rank"), variant="primary", elem_classes="go")
            problem = gr.HTML()
            ranked = gr.Gallery(label=I18N("ranked"), columns=4, interactive=False, buttons=[], elem_id="ranked")

    def numbered(count: int, language: str) -> list[str]:
        return [say("image_number", language, number=index + 1) for index in range(count)]

    async def show_scores(gallery: Any, prompts: str, model: str, language: str) -> tuple[str, str]:
        async def work() -> tuple[str, str]:
            texts = read_lines(prompts, service.limits)

            def scored() -> tuple[list[list[float]], list[Judged]]:
                cosines = service.score(service.open_images(paths(gallery)), texts, model)
                return cosines, service.judge(cosines, texts, model)

            scores, judgements = await service.run_scoring(scored)
            rows = numbered(len(scores), language)
            return (
                html_parts.heat_map(rows, texts, scores, say("heat_map", language)),
                html_parts.bars(rows, texts, scores, say("bars", language))
                + html_parts.judged(rows, texts, judgements, language),
            )

        return await or_refusal_later(work, language, "")

    async def show_labels(gallery: Any, labels: str, template: str, model: str, language: str) -> str:
        async def work() -> tuple[str, None]:
            names = read_lines(labels, service.limits)
            probabilities = await service.run_scoring(
                lambda: service.classify(service.open_images(paths(gallery)), names, template, model)
            )
            rows = numbered(len(probabilities), language)
            return html_parts.bars(rows, names, probabilities, say("classify", language), percent=True), None

        return (await or_refusal_later(work, language, None))[0]

    async def show_ranking(gallery: Any, prompt: str, model: str, language: str) -> tuple[str, Any]:
        async def work() -> tuple[str, Any]:
            files = paths(gallery)
            order = await service.run_scoring(lambda: service.rank(service.open_images(files), prompt, model))
            names = numbered(len(files), language)
            return "", [(files[index], f"{names[index]}: {score:.3f}") for index, score in order]

        return await or_refusal_later(work, language, [])

    score.click(show_scores, [pictures, prompts, model, language], [heat_map, bars], **PRIVATE)
    classify.click(show_labels, [pictures, labels, template, model, language], named, **PRIVATE)
    rank.click(show_ranking, [pictures, prompt, model, language], [problem, ranked], **PRIVATE)


def paths(gallery: Any) -> list[str]:
    """The files of a gallery's value."""
    return [path for path, *_ in gallery or []]
