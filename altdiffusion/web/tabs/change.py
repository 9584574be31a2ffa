"""The tab that changes an image by a prompt or a brush."""

from __future__ import annotations

from typing import Any

import gradio as gr

from altdiffusion.web import uploads
from altdiffusion.web.request import GenerateRequest
from altdiffusion.web.service import DemoService
from altdiffusion.web.tabs.controls import I18N, PRIVATE, cancels, controls, follow, stage, start_and_stop


def change_tab(studio: DemoService, model: gr.Dropdown, language: gr.Radio, history: gr.State) -> None:
    with gr.Row():
        with gr.Column():
            gr.Markdown(I18N("paint"))
            picture = gr.ImageEditor(
                label=I18N("start_picture"), type="pil", image_mode="RGBA", sources=["upload", "clipboard"], transforms=(),
                brush=gr.Brush(colors=["#f97316"], color_mode="fixed"), layers=False, buttons=[], elem_id="editor",
            )  # fmt: skip
            prompt = gr.Textbox(label=I18N("prompt"), lines=2, max_length=studio.limits.text, elem_id="change-prompt")
            negative = gr.Textbox(label=I18N("negative_prompt"), max_length=studio.limits.text)
            go, stop = start_and_stop()
            settings = controls(studio, strength=True)
        with gr.Column():
            shown = stage()

    def wish(model: str, prompt: str, negative: str, edited: Any, *values: Any) -> GenerateRequest:
        image, mask = uploads.edited(edited, studio.limits)
        return settings.wish(values, model=model, prompt=prompt, negative_prompt=negative, image=image, mask=mask)

    drawing = go.click(
        follow(studio, wish),
        [language, history, model, prompt, negative, picture, *settings.inputs],
        [*shown.outputs, history],
        **PRIVATE,
    )
    cancels(stop, drawing, language, [shown.status], [shown.preview])
