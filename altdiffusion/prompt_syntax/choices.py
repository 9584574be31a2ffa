"""Choices, as in dynamic prompts: {a|b} is one of them, {a|b} of several braces every combination."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from math import prod

from altdiffusion.errors import InputError
from altdiffusion.prompt_syntax.tokens import BracketedPrompt, malformed

MAX_COMBINATIONS = 1000

_NOT_READ = re.compile(r"\s*(?:\d[\d-]*\$\$|[\d.]+::)")  # dynamic prompts' {2$$a|b} and {0.5::a|b}


def expand_choices(prompt: str, limit: int = MAX_COMBINATIONS, lenient: bool = False) -> list[str]:
    """Every combination of a prompt's choices, the last braces changing fastest; [prompt] if it has none.

    Raises InputError for more than `limit`, for unbalanced brackets and for braces without a choice; lenient: these are text.
    """
    nodes = _read(prompt, lenient)
    if _count(nodes) > limit:
        raise InputError(f"prompt: its choices {{a|b}} have more than {limit} combinations: use fewer")
    return list(_combinations(nodes))


def choose(prompt: str, seed: int, lenient: bool = False) -> str:
    """One combination, the same for the same seed, each option as likely as its neighbours. Raises as `expand_choices`."""
    generator = random.Random(seed)
    # not generator.choice: only random() promises equal numbers in every version of Python
    return _pick(_read(prompt, lenient), lambda number: int(generator.random() * number))


def first_choice(prompt: str, lenient: bool = False) -> str:
    """The first combination. Raises as `expand_choices`."""
    return _pick(_read(prompt, lenient), lambda number: 0)


def every_option(prompt: str) -> Iterator[str]:
    """Combinations in which every option is once, the other braces at their first: few, where `expand_choices` has many.

    Raises as `expand_choices`.
    """
    nodes = _read(prompt, lenient=False)
    if _count(nodes) > MAX_COMBINATIONS:
        raise InputError(f"prompt: its choices {{a|b}} have more than {MAX_COMBINATIONS} combinations: use fewer")
    return _covering(nodes)


@dataclass(frozen=True)
class _Choice:
    options: list[list[Node]]


Node = str | _Choice


def _count(nodes: list[Node]) -> int:
    return prod(sum(map(_count, node.options)) for node in nodes if isinstance(node, _Choice))


def _combinations(nodes: list[Node]) -> Iterator[str]:
    alternatives = (
        [node] if isinstance(node, str) else [text for option in node.options for text in _combinations(option)]
        for node in nodes
    )
    return map("".join, product(*alternatives))


def _covering(nodes: list[Node]) -> Iterator[str]:
    first = [node if isinstance(node, str) else _pick(node.options[0], lambda number: 0) for node in nodes]
    yield "".join(first)
    for place, node in enumerate(nodes):
        for option in () if isinstance(node, str) else node.options:
            yield from ("".join([*first[:place], text, *first[place + 1 :]]) for text in _covering(option))


def _pick(nodes: list[Node], index_of: Callable[[int], int]) -> str:
    return "".join(
        node if isinstance(node, str) else _pick(node.options[index_of(len(node.options))], index_of) for node in nodes
    )


def _read(prompt: str, lenient: bool) -> list[Node]:
    if not re.search("[{}｛｝]", prompt):
        return [prompt]
    source = BracketedPrompt(prompt, brackets="()[]{}", lenient=lenient)
    return _nodes(source, 0, len(source.tokens), lenient)


def _nodes(source: BracketedPrompt, start: int, end: int, lenient: bool) -> list[Node]:
    nodes: list[Node] = []
    while start < end:
        token = source.tokens[start]
        options = _options(source, start, lenient) if token.kind == "{" and start in source.pairs else None
        if options is None:
            nodes.append(token.text)
            start += 1
        else:
            nodes.append(_Choice(options))
            start = source.pairs[start] + 1
    return nodes


def _options(source: BracketedPrompt, opened: int, lenient: bool) -> list[list[Node]] | None:
    """What braces give to choose from; None where they are text."""
    cuts = list(source.cuts(opened, "|"))
    parts = [(start + 1, end) for start, end in pairwise([opened, *cuts, source.pairs[opened]])]
    unread = [part for part in parts if _NOT_READ.match(source.text(*part))]
    if cuts and not unread:
        return [_nodes(source, *part, lenient) for part in parts]
    if lenient:
        return None
    problem = "numbers of options and their weights aren't read" if unread else "there is nothing to choose from"
    remedy = "expected {a|b}; write \\{ for a brace that is text, (word:1.1) for a weight"
    shown = source.text(opened, source.pairs[opened] + 1)
    raise malformed(source.prompt, source.tokens[opened].at, problem, remedy, shown)
