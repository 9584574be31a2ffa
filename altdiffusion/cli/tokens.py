"""`altdiffusion tokens`: what a model reads of a prompt."""

from __future__ import annotations

from typing import Any

from altdiffusion.cli.flags import command
from altdiffusion.cli.options import JsonSettings
from altdiffusion.cli.terminal import hide_loading, print_json
from altdiffusion.prompt_syntax import PromptSyntax
from altdiffusion.settings import setting


class TokensSettings(JsonSettings):
    """A prompt, and what reads it."""

    prompt: str = setting(..., "as for generate", positional="PROMPT")
    model: str | None = setting(None, "whose tokenizer reads it (default: mini)", source="model", metavar="M")
    tokenizer: str | None = setting(
        None, "of a single file, which carries none: folder or id", source="model", metavar="T"
    )
    allow_pickle: bool = setting(False, "look into a .ckpt file, which can carry code, for the kind of its model")
    prompt_syntax: PromptSyntax = setting("webui", "as for generate", metavar="S")
    steps: int = setting(25, "of an image, for prompts that change over them", minimum=1, maximum=999, metavar="N")


@command(TokensSettings)
def tokens(settings: TokensSettings) -> None:
    """The pieces that a prompt is read in, with their weights, 75 to a chunk; and what the model has never seen.

    altdiffusion tokens "(黑暗精灵公主:1.2)，月光 BREAK a castle"
    """
    from altdiffusion.prompts.explain import explain
    from altdiffusion.text_encoder.tokenizer import tokenizer_of

    hide_loading()
    tokenizer = tokenizer_of(settings.model, settings.tokenizer, allow_pickle=settings.allow_pickle)
    document = explain(tokenizer, settings.prompt, settings.prompt_syntax, settings.steps, limit=None)
    if settings.as_json:
        print_json(document)
        return
    for index, prompt in enumerate(document["prompts"]):
        if len(document["prompts"]) > 1:
            print("\n" * bool(index) + prompt["prompt"])
        for lora in prompt["loras"]:
            print(f"LoRA {lora['name']}, weight {lora['weight']:g}")
        for part in prompt["parts"]:
            if len(prompt["parts"]) > 1:
                print(f"steps {part['from_step']} to {part['until_step']}: {part['prompt'].strip()}")
            _print_chunks(part["chunks"], document["chunk_tokens"])
            _print_excess([piece for chunk in part["chunks"] for piece in chunk], document["max_tokens"])


def _print_chunks(chunks: list[list[dict[str, Any]]], size: int) -> None:
    for number, chunk in enumerate(chunks, 1):
        print(f"chunk {number} of {len(chunks)}: {len(chunk)} of {size} tokens")
        print("  " + " ".join(map(_written, chunk)))
    unknown = dict.fromkeys(piece["text"] for chunk in chunks for piece in chunk if not piece["known"])
    if unknown:
        print(f"  not in the vocabulary: {', '.join(unknown)}")


def _print_excess(pieces: list[dict[str, Any]], limit: int) -> None:
    if len(pieces) > limit:
        beyond = "".join(piece["piece"] for piece in pieces[limit:]).replace("▁", " ").strip()
        print(f"  {len(pieces)} tokens, and generate reads at most {limit}: leave out as much as “{beyond[:60]}”")


def _written(piece: dict[str, Any]) -> str:
    text = piece["piece"] if piece["known"] else f"?{piece['text']}?"
    return text if piece["weight"] == 1 else f"{text}({piece['weight']:g})"
