"""An IP-Adapter of random numbers in its published layout, with its image encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

SEEN = 6  # width of an image's vector
TOKENS = 4  # that it becomes


def save_ip_adapter(folder: Path, unet: Any, width: int | None = None) -> Path:
    """width: of the text states that it was made for, where not the UNet's own."""
    torch.manual_seed(3)
    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16,
        projection_dim=SEEN,
    )  # fmt: skip
    CLIPVisionModelWithProjection(vision).save_pretrained(folder / "image_encoder")
    wide = width or unet.config.cross_attention_dim
    state = {
        "image_proj.proj.weight": torch.randn(TOKENS * wide, SEEN),
        "image_proj.proj.bias": torch.randn(TOKENS * wide),
        "image_proj.norm.weight": torch.ones(wide),
        "image_proj.norm.bias": torch.zeros(wide),
    }
    cross = [module for name, module in unet.named_modules() if name.endswith("attn2")]
    for number, module in enumerate(cross):
        for part in ("k", "v"):  # the odd numbers are those of cross-attention
            state[f"ip_adapter.{2 * number + 1}.to_{part}_ip.weight"] = torch.randn(module.inner_dim, wide)
    save_file(state, folder / "ip-adapter_sd15.safetensors")
    return folder
