"""A whole Stable Diffusion in one file, in latent diffusion's names: which kind it is, and what its tensors say of it.

Pure functions of tensors by name. What no tensor says is a published model's, or stands beside the file.

    kind           its text encoder's tensors                                    text encoder
    altdiffusion   cond_stage_model.roberta.*                                    AltCLIP
    sd1            cond_stage_model.transformer.text_model.*, or without         OpenAI's CLIP ViT-L/14
                   `text_model` in the oldest
    sd2            cond_stage_model.model.*                                      OpenCLIP ViT-H/14, its last layer but one
    xl             conditioner.embedders.0.transformer.text_model.*,             the first, and OpenCLIP ViT-bigG/14
                   conditioner.embedders.1.model.*
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from altdiffusion.checkpoints import tensor_files
from altdiffusion.checkpoints.layouts import (
    LDM_TEXT_ENCODER,
    LDM_UNET,
    LDM_VAE,
    WORD_EMBEDDINGS,
    State,
    count,
    matrix,
    present,
    rows,
)
from altdiffusion.errors import InputError

Kind = Literal["altdiffusion", "sd1", "sd2", "xl"]

CLIP_1 = f"{LDM_TEXT_ENCODER}transformer."
OPEN_CLIP_2 = f"{LDM_TEXT_ENCODER}model."
CLIP_XL = "conditioner.embedders.0.transformer."
OPEN_CLIP_XL = "conditioner.embedders.1.model."
_CONDITIONER = "conditioner.embedders."
_READ = (LDM_UNET, LDM_VAE, LDM_TEXT_ENCODER, _CONDITIONER)
_MARKS = (
    "v_pred",
    "ztsnr",
    "edm_mean",
    "edm_vpred.sigma_max",
    "global_step",
)  # say something of a file, and are of no part


@dataclass(frozen=True)
class SingleFile:
    """What a file holds. inpaints: whether its UNet takes a mask and the image behind it, too."""

    kind: Kind
    inpaints: bool
    has_vae: bool


def is_read(key: str) -> bool:
    """Whether a tensor is of a part, or says something of the file; optimizers, EMA weights and others aren't."""
    return key.startswith(_READ) or key in _MARKS


def read_kind(path: Path, allow_pickle: bool = False) -> SingleFile:
    """What a file holds; its tensors are only mapped. Raises InputError as `look` does, and for a damaged file."""
    return look(tensor_files.read_tensors(path, allow_pickle=allow_pickle), path)


def look(state: State, path: Path) -> SingleFile:
    """What the tensors of a file are. Raises InputError for what is no whole Stable Diffusion, saying what it seems to be."""
    if not any(key.startswith(LDM_UNET) for key in state):
        raise InputError(f"{path} is no whole Stable Diffusion: it seems to be {_seems_to_be(state)}")
    kinds: dict[Kind, str] = {
        "altdiffusion": LDM_TEXT_ENCODER + WORD_EMBEDDINGS,
        "sd1": CLIP_1,
        "sd2": OPEN_CLIP_2,
        "xl": OPEN_CLIP_XL,
    }
    kind = next((kind for kind, prefix in kinds.items() if any(key.startswith(prefix) for key in state)), None)
    if kind is None:
        if any(key.startswith(_LABELS) for key in state) and any(
            key.startswith(f"{_CONDITIONER}0.model.") for key in state
        ):
            raise InputError(
                f"{path} is Stable Diffusion XL's refiner, which only finishes the base's images: take the base model"
            )
        what = _seems_to_be({key: state[key] for key in state if key.startswith(LDM_UNET)})
        raise InputError(f"{path} has no text encoder that is known here: what denoises seems to be {what}")
    if "edm_mean" in state or "edm_vpred.sigma_max" in state:
        raise InputError(
            f"{path} is a Playground v2.5 or CosXL, whose noise is scaled in a way of its own: not supported"
        )
    first, last = LDM_UNET + "input_blocks.0.0.weight", LDM_UNET + "out.2.weight"
    for name in (first, last):
        if state[present(state, name)].dim() < 2 or not state[name].numel():
            raise InputError(f"{path}: {name} has the shape {list(state[name].shape)}, which no UNet's has: damaged")
    takes, makes = state[first].shape[1], rows(state, last)
    if takes not in (makes, 2 * makes + 1) or (kind != "xl" and any(key.startswith(_LABELS) for key in state)):
        raise InputError(
            f"{path}: its UNet takes more than an image, a mask and a text ({takes} channels), as those for depth, "
            "instructions, upscaling and unCLIP do: take a model for text to image, or for inpainting"
        )
    return SingleFile(kind, inpaints=takes != makes, has_vae=any(key.startswith(LDM_VAE) for key in state))


