"""A ControlNet of random numbers that acts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel


def save_controlnet(folder: Path, unet: Any, latent_pixels: int) -> Path:
    """latent_pixels: that a latent stands for, along a side; a power of two."""
    torch.manual_seed(4)
    channels = (16,) * latent_pixels.bit_length()
    controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=channels)
    for name, parameter in controlnet.named_parameters():
        if "controlnet_" in name:  # they begin at zero
            torch.nn.init.normal_(parameter, std=0.2)
    controlnet.save_pretrained(folder)
    return folder
