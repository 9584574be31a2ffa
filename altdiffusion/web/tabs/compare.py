"""The tab that compares: the same seed on both sides, in two languages or by two models."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import gradio as gr

from altdiffusion.web import html_parts
from altdiffusion.web.draw_queue import Generating
from altdiffusion.web.service import DemoService, Finished
from altdiffusion.web.tabs.controls import I18N, KEPT, PRIVATE, Entry, cancels, controls, entry, sorry
from altdiffusion.web.tabs.prompt_box import WEIGHTS

SIDES = ("left", "right")
EXAMPLES = [("一只猫", "a cat"), ("红苹果", "red apple"), ("кошка", "قطة")]


def compare_tab(service: DemoService, model: gr.Dropdown, language: gr.Radio, history: gr.State) -> None:
    labels = service.models.labels
    gr.Markdown(I18N("compare_about"))
    models, prompts, statuses, images = [], [], [], []
    with gr.Row():
        for index, side in enumerate(SIDES):
            with gr.Column(min_width=240), gr.Group():
                models.append(
                    gr.Dropdown(labels, value=labels[min(index, len(labels) - 1)], label=I18N(f"{side}_model"))
                )
                prompts.append(
                    gr.Textbox(
                        "一只猫",
                        label=I18N(f"{side}_prompt"),
                        max_length=service.limits.text,
                        elem_id=f"prompt-{side}",
                        elem_classes=WEIGHTS,
                    )
                )
    with gr.Row():
        go = gr.Button(I18N("compare"), variant="primary", elem_classes="go")
        stop = gr.Button(I18N("cancel"), variant="stop", elem_classes="stop")
    settings = controls(service, sizes=True, several=False)
    with gr.Row():
        for side in SIDES:
            with gr.Column(min_width=240):
                statuses.append(gr.HTML(html_parts.line("")))
                images.append(
                    gr.Image(
                        label=I18N(side),
                        interactive=False,
                        type="filepath",
                        buttons=["download", "fullscreen"],
                        height=320,
                        elem_classes="preview",
                    )
                )
    examples = gr.Dataset(
        components=["textbox", "textbox"], samples=[list(pair) for pair in EXAMPLES], type="tuple", layout="gallery",
        sample_labels=[" ⇄ ".join(pair) for pair in EXAMPLES], label=I18N("examples"),
    )  # fmt: skip
    examples.click(lambda chosen: list(EXAMPLES[chosen[0]]), examples, prompts, **PRIVATE)

    async def compare(language: str, history: list[Entry], *values: Any) -> AsyncGenerator[Any, None]:
        keep = gr.skip()
        try:
            said = [
                settings.said(values[4:], model=values[side], prompt=values[2 + side], images=1, best_of=0)
                for side in (0, 1)
            ]
            left, right = map(service.read_request, said)
            async with aclosing(service.compare(left, right)) as updates:
                async for side, news in updates:
                    shown: list[Any] = [keep] * 5
                    if isinstance(news, Finished):
                        image = entry(news.images[0], language)
                        history = [image, *history][:KEPT]
                        shown[side], shown[2 + side], shown[4] = html_parts.line(image[2]), image[0], history
                    else:
                        shown[side] = html_parts.status(news, language)
                        if isinstance(news, Generating) and news.preview is not None:
                            shown[2 + side] = news.preview
                    yield shown
        except Exception as error:
            yield [html_parts.refusal(sorry(error, language)), keep, keep, keep, keep]

    inputs = [language, history, *models, *prompts, *settings.inputs]
    generating = go.click(compare, inputs, [*statuses, *images, history], **PRIVATE)
    cancels(stop, generating, language, statuses, [])
