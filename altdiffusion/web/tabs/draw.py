"""The tab that draws."""

from __future__ import annotations

from typing import Any

import gradio as gr

from altdiffusion.web.request import GenerateRequest
from altdiffusion.web.service import DemoService
from altdiffusion.web.tabs.controls import (
    I18N,
    PRIVATE,
    Controls,
    Entry,
    cancels,
    controls,
    follow,
    stage,
    start_and_stop,
)

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


def draw_tab(
    studio: DemoService, model: gr.Dropdown, language: gr.Radio, history: gr.State
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
            go, stop = start_and_stop()
            gr.Examples([[each] for each in EXAMPLES], prompt, label=I18N("examples"), api_visibility="private")
            settings = controls(studio, sizes=True)
            again = gr.Button(I18N("again"), size="sm", elem_classes="again")
        with gr.Column():
            shown = stage()

    def wish(model: str, prompt: str, negative: str, *values: Any) -> GenerateRequest:
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
