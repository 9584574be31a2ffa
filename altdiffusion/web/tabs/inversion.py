"""The part of a tab that writes its prompt as a textual inversion; shown for models with a bridge at their CLIP's entrance."""

from __future__ import annotations

from typing import Any

import gradio as gr

from altdiffusion.web import html_parts
from altdiffusion.web.inversion import MAX_NAME
from altdiffusion.web.service import DemoService
from altdiffusion.web.tabs.controls import I18N, PRIVATE, Controls, or_refusal_later


def inversion_part(
    service: DemoService, model: gr.Dropdown, language: gr.Radio, prompt: gr.Textbox, settings: Controls
) -> None:
    """settings: of the tab, whose styles, syntax and route count. Nothing where no model of the page has such a bridge."""
    models = service.models
    if not any(map(models.takes_route, models.labels)):
        return
    with gr.Accordion(
        I18N("inversion"), open=False, visible=models.takes_route(models.labels[0]), elem_classes="inversion"
    ) as part:
        gr.Markdown(I18N("inversion_about"))
        name = gr.Textbox(
            label=I18N("inversion_name"), placeholder=I18N("inversion_name_hint"), max_length=2 * MAX_NAME
        )
        with gr.Row():
            write = gr.Button(I18N("invert"), size="sm", elem_classes="invert")
            download = gr.DownloadButton(
                I18N("download_inversion"), size="sm", interactive=False, elem_classes="download-inversion"
            )
        shown = gr.HTML()
    reads = {each: settings.parts[each] for each in ("styles", "prompt_syntax", "route")}

    async def invert(language: str, model: str, prompt: str, name: str, *values: Any) -> tuple[str, Any]:
        async def work() -> tuple[str, Any]:
            said = dict(zip(reads, values, strict=True)) | {"model": model, "prompt": prompt, "name": name}
            saved = await service.invert(said)
            return html_parts.inversion(saved, language), gr.DownloadButton(value=saved.path, interactive=True)

        return await or_refusal_later(work, language, gr.DownloadButton(value=None, interactive=False))

    write.click(invert, [language, model, prompt, name, *reads.values()], [shown, download], **PRIVATE)
    model.change(lambda label: gr.Accordion(visible=models.takes_route(label)), model, part, **PRIVATE)
