"""The bridge at CLIP's entrance: AltCLIP's states of a text become a few soft tokens, which a Stable Diffusion's own CLIP reads.

A soft token is a vector in the space of CLIP's token embeddings: a mixture of the embeddings of CLIP's own vocabulary plus a
free rest. CLIP reads it as it reads a textual inversion, beside literal tokens, so that LoRAs with a text half, inversions,
trigger words and `clip_skip` work as in English. The mixture's largest parts are the English that the bridge understood.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.utils import ModelOutput

from altdiffusion.checkpoints import bridge_folder, hub, tensor_files
from altdiffusion.errors import InputError, first_line
from altdiffusion.text_encoder.bridge_layers import Attention, DecoderLayer, ExactModel, check_heads
from altdiffusion.text_encoder.exit_bridge import ExitBridge
from altdiffusion.text_encoder.load_options import read_dtype, read_options


class BridgeConfig(PreTrainedConfig):
    """The sizes of a bridge. The defaults lead from AltCLIP (width 768) to Stable Diffusion 1.x.

    input_width: of AltCLIP's text states (`project_dim`): 1024 for m18, 768 for the others.
    embedding_widths: of CLIP's token embeddings: [768] for Stable Diffusion 1.x, [1024] for 2.x, [768, 1280] for XL, whose
        two CLIPs share a vocabulary.
    vocab_size: entries of CLIP's vocabulary.
    max_soft_tokens: the most that a text becomes.
    hole_word: the entry of CLIP's vocabulary by which a soft token says that what the text's mask stands for belongs in its
        place: one that no text has. None: the bridge was not trained to read masks.
    model, text_encoder, languages: what it was trained with, where its name means something elsewhere; text_encoder is the
        default of what reads with it, the others are notes.
    Raises InputError unless hidden_size is a multiple of num_attention_heads.
    """

    model_type = bridge_folder.ENTRANCE

    def __init__(
        self,
        input_width: int = 768,
        embedding_widths: Sequence[int] = (768,),
        vocab_size: int = 49408,
        max_soft_tokens: int = 75,
        hidden_size: int = 768,
        num_layers: int = 3,
        num_attention_heads: int = 12,
        intermediate_size: int = 2048,
        hole_word: int | None = None,
        model: str | None = None,
        text_encoder: str | None = None,
        languages: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        check_heads(hidden_size, num_attention_heads)
        self.input_width = input_width
        self.embedding_widths = list(embedding_widths)
        self.vocab_size = vocab_size
        self.max_soft_tokens = max_soft_tokens
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.hole_word = hole_word
        self.model = model
        self.text_encoder = text_encoder
        self.languages = list(languages)
        super().__init__(**kwargs)


@dataclass
class SoftTokens(ModelOutput):
    """Soft tokens of a batch of texts; beyond a text's own length they mean nothing.

    embeddings: for each CLIP (batch, longest, embedding width). lengths: int64 (batch,), 1 to max_soft_tokens.
    length_logits: (batch, max_soft_tokens), the first entry for a length of 1.
    word_logits: (batch, longest, vocab_size), of the mixtures. rest_shares: (batch, longest), how much of each embedding of the
        first CLIP is the free rest, 0 to 1.
    """

    embeddings: tuple[Tensor, ...] | None = None
    lengths: Tensor | None = None
    length_logits: Tensor | None = None
    word_logits: Tensor | None = None
    rest_shares: Tensor | None = None


class TokenEmbeddings(nn.Module):
    """Of each CLIP a table (vocab_size, width): they are in the bridge's file, and no training changes them."""

    def __init__(self, vocab_size: int, widths: Sequence[int]) -> None:
        super().__init__()
        for index, width in enumerate(widths):
            self.register_buffer(str(index), torch.zeros(vocab_size, width))

    def __iter__(self) -> Iterator[Tensor]:
        return self.buffers()

    def __getitem__(self, index: int) -> Tensor:
        return self.get_buffer(str(index))


