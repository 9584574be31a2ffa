"""The tab that generates images from a prompt."""

from __future__ import annotations

from typing import Any

import gradio as gr

from altdiffusion.web.grid import GridRequest, read_grid
from altdiffusion.web.request import VisitorRequest
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
from altdiffusion.web.tabs.inversion import inversion_part
from altdiffusion.web.tabs.prompt_box import prompt_box

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
    service: DemoService, model: gr.Dropdown, language: gr.Radio, history: gr.State
) -> tuple[gr.Textbox, gr.Textbox, Controls]:
    """Its prompt, its negative prompt and its settings: where the settings of an image are sent to."""
    with gr.Row():
        with gr.Column():
            box = prompt_box(service, "prompt", autofocus=True)
            prompt, negative = box.prompt, box.negative
            go, stop = start_and_stop()
            gr.Examples([[example] for example in EXAMPLES], prompt, label=I18N("examples"), api_visibility="private")
            settings = controls(service, sizes=True)
            box.count_tokens(service, model, language, settings)
            again = gr.Button(I18N("again"), size="sm", elem_classes="again")
            inversion_part(service, model, language, prompt, settings)
        with gr.Column():
            shown = stage()

    def request(model: str, prompt: str, negative: str, *values: Any) -> VisitorRequest | GridRequest:
        said = settings.said(values, model=model, prompt=prompt, negative_prompt=negative)
        return read_grid(service, said) if (said["grid"] or "").strip() else service.read_request(said)

    generating = go.click(
        follow(service, request),
        [language, history, model, prompt, negative, *settings.inputs],
        [*shown.outputs, history],
        **PRIVATE,
    )
    cancels(stop, generating, language, [shown.status], [shown.preview])
    again.click(_last_seed, shown.entries, settings.parts["seed"], **PRIVATE)
    return prompt, negative, settings


def _last_seed(entries: list[Entry]) -> str:
    return str(min(seed for *_, seed in entries)) if entries else ""
