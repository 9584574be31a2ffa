"""A stock Stable Diffusion with CLIP's text encoder, and random weights."""

from __future__ import annotations

import diffusers
from diffusers import StableDiffusionPipeline
from transformers import CLIPTextConfig, CLIPTextModel

from helpers import layouts


def clip_pipeline(width=32, linear=False):
    """A stock Stable Diffusion with CLIP's text encoder of that width."""
    text = CLIPTextConfig(
        vocab_size=100, hidden_size=width, intermediate_size=37, num_hidden_layers=1, num_attention_heads=2
    )
    return StableDiffusionPipeline(
        vae=layouts.small_vae(), text_encoder=CLIPTextModel(text), tokenizer=None, unet=layouts.small_unet(width),
        scheduler=diffusers.DDIMScheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
