"""Models of full size with random weights in ComfyUI's folders, and our pipelines with the same: what they give is comparable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from altdiffusion import swap_text_encoder
from altdiffusion.text_encoder.bridge import Bridge, BridgeConfig
from altdiffusion.text_encoder.soft_tokens import token_table

VOCABULARY = 49408


def make_models(base: Path, comfyui: Path, kind: str) -> Any:
    """KIND-l.safetensors, for "sdxl" KIND-g.safetensors, the bridge random-KIND and a LoRA; our pipeline with these."""
    torch.manual_seed(0)
    clips = {
        "l": random_clip(
            CLIPTextModel, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, hidden_act="quick_gelu"
        )
    }
    tokenizer = CLIPTokenizer.from_pretrained(comfyui / "comfy" / "sd1_tokenizer")
    parts = {
        "vae": AutoencoderKL(),
        "scheduler": DDIMScheduler(clip_sample=False, steps_offset=1),
        "tokenizer": tokenizer,
    }
    if kind == "sdxl":
        clips["g"] = random_clip(
            CLIPTextModelWithProjection, hidden_size=1280, num_hidden_layers=32, num_attention_heads=20, hidden_act="gelu",
            projection_dim=1280,
        )  # fmt: skip
        # XL's second CLIP has learnt to read 0 as padding
        second = CLIPTokenizer.from_pretrained(comfyui / "comfy" / "sd1_tokenizer", pad_token="!")
        unet = small_unet(2048, addition_embed_type="text_time", addition_time_embed_dim=8,
                          projection_class_embeddings_input_dim=1280 + 6 * 8)  # fmt: skip
        pipe: Any = StableDiffusionXLPipeline(
            **parts,
            text_encoder=clips["l"],
            text_encoder_2=clips["g"],
            tokenizer_2=second,
            unet=unet,
            add_watermarker=False,
        )
    else:
        pipe = StableDiffusionPipeline(
            **parts, text_encoder=clips["l"], unet=small_unet(768), safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        )  # fmt: skip
    folder = base / "models" / "text_encoders"
    folder.mkdir(parents=True, exist_ok=True)
    for name, clip in clips.items():
        save_file(as_published(clip), folder / f"{kind}-{name}.safetensors")
    bridge = save_bridge(base / "models" / "altclip_bridges" / f"random-{kind}", list(clips.values()))
    save_lora(base / "models" / "loras" / "random.safetensors")
    return swap_text_encoder(pipe, "mini", bridge=bridge)


def random_clip(kind: Any, hidden_size: int, **sizes: Any) -> Any:
    config = CLIPTextConfig(
        vocab_size=VOCABULARY, hidden_size=hidden_size, intermediate_size=4 * hidden_size, bos_token_id=49406, eos_token_id=49407,
        **sizes,
    )  # fmt: skip
    clip = kind(config).eval()
    for parameter in clip.parameters():
        if parameter.dim() > 1:  # larger than CLIP begins with, so that texts differ
            nn.init.normal_(parameter, std=0.04)
    return clip


def small_unet(width: int, **options: Any) -> UNet2DConditionModel:
    """That attends to states of this width; nothing runs it."""
    return UNet2DConditionModel(
        block_out_channels=(32, 64), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=width, **options,
    )  # fmt: skip


def as_published(clip: Any) -> dict[str, torch.Tensor]:
    """The tensors by the names that checkpoints have: some versions of transformers leave out text_model."""
    state = {name.removeprefix("text_model."): value.contiguous() for name, value in clip.state_dict().items()}
    return {
        name if name.startswith("text_projection.") else f"text_model.{name}": value for name, value in state.items()
    }


def save_bridge(folder: Path, clips: list[Any]) -> Path:
    """From mini's AltCLIP to these, with random weights; every text becomes four soft tokens."""
    tables = [token_table(clip, VOCABULARY) for clip in clips]
    config = BridgeConfig(192, [table.shape[1] for table in tables], VOCABULARY, max_soft_tokens=6, hidden_size=64, num_layers=1,
                          num_attention_heads=4, intermediate_size=64, text_encoder="mini")  # fmt: skip
    bridge = Bridge(config).eval()
    for parameter in bridge.rests.parameters():  # trained ones are not 0
        nn.init.normal_(parameter, std=0.2)
    bridge.set_token_embeddings(tables)
    bridge.length_head[-1].bias.data[3] = 9
    bridge.save_pretrained(folder)
    return folder


def save_lora(path: Path) -> None:
    """A LoRA for SD-mini's text encoder, in kohya's form."""
    state = {}
    attention = {f"self_attn_{part}_proj": (192, 192) for part in ("q", "k", "v", "out")}
    for layer in range(4):
        for part, (width, out) in (attention | {"mlp_fc1": (192, 768)}).items():
            key = f"lora_te_text_model_encoder_layers_{layer}_{part}"
            state[f"{key}.lora_down.weight"] = 0.2 * torch.randn(2, width)
            state[f"{key}.lora_up.weight"] = 0.2 * torch.randn(out, 2)
            state[f"{key}.alpha"] = torch.tensor(2.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)
