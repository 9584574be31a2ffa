"""Small Stable Diffusions of three kinds, and bridges with random weights that bring AltCLIP to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from altdiffusion import Bridge, swap_text_encoder
from altdiffusion.text_encoder.bridge import BridgeConfig
from helpers import layouts

SMALL = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "np"}
PROMPT = "一只猫"
SIZES = {"hidden_size": 32, "num_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
# (width of the states, of the pooled vector) that the UNets of 1.x, 2.x and XL take
WIDTHS = {"sd1": (768, 0), "sd2": (1024, 0), "xl": (2048, 1280)}


def small_bridge(kind: str = "sd1", input_width: int = 32) -> Bridge:
    """A bridge with random weights for AltCLIP's small tower (32)."""
    torch.manual_seed(5)
    bridge = Bridge(BridgeConfig(input_width, *WIDTHS[kind], **SIZES)).eval()
    for name, parameter in bridge.named_parameters():  # trained ones are neither 1 nor 0
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=1.0 if "norm" in name and name.endswith("weight") else 0.0, std=0.2)
    return bridge


def stock(kind: str = "sd1") -> Any:
    """A small Stable Diffusion of this kind, with CLIPs that no test runs."""
    clip = CLIPTextConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    parts = {
        "vae": layouts.small_vae(),
        "text_encoder": CLIPTextModel(clip),
        "tokenizer": None,
        "scheduler": diffusers.DDIMScheduler(),
    }
    if kind == "xl":
        torch.manual_seed(1)
        unet = diffusers.UNet2DConditionModel(
            sample_size=8, block_out_channels=(32, 64), layers_per_block=1, attention_head_dim=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=2048, addition_embed_type="text_time", addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=1280 + 6 * 8,
        )  # fmt: skip
        second = {"text_encoder_2": CLIPTextModelWithProjection(clip), "tokenizer_2": None}
        return StableDiffusionXLPipeline(**parts, **second, unet=unet, add_watermarker=False)
    unet = layouts.small_unet(WIDTHS[kind][0], linear=kind == "sd2", channels=(64, 128) if kind == "sd2" else (32, 64))
    return StableDiffusionPipeline(
        **parts, unet=unet, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def bridged(published: Callable[..., Path], kind: str = "sd1") -> Any:
    """The same with AltCLIP's small tower and a bridge in the place of its CLIPs."""
    return swap_text_encoder(stock(kind), published("m9"), bridge=small_bridge(kind))


def encoder_of(pipe: DiffusionPipeline) -> Any:
    return pipe.text_encoder_2 if "text_encoder_2" in pipe.components else pipe.text_encoder


def draw(pipe: Any, prompt: str = PROMPT, **kwargs: Any) -> np.ndarray:
    return pipe(prompt, generator=torch.Generator().manual_seed(1), **(SMALL | kwargs)).images[0]
