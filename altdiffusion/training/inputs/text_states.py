"""The hidden states of captions by a frozen text encoder, 77 to a caption, as a UNet takes them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import AltCLIPTextModel

from altdiffusion.text_encoder.tokenizer import MAX_TOKENS, pad, tokens
from altdiffusion.training.inputs.captioned_images import CaptionedImages
from altdiffusion.training.inputs.feature_cache import TextCache, checksum
from altdiffusion.training.loop import Batch


class TextStates:
    """The hidden states of a batch's captions: computed, or read from a cache.

    text_encoder: CLIP's, or AltCLIP's as `load_text_encoder` gives it. cache: a folder, or None.
    """

    def __init__(
        self, text_encoder: Any, tokenizer: Any, data: CaptionedImages, cache: Path | None, accelerator: Accelerator
    ) -> None:
        self._encoder, self._data = text_encoder, data
        self._tokenizer = copy.deepcopy(tokenizer)  # threads use it while the pipeline generates with its own
        # as diffusers' pipelines ask
        self._masked = bool(getattr(text_encoder.config, "use_attention_mask", None))
        self._cache = None
        if cache is not None:
            about = {"what": "text states", "text_encoder": checksum(text_encoder), "languages": list(data.languages)}
            self._cache = TextCache(cache, data.records, data.languages, self._compute, about, accelerator)

    def collate(self, captions: Sequence[tuple[int, str] | None]) -> Batch:
        """What `__call__` needs for captions, each (record, language) or None, the empty one."""
        if self._cache is None:
            texts = ["" if caption is None else self._data.caption(*caption) for caption in captions]
            ids, mask = pad(tokens(self._tokenizer, texts), self._tokenizer.pad_token_id, MAX_TOKENS)
            return {"input_ids": ids, "attention_mask": mask}
        return {"states": torch.stack([_padded(self._cache[caption]) for caption in captions])}

    def __call__(self, batch: Batch) -> Tensor:
        """float (batch, 77, width)."""
        if "states" in batch:
            states: Tensor = batch["states"]
            return states
        return self._states(batch["input_ids"], batch["attention_mask"]).float()

    @torch.no_grad()
    def _states(self, ids: Tensor, mask: Tensor) -> Tensor:
        device = self._encoder.device
        states: Tensor = self._encoder(ids.to(device), attention_mask=mask.to(device) if self._masked else None)[0]
        return states

    def _compute(self, texts: list[str]) -> list[Tensor]:
        """What the cache holds: states without those at the end that repeat the last one, as all of AltCLIP's padding does."""
        ids, mask = pad(tokens(self._tokenizer, texts), self._tokenizer.pad_token_id, MAX_TOKENS)
        states = self._states(ids, mask)
        if not isinstance(self._encoder, AltCLIPTextModel):  # CLIP's states at padding differ, a bridge's too
            return list(states)
        lengths = (mask.sum(1) + 1).clamp(max=MAX_TOKENS).tolist()
        return [row[:length] for row, length in zip(states, lengths, strict=True)]


def _padded(states: Tensor) -> Tensor:
    """77 states again, the last one repeated."""
    return torch.cat([states, states[-1:].expand(MAX_TOKENS - len(states), -1)])
