"""Small Stable Diffusions of the three kinds that read English by CLIPs: with a tokenizer, and the published proportions."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from altdiffusion.checkpoints import hub
from helpers import layouts

TOKENIZER = hub.sd_mini_folder() / "tokenizer"
POOLED = 32


def clip(kind: type[Any], width: int, act: str, seed: int) -> Any:
    torch.manual_seed(seed)
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = CLIPTextConfig(
        vocab_size=1360, hidden_size=width, intermediate_size=96, num_hidden_layers=2, num_attention_heads=width // 64,
        hidden_act=act, projection_dim=POOLED, **ids,
    )  # fmt: skip
    return kind(config).eval()


def english(kind: str, *, in_channels: int = 4) -> Any:
    """sd1, sd2 or xl. in_channels: 9 for inpainting."""
    tokenizer, padded = (CLIPTokenizer.from_pretrained(TOKENIZER) for _ in range(2))
    padded.pad_token = padded.convert_ids_to_tokens(0)
    act = "gelu" if kind == "sd2" else "quick_gelu"
    vae = layouts.small_vae()
    parts = {
        "vae": vae,
        "text_encoder": clip(CLIPTextModel, 64, act, 3),
        "tokenizer": padded if kind == "sd2" else tokenizer,
        "scheduler": diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
    }
    torch.manual_seed(5)
    sizes: dict[str, Any] = {
        "sample_size": 8, "in_channels": in_channels, "layers_per_block": 1, "cross_attention_dim": 64,
        "block_out_channels": (64, 128), "attention_head_dim": 8, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }  # fmt: skip
    if kind != "sd1":
        sizes |= {"use_linear_projection": True, "attention_head_dim": (1, 2)}
    if kind == "xl":
        sizes |= {
            "cross_attention_dim": 64 + 128, "transformer_layers_per_block": (1, 2), "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": POOLED + 6 * 8,
        }  # fmt: skip
        vae.register_to_config(scaling_factor=0.13025)
        second = {"text_encoder_2": clip(CLIPTextModelWithProjection, 128, "gelu", 4), "tokenizer_2": padded}
        return StableDiffusionXLPipeline(**parts, **second, unet=diffusers.UNet2DConditionModel(**sizes))
    nothing = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionPipeline(**parts, **nothing, unet=diffusers.UNet2DConditionModel(**sizes))