_LABELS = f"{LDM_UNET}label_emb."
# Told by a name in the file, the first that fits. Names: kohya-ss/sd-scripts, diffusers' single_file_utils.py, ComfyUI.
_OTHERS: list[tuple[str, str]] = [
    (
        r"^lora_(unet|te\d?)_|[._]lora[._](up|down|[AB])\.|\.(hada|lokr|oft)_",
        "a LoRA: name a model, and this with --lora (lora=)",
    ),
    (
        r"^(image_proj|ip_adapter)\.",
        "an IP-Adapter: name a model, and this with --ip-adapter (ip_adapter=)",
    ),
    (
        r"^(control_model|controlnet_\w+)\.|input_hint_block\.",
        "a ControlNet: name a model, and the ControlNet's folder in diffusers' layout with --controlnet (controlnet=)",
    ),
    (r"motion_modules\.", "an AnimateDiff motion module, for videos: not supported"),
    (
        r"(^|\.)joint_blocks\.\d+\.",
        "a Stable Diffusion 3, a transformer and no UNet: expected Stable Diffusion 1.x, 2.x or XL",
    ),
    (
        r"(^|\.)(double_blocks|single_blocks|transformer_blocks|layers|blocks|double_layers)\.\d+\.(?!.*attn2\.)"
        r"(?=.*(img_attn|txt_attn|linear1|adaLN|modulation|norm1\.linear|scale_shift|attn\.qkv|w1q))",
        "a diffusion transformer such as Flux: expected Stable Diffusion 1.x, 2.x or XL, whose part that denoises is a UNet",
    ),
    (
        r"^(emb_params|string_to_param|clip_l|clip_g|\*)$",
        "a textual inversion: name a model, and this with --textual-inversion (textual_inversion=)",
    ),
    (
        r"^(unet\.)?(down_blocks|mid_block|up_blocks)\.\d.*(resnets|attentions)\.(?=.*(time_emb_proj|attn2))",
        "a UNet in diffusers' names: name the folder that has its model_index.json",
    ),
    (
        r"^(first_stage_model\.|vae\.)?(encoder|decoder)\.(conv_in|mid|mid_block|down|up)\.",
        "a VAE: name a model, and this with --vae (vae=)",
    ),
    (
        rf"^({re.escape(LDM_UNET)})?(input_blocks|output_blocks)\.\d+\.",
        "a UNet alone, as some tools keep it apart: take the file with all parts",
    ),
    (r"^model_ema\.", "the moving averages of a training alone: take the file with all parts"),
    (
        r"roberta\.embeddings\.",
        "AltCLIP's text encoder: load it with load_text_encoder, or name it with --text-encoder",
    ),
    (
        r"(^|\.)(text_model|resblocks|final_layer_norm|token_embedding)\.",
        "CLIP's text encoder alone: take the file with all parts",
    ),
]


def _seems_to_be(state: State) -> str:
    for pattern, what in _OTHERS:
        if any(re.search(pattern, key) for key in state):
            return what
    if len(state) == 1 and all(tensor.dim() <= 2 for tensor in state.values()):
        return next(what for pattern, what in _OTHERS if pattern.startswith("^(emb_params"))
    named = ", ".join(sorted(state)[:3])
    return f"{len(state)} tensors named like {named}" if state else "a file without tensors"


def clip_config(state: State, prefix: str) -> dict[str, Any]:
    """Settings of `CLIPTextConfig` for OpenAI's CLIP in transformers' names, read from its shapes."""
    start = prefix + ("text_model." if any(key.startswith(f"{prefix}text_model.") for key in state) else "")
    tables = f"{start}embeddings.token_embedding.weight", f"{start}embeddings.position_embedding.weight"
    layers, between = f"{start}encoder.layers.", "mlp.fc1.weight"
    return _text_config(state, tables, layers, between) | {"hidden_act": "quick_gelu"}


