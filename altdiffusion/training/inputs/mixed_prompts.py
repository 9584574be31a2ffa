"""What a bridge at CLIP's entrance learns from: prompts of which a part is in another language, and a part literal English."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Iterator, Sequence
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
_WORDS = re.compile(r"[A-Za-z0-9]+(?:['’.-][A-Za-z0-9]+)*")
_SHORTEST_SHARED = 3  # characters: shorter words, such as "a" and "no", are often the same by accident


@dataclass(frozen=True)
class Part:
    """A stretch of a prompt. english: CLIP's tokens of it; ids: AltCLIP's tokens of what the bridge reads, None if literal.

    hole: which of `english` are literal in the midst of what the bridge reads; in `ids` a mask token stands for them.
    """

    english: list[int]
    ids: list[int] | None
    hole: slice | None = None

    def said(self, hole_word: int) -> list[int]:
        """What the bridge is to say: the English tokens, with a word for the literal ones that tells where they belong."""
        if self.hole is None:
            return self.english
        return [*self.english[: self.hole.start], hole_word, *self.english[self.hole.stop :]]


@dataclass(frozen=True)
class _Stretch:
    """text: None for a literal stretch. tokens: of CLIP's, where they are not those of `english`.

    hole: what stands literal between `english` and `behind`, and is a mask in `text`.
    """

    english: str
    text: str | None = None
    tokens: tuple[int, ...] | None = None
    hole: _Stretch | None = None
    behind: str = ""


class MixedPrompts:
    """A sample's index -> the parts of its prompt: mostly one, a whole text in some language.

    literal: the fraction of samples that have literal parts beside it: clauses of the text itself where both languages have
    equally many, words that both have in common, such as names, words of another text, or, as a trigger word would be, a few
    tokens that mean nothing there. Within a clause they are a hole in what the bridge reads, which it puts in its place.
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
        holes = [stretch.hole or _Stretch("") for stretch in flat]
        texts = [
            text
            for stretch, hole in zip(flat, holes, strict=True)
            for text in (stretch.english, hole.english, stretch.behind)
        ]
        rows = iter([row[1:-1] for row in tokens(self._clip_tokenizer, texts)])
        read = iter(tokens(self._tokenizer, [stretch.text for stretch in flat if stretch.text is not None]))
        parts = iter([_part(stretch, hole, rows, read) for stretch, hole in zip(flat, holes, strict=True)])
        return [_cut([next(parts) for _ in prompt]) for prompt in prompts]

    def _stretches(self, index: int) -> list[_Stretch]:
        (_, _, text, english), rng = self._text.texts([index])[0], random.Random(f"{self._seed} parts {index}")
        whole = _Stretch(english, text)
        if rng.random() >= self._literal:
            return [whole]
        mask = self._tokenizer.mask_token
        if mask and (shared := _shared_words(text, english)) and rng.random() < 0.5:
            (start, end), (first, last) = shared
            hole = self._random_tokens(rng) if rng.random() < 0.25 else _Stretch(english[first:last])
            return [_Stretch(english[:first], text[:start] + mask + text[end:], hole=hole, behind=english[last:])]
        if (rng.random() < 0.5 or "," in english) and (among := _clauses(text, english, rng)):
            return among
        if rng.random() < 0.25:
            literal = self._random_tokens(rng)
        else:
            *_, other = self._text.texts([index + rng.randrange(1, 10_000)])[0]
            words = other.split()
            count = rng.randint(1, min(_MAX_LITERAL_WORDS, max(1, len(words))))
            first = rng.randrange(max(1, len(words) - count + 1))
            literal = _Stretch(" ".join(words[first : first + count]))
        is_apart, is_first = rng.random() < 0.4, rng.random() < 0.35
        if mask and not is_apart and not text.rstrip().endswith(tuple(CLAUSE_ENDS)):
            before, behind = ("", f" {english}") if is_first else (f"{english} ", "")
            text = f"{mask} {text}" if is_first else f"{text} {mask}"
            return [_Stretch(before, text, hole=literal, behind=behind)]
        return [literal, _Stretch(","), whole] if is_first else [whole, _Stretch(","), literal]

    def _random_tokens(self, rng: random.Random) -> _Stretch:
        return _Stretch("", tokens=tuple(rng.choices(self._words, k=rng.randint(1, _MAX_RANDOM_TOKENS))))


def _part(stretch: _Stretch, hole: _Stretch, rows: Iterator[list[int]], read: Iterator[list[int]]) -> Part:
    """rows: CLIP's tokens of what stands before the hole, in it, and behind. read: AltCLIP's."""
    before, inside, behind = (next(rows) for _ in range(3))
    if stretch.tokens:
        before = list(stretch.tokens)
    if hole.tokens:
        inside = list(hole.tokens)
    ids = None if stretch.text is None else next(read)
    where = slice(len(before), len(before) + len(inside)) if inside else None
    return Part([*before, *inside, *behind], ids, where)


def _shared_words(text: str, english: str) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Where the longest run of words stands that both have once, not as whole texts; None where there is none."""
    ours, theirs = (list(_WORDS.finditer(each)) for each in (text, english))
    left, right = ([word[0].casefold() for word in words] for words in (ours, theirs))
    best: tuple[int, tuple[int, int], tuple[int, int]] | None = None
    for at, word in enumerate(left):
        if left.count(word) != 1 or right.count(word) != 1:
            continue
        there, count = right.index(word), 1
        while left[at + count : at + count + 1] == right[there + count : there + count + 1] != []:
            count += 1
        start, end = ours[at].start(), ours[at + count - 1].end()
        size = end - start
        if size >= max(_SHORTEST_SHARED, best[0] + 1 if best else 0) and text[:start].strip() + text[end:].strip():
            best = size, (start, end), (theirs[there].start(), theirs[there + count - 1].end())
    return None if best is None else best[1:]


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
        if part.english[:room]:
            kept.append(_shortened(part, room))
        room = max(0, room - len(part.english))
    if any(part.ids is not None for part in kept):
        return kept
    return [_shortened(part, MAX_ROW) for part in parts if part.ids is not None][:1]


def _shortened(part: Part, room: int) -> Part:
    hole = part.hole
    if hole is not None:
        hole = slice(hole.start, min(hole.stop, room)) if hole.start < room else None
    return Part(part.english[:room], part.ids, hole)
