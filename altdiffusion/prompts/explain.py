"""What a text encoder reads of a prompt: its pieces with their weights, in chunks, and where it changes over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from altdiffusion.prompt_syntax import PromptSyntax, choices_of, take_loras
from altdiffusion.prompts.states import chunks_of, schedule_of
from altdiffusion.prompts.tokens import CHUNK, MAX_PROMPT_TOKENS, Token
from altdiffusion.text_encoder.soft_tokenizer import SoftTokenizerMixin

_SURE = 0.8  # the share of a mixture from which a word is beyond doubt
_LIKELY = 0.5  # and of the likeliest word's, from which another is named beside it


def explain(
    tokenizer: Any,
    prompt: str,
    syntax: PromptSyntax = "webui",
    steps: int = 25,
    *,
    max_choices: int | None = None,
    limit: int | None = MAX_PROMPT_TOKENS,
) -> dict[str, Any]:
    """A document of plain types, one entry of `prompts` for each choice {a|b}, or for the first `max_choices`.

    {"chunk_tokens": 75, "max_tokens": 510, "prompts": [{"prompt", "loras": [{"name", "weight", "text_encoder_weight"}],
    "parts": [{"from_step", "until_step", "prompt", "chunks": [[{"piece", "text", "weight", "known"}]]}]}]}; steps count
    from 1, until_step included; known is False for what the vocabulary lacks.
    Of a tokenizer with soft tokens, whose pieces are shown as 〈cat〉, parts have "understood", too, what a bridge made of each
    stretch that it read: [{"text", "tokens": [{"words": [{"word", "share"}], "rest"}]}], the likeliest words first; shares of
    all words add up to 1, and rest, 0 to 1, is how much of the token is none of them.
    limit: of a prompt's tokens, None for any number. Raises InputError for more, and for what is malformed.
    """
    return {
        "chunk_tokens": CHUNK,
        "max_tokens": MAX_PROMPT_TOKENS,
        "prompts": [
            _explained(tokenizer, choice, syntax, steps, limit) for choice in choices_of(prompt, syntax)[:max_choices]
        ],
    }


def likely_words(token: dict[str, Any]) -> list[tuple[str, float]]:
    """What is worth showing of a soft token: (word, its share), more than one where the bridge was in doubt.

    token: of "understood".
    """
    first, *others = [(word["word"], word["share"]) for word in token["words"]]
    return [first, *((word, share) for word, share in others if first[1] < _SURE and share >= _LIKELY * first[1])]


def _explained(tokenizer: Any, prompt: str, syntax: PromptSyntax, steps: int, limit: int | None) -> dict[str, Any]:
    loras = () if syntax == "none" else take_loras(prompt, syntax == "lenient")[1]
    parts, start = [], 1
    read = lru_cache(None)(
        lambda text: chunks_of(tokenizer, text, syntax, limit=limit)
    )  # an alternation comes back to its first text
    for part in schedule_of(prompt, steps, syntax):
        text, chunks = read(part.prompt)
        pieces = [
            [
                {
                    "piece": token.piece,
                    "text": text[token.start : token.end],
                    "weight": round(token.weight, 4),
                    "known": token.known,
                }
                for token in chunk
            ]
            for chunk in chunks
        ]
        told = {"from_step": start, "until_step": part.until, "prompt": part.prompt, "chunks": pieces}
        if isinstance(tokenizer, SoftTokenizerMixin):
            told["understood"] = _understood(tokenizer, text, chunks)
        parts.append(told)
        start = part.until + 1
    return {"prompt": prompt, "loras": [vars(lora) for lora in loras], "parts": parts}


def _understood(tokenizer: SoftTokenizerMixin, text: str, chunks: Sequence[Sequence[Token]]) -> list[dict[str, Any]]:
    tokens = [token for chunk in chunks for token in chunk]
    return [
        {
            "text": text[tokens[stretch.first].start : tokens[stretch.first].end],
            "tokens": [
                {
                    "words": [{"word": word, "share": round(share, 4)} for word, share in token.words],
                    "rest": round(token.rest, 4),
                }
                for token in stretch.tokens
            ],
        }
        for stretch in tokenizer.understood([token.id for token in tokens])
    ]
