"""The tab that changes an image by a prompt or a brush."""

from __future__ import annotations

from typing import Any

import gradio as gr

from altdiffusion.generation.settings import settings_that_need
from altdiffusion.web import uploads
from altdiffusion.web.request import VisitorRequest
from altdiffusion.web.service import DemoService
from altdiffusion.web.tabs.controls import I18N, PRIVATE, cancels, controls, follow, stage, start_and_stop
from altdiffusion.web.tabs.prompt_box import prompt_box


def change_tab(service: DemoService, model: gr.Dropdown, language: gr.Radio, history: gr.State) -> None:
    with gr.Row():
        with gr.Column():
            gr.Markdown(I18N("paint"))
            editor = gr.ImageEditor(
                label=I18N("start_image"), type="pil", image_mode="RGBA", sources=["upload", "clipboard"], transforms=(),
                brush=gr.Brush(colors=["#f97316"], color_mode="fixed"), layers=False, buttons=[], elem_id="editor",
            )  # fmt: skip
            box = prompt_box(service, "change-prompt")
            go, stop = start_and_stop()
            settings = controls(service, change=True)
            box.count_tokens(service, model, language, settings)
        with gr.Column():
            shown = stage()

    def request(model: str, prompt: str, negative: str, editor: Any, *values: Any) -> VisitorRequest:
        image, mask = uploads.read_editor(editor, service.limits)
        said = settings.said(values, model=model, prompt=prompt, negative_prompt=negative)
        if mask is None:  # the components say something of it all the same
            said |= dict.fromkeys(settings_that_need("mask"))
        return service.read_request(said, image, mask)

    generating = go.click(
        follow(service, request),
        [language, history, model, box.prompt, box.negative, editor, *settings.inputs],
        [*shown.outputs, history],
        **PRIVATE,
    )
    cancels(stop, generating, language, [shown.status], [shown.preview])
