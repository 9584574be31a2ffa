"""Every published layout of AltCLIP and AltDiffusion, turned into the stock one. All foreign names stop in this file.

Pure functions from state dict to state dict; a tensor that is missing or left over is an error that names it.
Which layout a state dict has is read from its keys and shapes. Sources: FlagAI `flagai/model/mm/`,
diffusers `pipelines/deprecated/alt_diffusion/modeling_roberta_series.py`, AUTOMATIC1111 `modules/xlmr*.py`.

    conditioning       formula (h: hidden states of XLM-R)             where it is found
    bilingual, m9      transformation(h[-1])                           AltDiffusion, AltDiffusion-m9
    m18                transformation_pre(pre_LN(h[-2]))               AltDiffusion-m18, AltCLIP-m18
    stock              transformation(pre_LN(h[-1]))                   AltCLIP, AltCLIP-m9; what this project writes

`transformers.AltCLIPTextModel` computes the last. The others become it by moving tensors, see `to_stock`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from altdiffusion.errors import InputError

State = Mapping[str, Tensor]

LDM_UNET = "model.diffusion_model."
LDM_VAE = "first_stage_model."
LDM_TEXT_ENCODER = "cond_stage_model."
WORD_EMBEDDINGS = "roberta.embeddings.word_embeddings.weight"

# Never part of the text encoder's mathematics, in any layout.
_LEFTOVERS = re.compile(r"(^|\.)(pooler\..*|logit_scale|position_ids|token_type_ids)$")
# The other half of a full AltCLIP checkpoint.
_SIMILARITY = re.compile(r"^(vision_model\.|visual_projection\.|text_projection\.)")


_PREFIXES = ("", "text_model.", LDM_TEXT_ENCODER)


def is_single_file(state: State) -> bool:
    """Whether this is a whole Stable Diffusion in latent diffusion's names (FlagAI, web UIs)."""
    return any(key.startswith(LDM_UNET) for key in state)


def has_text_encoder(state: State) -> bool:
    """Whether AltCLIP's text encoder is here, alone or among others."""
    return any(prefix + WORD_EMBEDDINGS in state for prefix in _PREFIXES)


def text_encoder_part(state: State) -> dict[str, Tensor]:
    """The tensors of the text encoder alone, under the names `roberta.*`, `transformation.*`, ...

    Raises InputError where there is no XLM-R, saying what the file seems to hold instead.
    """
    for prefix in _PREFIXES:
        if prefix + WORD_EMBEDDINGS in state:
            part = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            return {key: value for key, value in part.items() if not (_LEFTOVERS.search(key) or _SIMILARITY.match(key))}
    if any("text_model.encoder.layers" in key or key.startswith("cond_stage_model.transformer") for key in state):
        found = "CLIP's own text encoder (plain Stable Diffusion)"
    else:
        found = f"{len(state)} tensors named like {', '.join(sorted(state)[:3]) or 'nothing'}"
    raise InputError(f"no AltCLIP text encoder here: expected a tensor ending in {WORD_EMBEDDINGS!r}, found {found}")


