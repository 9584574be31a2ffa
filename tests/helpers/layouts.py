"""Small AltDiffusion and AltCLIP checkpoints in every published layout, with random weights."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import sentencepiece
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.pipelines.deprecated.alt_diffusion.modeling_roberta_series import (
    RobertaSeriesConfig,
    RobertaSeriesModelWithTransformation,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import save_file
from torch import Tensor
from transformers import AltCLIPConfig, AltCLIPModel, CLIPConfig

from helpers.ldm_names import ldm_unet, ldm_vae

# "a cat" in AltDiffusion-m18's languages, some with a comma, so that the tokenizer knows their scripts.
GREETINGS = {
    "en": "a cat, please",
    "zh": "一只猫，黑暗精灵公主",
    "es": "un gato, por favor",
    "fr": "un chat, s'il vous plaît",
    "ru": "кошка на синем фоне",
    "ja": "一匹の猫、青い背景",
    "ko": "파란 배경의 고양이",
    "ar": "قطة على خلفية زرقاء",
    "it": "un gatto, per favore",
    "th": "แมวบนพื้นหลังสีน้ำเงิน",
    "hi": "नीली पृष्ठभूमि पर बिल्ली",
    "uk": "кішка на синьому тлі, їжак",
    "tr": "mavi arka planda bir kedi, ığdır",
    "vi": "con mèo trên nền xanh, đẹp",
    "pl": "kot na niebieskim tle, żółw",
    "nl": "een kat op een blauwe achtergrond",
    "pt": "um gato, fundo azul, coração",
    "de": "eine Katze, bitte, schön groß",
}
VOCABULARY = 500


@dataclass
class Kind:
    """What sets one published encoder apart."""

    project_dim: int
    pre_transformation: bool


KINDS = {"bilingual": Kind(32, False), "m9": Kind(32, False), "m18": Kind(64, True)}


def published_encoder(kind: str, seed: int = 0) -> RobertaSeriesModelWithTransformation:
    """The oracle: the class that AltDiffusion was published with, still shipped by diffusers."""
    torch.manual_seed(seed)
    config = RobertaSeriesConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=1,
        max_position_embeddings=80,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        project_dim=KINDS[kind].project_dim,
        has_pre_transformation=KINDS[kind].pre_transformation,
    )
    encoder = RobertaSeriesModelWithTransformation(config).eval()
    for name, parameter in encoder.named_parameters():
        if "LayerNorm" in name or "pre_LN" in name:  # trained ones are neither 1 nor 0
            torch.nn.init.normal_(parameter, mean=1.0 if name.endswith("weight") else 0.0, std=0.3)
        elif name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return encoder


def published_state(encoder: torch.nn.Module) -> dict[str, Tensor]:
    """Its tensors as the published files hold them: the old layer names, and the leftovers."""
    state = {
        re.sub(r"encoder\.layers\.", "encoder.layer.", key): value.clone()
        for key, value in encoder.state_dict().items()
    }
    state["roberta.embeddings.position_ids"] = torch.arange(80)[None]
    state["roberta.pooler.dense.weight"] = torch.zeros(64, 64)
    state["roberta.pooler.dense.bias"] = torch.zeros(64)
    state["logit_scale"] = torch.tensor(4.6)
    return state


def save_tokenizer(folder: Path) -> None:
    """Only the slow tokenizer's files, as published."""
    folder.mkdir(parents=True)
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(list(GREETINGS.values()) * 20), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "sentencepiece.bpe"), vocab_size=400, model_type="unigram",
        character_coverage=1.0, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    corpus.unlink()
    (folder / "sentencepiece.bpe.vocab").unlink()
    special = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "sep_token": "</s>",
               "unk_token": "<unk>", "mask_token": {"content": "<mask>", "lstrip": True, "rstrip": False,
                                                    "normalized": True, "single_word": False}}  # fmt: skip
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    settings = special | {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 77, "sp_model_kwargs": {}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def small_unet(width: int, linear: bool = False, channels: tuple[int, int] = (32, 64)) -> UNet2DConditionModel:
    torch.manual_seed(1)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=[c // 64 for c in channels] if linear else 8,
        use_linear_projection=linear,
    )


def small_vae() -> AutoencoderKL:
    torch.manual_seed(2)
    return AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        sample_size=16,
    )


