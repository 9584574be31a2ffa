"""The text that soft and literal tokens are read from again: literal words in backquotes where they need them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from altdiffusion.prompt_syntax.clauses import CLAUSE_ENDS, clauses_of
from altdiffusion.prompt_syntax.route import HOLE
from altdiffusion.text_encoder.soft_prompts import SoftText

_SIGNS = "".join(CLAUSE_ENDS) + " "
WrittenPart = tuple[str, Literal["soft", "literal", "inner"]]  # inner: literal in the midst of what a bridge reads


class SoftRun(NamedTuple):
    """Tokens of a text that follow one another: those from `first` up to `end`."""

    soft: SoftText
    first: int
    end: int


def written_parts(runs: Sequence[SoftRun | str]) -> list[WrittenPart]:
    """The parts of a prompt, in its order, from its tokens in theirs. runs: soft tokens, and the texts of literal ones.

    Literal words stand in the midst of a clause where the bridge put them among its tokens: before, within or behind these.
    """
    parts: list[WrittenPart] = []
    for at, run in enumerate(runs):
        before, behind = (runs[there] if 0 <= there < len(runs) else None for there in (at - 1, at + 1))
        if isinstance(run, SoftRun):
            text, hole = run.soft.text, run.soft.hole
            is_opened = (
                isinstance(before, str) and hole == run.first
            )  # then the literal words brought the text with them
            if hole is None or not (is_opened or run.first):
                parts.append((text.partition(HOLE)[0], "soft"))
            continue
        left = before.soft if isinstance(before, SoftRun) and before.soft.hole == before.end else None
        right = behind.soft if isinstance(behind, SoftRun) and behind.soft.hole == behind.first else None
        if left is not None:
            inner, run = (run, "") if right is left else _after_clause(run)
            parts += [(inner, "inner"), (left.text.partition(HOLE)[2], "soft")]
        if right is None or right is left:
            parts.append((run, "literal"))
        else:
            start = clauses_of(run)[-1][0]
            first, _, last = right.text.partition(HOLE)
            parts += [(run[:start], "literal"), (first, "soft"), (run[start:], "inner"), (last, "soft")]
    return [part for part in parts if part[0]]


def joined(parts: Sequence[WrittenPart], quoted: bool = False) -> str:
    """The text. Soft neighbours were cut from one text, others stand apart. quoted: literal words in backquotes."""
    text, previous = "", "literal"
    for part, kind in parts:
        apart = "literal" in (kind, previous) and bool(text) and not text.endswith(" ")
        written = _quoted(part) if quoted and kind != "soft" else part
        text += " " * apart + written
        previous = kind
    return text


def _quoted(text: str) -> str:
    """In backquotes, but for the signs around the words: where they end a clause is to be seen."""
    words = text.strip(_SIGNS)
    before, _, behind = text.partition(words) if words else (text, "", "")
    return before + f"`{words.replace('`', '``')}`" * bool(words) + behind


def _after_clause(text: str) -> tuple[str, str]:
    """A text's first clause without the signs behind it, and what follows."""
    end = len(text[: clauses_of(text)[0][1]].rstrip(_SIGNS))
    return text[:end], text[end:]
