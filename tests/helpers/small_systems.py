"""Small random models in the layout of each system of the table, and the texts and images that tell them apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ChineseCLIPConfig,
    ChineseCLIPModel,
)

from altdiffusion.evaluation.systems.base import System
from altdiffusion.evaluation.systems.load import load_system

TEXTS = ["一只猫", "Two CATS “sleep” on a bed", "狗", "一只猫，两只狗，还有一个穿蓝色衣服的人在看书"]
SIDE = 32
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def words() -> list[str]:
    """A vocabulary of BERT's kind: the characters of TEXTS, letters also within words."""
    characters = sorted({each for text in TEXTS for each in text.lower() if not each.isspace()} | {'"'})
    return [*_SPECIAL, *characters, *("##" + each for each in "abcdefghijklmnopqrstuvwxyz")]


def save_vocabulary(folder: Path, vocabulary: list[str] | None = None) -> int:
    """vocab.txt; returns its length."""
    vocabulary = vocabulary or words()
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return len(vocabulary)


def excite(model: nn.Module) -> nn.Module:
    """Random weights large enough that inputs make a difference, norms and biases neither 1 nor 0."""
    torch.manual_seed(7)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.7 / parameter[0].numel() ** 0.5 if "embed" not in name else 0.5)
        else:
            centre = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            nn.init.normal_(parameter, mean=centre, std=0.2)
    return model.eval()


def vision_settings() -> dict[str, int]:
    return dict(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=8,
    )


def text_settings(rows: int) -> dict[str, int]:
    return dict(vocab_size=rows, hidden_size=128, intermediate_size=160, num_hidden_layers=2, num_attention_heads=2,
                max_position_embeddings=96)  # fmt: skip


def save_chinese_clip(folder: Path, vocabulary: list[str] | None = None) -> ChineseCLIPModel:
    """As OFA-Sys publishes it, but without a preprocessor_config.json that is right: transformers' default crops."""
    folder.mkdir()
    rows = save_vocabulary(folder, vocabulary)
    config = ChineseCLIPConfig(
        text_config=text_settings(rows),
        vision_config=vision_settings() | {"hidden_act": "quick_gelu"},
        projection_dim=16,
    )
    model = excite(ChineseCLIPModel(config))
    model.save_pretrained(folder)
    add_position_ids(folder, "text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")
    return model


def save_taiyi(folder: Path, width: int) -> BertForSequenceClassification:
    """width: of its vectors, that is its number of classes."""
    folder.mkdir()
    rows = save_vocabulary(folder)
    model = excite(BertForSequenceClassification(BertConfig(**text_settings(rows), num_labels=width)))
    model.save_pretrained(folder)
    add_position_ids(folder, "bert.embeddings.position_ids")
    return model


def add_position_ids(folder: Path, *names: str) -> None:
    """The counters that files of 2022 hold, and that are no weights."""
    state = load_file(folder / "model.safetensors")
    for name in names:
        state[name] = torch.arange(96)[None].clone()
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def change_weights(folder: Path, drop: str = "", add: str = "") -> None:
    """Take a tensor out of a folder's weights, or put a strange one in."""
    state = load_file(folder / "model.safetensors")
    if drop:
        del state[drop]
    if add:
        state[add] = torch.zeros(3)
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def stripes() -> Image.Image:
    """Five times as wide as high: red, in the middle green, blue. A crop keeps nothing but green."""
    image = Image.new("RGB", (160, 32), "green")
    image.paste("red", (0, 0, 48, 32))
    image.paste("blue", (112, 0, 160, 32))
    return image


def pictures() -> list[Image.Image]:
    """Three of different sizes and contents."""
    torch.manual_seed(3)
    noise = torch.randint(0, 256, (70, 45, 3), dtype=torch.uint8).numpy()
    return [stripes(), Image.fromarray(noise), Image.new("RGB", (20, 90), "orange")]


def openai_vision(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of transformers' CLIP vision tower under OpenAI's names, `visual.*`, as cn_clip has them."""
    renamed = {
        "visual.class_embedding": state[f"{prefix}embeddings.class_embedding"],
        "visual.positional_embedding": state[f"{prefix}embeddings.position_embedding.weight"],
        "visual.conv1.weight": state[f"{prefix}embeddings.patch_embedding.weight"],
    }
    for kind in ("weight", "bias"):
        renamed[f"visual.ln_pre.{kind}"] = state[f"{prefix}pre_layrnorm.{kind}"]
        renamed[f"visual.ln_post.{kind}"] = state[f"{prefix}post_layernorm.{kind}"]
        for layer in range(vision_settings()["num_hidden_layers"]):
            old, new = f"{prefix}encoder.layers.{layer}", f"visual.transformer.resblocks.{layer}"
            renamed[f"{new}.attn.in_proj_{kind}"] = torch.cat(
                [state[f"{old}.self_attn.{each}_proj.{kind}"] for each in "qkv"]
            )
            renamed[f"{new}.attn.out_proj.{kind}"] = state[f"{old}.self_attn.out_proj.{kind}"]
            renamed[f"{new}.ln_1.{kind}"] = state[f"{old}.layer_norm1.{kind}"]
            renamed[f"{new}.ln_2.{kind}"] = state[f"{old}.layer_norm2.{kind}"]
            renamed[f"{new}.mlp.c_fc.{kind}"] = state[f"{old}.mlp.fc1.{kind}"]
            renamed[f"{new}.mlp.c_proj.{kind}"] = state[f"{old}.mlp.fc2.{kind}"]
    return renamed


def load(name: str | Path | None, **options: Any) -> System:
    """A system on the CPU."""
    return load_system(name, device="cpu", **options)


def assert_features(found: Tensor, expected: Tensor) -> None:
    """Asserts that features are unit vectors in float32, and those expected once these are normalised."""
    assert found.dtype == torch.float32
    assert not found.is_inference()
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(found.shape[:-1]))
    torch.testing.assert_close(found, F.normalize(expected.detach().float(), dim=-1), atol=1e-5, rtol=0)


def same(system: System, one: str | Image.Image, other: str | Image.Image) -> bool:
    """Whether two texts, or two images, are the same to a system."""
    features: Any = system.text_features if isinstance(one, str) else system.image_features
    first, second = features([one])[0], features([other])[0]
    return torch.allclose(first, second, atol=1e-5)
