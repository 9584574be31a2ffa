"""`altdiffusion tokens`: what a model reads of a prompt."""

from __future__ import annotations

from typing import Any, ClassVar

from altdiffusion.checkpoints.bridge_folder import no_soft_tokens, stands_at_exit
from altdiffusion.cli.flags import command
from altdiffusion.cli.terminal import hide_loading, print_json
from altdiffusion.errors import InputError
from altdiffusion.generation.settings import ImageSettings
from altdiffusion.prompt_syntax import PromptSyntax, plain_text, stretches
from altdiffusion.settings import as_flag, setting, subset_of

BridgeFlags: Any = subset_of(ImageSettings, ("text_encoder", "bridge", "route", "literal"), group="Bridge")


class TokensSettings(BridgeFlags):
    """A prompt, and what reads it."""

    group: ClassVar[str] = "Options"

    prompt: str = setting(..., "as for generate", positional="PROMPT")
    model: str | None = setting(
        None, "whose tokenizer reads it (default: mini; with --bridge the bridge's own)", source="model", metavar="M"
    )
    tokenizer: str | None = setting(
        None, "of a single file, which carries none: folder or id", source="model", metavar="T"
    )
    allow_pickle: bool = setting(False, "read .bin and .ckpt files, which can carry code")
    prompt_syntax: PromptSyntax = setting("webui", "as for generate", metavar="S")
    steps: int = setting(25, "of an image, for prompts that change over them", minimum=1, maximum=999, metavar="N")
    as_json: bool = setting(False, "print one JSON document on standard output", flag="json")

    def problems(self) -> list[str]:
        try:
            text = plain_text(self.prompt, self.prompt_syntax)
            if self.bridge is not None:
                stretches(text, self.route or "auto")
        except InputError as error:
            return [str(error)]
        if self.bridge is not None:
            return [no_soft_tokens(self.bridge)] if stands_at_exit(self.bridge) else []
        said = [as_flag(name) for name in ("text_encoder", "route", "literal") if getattr(self, name) is not None]
        return [f"{flag} needs --bridge: name one, or leave {flag} out" for flag in said]


@command(TokensSettings)
def tokens(settings: TokensSettings) -> None:
    """The pieces that a prompt is read in, with their weights, 75 to a chunk; and what the model has never seen.
    With --bridge, the English that a bridge understood, too: for each soft token its likeliest words.

    altdiffusion tokens "(黑暗精灵公主:1.2)，月光 BREAK a castle"
    altdiffusion tokens "一只猫, oil painting" --bridge my-bridge
    """
    from altdiffusion.prompts.explain import explain

    hide_loading()
    document = explain(_tokenizer(settings), settings.prompt, settings.prompt_syntax, settings.steps, limit=None)
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
            _print_understood(part.get("understood", []))
            _print_excess([piece for chunk in part["chunks"] for piece in chunk], document["max_tokens"])


def _tokenizer(settings: TokensSettings) -> Any:
    from altdiffusion.text_encoder.tokenizer import tokenizer_of

    def of(model: str | None) -> Any:
        return tokenizer_of(model, settings.tokenizer, allow_pickle=settings.allow_pickle)

    if settings.bridge is None:
        return of(settings.model)
    from altdiffusion.text_encoder.soft_reader import load_soft_tokenizer
    from altdiffusion.text_encoder.soft_tokenizer import routed

    own = None if settings.model is None else of(settings.model)
    tokenizer = load_soft_tokenizer(settings.bridge, settings.text_encoder, own, allow_pickle=settings.allow_pickle)
    return routed(tokenizer, settings.route, settings.literal or ())


def _print_understood(stretches: list[dict[str, Any]]) -> None:
    """一只猫 → a 91% · cat 97%, with the free rest of each: a line for each stretch."""
    from altdiffusion.prompts.explain import likely_words

    for stretch in stretches:
        tokens = [
            " or ".join(f"{word} {share:.0%}" for word, share in likely_words(token))
            + f" (free rest {token['rest']:.0%})"
            for token in stretch["tokens"]
        ]
        print(f"  {stretch['text'].strip()} → {' · '.join(tokens)}")


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
