"""diffusers' names -> latent diffusion's, the inverse of what diffusers converts; for making single files."""

from __future__ import annotations

import re

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
