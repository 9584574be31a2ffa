"""Full-size models with random weights, and the same weights in the peers' classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import AltCLIPConfig, AltCLIPModel, AltCLIPTextConfig, AltCLIPTextModel, CLIPImageProcessor

from altdiffusion.altclip.model import AltCLIPProcessor
from altdiffusion.checkpoints import hub
from altdiffusion.text_encoder.forward import patch_forward
from altdiffusion.text_encoder.tokenizer import load_tokenizer


@dataclass(frozen=True)
class Sizes:
    """How large models and works are. The names are those of the flags and of the document.

    rounds: timed of each contender. layers, width: of the towers. captions, pictures: how many. steps, side: of a
    generated image, side in pixels. channels: of the UNet's first level, a multiple of 32. vocabulary: None for mini's.
    """

    rounds: int = 5
    layers: int = 24
    width: int = 1024
    captions: int = 5000
    pictures: int = 64
    steps: int = 4
    side: int = 512
    channels: int = 320
    vocabulary: int | None = 250002


SMALL = Sizes(rounds=1, layers=2, width=64, captions=12, pictures=2, steps=2, side=64, channels=32, vocabulary=None)
PROJECTED = 768  # width of the states that Stable Diffusion 1.x takes


def tower_settings(sizes: Sizes, vocabulary: int) -> dict[str, Any]:
    """The settings of XLM-R large, at these sizes."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": sizes.width,
        "intermediate_size": 4 * sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.width // 64,
        "max_position_embeddings": 514,
        "project_dim": PROJECTED,
    }


def text_tower(sizes: Sizes, device: torch.device) -> AltCLIPTextModel:
    """transformers' own text encoder, untouched."""
    torch.manual_seed(0)
    config = AltCLIPTextConfig(**tower_settings(sizes, sizes.vocabulary or len(tokenizer())))
    config.use_attention_mask = True  # as published; else diffusers passes no mask, and the peer attends to padding
    return AltCLIPTextModel(config).eval().requires_grad_(False).to(device)


def our_text_encoder(stock: AltCLIPTextModel) -> AltCLIPTextModel:
    """Our text encoder, on the very same tensors."""
    return patch_forward(_sharing(AltCLIPTextModel, stock.config, stock, stock.state_dict()))


def deprecated_text_encoder(stock: AltCLIPTextModel) -> nn.Module:
    """diffusers' deprecated text encoder, on the very same tensors.

    It has no norm behind the last layer, which changes nothing: that layer ends in one, and both are fresh.
    """
    from diffusers.pipelines.deprecated.alt_diffusion import modeling_roberta_series as old

    settings = stock.config.to_dict()
    names = ("model_type", "architectures", "transformers_version", "_name_or_path")
    config = old.RobertaSeriesConfig(**{name: value for name, value in settings.items() if name not in names})
    state = {name: value for name, value in stock.state_dict().items() if not name.startswith("pre_LN.")}
    state = {name.replace("encoder.layers.", "encoder.layer."): state[name] for name in state}
    width, like = config.hidden_size, stock.transformation.weight
    state |= {"roberta.pooler.dense.weight": like.new_zeros(width, width)}  # computed there, and not used
    state |= {"roberta.pooler.dense.bias": like.new_zeros(width)}
    return _sharing(old.RobertaSeriesModelWithTransformation, config, stock, state)


def _sharing(model_class: Any, config: Any, stock: nn.Module, state: dict[str, Any]) -> Any:
    """A model of another class on tensors of `stock`, named as that class names them."""
    with torch.device("meta"):
        model = model_class(config).eval().requires_grad_(False)
    # the counters, which no file holds, lie on "meta" too: they are made anew
    for name, buffer in list(model.named_buffers()):
        module, _, last = name.rpartition(".")
        fresh = torch.arange(buffer.numel()).view(buffer.shape) if last == "position_ids" else torch.zeros(buffer.shape)
        target = next(stock.parameters()).device
        setattr(model.get_submodule(module), last, fresh.to(target, torch.long))
    report = model.load_state_dict(state, strict=False, assign=True)
    missing = [name for name in report.missing_keys if "_ids" not in name]
    if missing or report.unexpected_keys:
        raise RuntimeError(f"the peer has other tensors: missing {missing[:3]}, left over {report.unexpected_keys[:3]}")
    return model


def tokenizer() -> Any:
    """mini's tokenizer, which is at hand: which ids words get makes no difference to speed."""
    return load_tokenizer(hub.MINI)


def altclip(sizes: Sizes, device: torch.device) -> tuple[AltCLIPModel, AltCLIPProcessor]:
    """transformers' full model, untouched, with ViT-L/14's vision tower at the sizes' layers and width."""
    torch.manual_seed(0)
    text = tower_settings(sizes, len(tokenizer()))
    vision = {name: text[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    vision |= {"num_attention_heads": sizes.width // 64, "patch_size": 14}
    config = AltCLIPConfig(text_config=text, vision_config=vision, projection_dim=PROJECTED)
    model = AltCLIPModel(config).eval().requires_grad_(False).to(device)
    return model, AltCLIPProcessor(CLIPImageProcessor(), tokenizer())


def unet(sizes: Sizes) -> UNet2DConditionModel:
    """Stable Diffusion 1.x's."""
    first = sizes.channels
    return UNet2DConditionModel(
        sample_size=sizes.side // 8,
        block_out_channels=(first, 2 * first, 4 * first, 4 * first),
        cross_attention_dim=PROJECTED,
        attention_head_dim=8,
    )


def diffusion(sizes: Sizes, encoder: AltCLIPTextModel, device: torch.device, dtype: torch.dtype) -> Any:
    """Stable Diffusion 1.x's UNet and VAE in a stock pipeline, as a user gets it."""
    torch.manual_seed(1)
    network = unet(sizes)
    decoder = max(32, sizes.channels * 2 // 5 // 32 * 32)
    vae = AutoencoderKL(
        block_out_channels=(decoder, 2 * decoder, 4 * decoder, 4 * decoder),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=sizes.side,
    )
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer(),
        unet=network,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device, dtype=dtype)
