"""What a bridge at CLIP's entrance learns from: prompts of which a part is in another language, and a part literal English."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from altdiffusion.prompt_syntax.clauses import CLAUSE_ENDS, clauses_of
from altdiffusion.text_encoder.tokenizer import MAX_TOKENS, tokens
from altdiffusion.training.inputs.parallel_text import ParallelText

MAX_ROW = MAX_TOKENS - 2  # begin and end stand around it
_SIGNS = "".join(CLAUSE_ENDS) + string.whitespace
_MAX_LITERAL_WORDS = 6
_MAX_RANDOM_TOKENS = 3


@dataclass(frozen=True)
class Part:
    """A stretch of a prompt. english: CLIP's tokens of it; ids: AltCLIP's tokens of what the bridge reads, None if literal."""

    english: list[int]
    ids: list[int] | None


@dataclass(frozen=True)
class _Stretch:
    """text: None for a literal stretch. tokens: of CLIP's, where they are not those of `english`."""

    english: str
    text: str | None = None
    tokens: tuple[int, ...] | None = None


class MixedPrompts:
    """A sample's index -> the parts of its prompt: mostly one, a whole text in some language.

    literal: the fraction of samples that have literal parts beside it: clauses of the text itself where both languages have
    equally many, else words of another text, or, as a trigger word would be, a few tokens that mean nothing there.
    Every text has a token at least, and all parts together have 75 of CLIP's at most; longer texts are cut.
    """

    def __init__(self, text: ParallelText, tokenizer: Any, clip_tokenizer: Any, seed: int, literal: float) -> None:
        self._text, self._tokenizer, self._clip_tokenizer = text, tokenizer, clip_tokenizer
        self._seed, self._literal = seed, literal
        special = set(clip_tokenizer.all_special_ids)
        self._words = [token for token in range(clip_tokenizer.vocab_size) if token not in special]

    def read(self, indices: Sequence[int]) -> list[list[Part]]:
        """The prompts of some samples, tokenized together."""
        prompts = [self._stretches(index) for index in indices]
        flat = [stretch for prompt in prompts for stretch in prompt]
        english = [row[1:-1] for row in tokens(self._clip_tokenizer, [stretch.english for stretch in flat])]
        read = iter(tokens(self._tokenizer, [stretch.text for stretch in flat if stretch.text is not None]))
        parts = iter(
            [
                Part(list(stretch.tokens) if stretch.tokens else row, None if stretch.text is None else next(read))
                for stretch, row in zip(flat, english, strict=True)
            ]
        )
        return [_cut([next(parts) for _ in prompt]) for prompt in prompts]

    def _stretches(self, index: int) -> list[_Stretch]:
        (_, _, text, english), rng = self._text.texts([index])[0], random.Random(f"{self._seed} parts {index}")
        whole = _Stretch(english, text)
        if rng.random() >= self._literal:
            return [whole]
        if (rng.random() < 0.5 or "," in english) and (among := _clauses(text, english, rng)):
            return among
        if rng.random() < 0.25:
            count = rng.randint(1, _MAX_RANDOM_TOKENS)
            literal = _Stretch("", tokens=tuple(rng.choices(self._words, k=count)))
        else:
            *_, other = self._text.texts([index + rng.randrange(1, 10_000)])[0]
            words = other.split()
            count = rng.randint(1, min(_MAX_LITERAL_WORDS, max(1, len(words))))
            first = rng.randrange(max(1, len(words) - count + 1))
            literal = _Stretch(" ".join(words[first : first + count]))
        between = [_Stretch(",")] if rng.random() < 0.8 else []
        return [literal, *between, whole] if rng.random() < 0.35 else [whole, *between, literal]


def _clauses(text: str, english: str, rng: random.Random) -> list[_Stretch]:
    """Some clauses literal, the others not; none where the two languages' clauses don't pair."""
    of_text, of_english = (
        [part for start, end in clauses_of(each) if (part := each[start:end].strip(_SIGNS))] for each in (text, english)
    )
    if len(of_text) != len(of_english) or len(of_text) < 2:
        return []
    literal = [rng.random() < 0.5 for _ in of_text]
    if all(literal) or not any(literal):
        literal[rng.randrange(len(literal))] ^= True
    stretches: list[_Stretch] = []
    for is_literal, group in groupby(zip(literal, of_text, of_english, strict=True), lambda clause: clause[0]):
        _, texts, originals = zip(*group, strict=True)
        if stretches:
            stretches.append(_Stretch(","))
        stretches.append(_Stretch(", ".join(originals), None if is_literal else ", ".join(texts)))
    return stretches


def _cut(parts: list[Part]) -> list[Part]:
    """The parts up to 75 tokens in all, without empty ones; the whole row is the bridge's where nothing else is left of it."""
    kept, room = [], MAX_ROW
    for part in parts:
        english = part.english[:room]
        if english:
            kept.append(Part(english, part.ids))
        room -= len(english)
    if any(part.ids is not None for part in kept):
        return kept
    return [Part(part.english[:MAX_ROW], part.ids) for part in parts if part.ids is not None][:1]
