"""The tab that reads the settings inside an image."""

from __future__ import annotations

from typing import Any

import gradio as gr

from altdiffusion.generation.settings import Settings
from altdiffusion.web import html_parts
from altdiffusion.web.service import DemoService
from altdiffusion.web.tabs import controls
from altdiffusion.web.tabs.controls import I18N, PRIVATE, Controls
from altdiffusion.web.translations import TEXTS, say


def read_tab(
    studio: DemoService,
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
        return controls.told(lambda: settings_found(studio, path, language), language, None)

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


def settings_found(studio: DemoService, path: str, language: str) -> tuple[str, Settings]:
    """The settings in an image, to see and to send."""
    found, changed = studio.read_settings(path)
    pairs = [
        (say(name, language), str(getattr(found, name)))
        for name in ("prompt", "negative_prompt", "steps", "guidance_scale", "scheduler", "seed", "width", "height")
        if getattr(found, name) not in (None, "")
    ]
    names = ", ".join(say(name, language) for name in changed if name in TEXTS)
    return html_parts.found_settings(pairs, say("clamped", language, names=names) if names else ""), found
