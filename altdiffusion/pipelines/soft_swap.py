"""A pipeline's own CLIP and tokenizer, which read soft tokens for what is not English."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from altdiffusion.errors import InputError
from altdiffusion.prompt_syntax.route import Route
from altdiffusion.text_encoder.bridge import Bridge
from altdiffusion.text_encoder.bridge_layers import check_altclip
from altdiffusion.text_encoder.soft_prompts import SoftPrompts
from altdiffusion.text_encoder.soft_tokenizer import soft_tokenizer
from altdiffusion.text_encoder.soft_tokens import token_table

logger = logging.getLogger(__name__)

RELATED = 0.5  # of two CLIPs' token embeddings, the relative distance below which one is a fine-tune of the other
_SAME = 0.002  # rounding to float16


def read_by_own_clip(
    pipe: Any, tower: Any, tokenizer: Any, bridge: Bridge, route: Route, literal: Collection[str]
) -> None:
    """Put a bridge at the entrance of a pipeline's CLIPs, in place.

    tower, tokenizer: AltCLIP's. bridge: loses its token embeddings, as the pipeline's own are taken.
    Raises InputError, before anything is changed, for a bridge that was trained with another CLIP or another AltCLIP.
    """
    names = [name for name in ("text_encoder", "text_encoder_2") if getattr(pipe, name, None) is not None]
    encoders = [getattr(pipe, name) for name in names]
    check_altclip(bridge, tower)
    check_clips(bridge, [token_table(encoder, encoder.config.vocab_size) for encoder in encoders])
    bridge.drop_token_embeddings()
    prompts = SoftPrompts(tower.eval(), tokenizer, bridge.eval(), encoders)
    prompts.route = route
    prompts.literal_words.update(literal)
    for name in names:
        own = name.replace("text_encoder", "tokenizer")
        setattr(pipe, own, soft_tokenizer(getattr(pipe, own), prompts))
    if hasattr(pipe, "empty_text_embedding"):  # Marigold keeps the states of ""
        pipe.empty_text_embedding = None


def check_clips(bridge: Bridge, tables: Sequence[Tensor]) -> None:
    """Raise InputError unless CLIPs are those that a bridge was trained with, or fine-tunes of them, which a warning says.

    tables: each CLIP's token embeddings (its vocabulary's size, width). A distance of two is relative to their size: 0 for the
    same, some hundredths at most for a fine-tune, RELATED or more for another CLIP.
    """
    widths = [table.shape[1] for table in tables]
    config = bridge.config
    if widths != config.embedding_widths or any(len(table) < config.vocab_size for table in tables):
        raise InputError(
            f"this bridge was trained with CLIPs of width {_listed(config.embedding_widths)} and {config.vocab_size} tokens, "
            f"this pipeline's have width {_listed(widths)} and {min(map(len, tables))}: take a bridge "
            "that was trained with its CLIP (Stable Diffusion 1.x: 768; 2.x: 1024; XL: 768 and 1280)"
        )
    distance = max(
        _distance(table[: config.vocab_size], reference.detach())
        for table, reference in zip(tables, bridge.token_embeddings, strict=True)
    )
    if distance >= RELATED:
        raise InputError(
            "this bridge was trained with another CLIP: its token embeddings and this pipeline's differ by "
            f"{100 * distance:.0f} %, those of a fine-tune by less than {100 * RELATED:.0f} %: take a bridge that was "
            "trained with this CLIP"
        )
    if distance > _SAME:
        logger.warning(
            "this model's CLIP is a fine-tune of the one that the bridge was trained with: their token embeddings differ by "
            "%.2g %%", 100 * distance,
        )  # fmt: skip


def _distance(table: Tensor, reference: Tensor) -> float:
    reference = reference.to(table.device, torch.float32)
    return float((table.float() - reference).norm() / reference.norm())


def _listed(widths: Sequence[int]) -> str:
    return " and ".join(map(str, widths))
