"""The tab that reads the settings inside an image."""

from __future__ import annotations

from typing import Any

import gradio as gr

from altdiffusion.generation.settings import ImageSettings
from altdiffusion.web import html_parts
from altdiffusion.web.request import TEXT_TO_IMAGE
from altdiffusion.web.service import DemoService
from altdiffusion.web.tabs.controls import I18N, PRIVATE, Controls, or_refusal
from altdiffusion.web.translations import TEXTS, say


def read_tab(
    service: DemoService,
    language: gr.Radio,
    tabs: gr.Tabs,
    prompt: gr.Textbox,
    negative: gr.Textbox,
    settings: Controls,
) -> None:
    """prompt, negative, settings: of the tab that what is read can be sent to."""
    endings = [".png", ".jpg", ".jpeg", ".webp", ".avif"]
    file = gr.File(label=I18N("read_image"), file_types=endings, type="filepath", elem_id="settings-file")
    shown = gr.HTML(label=I18N("found_settings"))
    kept = gr.State(None, time_to_live=24 * 3600)
    send = gr.Button(I18N("send"), variant="primary", elem_classes="send")
    places = {"prompt": prompt, "negative_prompt": negative} | settings.parts
    names = [name for name in TEXT_TO_IMAGE if name in places]

    def read(path: str | None, language: str) -> tuple[str, Any]:
        if not path:
            return "", None
        return or_refusal(lambda: read_settings(service, path, language), language, None)

    def send_to_draw(sent: ImageSettings | None) -> list[Any]:
        if sent is None:
            return [gr.skip()] * (2 + len(names))
        values = dict(sent) | {"scheduler": sent.scheduler or "", "seed": "" if sent.seed is None else str(sent.seed)}
        shape = "exact" if sent.width and sent.height else "1:1"
        return [shape, [], *(gr.skip() if values[name] is None else values[name] for name in names)]

    file.change(read, [file, language], [shown, kept], **PRIVATE)
    # the prompt of an image is in its styles already
    send.click(
        send_to_draw, kept, [places["shape"], places["styles"], *(places[name] for name in names)], **PRIVATE
    ).then(lambda: gr.Tabs(selected="draw"), None, tabs, **PRIVATE)


def read_settings(service: DemoService, path: str, language: str) -> tuple[str, ImageSettings]:
    """The settings in an image, to see and to send."""
    settings, changed = service.read_settings(path)
    known = [(name, getattr(settings, name)) for name in TEXT_TO_IMAGE if getattr(settings, name) not in (None, "")]
    pairs = [(_label(name, language), str(value)) for name, value in known]
    names = ", ".join(_label(name, language) for name in changed)
    return html_parts.settings_list(pairs, say("clamped", language, names=names) if names else ""), settings


def _label(name: str, language: str) -> str:
    return say(name, language) if name in TEXTS else name.replace("_", " ")