class Bridge(ExactModel):
    """Learned queries, as many as the text will have soft tokens, cross-attend to AltCLIP's token states.

    It holds the token embeddings of the CLIP that it was trained with: to mix them, and to tell whether another CLIP is a
    relative of it.
    """

    config_class = BridgeConfig
    main_input_name = "states"

    def __init__(self, config: BridgeConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.project_in = nn.Linear(config.input_width, width)
        self.length_query = nn.Parameter(torch.randn(1, width) / width**0.5)
        self.length_attention = Attention(width, config.num_attention_heads)
        self.length_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.max_soft_tokens))
        self.lengths = nn.Embedding(config.max_soft_tokens + 1, width)
        self.queries = nn.Parameter(torch.randn(config.max_soft_tokens, width) / width**0.5)
        self.layers = nn.ModuleList(
            DecoderLayer(width, config.num_attention_heads, config.intermediate_size) for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.words = nn.Linear(width, config.embedding_widths[0])
        self.rests = nn.ModuleList(nn.Linear(width, size) for size in config.embedding_widths)
        for parameter in self.rests.parameters():
            nn.init.zeros_(parameter)  # begins with the mixture alone
        nn.init.normal_(self.lengths.weight, std=width**-0.5)
        self.token_embeddings = TokenEmbeddings(config.vocab_size, config.embedding_widths)
        self._scales: list[float] | None = None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: the parameters begin as `__init__` made them."""

    def forward(
        self,
        states: Tensor,
        attention_mask: Tensor | None = None,
        lengths: Tensor | None = None,
        token_embeddings: Sequence[Tensor] | None = None,
        longest: int | None = None,
    ) -> SoftTokens:
        """Soft tokens of texts.

        states: (batch, tokens, input_width), of AltCLIP. attention_mask: (batch, tokens), 1 or True for real tokens, at least
        one a row; by default all are. lengths: int64 (batch,), how many soft tokens each text becomes; None: as many as the
        bridge finds right. token_embeddings: for each CLIP (vocab_size, embedding width); by default those it was trained with.
        longest: how many are given, those beyond a text's own meaning nothing; None: as many as the longest text has.
        """
        memory = self.project_in(states)
        mask = None if attention_mask is None else attention_mask.bool()[:, None, None]
        query = self.length_query.expand(states.shape[0], -1, -1)
        length_logits = self.length_head(self.length_attention(query, memory, mask)[:, 0])
        if lengths is None:
            lengths = length_logits.argmax(-1) + 1
        longest = int(lengths.max()) if longest is None else longest
        present = torch.arange(longest, device=states.device) < lengths[:, None]
        hidden = self.queries[:longest] + self.lengths(lengths)[:, None]
        for layer in self.layers:
            hidden = layer(hidden, memory, mask, present[:, None, None])
        hidden = self.norm(hidden)
        tables = [table.to(hidden) for table in token_embeddings or self.token_embeddings]
        scales = self.scales()
        # as attention does: the deviation of the products does not depend on the width
        word_logits = (self.words(hidden) / (scales[0] * tables[0].shape[1] ** 0.5)) @ tables[0].T
        mixture = self.without_hole_word(word_logits).softmax(-1).to(hidden)
        mixtures = [mixture @ table for table in tables]
        rests = [scale * rest(hidden) for scale, rest in zip(scales, self.rests, strict=True)]
        embeddings = tuple(word + rest for word, rest in zip(mixtures, rests, strict=True))
        sizes = mixtures[0].norm(dim=-1), rests[0].norm(dim=-1)
        return SoftTokens(embeddings, lengths, length_logits, word_logits, sizes[1] / (sizes[0] + sizes[1]))

    def without_hole_word(self, word_logits: Tensor) -> Tensor:
        """The logits of the mixture, float32 of the same shape: it says where literal words belong, and has no part in it."""
        word_logits = word_logits.float()
        if self.config.hole_word is None:
            return word_logits
        return word_logits.index_fill(-1, torch.tensor(self.config.hole_word, device=word_logits.device), -torch.inf)

    def scales(self) -> list[float]:
        """The standard deviation of each CLIP's token embeddings, as it was trained with them."""
        if self._scales is None:
            self._scales = [float(table.float().std()) for table in self.token_embeddings]
        return self._scales

    def set_token_embeddings(self, tables: Sequence[Tensor]) -> None:
        """Take those of the CLIPs that the bridge is to be trained with."""
        for own, table in zip(self.token_embeddings, tables, strict=True):
            own.copy_(table)
        self._scales = None

    def mix_relatives(self, tables: Sequence[Tensor]) -> None:
        """Mix a fine-tune's token embeddings from now on, in the scales of those that the bridge was trained with."""
        self.scales()
        for own, table in zip(self.token_embeddings, tables, strict=True):
            own.copy_(table[: self.config.vocab_size])

    def drop_token_embeddings(self) -> None:
        """Free their memory: from now on `forward` wants those of a related CLIP given."""
        self.scales()
        self.token_embeddings = TokenEmbeddings(0, [])


AnyBridge = Bridge | ExitBridge


def load_bridge(source: str | Path | AnyBridge, dtype: torch.dtype | str | None = None, **options: Any) -> AnyBridge:
    """A bridge from a folder, an id on the hub or "mini", or a copy of the given one.

    dtype: of its weights, or its name; None means float32, "auto" as they are stored. torch_dtype is the same.
    options: subfolder and the hub's, revision, token, cache_dir, ... Raises InputError, for any other option too.
    """
    read, weights_dtype = read_options("load_bridge", options, named=["dtype"]), read_dtype(dtype, options)
    if isinstance(source, AnyBridge):
        return copy.deepcopy(source).to(weights_dtype or source.dtype)
    embedded = bridge_folder.local_bridge(hub.MINI)
    folder = embedded if source == hub.MINI else read.find(source, ["config.json", "model.safetensors"])
    if not (folder / "config.json").is_file():
        raise InputError(f"no bridge in {folder}: expected a folder with config.json and model.safetensors")
    kind = tensor_files.read_json(folder / "config.json").get("model_type")
    classes: dict[str, Any] = {each.config_class.model_type: each for each in (Bridge, ExitBridge)}
    if kind not in classes:
        raise InputError(f"{folder} holds no bridge: expected model_type {' or '.join(classes)}, got {kind!r}")
    try:
        return classes[kind].from_pretrained(folder, dtype=weights_dtype or "auto")
    except (OSError, RuntimeError, TypeError, safetensors.SafetensorError) as error:
        raise InputError(f"the bridge in {folder} can't be read: {first_line(error)}") from error