def save_safety_checker(folder: Path, safe_serialization: bool, finds: bool = False) -> None:
    """diffusers' own, small. finds: whether it takes offence at every image, or at none."""
    torch.manual_seed(4)
    vision = dict(hidden_size=32, intermediate_size=37, num_hidden_layers=1, num_attention_heads=2)
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(vision_config=vision | dict(image_size=32, patch_size=8), projection_dim=32)
    )
    for threshold in (checker.concept_embeds_weights, checker.special_care_embeds_weights):
        threshold.data.fill_(-2.0 if finds else 2.0)  # of a cosine similarity
    checker.save_pretrained(folder)
    if not safe_serialization:
        torch.save(checker.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()


def save_published(folder: Path, kind: str = "m9", weights: str = "bin") -> RobertaSeriesModelWithTransformation:
    """A folder as BAAI published it; returns the encoder that the oracle needs. weights: "bin" or "safetensors"."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder = published_encoder(kind)
    (folder / "text_encoder").mkdir()
    config = encoder.config.to_dict() | {
        "model_type": "xlm-roberta",
        "architectures": ["RobertaSeriesModelWithTransformation"],
    }
    (folder / "text_encoder" / "config.json").write_text(json.dumps(config, default=str))
    state = published_state(encoder)
    if weights == "bin":
        torch.save(state, folder / "text_encoder" / "pytorch_model.bin")
    else:
        save_file(state, folder / "text_encoder" / "model.safetensors")
    save_tokenizer(folder / "tokenizer")
    safe = weights != "bin"
    small_unet(encoder.config.project_dim).save_pretrained(folder / "unet", safe_serialization=safe)
    small_vae().save_pretrained(folder / "vae", safe_serialization=safe)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({  # with 2022's settings, one of them unknown today
        "_class_name": "PNDMScheduler", "_diffusers_version": "0.8.0.dev0", "beta_end": 0.012, "beta_start": 0.00085,
        "beta_schedule": "scaled_linear", "clip_sample": False, "num_train_timesteps": 1000, "set_alpha_to_one": False,
        "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None,
    }))  # fmt: skip
    (folder / "feature_extractor").mkdir()
    (folder / "feature_extractor" / "preprocessor_config.json").write_text(json.dumps({
        "feature_extractor_type": "CLIPFeatureExtractor", "crop_size": 32, "do_center_crop": True, "do_normalize": True,
        "do_resize": True, "size": 32, "resample": 3, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    }))  # fmt: skip
    save_safety_checker(folder / "safety_checker", safe)
    (folder / "model_index.json").write_text(json.dumps({
        "_class_name": "AltDiffusionPipeline",
        "_diffusers_version": "0.8.0.dev0",
        "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["alt_diffusion", "RobertaSeriesModelWithTransformation"],
        "tokenizer": ["transformers", "XLMRobertaTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }))  # fmt: skip
    return encoder


def save_altclip(folder: Path, m18: bool = False) -> AltCLIPModel:
    """A flat AltCLIP folder, both towers; m18's has the extra tensors of the conditioning head."""
    torch.manual_seed(3)
    width = 64 if m18 else 32
    text = dict(vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=1,
                max_position_embeddings=80, project_dim=width)  # fmt: skip
    vision = dict(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    model = AltCLIPModel(AltCLIPConfig(text_config=text, vision_config=vision, projection_dim=32)).eval()
    for name, parameter in model.named_parameters():
        if "pre_LN" in name or "LayerNorm" in name:
            torch.nn.init.normal_(parameter, mean=1.0 if name.endswith("weight") else 0.0, std=0.3)
    state = {
        re.sub(r"roberta\.encoder\.layers\.", "roberta.encoder.layer.", key): value.clone()
        for key, value in model.state_dict().items()
    }
    if m18:
        state["text_model.transformation_pre.weight"] = torch.randn(width, 64) / 8
        state["text_model.transformation_pre.bias"] = torch.randn(width) / 8
    folder.mkdir(parents=True)
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(model.config.to_json_string())
    for file in (save_tokenizer(folder / "tokenizer"), *(folder / "tokenizer").iterdir())[1:]:
        file.rename(folder / file.name)
    (folder / "tokenizer").rmdir()
    return model


def single_file_state(kind: str, ema: bool = False) -> dict[str, Tensor]:
    """A whole AltDiffusion in latent diffusion's names. ema: with a moving average of the UNet, twice the weights."""
    encoder = published_encoder(kind)
    linear = KINDS[kind].pre_transformation
    unet = small_unet(encoder.config.project_dim, linear, channels=(64, 128) if linear else (32, 64))
    state = ldm_unet(unet.state_dict()) | ldm_vae(small_vae().state_dict(), levels=2)
    state |= {f"cond_stage_model.{key}": value for key, value in published_state(encoder).items()}
    state["alphas_cumprod"] = torch.linspace(1, 0, 10)
    if ema:
        averages = {
            "model_ema." + key.removeprefix("model.").replace(".", ""): value * 2
            for key, value in state.items()
            if key.startswith("model.diffusion_model.")
        }
        state |= averages
    return {key: value.contiguous() for key, value in state.items()}