def to_stock(part: State, config: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A text encoder in any layout -> (settings for `AltCLIPTextConfig`, its state dict).

    part: what `text_encoder_part` gave. config: the checkpoint's own config.json; it is needed for what no shape
    tells (attention heads, epsilon), and XLM-R's values stand in where there is none.
    """
    config = config or {}
    state = {re.sub(r"^roberta\.encoder\.layers?\.", "roberta.encoder.layers.", key): part[key] for key in part}
    layers = count(state, r"^roberta\.encoder\.layers\.(\d+)\.")
    if not layers:
        raise InputError(
            f"the text encoder has no layers: {WORD_EMBEDDINGS!r} is there, 'roberta.encoder.layer.0' is not"
        )
    vocabulary, width = matrix(state, WORD_EMBEDDINGS)

    if "transformation_pre.weight" in state:  # m18
        layers -= 1
        last = f"roberta.encoder.layers.{layers}."
        state = {key: state[key] for key in state if not key.startswith((last, "transformation."))}
        state = {key.replace("transformation_pre.", "transformation."): state[key] for key in state}
    elif "pre_LN.weight" not in state:  # bilingual, m9
        # The last layer ends in a LayerNorm. Its scale and shift move into pre_LN; what it hands over is then
        # already normalised, so that pre_LN, normalising again, gives the same up to the epsilon.
        for name, neutral in (("weight", torch.ones_like), ("bias", torch.zeros_like)):
            norm = f"roberta.encoder.layers.{layers - 1}.output.LayerNorm.{name}"
            if norm in state:  # else `check_names` names it
                state[f"pre_LN.{name}"] = state[norm]
                state[norm] = neutral(state[norm])

    if "transformation.weight" not in state:
        raise InputError("the text encoder has no 'transformation.weight': a plain XLM-R, not one of AltCLIP's")
    settings = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": rows(state, "roberta.encoder.layers.0.intermediate.dense.weight"),
        "num_hidden_layers": layers,
        "num_attention_heads": config.get("num_attention_heads", max(1, width // 64)),
        "max_position_embeddings": rows(state, "roberta.embeddings.position_embeddings.weight"),
        "type_vocab_size": rows(state, "roberta.embeddings.token_type_embeddings.weight"),
        "project_dim": rows(state, "transformation.weight"),
        "hidden_act": config.get("hidden_act", "gelu"),
        "layer_norm_eps": config.get("layer_norm_eps", 1e-5),
        "hidden_dropout_prob": config.get("hidden_dropout_prob", 0.0),
        "attention_probs_dropout_prob": config.get("attention_probs_dropout_prob", 0.0),
        "pad_token_id": config.get("pad_token_id", 1),
        "bos_token_id": config.get("bos_token_id", 0),
        "eos_token_id": config.get("eos_token_id", 2),
        # Without it Stable Diffusion pipelines would not pass the attention mask.
        "use_attention_mask": True,
    }
    for name in ("vocab_size", "hidden_size", "intermediate_size", "project_dim"):
        if config.get(name, settings[name]) != settings[name]:
            raise InputError(
                f"config.json says {name} {config[name]}, the tensors say {settings[name]}: two checkpoints mixed?"
            )
    return settings, state


def altclip_to_stock(state: State, text_config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A full AltCLIP in any layout -> (settings for `AltCLIPTextConfig`, the state dict of AltCLIPModel).

    m18 carries a second projection, for AltDiffusion, which similarity does not use; all the rest of the text tower
    is as in the other two. Raises InputError for a state dict without AltCLIP's text tower.
    """
    part = text_encoder_part(state)
    part = {key: part[key] for key in part if not _CONDITIONING.match(key)}
    if "pre_LN.weight" not in part:  # `to_stock` would make one up, as AltDiffusion's own encoders have none
        raise InputError("the text tower has no 'pre_LN.weight': an AltDiffusion's text encoder, not a full AltCLIP")
    settings, text = to_stock(part, text_config)
    stock = {f"text_model.{key}": text[key] for key in text}
    others = [key for key in state if not key.startswith("text_model.") and not _BUFFERS.search(key)]
    return settings, stock | {_VISION_LAYERS.sub("vision_model.encoder.layers.", key): state[key] for key in others}


_CONDITIONING = re.compile(r"^transformation_pre\.")
_VISION_LAYERS = re.compile(r"^vision_model\.encoder\.layers?\.")  # transformers 5 writes "layer", 4 "layers"
_BUFFERS = re.compile(r"\.position_ids$")


def check_names(state: State, expected: State, what: str) -> None:
    """Raise InputError unless `state` has exactly the names and shapes of `expected` (a model on the meta device)."""
    problems = []
    if missing := sorted(set(expected) - set(state)):
        problems.append(f"missing {_some(missing)}")
    if extra := sorted(set(state) - set(expected)):
        problems.append(f"left over {_some(extra)}")
    for key in sorted(set(expected) & set(state)):
        if expected[key].shape != state[key].shape:
            problems.append(f"{key} is {tuple(state[key].shape)}, expected {tuple(expected[key].shape)}")
    if problems:
        raise InputError(f"{what} does not fit its layout: {'; '.join(problems[:4])}")


def ema_part(state: State) -> dict[str, Tensor]:
    """The UNet's moving average in a single file, under the UNet's own names. Raises InputError where there is none."""
    ema = {}
    for key in state:
        if key.startswith(LDM_UNET):
            flat = "model_ema." + key.removeprefix("model.").replace(".", "")
            if flat in state:
                ema[key] = state[flat]
    if not ema:
        raise InputError("no EMA weights in this file ('model_ema.*' or 'state_dict_ema'): load it without ema")
    return ema


def ldm_unet_config(state: State, pooled_width: int = 0) -> dict[str, Any]:
    """Settings of `diffusers.UNet2DConditionModel` for a UNet in latent diffusion's names, read from its shapes.

    pooled_width: of the text's vector that XL's UNets take beside six numbers.
    """
    channels: list[int] = [0]
    depths, resnets = [0], [0]
    for block in range(1, count(state, rf"^{re.escape(LDM_UNET)}input_blocks\.(\d+)\.")):
        name = f"{LDM_UNET}input_blocks.{block}."
        if name + "0.op.weight" in state:
            channels, depths, resnets = [*channels, 0], [*depths, 0], [*resnets, 0]
            continue
        channels[-1] = rows(state, name + "0.out_layers.3.weight")
        depths[-1] = count(state, rf"^{re.escape(name)}1\.transformer_blocks\.(\d+)\.")
        resnets[-1] += 1
    middle = f"{LDM_UNET}middle_block.1."
    linear = state[present(state, middle + "proj_in.weight")].dim() == 2
    config = {
        "sample_size": 64,
        "in_channels": matrix(state, LDM_UNET + "input_blocks.0.0.weight")[1],
        "out_channels": rows(state, LDM_UNET + "out.2.weight"),
        "block_out_channels": channels,
        "layers_per_block": resnets[0],
        "down_block_types": ["CrossAttnDownBlock2D" if has else "DownBlock2D" for has in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(depths)],
        "cross_attention_dim": matrix(state, middle + "transformer_blocks.0.attn2.to_k.weight")[1],
        "use_linear_projection": linear,
        # Stable Diffusion 1 has 8 heads; 2 has heads of 64 channels. diffusers calls their number "head_dim".
        "attention_head_dim": [width // 64 for width in channels] if linear else 8,
    }
    if max(depths) > 1:
        config["transformer_layers_per_block"] = [max(1, depth) for depth in depths]
    label = LDM_UNET + "label_emb.0.0.weight"
    if pooled_width:
        takes = matrix(state, label)[1]
        if takes <= pooled_width or (takes - pooled_width) % 6:
            raise InputError(f"{label} takes {takes} numbers: expected {pooled_width} of the text and six embeddings")
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (takes - pooled_width) // 6,
            "projection_class_embeddings_input_dim": takes,
        }
    return config


def ldm_vae_config(state: State) -> dict[str, Any]:
    """Settings of `diffusers.AutoencoderKL` for a VAE in latent diffusion's names, read from its shapes."""
    levels = count(state, rf"^{re.escape(LDM_VAE)}encoder\.down\.(\d+)\.")
    blocks = count(state, rf"^{re.escape(LDM_VAE)}encoder\.down\.0\.block\.(\d+)\.")
    widths = [rows(state, f"{LDM_VAE}encoder.down.{level}.block.0.conv2.weight") for level in range(levels)]
    return {
        "sample_size": 512,
        "in_channels": matrix(state, LDM_VAE + "encoder.conv_in.weight")[1],
        "out_channels": rows(state, LDM_VAE + "decoder.conv_out.weight"),
        "block_out_channels": widths,
        "layers_per_block": blocks,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "latent_channels": rows(state, LDM_VAE + "post_quant_conv.weight"),
        "scaling_factor": 0.18215,
    }


def present(state: State, key: str) -> str:
    """The name of a tensor that must be there. Raises InputError."""
    if key not in state:
        raise InputError(f"incomplete checkpoint: missing {key}")
    return key


def rows(state: State, key: str) -> int:
    """The length of a tensor that must be there. Raises InputError."""
    return _sizes(state, key, 1)[0]


def matrix(state: State, key: str) -> tuple[int, int]:
    """Rows and columns of a matrix that must be there. Raises InputError."""
    tall, wide = _sizes(state, key, 2)[:2]
    return tall, wide


def _sizes(state: State, key: str, least: int) -> list[int]:
    shape = list(state[present(state, key)].shape)
    if len(shape) < least or 0 in shape:
        raise InputError(f"damaged checkpoint: {key} has the shape {shape}")
    return shape


def count(state: State, pattern: str) -> int:
    """One more than the highest number that the pattern's group takes in the keys."""
    return 1 + max((int(match[1]) for key in state if (match := re.match(pattern, key))), default=-1)


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
