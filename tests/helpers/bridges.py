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

from altdiffusion import swap_text_encoder
from altdiffusion.checkpoints import hub
from altdiffusion.text_encoder.bridge import Bridge, BridgeConfig
from altdiffusion.text_encoder.exit_bridge import ExitBridge, ExitBridgeConfig
from altdiffusion.text_encoder.soft_tokens import token_table
from altdiffusion.text_encoder.tokenizer import load_any_tokenizer
from helpers import layouts

SMALL = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "np"}
PROMPT = "一只猫"
SIZES = {"hidden_size": 32, "num_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
# (width of the states, of the pooled vector) that the UNets of 1.x, 2.x and XL take
WIDTHS = {"sd1": (768, 0), "sd2": (1024, 0), "xl": (2048, 1280)}


def small_bridge(kind: str = "sd1", input_width: int = 32) -> ExitBridge:
    """A bridge with random weights for AltCLIP's small tower (32)."""
    torch.manual_seed(5)
    bridge = ExitBridge(ExitBridgeConfig(input_width, *WIDTHS[kind], **SIZES)).eval()
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
        unet = _xl_unet(*WIDTHS[kind])
        second = {"text_encoder_2": CLIPTextModelWithProjection(clip), "tokenizer_2": None}
        return StableDiffusionXLPipeline(**parts, **second, unet=unet, add_watermarker=False)
    unet = layouts.small_unet(WIDTHS[kind][0], linear=kind == "sd2", channels=(64, 128) if kind == "sd2" else (32, 64))
    return StableDiffusionPipeline(
        **parts, unet=unet, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def bridged(published: Callable[..., Path], kind: str = "sd1") -> Any:
    """The same with AltCLIP's small tower and a bridge in the place of its CLIPs."""
    return swap_text_encoder(stock(kind), published("m9"), bridge=small_bridge(kind))


def readable(kind: str = "sd1") -> Any:
    """A small Stable Diffusion, "sd1" or "xl", whose CLIPs read: with SD-mini's tokenizer."""
    tokenizer = load_any_tokenizer(hub.sd_mini_folder() / "tokenizer")
    clip = {"vocab_size": len(tokenizer), "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    clip |= {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    torch.manual_seed(6)
    parts = {
        "vae": layouts.small_vae(),
        "text_encoder": _scaled(CLIPTextModel(CLIPTextConfig(hidden_size=32, **clip))),
        "tokenizer": tokenizer,
        "scheduler": diffusers.DDIMScheduler(clip_sample=False, steps_offset=1),
    }
    if kind == "xl":
        second = CLIPTextConfig(hidden_size=48, projection_dim=24, **clip)
        unet = _xl_unet(80, 24)
        parts |= {
            "text_encoder_2": _scaled(CLIPTextModelWithProjection(second)),
            "tokenizer_2": load_any_tokenizer(hub.sd_mini_folder() / "tokenizer"),
        }
        pipe: Any = StableDiffusionXLPipeline(**parts, unet=unet, add_watermarker=False)
    else:
        pipe = StableDiffusionPipeline(
            **parts,
            unet=layouts.small_unet(32),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def small_entrance_bridge(pipe: Any, input_width: int = 32, **settings: Any) -> Bridge:
    """A bridge with random weights to the CLIPs of a pipeline. input_width: of AltCLIP's small tower; mini's has 192.

    It gives 3 soft tokens for a text. settings: of BridgeConfig.
    """
    encoders = [getattr(pipe, name) for name in ("text_encoder", "text_encoder_2") if getattr(pipe, name, None)]
    tables = [token_table(encoder, len(pipe.tokenizer)).float() for encoder in encoders]
    torch.manual_seed(5)
    widths = [table.shape[1] for table in tables]
    config = BridgeConfig(input_width, widths, len(tables[0]), **({"max_soft_tokens": 6} | SIZES | settings))
    bridge = Bridge(config).eval()
    for name, parameter in bridge.named_parameters():
        if name.startswith("rests."):  # trained ones are not 0
            nn.init.normal_(parameter, std=0.2)
    bridge.length_head[-1].bias.data[2] = 9
    bridge.set_token_embeddings(tables)
    return bridge


def save_entrance_bridge(folder: Path, pipe: Any, input_width: int = 32, **settings: Any) -> Path:
    """The same in a folder as `train bridge` writes it."""
    small_entrance_bridge(pipe, input_width, **settings).save_pretrained(folder)
    pipe.tokenizer.save_pretrained(folder / "tokenizer")
    return folder


def save_english_and_bridges(root: Path) -> None:
    """english, a Stable Diffusion; entrance and exit, bridges to it."""
    pipe = readable()
    pipe.save_pretrained(root / "english")
    save_entrance_bridge(root / "entrance", pipe)
    small_bridge().save_pretrained(root / "exit")


def _xl_unet(width: int, pooled: int) -> Any:
    """A small one of XL's. width: of the states; pooled: of the vector beside them."""
    return diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, attention_head_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=pooled + 6 * 8,
    )  # fmt: skip


def _scaled(encoder: Any) -> Any:
    """A text encoder with larger weights, so that texts differ: the usual 0.02 gives next to the same for everything."""
    for parameter in encoder.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.2)
    return encoder.eval()


def encoder_of(pipe: DiffusionPipeline) -> Any:
    return pipe.text_encoder_2 if "text_encoder_2" in pipe.components else pipe.text_encoder


def draw(pipe: Any, prompt: str = PROMPT, **kwargs: Any) -> np.ndarray:
    return pipe(prompt, generator=torch.Generator().manual_seed(1), **(SMALL | kwargs)).images[0]
