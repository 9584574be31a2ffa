"""A prompt cut into brackets, colons, bars, escapes and the text between them. Full-width forms count as ASCII's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from altdiffusion.errors import InputError

MAX_DEPTH = 50  # brackets in brackets: readers are recursive, and prompts come from strangers

_ASCII = str.maketrans("（）［］｛｝：｜．＋－٫", "()[]{}:|.+-.")  # the last is the Arabic decimal separator
_KINDS = {form: form.translate(_ASCII) for form in "()[]{}:|（）［］｛｝：｜"}
_TOKEN = re.compile(r"\\.?|[()\[\]{}:|（）［］｛｝：｜]|[^\\()\[\]{}:|（）［］｛｝：｜]+", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)")
_PROSE = re.compile(r"[:：]\s+[^\s\d.．٫+＋\-－]|：[^\x00-\x7f\s\d．٫＋－]")  # ： needs no space after it
_MAX_NUMBER = 30  # characters of a number; with more, a float may be infinite
_CLOSING = {"(": ")", "[": "]", "{": "}"}


class Token(NamedTuple):
    kind: str  # one of ( ) [ ] { } : | whatever its width; \ for an escape; empty for text
    text: str  # as written; an escape with its backslash
    at: int  # index of its first character in the prompt


def tokenize(prompt: str) -> list[Token]:
    tokens = []
    at = 0
    for text in _TOKEN.findall(prompt):
        tokens.append(Token(_KINDS.get(text, "\\" if text[0] == "\\" else ""), text, at))
        at += len(text)
    return tokens


def ascii_number(text: str) -> str | None:
    """A decimal number in any script's digits as `float` reads it, without the spaces around it; None for other text."""
    number = text.translate(_ASCII).strip()
    return number if len(number) <= _MAX_NUMBER and _NUMBER.fullmatch(number) else None


def is_prose(colon_and_after: str) -> bool:
    """Whether a colon in brackets belongs to a sentence, as in (style: anime) and （风格：水墨）, and no number was meant."""
    return _PROSE.match(colon_and_after) is not None


def malformed(prompt: str, at: int, problem: str, remedy: str, shown: str | None = None) -> InputError:
    """The error at a character of a prompt, with the part to show, or else what stands around that character."""
    start, end = max(0, at - 15), at + 25
    if shown is None:
        shown = f"{'…' if start else ''}{prompt[start:end]}{'…' if end < len(prompt) else ''}"
    elif len(shown) > 40:
        shown = f"{shown[:39]}…"
    return InputError(f"prompt, character {at + 1}, “{' '.join(shown.split())}”: {problem}: {remedy}")


class BracketedPrompt:
    """A prompt's tokens, and which bracket closes which.

    lenient: a closing bracket that doesn't fit is text, and so are all that are open around it; else either is refused.
    """

    def __init__(self, prompt: str, brackets: str = "()[]", lenient: bool = False) -> None:
        self.prompt = prompt
        self.tokens = tokenize(prompt)
        self.pairs: dict[int, int] = {}  # index of the opening token: index of the closing one
        opened: list[int] = []
        for index, token in enumerate(self.tokens):
            if not token.kind or token.kind not in brackets:
                continue
            if token.kind in _CLOSING:
                opened.append(index)
                if len(opened) > MAX_DEPTH:
                    raise malformed(prompt, token.at, f"brackets in brackets, more than {MAX_DEPTH} deep", "use fewer")
            elif opened and _CLOSING[self.tokens[opened[-1]].kind] == token.kind:
                self.pairs[opened.pop()] = index
            elif lenient:
                opened.clear()
            elif opened:
                raise self._unclosed(opened[-1], f" before {token.text} at character {token.at + 1}")
            else:
                remedy = f"open it before, or write \\{token.text} for a bracket that is text"
                raise malformed(prompt, token.at, f"{token.text} closes nothing", remedy)
        if opened and not lenient:
            raise self._unclosed(opened[-1])

    def _unclosed(self, index: int, where: str = "") -> InputError:
        token = self.tokens[index]
        remedy = f"close it, or write \\{token.text} for a bracket that is text"
        return malformed(self.prompt, token.at, f"{token.text} isn't closed{where}", remedy)

    def cuts(self, opened: int, separators: str) -> Iterator[int]:
        """Indices of the separators directly inside a pair, not inside brackets within it."""
        index = opened + 1
        while index < self.pairs[opened]:
            if index in self.pairs:
                index = self.pairs[index]
            elif self.tokens[index].kind and self.tokens[index].kind in separators:
                yield index
            index += 1

    def text(self, start: int, end: int) -> str:
        """What tokens start to end (excluded) say, as written."""
        return "".join(token.text for token in self.tokens[start:end])
