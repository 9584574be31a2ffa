"""Weights: (word), ((word)), (word:1.2), [word], and BREAK, read into plain text and the weights of its stretches."""

from __future__ import annotations

import re
from dataclasses import dataclass

from altdiffusion.errors import InputError
from altdiffusion.prompt_syntax.tokens import BracketedPrompt, Token, ascii_number, is_prose, malformed, tokenize

ROUND = 1.1  # the factor of (word); [word] divides by it. As in A1111's web UI.
MAX_WEIGHT = 10.0
_MAX_OPEN = 50  # brackets that are open at once, lenient: more are text
_HUGE = 1e30  # what weights in weights may give, lenient: a number for all that

_SYNTAX = re.compile(r"[\\()\[\]（）［］]|BREAK")
_BREAK = re.compile(r"(?:(?<!\s)\s+)?(?a:\b)BREAK(?a:\b)\s*")  # ASCII's idea of a word: 猫BREAK狗 is a break, too


@dataclass(frozen=True)
class Span:
    """The characters `start` to `end` (excluded) of a prompt's text, which share a weight."""

    start: int
    end: int
    weight: float


@dataclass(frozen=True)
class WeightedPrompt:
    """A prompt without its syntax, and what the syntax said.

    text: what the tokenizer reads, as a whole.
    spans: the weights, in order; they touch and cover all of `text`.
    breaks: for each BREAK, for which a space stands, the offset in `text` after it. A token that ends behind that offset
        belongs to the next chunk.
    """

    text: str
    spans: tuple[Span, ...]
    breaks: tuple[int, ...]

    @property
    def is_plain(self) -> bool:
        """Every weight is 1, and there is no break."""
        return not self.breaks and all(span.weight == 1 for span in self.spans)


def parse_weights(prompt: str, lenient: bool = False) -> WeightedPrompt:
    """The plain text of a prompt, with the weights of its stretches and its breaks.

    Raises InputError for unbalanced brackets and for weights that aren't a number from 0 to 10.
    lenient: these are read as A1111 reads them instead: an open bracket reaches to the end, others are text, any number goes.
    """
    if not _SYNTAX.search(prompt):
        return WeightedPrompt(prompt, (Span(0, len(prompt), 1.0),) if prompt else (), ())
    tokens = tokenize(prompt) if lenient else BracketedPrompt(prompt).tokens
    pieces = _Pieces()
    opened: list[tuple[str, int]] = []  # brackets that are open, each with the index of its first piece

    def close(bracket: str, factor: float) -> bool:
        """Weight what the last such bracket holds. False if none is open."""
        for index in reversed(range(len(opened))):
            if opened[index][0] == bracket:
                pieces.multiply(opened.pop(index)[1], factor)
                return True
        return False

    position = 0
    while position < len(tokens):
        kind, text, _ = tokens[position]
        position += 1
        if not kind:
            pieces.add_with_breaks(text)
        elif kind in "([" and len(opened) < _MAX_OPEN:
            opened.append((kind, len(pieces.texts)))
        elif kind == "\\":
            pieces.add(text[1:])
        elif kind == ":":
            weight = _weight_after(prompt, tokens, position, lenient)
            if weight is not None and close("(", weight):
                position += 2  # the number and the bracket
            else:
                pieces.add(text)
        elif not (kind == ")" and close("(", ROUND)) and not (kind == "]" and close("[", 1 / ROUND)):
            pieces.add(text)
    for bracket, start in sorted(opened):  # left open: lenient only
        pieces.multiply(start, ROUND if bracket == "(" else 1 / ROUND)

    result = pieces.result()
    heaviest = max(result.spans, key=lambda span: span.weight, default=None)
    if not lenient and heaviest is not None and heaviest.weight > MAX_WEIGHT:
        raise InputError(
            f"prompt: brackets in brackets give “{result.text[heaviest.start : heaviest.end][:40]}” the weight "
            f"{heaviest.weight:.4g}: expected at most {MAX_WEIGHT:g}; use fewer, or smaller weights"
        )
    return result


class _Pieces:
    """The text as it is read, in pieces that each have a weight."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.weights: list[float] = []
        self.length = 0
        self.breaks: list[int] = []

    def add(self, text: str) -> None:
        self.texts.append(text)
        self.weights.append(1.0)
        self.length += len(text)

    def add_with_breaks(self, text: str) -> None:
        if "BREAK" not in text:
            return self.add(text)
        first, *others = _BREAK.split(text)
        self.add(first)
        for other in others:
            if self.length > (self.breaks[-1] if self.breaks else 0):
                self.add(" ")
            self.breaks.append(self.length)
            self.add(other)

    def multiply(self, start: int, factor: float) -> None:
        for index in range(start, len(self.weights)):
            self.weights[index] = min(_HUGE, self.weights[index] * factor)

    def result(self) -> WeightedPrompt:
        spans: list[Span] = []
        start = end = 0
        weight = 1.0
        for text, own_weight in zip(self.texts, self.weights, strict=True):
            if text and own_weight != weight:
                if end > start:
                    spans.append(Span(start, end, weight))
                start, weight = end, own_weight
            end += len(text)
        if end > start:
            spans.append(Span(start, end, weight))
        return WeightedPrompt("".join(self.texts), tuple(spans), tuple(self.breaks))


def _weight_after(prompt: str, tokens: list[Token], position: int, lenient: bool) -> float | None:
    """The weight between a colon and the round bracket that closes right after it; None where the colon is text."""
    written = tokens[position].text if position < len(tokens) and not tokens[position].kind else ""
    closing = position + bool(written)
    if closing == len(tokens) or tokens[closing].kind != ")":
        return None
    number = ascii_number(written)
    weight = None if number is None else float(number)
    colon = tokens[position - 1]
    if lenient or (weight is not None and 0 <= weight <= MAX_WEIGHT) or is_prose(colon.text + written):
        return weight
    problem = f"the weight “{written.strip()}” is no number" if weight is None else f"the weight is {weight:g}"
    remedy = f"expected 0 to {MAX_WEIGHT:g}, as in (cat:1.2); write \\{colon.text} for a colon that is text"
    raise malformed(prompt, colon.at, problem, remedy)
