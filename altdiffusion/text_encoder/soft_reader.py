"""What a bridge at CLIP's entrance understands of prompts, without a Stable Diffusion: to be shown, or written down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from altdiffusion.checkpoints import bridge_folder, hub
from altdiffusion.errors import InputError
from altdiffusion.text_encoder.bridge import Bridge, load_bridge
from altdiffusion.text_encoder.bridge_layers import check_altclip
from altdiffusion.text_encoder.encoder import load_text_encoder
from altdiffusion.text_encoder.soft_prompts import SoftPrompts
from altdiffusion.text_encoder.soft_tokenizer import soft_tokenizer
from altdiffusion.text_encoder.tokenizer import load_any_tokenizer


def load_soft_tokenizer(
    bridge: str | Path,
    model: str | Path | None = None,
    tokenizer: Any = None,
    *,
    device: torch.device | None = None,
    allow_pickle: bool = False,
) -> Any:
    """CLIP's tokenizer as a pipeline with this bridge has it; its soft tokens are of the CLIP that the bridge was trained with.

    bridge: a folder, an id on the hub, or "mini". model, allow_pickle: AltCLIP, as in `load_text_encoder`; None: the one that the
        bridge names. tokenizer: a model's with CLIP; None: the one in the bridge's folder `tokenizer`.
    Raises InputError for a bridge at CLIP's exit, which gives no soft tokens, for one that names no AltCLIP where none is given,
    and for a tokenizer that isn't its CLIP's.
    """
    loaded = load_bridge(bridge)
    if not isinstance(loaded, Bridge):
        raise InputError(bridge_folder.no_soft_tokens(bridge))
    if tokenizer is None:
        folder = bridge_folder.with_tokenizer(bridge)
        if not (folder / "tokenizer").is_dir():
            raise InputError(f"no folder tokenizer in {folder}: name a model with the CLIP that this bridge is for")
        tokenizer = load_any_tokenizer(folder / "tokenizer")
    if "CLIPTokenizer" not in type(tokenizer).__name__ or len(tokenizer) < loaded.config.vocab_size:
        raise InputError(
            f"the bridge {bridge} is for a CLIP with {loaded.config.vocab_size} tokens, this tokenizer is a "
            f"{type(tokenizer).__name__} with {len(tokenizer)}: take a model with that CLIP, or none"
        )
    model = model or loaded.config.text_encoder
    if model is None and bridge != hub.MINI:
        raise InputError(
            f"the bridge {bridge} doesn't say which AltCLIP it reads: name it, --text-encoder (text_encoder=)"
        )
    tower, altclip_tokenizer = load_text_encoder(model, allow_pickle=allow_pickle)
    check_altclip(loaded, tower)
    return soft_tokenizer(tokenizer, SoftPrompts(tower, altclip_tokenizer, loaded.eval().to(device), []))
