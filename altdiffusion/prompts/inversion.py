"""Prompts as textual inversions: what a bridge at CLIP's entrance makes of them, for tools that know nothing of bridges.

    inversion = invert_prompt("黑暗精灵公主，月光", bridge="bridge-sd15", out="dark-elf.safetensors")
    inversion.english    # what the bridge understood

No Stable Diffusion is needed: a bridge carries the token embeddings and the tokenizer of the CLIP that it was trained with.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from altdiffusion.checkpoints.textual_inversions import (
    MAX_VECTORS,
    check_free,
    notes_of,
    save_textual_inversion,
    triggers,
)
from altdiffusion.devices import choose_device
from altdiffusion.errors import InputError
from altdiffusion.prompt_syntax import PromptSyntax, only_words
from altdiffusion.prompt_syntax.route import Route
from altdiffusion.prompts.tokens import more_vectors
from altdiffusion.text_encoder.soft_reader import load_soft_tokenizer
from altdiffusion.text_encoder.soft_tokenizer import routed


@dataclass(frozen=True)
class InvertedToken:
    """A vector's meaning. text: CLIP's token, or of a soft token the likeliest entry of CLIP's vocabulary.

    words: of a soft token the likeliest entries with their shares of the mixture; () for a literal token.
    rest: how much of a soft token is none of the vocabulary's, 0 to 1.
    """

    text: str
    words: tuple[tuple[str, float], ...] = ()
    rest: float = 0.0


@dataclass(frozen=True)
class Inversion:
    """A prompt as vectors in the space of CLIP's token embeddings.

    vectors: for each CLIP (n, width), float32, Stable Diffusion XL's in the order of its encoders. tokens: one for each
    vector. english: what CLIP reads, soft tokens as the English that they are nearest to.
    """

    prompt: str
    vectors: tuple[Tensor, ...]
    tokens: tuple[InvertedToken, ...]
    english: str

    def document(self, name: str) -> dict[str, Any]:
        """All but the vectors, in plain types. name: of the file, without its ending."""
        return {
            "name": name,
            "prompt": self.prompt,
            "english": self.english,
            "vectors": len(self.tokens),
            "widths": [part.shape[1] for part in self.vectors],
            "tokens": [_document(token) for token in self.tokens],
            "triggers": triggers(name),
        }


def invert_prompt(
    prompt: str,
    *,
    bridge: str | Path,
    text_encoder: str | Path | None = None,
    out: str | Path | None = None,
    route: Route = "auto",
    literal: Collection[str] = (),
    prompt_syntax: PromptSyntax = "webui",
    dtype: str = "float32",
    overwrite: bool = False,
    device: str | None = None,
    allow_pickle: bool = False,
) -> Inversion:
    """A prompt in any of AltCLIP's languages as a textual inversion, which every tool for Stable Diffusion loads.

    bridge: at CLIP's entrance: a folder, an id on the hub, or "mini". text_encoder: the AltCLIP that it reads; by default the
        one that the bridge names.
    out: a .safetensors or .pt file to write; the name in prompts is the file's, without its ending. dtype: of the file,
        float32 or float16. overwrite: whether the file may be there.
    route, literal: what goes through the bridge, as in `swap_text_encoder`; the rest are CLIP's own tokens.
    prompt_syntax: "none" reads brackets as text; else weights and the like are refused, which an inversion can't keep.
    Raises InputError for these, for a prompt of more than 75 tokens, and for a file that is there.
    """
    only_words(prompt, prompt_syntax)
    if out is not None:
        check_free(out, overwrite)
    inverter = load_inverter(bridge, text_encoder, route, literal, device=device, allow_pickle=allow_pickle)
    inversion = inverter.invert(prompt, prompt_syntax)
    if out is not None:
        notes = notes_of(prompt, bridge, route, literal) | {"english": inversion.english}
        save_textual_inversion(inversion.vectors, out, dtype=dtype, notes=notes, overwrite=overwrite)
    return inversion


def load_inverter(
    bridge: str | Path,
    text_encoder: str | Path | None = None,
    route: Route = "auto",
    literal: Collection[str] = (),
    *,
    device: str | None = None,
    allow_pickle: bool = False,
) -> PromptInverter:
    """What inverts prompts one after the other, see `invert_prompt`."""
    tokenizer = load_soft_tokenizer(bridge, text_encoder, device=choose_device(device), allow_pickle=allow_pickle)
    return PromptInverter(routed(tokenizer, route, literal))


class PromptInverter:
    """Reads prompts as a pipeline with a bridge does: the same tokens, the same vectors, bit for bit on a CPU."""

    def __init__(self, tokenizer: Any) -> None:
        """tokenizer: as `load_soft_tokenizer` gives it, or of a pipeline with a bridge at its CLIP's entrance."""
        self._tokenizer = tokenizer

    def invert(self, prompt: str, syntax: PromptSyntax = "webui") -> Inversion:
        """Raises InputError for what an inversion can't keep, and for more tokens than CLIP reads."""
        text = only_words(prompt, syntax)
        ids = self._ids(text)
        if not ids:
            raise InputError(f"prompt: {prompt!r} has no words: expected some")
        english = self._tokenizer.in_english(ids)
        if len(ids) > MAX_VECTORS:
            cut = self._tokenizer.in_english(ids[MAX_VECTORS:])
            raise InputError(
                f"the prompt becomes {len(ids)} vectors, and CLIP reads at most {MAX_VECTORS}: leave out as much as "
                f"“{cut[:60]}”, or make two inversions of it"
            )
        soft_prompts, tensor = self._tokenizer.soft_prompts, torch.tensor(ids)
        clips = range(len(soft_prompts.bridge.config.embedding_widths))
        vectors = tuple(soft_prompts.mixed_embeddings(index, tensor) for index in clips)
        return Inversion(prompt, vectors, self._meanings(ids), english)

    def is_word(self, name: str) -> bool:
        """Whether a name is a word of CLIP's vocabulary: as an inversion's it would take that word out of web UIs' prompts."""
        return len(self._tokenizer(f"`{name}`", add_special_tokens=False)["input_ids"]) == 1

    def _ids(self, text: str) -> list[int]:
        """Those of a textual inversion that was loaded into the pipeline are as many as it has vectors."""
        ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        added = self._tokenizer.added_tokens_encoder
        pieces = zip(ids, self._tokenizer.convert_ids_to_tokens(ids), strict=True)
        return [each for token, piece in pieces for each in (token, *(more for more, _ in more_vectors(added, piece)))]

    def _meanings(self, ids: list[int]) -> tuple[InvertedToken, ...]:
        meanings = [InvertedToken(self._tokenizer.in_english([token])) for token in ids]
        for text in self._tokenizer.understood(ids):
            for place, token in enumerate(text.tokens, text.first):
                words = tuple((word, share) for word, share in token.words)
                meanings[place] = InvertedToken(meanings[place].text, words, token.rest)
        return tuple(meanings)


def _document(token: InvertedToken) -> dict[str, Any]:
    words = [{"word": word, "share": round(share, 4)} for word, share in token.words]
    return {"text": token.text, "literal": not words, "words": words, "rest": round(token.rest, 4)}
