"""A Stable Diffusion to train."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel

from altdiffusion.checkpoints import hub, tensor_files
from altdiffusion.errors import InputError
from altdiffusion.pipelines.alt_diffusion import AltDiffusionPipeline
from altdiffusion.pipelines.swap import swap_text_encoder


def load_diffusion(model: str, text_encoder: str | None = None) -> Any:
    """A Stable Diffusion to train, in float32: AltDiffusion in any layout, or plain with CLIP.

    text_encoder: an AltCLIP to swap in. Raises InputError for what can't be found, or where the widths differ, and for
    UNets that take more than an image and a text.
    """
    root = AltDiffusionPipeline.fetch(model)
    index = tensor_files.read_json(root / "model_index.json") if (root / "model_index.json").is_file() else {}
    plain = (index.get("text_encoder") or [None])[-1] == "CLIPTextModel" and "text_encoder_2" not in index
    if plain and root != hub.sd_mini_folder():  # whose VAE lies elsewhere
        checked = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
        parts = {name: tensor_files.load_strict(kind, root / name) for name, kind in checked.items()}
        pipe: Any = StableDiffusionPipeline.from_pretrained(str(root), dtype=torch.float32, **parts)
    else:
        pipe = AltDiffusionPipeline.from_path(root, model)
    takes, gives = pipe.unet.config.in_channels, pipe.vae.config.latent_channels
    if takes != gives:
        raise InputError(
            f"the UNet of {model} takes {takes} channels where the VAE gives {gives}, as inpainting's does: "
            "expected one that generates from text alone"
        )
    return swap_text_encoder(pipe, text_encoder) if text_encoder is not None else pipe
