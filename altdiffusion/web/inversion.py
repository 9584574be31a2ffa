"""A visitor's prompt as a textual inversion: what `altdiffusion invert` writes, by the bridge of a model on the page."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from altdiffusion.checkpoints.textual_inversions import ENDINGS, check_name, notes_of, save_textual_inversion
from altdiffusion.errors import InputError
from altdiffusion.generation.result import stem_of
from altdiffusion.prompt_syntax import check, only_words
from altdiffusion.prompts.inversion import PromptInverter
from altdiffusion.text_encoder.soft_tokenizer import routed
from altdiffusion.web.limits import Limits
from altdiffusion.web.model_pool import Models
from altdiffusion.web.request import check_setting, clean_text
from altdiffusion.web.translations import Refused

MAX_NAME = 40  # characters


@dataclass(frozen=True)
class SavedInversion:
    """document: of `Inversion`. is_word: whether its name is a word of CLIP's, which web UIs would replace in every prompt."""

    path: Path
    document: dict[str, Any]
    is_word: bool


def write_inversion(said: Mapping[str, Any], models: Models, limits: Limits, folder: Path) -> SavedInversion:
    """Write what a visitor's prompt becomes into a folder of its own, in `folder`. Raises Refused.

    said: prompt, model, prompt_syntax and route as for an image; and name, as it will stand in prompts, "" for the prompt's
        first words. One that ends in .pt gives A1111's own layout.
    """
    label = models.label(said.get("model"))
    if (bridge := models.bridge(label)) is None:
        raise Refused("no_inversion")
    prompt = clean_text(said.get("prompt") or "", limits)
    if not prompt.strip():
        raise Refused("no_prompt")
    syntax, route = (check_setting(name, said.get(name), limits) for name in ("prompt_syntax", "route"))
    _check_words(prompt, syntax or "webui")
    name = _file_name(said.get("name"), prompt, limits)
    tokenizer = models.tokenizer(label)
    inverter = PromptInverter(routed(tokenizer, route))
    try:
        inversion = inverter.invert(prompt, syntax or "webui")
    except InputError as error:
        raise Refused("bad_prompt", problem=error) from None
    soft_prompts = tokenizer.soft_prompts
    notes = notes_of(prompt, bridge, route or soft_prompts.route, sorted(soft_prompts.literal_words))
    path = Path(tempfile.mkdtemp(dir=folder)) / name
    save_textual_inversion(inversion.vectors, path, notes=notes | {"english": inversion.english})
    return SavedInversion(path, inversion.document(path.stem), inverter.is_word(path.stem))


def _check_words(prompt: str, syntax: Any) -> None:
    """Raises Refused for what is malformed, and for what an inversion can't keep."""
    try:
        if syntax == "webui":
            check(prompt)
    except InputError as error:
        raise Refused("bad_prompt", problem=error) from None
    try:
        only_words(prompt, syntax)
    except InputError:
        raise Refused("only_words") from None


def _file_name(said: Any, prompt: str, limits: Limits) -> str:
    """Raises Refused for a name that can't stand in prompts."""
    name = clean_text(said or "", limits).strip()
    ending = next((ending for ending in ENDINGS if name.lower().endswith(ending)), "")
    name = name[: len(name) - len(ending)] or stem_of(prompt) or "my-prompt"
    try:
        check_name(name)
    except InputError:
        raise Refused("bad_inversion_name", most=MAX_NAME) from None
    if len(name) > MAX_NAME:
        raise Refused("bad_inversion_name", most=MAX_NAME)
    return name + (ending or ENDINGS[0])
