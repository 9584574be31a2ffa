"""A LoRA beside a UNet's layers, by PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from altdiffusion.errors import InputError

# What a LoRA is put beside, by the ends of the layers' names: the projections of every attention, as in diffusers' own
# training script; or what stands between them, too, above all convolutions, as in the web UIs' "LoCon".
_ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
LAYERS = {
    "attention": _ATTENTION,
    "all": [*_ATTENTION, "proj_in", "proj_out", "net.0.proj", "net.2", "time_emb_proj", "conv1", "conv2", "conv_shortcut",
            "conv"],
}  # fmt: skip


def lora_config(rank: int, layers: str) -> Any:
    """PEFT's LoraConfig. layers: a key of LAYERS. Raises InputError where PEFT is missing: call it before loading models."""
    try:
        from peft import LoraConfig
    except ImportError:
        raise InputError(
            f'a LoRA (--lora-rank {rank}) needs the library peft: pip install "altdiffusion[train]", or train the UNet'
        ) from None
    return LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=LAYERS[layers])


def add_lora(unet: Any, config: Any, seed: int) -> None:
    """Put a LoRA into the UNet, which alone gets gradients then."""
    unet.requires_grad_(False)
    torch.manual_seed(seed)  # every process begins with the same LoRA
    unet.add_adapter(config)


def save_lora(unet: Any, folder: Path) -> None:
    """folder/pytorch_lora_weights.safetensors, which `load_lora_weights` reads.

    The names stay PEFT's: `convert_state_dict_to_diffusers` renames attention's alone, and of a file in both forms
    `load_lora_weights` drops one.
    """
    from peft import get_peft_model_state_dict

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in get_peft_model_state_dict(unet).items()}
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=state)
