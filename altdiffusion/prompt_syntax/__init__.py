"""Prompts as people write them in AUTOMATIC1111's web UI and its relatives, read into plain text and what acts on it.

The stages, in order: `expand_choices` or `choose`, `take_loras`, `schedule` (prompt editing over steps), `parse_weights`.
Escapes such as `\\(` stay in the prompt until the last stage. docs/prompts.md has the grammar. Pure Python, no torch.
"""

from altdiffusion.prompt_syntax.choices import choose, expand_choices
from altdiffusion.prompt_syntax.editing import ScheduledPrompt, schedule
from altdiffusion.prompt_syntax.loras import LoraTag, take_loras
from altdiffusion.prompt_syntax.route import Route, Stretch, stretches
from altdiffusion.prompt_syntax.stages import (
    PromptSyntax,
    check,
    choices_of,
    lora_names,
    lora_tags,
    only_words,
    plain_text,
)
from altdiffusion.prompt_syntax.weights import Span, WeightedPrompt, parse_weights

__all__ = [
    "LoraTag",
    "PromptSyntax",
    "Route",
    "ScheduledPrompt",
    "Span",
    "Stretch",
    "WeightedPrompt",
    "check",
    "choices_of",
    "choose",
    "expand_choices",
    "lora_names",
    "lora_tags",
    "only_words",
    "parse_weights",
    "plain_text",
    "schedule",
    "stretches",
    "take_loras",
]
