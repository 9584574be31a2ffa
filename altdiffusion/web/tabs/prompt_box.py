"""The prompt and the negative prompt, and under them how many tokens a model reads of them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import gradio as gr

from altdiffusion.web import html_parts
from altdiffusion.web.service import DemoService
from altdiffusion.web.tabs.controls import I18N, PRIVATE, Controls, or_refusal_later

PAUSE = 0.2  # seconds between two counts of what one visitor types

# The class of text fields in which prompt_weights.js changes weights by Ctrl+Up and Ctrl+Down.
WEIGHTS = "weights"


@dataclass
class PromptBox:
    """counter: a line, or what is malformed. pieces: what the model reads, unfolded on request."""

    prompt: gr.Textbox
    negative: gr.Textbox
    counter: gr.HTML
    pieces: gr.HTML

    def count_tokens(self, service: DemoService, model: gr.Dropdown, language: gr.Radio, settings: Controls) -> None:
        """Count them again whenever what is written changes, or what reads it; of quick changes the last is counted."""
        names = ("styles", "prompt_syntax", "route", "steps", "strength")
        reads = {name: settings.parts[name] for name in names if name in settings.parts}

        async def count(language: str, model: str, prompt: str, negative: str, *values: Any) -> tuple[str, str]:
            await asyncio.sleep(PAUSE)

            async def work() -> tuple[str, str]:
                said = dict(zip(reads, values, strict=True)) | {"model": model}
                styled = service.with_styles(said | {"prompt": prompt, "negative_prompt": negative})
                read, not_wanted = [
                    await service.tokens(said | {"styles": [], "prompt": styled[name]})
                    for name in ("prompt", "negative_prompt")
                ]
                return html_parts.token_counter(read, not_wanted, language), html_parts.token_pieces(read, language)

            return await or_refusal_later(work, language, "", html_parts.token_problem)

        inputs = [language, model, self.prompt, self.negative, *reads.values()]
        gr.on(
            [each.change for each in inputs], count, inputs, [self.counter, self.pieces],
            trigger_mode="always_last", **PRIVATE,
        )  # fmt: skip


def prompt_box(service: DemoService, elem_id: str, **first: Any) -> PromptBox:
    """elem_id: of the prompt. first: more about its field."""
    longest = service.limits.text
    prompt = gr.Textbox(
        label=I18N("prompt"), placeholder=I18N("prompt_hint"), lines=2, max_length=longest, elem_id=elem_id,
        elem_classes=WEIGHTS, **first,
    )  # fmt: skip
    counter = gr.HTML(html_parts.token_line(""), padding=False, elem_classes="counter")
    negative = gr.Textbox(
        label=I18N("negative_prompt"), placeholder=I18N("negative_hint"), max_length=longest, elem_classes=WEIGHTS
    )
    with gr.Accordion(I18N("pieces"), open=False, elem_classes="unfold-pieces"):
        pieces = gr.HTML()
    return PromptBox(prompt, negative, counter, pieces)
