"""A prompt's tokens with their weights, in the chunks of 75 that a text encoder reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from altdiffusion.errors import InputError
from altdiffusion.prompt_syntax import Span, WeightedPrompt
from altdiffusion.prompt_syntax.clauses import ends_clause
from altdiffusion.text_encoder.soft_tokenizer import SoftTokenizerMixin
from altdiffusion.text_encoder.tokenizer import MAX_TOKENS, tokenized

CHUNK = MAX_TOKENS - 2  # begin and end stand around it
MAX_PROMPT_TOKENS = 510  # XLM-R's context of 512 without begin and end


@dataclass(frozen=True)
class Token:
    """A token of a prompt. start, end: its characters in `WeightedPrompt.text`. known: whether it is in the vocabulary."""

    id: int
    piece: str
    start: int
    end: int
    weight: float
    known: bool


def prompt_tokens(tokenizer: Any, prompt: WeightedPrompt, limit: int | None = MAX_PROMPT_TOKENS) -> list[Token]:
    """The tokens of a prompt without begin and end. Raises InputError for more than `limit`.

    The text is tokenized whole, so that brackets never change where a word is cut. A token that reaches over several
    spans has the mean weight of its characters. A textual inversion of several vectors counts as so many tokens.
    Soft tokens never reach over several spans, nor over a BREAK: what stands between is read by the bridge alone.
    """
    if isinstance(tokenizer, SoftTokenizerMixin):
        ids, offsets = tokenizer.tokenized(prompt.text, _cuts(prompt))
    else:
        ids, offsets = tokenized(tokenizer, prompt.text)
    pieces = tokenizer.convert_ids_to_tokens(ids)
    added = tokenizer.added_tokens_encoder
    tokens = []
    for token_id, piece, (start, end) in zip(ids, pieces, offsets, strict=True):
        weight = _mean_weight(prompt.spans, start, end)
        known = token_id != tokenizer.unk_token_id
        tokens.append(Token(token_id, piece, start, end, weight, known))
        for vector_id, name in more_vectors(added, piece):
            tokens.append(Token(vector_id, name, start, end, weight, known))
    if limit is not None and len(tokens) > limit:
        raise InputError(
            f"the prompt that begins {prompt.text[:20]!r} has {len(tokens)} tokens: expected at most {limit}"
        )
    return tokens


def _cuts(prompt: WeightedPrompt) -> list[int]:
    changes = [after.start for before, after in pairwise(prompt.spans) if before.weight != after.weight]
    return [*changes, *prompt.breaks]


def in_chunks(tokens: Sequence[Token], prompt: WeightedPrompt) -> list[list[Token]]:
    """The tokens cut into chunks of at most 75, at least one chunk.

    A chunk ends where BREAK stood, else after the last clause that fits whole (a comma, a full stop or a line break, in any
    script), else after the last word that fits.
    """
    chunks: list[list[Token]] = []
    rest = list(tokens)
    while rest:
        next_break = next((at for at in prompt.breaks if at >= rest[0].end), len(prompt.text))
        part = sum(token.end <= next_break for token in rest)
        length = part if part <= CHUNK else _fitting(rest[: CHUNK + 1], prompt.text)
        chunks.append(rest[:length])
        rest = rest[length:]
    return chunks or [[]]


def _fitting(tokens: Sequence[Token], text: str) -> int:
    """How many of 76 tokens go into a chunk."""
    lengths = range(CHUNK, 0, -1)
    for ends in (_ends_clause, _ends_word):
        for length in lengths:
            if ends(text, tokens[length - 1], tokens[length]):
                return length
    return CHUNK


def _ends_clause(text: str, token: Token, following: Token) -> bool:
    gap = text[token.end : following.start]
    return "\n" in gap or (following.start >= token.end and ends_clause(text, token.end))


def _ends_word(text: str, token: Token, following: Token) -> bool:
    return text[token.end : following.start].isspace()


def _mean_weight(spans: Sequence[Span], start: int, end: int) -> float:
    """Of the characters from start to end."""
    shares = [(min(end, span.end) - max(start, span.start), span.weight) for span in spans]
    shares = [(count, weight) for count, weight in shares if count > 0]
    if len({weight for _, weight in shares}) <= 1:
        return shares[0][1] if shares else 1.0
    return sum(count * weight for count, weight in shares) / sum(count for count, _ in shares)


def more_vectors(added: Mapping[str, int], piece: str) -> list[tuple[int, str]]:
    """(id, name) of the second and further vectors of a textual inversion: diffusers names them `<name>_1`, `<name>_2`, ..."""
    vectors: list[tuple[int, str]] = []
    while piece in added and (name := f"{piece}_{len(vectors) + 1}") in added:
        vectors.append((added[name], name))
    return vectors
