"""All stages of reading a prompt, in order: choices, LoRAs, editing, weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Literal

from altdiffusion.errors import InputError
from altdiffusion.prompt_syntax.choices import every_option, expand_choices, first_choice
from altdiffusion.prompt_syntax.editing import every_branch, schedule
from altdiffusion.prompt_syntax.loras import LoraTag, take_loras
from altdiffusion.prompt_syntax.tokens import BracketedPrompt
from altdiffusion.prompt_syntax.weights import parse_weights

# "lenient" reads what is malformed as A1111 does, where "webui" refuses it; "none": brackets are text
PromptSyntax = Literal["webui", "lenient", "none"]
DEFAULT_STEPS = 50  # where the caller has none
MAX_CHECKED = 200


def plain_text(prompt: str, syntax: PromptSyntax = "webui", steps: int = DEFAULT_STEPS) -> str:
    """What a prompt says without any syntax, for scoring: the first choices, and the text of the last step.

    Raises InputError for what is malformed.
    """
    if syntax == "none":
        return prompt
    lenient = syntax == "lenient"
    text, _ = take_loras(first_choice(prompt, lenient), lenient)
    return parse_weights(schedule(text, steps, lenient)[-1].prompt, lenient).text


def only_words(prompt: str, syntax: PromptSyntax = "webui") -> str:
    """The text of a prompt for a textual inversion, which keeps nothing but words. Escaped backquotes become double ones.

    Raises InputError for what is malformed, and for weights, breaks, choices, LoRAs and words that change over the steps.
    """
    if syntax == "none":
        return prompt
    lenient = syntax == "lenient"
    choices = expand_choices(prompt.replace("\\`", "``"), lenient=lenient)  # backquotes are read behind this syntax
    text, loras = take_loras(choices[0], lenient)
    parts = schedule(text, DEFAULT_STEPS, lenient)
    weighted = parse_weights(parts[0].prompt, lenient)
    if not weighted.text.strip():
        raise InputError(f"prompt: {prompt.strip()!r} has no words")
    for found, what, remedy in (
        (len(choices) > 1, "choices", "write each out as a prompt of its own"),
        (loras, "LoRAs", "leave them out"),
        (len(parts) > 1, "words that change over the steps", "write each out as a prompt of its own"),
        (weighted.breaks, "breaks", "write each part as a prompt of its own"),
        (not weighted.is_plain, "weights", "leave them out, and weigh the inversion's name in the prompts that use it"),
    ):
        if found:
            shown = prompt if len(prompt) <= 40 else f"{prompt[:39]}…"
            raise InputError(
                f"a textual inversion can't keep {what}, “{shown}”: {remedy} (--prompt-syntax none: brackets are text)"
            )
    return weighted.text


def choices_of(prompt: str, syntax: PromptSyntax = "webui") -> list[str]:
    """Every combination of a prompt's choices. Raises as `expand_choices`."""
    return [prompt] if syntax == "none" else expand_choices(prompt, lenient=syntax == "lenient")


def lora_tags(prompt: str, syntax: PromptSyntax = "webui") -> tuple[LoraTag, ...]:
    """The LoRAs of a prompt whose choices are made. Raises InputError for one that is named twice."""
    if syntax == "none":
        return ()
    _, tags = take_loras(prompt, syntax == "lenient")
    names = [tag.name for tag in tags]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"a prompt names the LoRA {twice[0]} twice: expected one weight for it")
    return tags


def lora_names(prompts: Iterable[str], syntax: PromptSyntax = "webui") -> Iterator[str]:
    """The names of all LoRAs in prompts, in any of their choices."""
    for prompt in prompts if syntax != "none" else ():
        for choice in choices_of(prompt, syntax):
            yield from (tag.name for tag in lora_tags(choice, syntax))


def check(prompt: str, steps: int = DEFAULT_STEPS) -> None:
    """Raise InputError for the first malformed part of a prompt, in any of its choices and at any step, and for syntax alone.

    Every part is read once, not in all combinations, and at most MAX_CHECKED texts: prompts come from strangers. What is
    malformed in others is refused when these are encoded.
    """
    BracketedPrompt(prompt, brackets="()[]{}")  # first of all, so that an error's character is the one in this prompt
    left, has_text = MAX_CHECKED, not prompt.strip()
    for choice in islice(every_option(prompt), MAX_CHECKED):
        lora_tags(choice)
        text, _ = take_loras(choice)
        for part in islice(every_branch(text, steps), max(1, left)):
            has_text |= bool(parse_weights(part).text.strip())
            left -= 1
    if not has_text:
        raise InputError(f"prompt: {prompt.strip()!r} has no words: expected some, as in (cat:1.2)")
