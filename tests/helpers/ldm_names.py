"""diffusers' names -> latent diffusion's, the inverse of what diffusers converts; for making single files."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.resnets.1": "middle_block.2",
}


def ldm_unet(state: dict[str, Tensor], layers: int = 1) -> dict[str, Tensor]:
    """A UNet's tensors as `model.diffusion_model.*`. layers: its layers_per_block."""
    attended = {match[1] for key in state if (match := re.match(r"(up_blocks\.\d+)\.attentions", key))}

    def rename(key: str) -> str:
        for name, ldm in _TOP.items():
            if key.startswith(name + "."):
                key = ldm + key.removeprefix(name)
        for side, first, count in (("down", 1, layers + 1), ("up", 0, layers + 1)):
            blocks = "input_blocks" if side == "down" else "output_blocks"
            for part, place in (("resnets", 0), ("attentions", 1)):
                if match := re.match(rf"{side}_blocks\.(\d+)\.{part}\.(\d+)\.(.*)", key):
                    key = f"{blocks}.{count * int(match[1]) + int(match[2]) + first}.{place}.{match[3]}"
        if match := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)", key):
            key = f"input_blocks.{(layers + 1) * (int(match[1]) + 1)}.0.op.{match[2]}"
        if match := re.match(r"(up_blocks\.(\d+))\.upsamplers\.0\.(.*)", key):
            key = f"output_blocks.{(layers + 1) * int(match[2]) + layers}.{2 if match[1] in attended else 1}.{match[3]}"
        if re.match(r"(input_blocks\.\d+\.0|output_blocks\.\d+\.0|middle_block\.[02])\.", key):
            for name, ldm in _RESNET.items():
                key = key.replace(f".{name}.", f".{ldm}.")
        return "model.diffusion_model." + key

    return {rename(key): value for key, value in state.items()}


def ldm_vae(state: dict[str, Tensor], levels: int) -> dict[str, Tensor]:
    """A VAE's tensors as `first_stage_model.*`. levels: the number of its block_out_channels."""

    def rename(key: str) -> str:
        key = re.sub(r"up_blocks\.(\d+)\.", lambda match: f"up.{levels - 1 - int(match[1])}.", key)
        key = re.sub(r"down_blocks\.(\d+)\.", r"down.\1.", key)
        key = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", key)
        for name, ldm in {
            "resnets.": "block.",
            "downsamplers.0": "downsample",
            "upsamplers.0": "upsample",
            "conv_shortcut": "nin_shortcut",
            "conv_norm_out": "norm_out",
            "mid_block.attentions.0": "mid.attn_1",
            "group_norm": "norm",
            "to_q": "q",
            "to_k": "k",
            "to_v": "v",
            "to_out.0": "proj_out",
        }.items():
            key = key.replace(name, ldm)
        return "first_stage_model." + key

    renamed = {rename(key): value for key, value in state.items()}
    return {  # there attention is a convolution of size 1
        key: value[:, :, None, None] if "mid.attn_1" in key and value.dim() == 2 else value
        for key, value in renamed.items()
    }


_XL_LABELS = {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
_OPEN_CLIP = {
    "encoder.layers.": "transformer.resblocks.",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "final_layer_norm": "ln_final",
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
}


def open_clip(encoder: Any, prefix: str) -> dict[str, Tensor]:
    """A CLIP text encoder's tensors in OpenCLIP's own names."""
    state = {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key
        for part, theirs in _OPEN_CLIP.items():
            name = name.replace(part, theirs)
        if ".self_attn.q_proj." in key:
            three = [state[key.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            renamed[name.replace("self_attn.q_proj.", "attn.in_proj_")] = torch.cat(three)
        elif key == "text_projection.weight":
            renamed["text_projection"] = value.T.contiguous()
        elif ".self_attn." not in key or "out_proj" in key:
            renamed[name] = value
    return {prefix + key: value for key, value in renamed.items()}


def single_file(pipe: Any, *, old_names: bool = False, unread_layer: bool = True) -> dict[str, Tensor]:
    """A pipeline of Stable Diffusion 1.x, 2.x or XL as the web UIs keep it in one file; which one is read off its encoders.

    old_names: of 1.x, as the oldest files have them. unread_layer: of 2.x, with the last layer, which isn't used.
    """
    layers, encoder = pipe.unet.config.layers_per_block, pipe.text_encoder
    unet = {}
    for key, value in pipe.unet.state_dict().items():
        for name, theirs in _XL_LABELS.items():
            key = key.replace(name, theirs)
        unet[key] = value
    vae = pipe.vae
    state = ldm_unet(unet, layers) | ldm_vae(vae.state_dict(), len(vae.config.block_out_channels))
    first = {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}
    if "text_encoder_2" in pipe.components:
        state |= {f"conditioner.embedders.0.transformer.text_model.{key}": value for key, value in first.items()}
        state |= open_clip(pipe.text_encoder_2, "conditioner.embedders.1.model.")
        state["conditioner.embedders.1.model.logit_scale"] = torch.tensor(4.6)
    elif encoder.config.hidden_act == "gelu":
        start = "cond_stage_model.model."
        state |= open_clip(encoder, start)
        if unread_layer:
            last = f"{start}transformer.resblocks.{encoder.config.num_hidden_layers - 1}."
            unread = f"{start}transformer.resblocks.{encoder.config.num_hidden_layers}."
            state |= {key.replace(last, unread): value + 1 for key, value in state.items() if key.startswith(last)}
            state[f"{start}text_projection"] = torch.eye(encoder.config.hidden_size)
            state[f"{start}logit_scale"] = torch.tensor(4.6)
    else:
        start = "cond_stage_model.transformer." + ("" if old_names else "text_model.")
        state |= {start + key: value for key, value in first.items()}
        state[f"{start}embeddings.position_ids"] = torch.arange(77)[None]
    state["alphas_cumprod"] = torch.linspace(1, 0, 10)
    return {key: value.detach().clone().contiguous() for key, value in state.items()}
