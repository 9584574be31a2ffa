"""Variants of a prompt: every combination of settings that `--grid` names, and of the prompt's choices {a|b}.

    variants(settings, parse_grid("steps=10,20 guidance_scale=3,7")).settings   # 4 of them, the last axis changing fastest

Light on purpose: no torch.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from altdiffusion.errors import InputError
from altdiffusion.generation.settings import ASKED, ImageSettings, settings_with, with_size
from altdiffusion.prompt_syntax import choices_of
from altdiffusion.settings import suggest

MAX_CELLS = 1000  # of one prompt
FORM = '"steps=10,20 guidance_scale=3,7": names of settings with their values, quotes around spaces and commas'
NAMES = tuple(name for name in ASKED if name not in ("prompt", "mask", "init_image"))


@dataclass(frozen=True)
class Axis:
    """A setting and the values that it takes. labels: what stands for each on a contact sheet."""

    name: str
    labels: tuple[str, ...]
    changes: tuple[dict[str, Any], ...]  # the settings that each sets

    @property
    def sets(self) -> frozenset[str]:
        """The names of these settings: its own, or width and height of a size."""
        return frozenset(self.changes[0])


@dataclass(frozen=True)
class Variants:
    """A prompt's variants, the last axis changing fastest; without axes it is one."""

    axes: tuple[tuple[str, ...], ...]  # the labels of each
    settings: tuple[ImageSettings, ...]


def parse_grid(text: str) -> list[Axis]:
    """The axes in a text such as "steps=10,20 scheduler=ddim,'DPM++ 2M Karras'", quoted as in a shell.

    Raises InputError: a name that is no setting, a value out of its range, one that is given twice, more than MAX_CELLS.
    """
    axes: list[Axis] = []
    for name, values in _words(text):
        if name == "prompt":
            raise InputError("prompt: give several prompts, or write {a|b} in one")
        if name not in NAMES:
            raise InputError(
                f"{name} is no setting of a grid{suggest(name, NAMES) or ': expected ' + ', '.join(NAMES)}"
            )
        if twice := [value for index, value in enumerate(values) if value in values[:index]]:
            raise InputError(f"{name}: {twice[0]} is there twice")
        changes = tuple(_checked(name, value) for value in values)
        if any(axis.sets & changes[0].keys() for axis in axes):
            raise InputError(f"{name} is there twice: write its values after each other, with commas")
        axes.append(Axis(name, tuple(f"{name}={value}" for value in values), changes))
    if not axes:
        raise InputError(f"expected {FORM}, got {text!r}")
    _check_count(math.prod(len(axis.labels) for axis in axes))
    return axes


def variants(settings: ImageSettings, axes: Sequence[Axis]) -> Variants:
    """Every choice {a|b} of the prompt with every combination of the axes' values. Raises InputError."""
    choices = choices_of(settings.prompt, settings.prompt_syntax)
    of_prompt = Axis("prompt", tuple(choices), tuple({"prompt": choice} for choice in choices))
    every = [of_prompt, *axes] if len(choices) > 1 else list(axes)
    _check_count(math.prod(len(axis.labels) for axis in every))
    return Variants(tuple(axis.labels for axis in every), tuple(settings.replace(**one) for one in combinations(every)))


def combinations(axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """What each combination of the axes' values sets, the last axis changing fastest."""
    every = product(*(axis.changes for axis in axes))
    return [{name: value for change in changes for name, value in change.items()} for changes in every]


def _words(text: str) -> list[tuple[str, list[str]]]:
    """(name, values) of each axis: a word after a comma is one more value, any other begins an axis."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=",")
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        tokens = list(lexer)
    except ValueError as error:
        raise InputError(f"{text!r}: {str(error).lower()}: close the quote") from None
    axes: list[tuple[str, list[str]]] = []
    after_comma = False
    for token in tokens:
        if token == "," and axes and not after_comma:
            after_comma = True
        elif token.startswith(","):
            raise InputError(f"a comma without a value in {text!r}: expected {FORM}")
        elif after_comma:
            axes[-1][1].append(token)
            after_comma = False
        elif "=" in token:
            name, _, value = token.partition("=")
            axes.append((name.strip().replace("-", "_"), [value]))
        else:
            raise InputError(f"{token!r} is no NAME=VALUES: expected {FORM}, values with spaces in quotes")
    if after_comma:
        raise InputError(f"a comma without a value in {text!r}: expected {FORM}")
    return axes


def _checked(name: str, value: str) -> dict[str, Any]:
    """What a value sets. Raises InputError where its setting can't have it."""
    beside: dict[str, Any] = {"prompt": "x"}
    if name in settings_with("needs"):
        beside |= {"init_image": "x", "mask": "x"}
    if name in ("width", "height"):
        beside |= {"width": 8, "height": 8}
    change = with_size({name: value})
    checked = ImageSettings(**(beside | change))
    return {name: getattr(checked, name) for name in change}


def _check_count(count: int) -> None:
    if count > MAX_CELLS:
        raise InputError(f"{count} combinations of one prompt: expected at most {MAX_CELLS}")
