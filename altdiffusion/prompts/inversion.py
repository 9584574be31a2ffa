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
from torch import Tensor, nn
from transformers import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextEmbeddings

from altdiffusion.checkpoints import hub
from altdiffusion.checkpoints.textual_inversions import MAX_VECTORS, check_free, notes_of, save_textual_inversion
from altdiffusion.devices import choose_device
from altdiffusion.errors import InputError
from altdiffusion.prompt_syntax import PromptSyntax, only_words
from altdiffusion.prompt_syntax.route import Route
from altdiffusion.text_encoder.bridge import Bridge, load_bridge
from altdiffusion.text_encoder.bridge_layers import check_altclip
from altdiffusion.text_encoder.encoder import load_text_encoder
from altdiffusion.text_encoder.soft_prompts import SoftPrompts
from altdiffusion.text_encoder.soft_tokenizer import soft_tokenizer
from altdiffusion.text_encoder.tokenizer import TOKENIZER_FILES, load_any_tokenizer


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
    is_mini = bridge == hub.MINI
    files = ["config.json", "model.safetensors", *(f"tokenizer/{name}" for name in TOKENIZER_FILES[:1])]
    folder = hub.mini_folder() / "bridge" if is_mini else hub.resolve(bridge, files)
    model = load_bridge(folder, torch.float32)
    if not isinstance(model, Bridge):
        raise InputError(
            f"the bridge {bridge} stands at CLIP's exit, where there are no tokens: take one for its entrance"
        )
    text_encoder = text_encoder or model.config.text_encoder
    if text_encoder is None and not is_mini:
        raise InputError(
            f"the bridge {bridge} doesn't say which AltCLIP it reads: name it, --text-encoder (text_encoder=)"
        )
    if not (folder / "tokenizer").is_dir():
        raise InputError(
            f"no tokenizer in {folder}: expected CLIP's in its folder `tokenizer`, as `train bridge` saves it"
        )
    clip_tokenizer = load_any_tokenizer(folder / "tokenizer")
    tower, tokenizer = load_text_encoder(text_encoder, allow_pickle=allow_pickle)
    check_altclip(model, tower)
    return PromptInverter(tower, tokenizer, model, clip_tokenizer, route, literal, choose_device(device))


class PromptInverter:
    """Reads prompts as a pipeline with a bridge does: the same tokens, the same vectors, bit for bit on a CPU."""

    def __init__(
        self,
        tower: Any,
        tokenizer: Any,
        bridge: Bridge,
        clip_tokenizer: Any,
        route: Route,
        literal: Collection[str],
        device: torch.device,
    ) -> None:
        """tower, tokenizer: AltCLIP's. bridge: loses its token embeddings to this."""
        layers = [_embedding_layer(table).to(device) for table in bridge.token_embeddings]
        self._tables = [layer.token_embedding.weight for layer in layers]
        bridge.drop_token_embeddings()
        self._prompts = SoftPrompts(tower.eval(), tokenizer, bridge.eval(), layers)
        self._prompts.route = route
        self._prompts.literal_words.update(literal)
        self._tokenizer = soft_tokenizer(clip_tokenizer, self._prompts)

    @torch.no_grad()
    def invert(self, prompt: str, syntax: PromptSyntax = "webui") -> Inversion:
        """Raises InputError for what an inversion can't keep, and for more tokens than CLIP reads."""
        text = only_words(prompt, syntax)
        ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if not ids:
            raise InputError(f"prompt: {prompt!r} has no words: expected some")
        english = self._tokenizer.decode(ids).strip()
        if len(ids) > MAX_VECTORS:
            cut = self._tokenizer.decode(ids[MAX_VECTORS:]).strip()
            raise InputError(
                f"the prompt becomes {len(ids)} vectors, and CLIP reads at most {MAX_VECTORS}: leave out as much as "
                f"“{cut[:60]}”, or make two inversions of it"
            )
        tensor = torch.tensor(ids, device=self._tables[0].device)
        vectors = tuple(self._vectors(index, tensor).cpu() for index in range(len(self._tables)))
        return Inversion(prompt, vectors, self._meanings(text, ids), english)

    def is_word(self, name: str) -> bool:
        """Whether a name is a word of CLIP's vocabulary: as an inversion's it would take that word out of web UIs' prompts."""
        return len(self._tokenizer(f"`{name}`", add_special_tokens=False)["input_ids"]) == 1

    def _vectors(self, index: int, ids: Tensor) -> Tensor:
        vectors = self._tables[index][ids.clamp(min=0)]
        if bool((soft := ids < 0).any()):
            vectors[soft] = self._prompts.embeddings(index, ids[soft]).to(vectors)
        return vectors

    def _meanings(self, text: str, ids: list[int]) -> tuple[InvertedToken, ...]:
        parts = self._prompts.stretches(text, ())
        soft_texts = self._prompts.read([part.text for part in parts if not part.literal])
        found = {
            token: InvertedToken(
                self._word(words[0][0]), tuple((self._word(entry), share) for entry, share in words), rest
            )
            for soft in soft_texts
            for token, words, rest in zip(soft.ids, soft.words, soft.rests, strict=True)
        }
        return tuple(found[token] if token < 0 else InvertedToken(self._word(token)) for token in ids)

    def _word(self, token: int) -> str:
        return str(self._tokenizer.decode([token])).strip()


def _embedding_layer(table: Tensor) -> CLIPTextEmbeddings:
    """CLIP's embedding layer around a table (vocab_size, width), and nothing else of CLIP's."""
    size, width = table.shape
    with torch.device("meta"):
        layer = CLIPTextEmbeddings(CLIPTextConfig(vocab_size=size, hidden_size=width, bos_token_id=0, eos_token_id=0))
    layer.token_embedding.weight = nn.Parameter(table.detach(), requires_grad=False)
    del layer.position_embedding, layer.position_ids
    return layer
