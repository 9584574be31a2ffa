"""What a text encoder reads of a prompt: its pieces with their weights, in chunks, and where it changes over the steps."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from altdiffusion.prompt_syntax import PromptSyntax, choices_of, take_loras
from altdiffusion.prompts.states import chunks_of, schedule_of
from altdiffusion.prompts.tokens import CHUNK, MAX_PROMPT_TOKENS


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
    limit: of a prompt's tokens, None for any number. Raises InputError for more, and for what is malformed.
    """
    return {
        "chunk_tokens": CHUNK,
        "max_tokens": MAX_PROMPT_TOKENS,
        "prompts": [
            _explained(tokenizer, choice, syntax, steps, limit) for choice in choices_of(prompt, syntax)[:max_choices]
        ],
    }


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
        parts.append({"from_step": start, "until_step": part.until, "prompt": part.prompt, "chunks": pieces})
        start = part.until + 1
    return {"prompt": prompt, "loras": [vars(lora) for lora in loras], "parts": parts}