def open_clip_config(state: State, prefix: str) -> dict[str, Any]:
    """The same for OpenCLIP's text encoder in its own names."""
    tables, layers = (
        (f"{prefix}token_embedding.weight", f"{prefix}positional_embedding"),
        f"{prefix}transformer.resblocks.",
    )
    settings = _text_config(state, tables, layers, "mlp.c_fc.weight") | {"hidden_act": "gelu"}
    projection = f"{prefix}text_projection"
    return settings | {"projection_dim": matrix(state, projection)[1]} if projection in state else settings


def without_last_layer(state: State) -> dict[str, Any]:
    """Stable Diffusion 2.x reads the last layer but one: the text encoder without what comes after that.

    Files that came back from diffusers' layout hold no more than that.
    """
    layers = f"{OPEN_CLIP_2}transformer.resblocks."
    total = count(state, rf"^{re.escape(layers)}(\d+)\.")
    unread = [f"{OPEN_CLIP_2}text_projection", f"{OPEN_CLIP_2}logit_scale"]
    if total == _VIT_H_LAYERS or unread[0] in state:
        unread.append(f"{layers}{total - 1}.")
    return {key: value for key, value in state.items() if not key.startswith(tuple(unread))}


_VIT_H_LAYERS = 24


def _text_config(state: State, tables: tuple[str, str], layers: str, between: str) -> dict[str, Any]:
    total = count(state, rf"^{re.escape(layers)}(\d+)\.")
    for layer in range(total):
        present(state, f"{layers}{layer}.{between}")
    vocabulary, width = matrix(state, tables[0])
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": rows(state, f"{layers}0.{between}"),
        "num_hidden_layers": total,
        "num_attention_heads": max(1, width // 64),  # of all three published ones
        "max_position_embeddings": rows(state, tables[1]),
        "projection_dim": width,
    }


@dataclass(frozen=True)
class Prediction:
    """What a UNet predicts. type: as diffusers' schedulers call it. zero_snr: trained down to pure noise.

    guess: why, where it was guessed; None where something says so.
    """

    type: Literal["epsilon", "v_prediction"]
    zero_snr: bool = False
    guess: str | None = None


def prediction(found: SingleFile, state: State, metadata: Mapping[str, str], settings: str) -> Prediction:
    """What the UNet of a file predicts: epsilon, but for some of Stable Diffusion 2.x and of XL.

    metadata: of the safetensors header, where `modelspec.prediction_type` may say it (the SAI model spec). settings: the
    text of the .yaml beside the file, "" for none, as the web UIs read it. XL's files mark it by a tensor `v_pred`. For 2.x
    where nothing says so: 512-base-ema.ckpt was saved at step 875000, as diffusers knows, and in others ComfyUI's rule
    (supported_models.py, SD20) looks at how far the biases of the last block's first norm spread.
    """
    zero_snr = "ztsnr" in state
    if match := re.search(r"^\s*parameterization:\s*[\"']?(\w+)", settings, re.MULTILINE):
        return Prediction("v_prediction" if match[1] in ("v", "v_prediction") else "epsilon", zero_snr)
    if said := metadata.get("modelspec.prediction_type"):
        return Prediction("v_prediction" if said.startswith("v") else "epsilon", zero_snr)
    if "v_pred" in state:
        return Prediction("v_prediction", zero_snr)
    if found.kind != "sd2" or found.inpaints:
        return Prediction("epsilon", zero_snr)
    step = state["global_step"].flatten()[:1].tolist() if "global_step" in state else []
    if step == [875000]:
        return Prediction("epsilon", guess="it was saved at step 875000, as the base model")
    last = count(state, rf"^{re.escape(LDM_UNET)}output_blocks\.(\d+)\.") - 1
    biases = state.get(f"{LDM_UNET}output_blocks.{last}.1.transformer_blocks.0.norm1.bias")
    if biases is None:
        return Prediction("epsilon", guess="nothing in it says")
    spread = float(biases.float().std(correction=0))
    return Prediction(
        "v_prediction" if spread > _SPREAD else "epsilon", guess=f"by a norm's biases, spread {spread:.3f}"
    )


_SPREAD = 0.09
